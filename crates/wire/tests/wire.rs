//! Round trips, hostile bytes and the example of docs/wire.md.
#![cfg(feature = "std")]

use proptest::prelude::*;
use wire::{
    Deframer, FileHeader, Frame, LENGTH_BYTES, Level, NO_SEGMENT, ReadError, Run, Segment, StageNanos, StreamReader,
    WireError, decode, encode_into,
};

/// The frame of docs/wire.md: 4×2 pixels, two segments under one group, the last pixel unlabelled.
fn example() -> Frame {
    let segment = |track_id, train_id, bounding_box, area, mean_position| Segment {
        track_id,
        train_id,
        confidence: 0.75,
        unknown_score: 0.125,
        bounding_box,
        area,
        mean_position,
    };
    let mut frame = Frame {
        stream: "cam".to_owned(),
        sequence: 300,
        capture_monotonic_nanos: 40_000_000,
        capture_utc_nanos: 0,
        levels: vec![
            Level {
                parents: vec![0, 0],
                segments: vec![
                    segment(7, Some(3), [0, 0, 2, 2], 4, [0.5, 0.5]),
                    segment(9, None, [2, 0, 4, 2], 3, [2.25, 0.25]),
                ],
            },
            Level { parents: vec![], segments: vec![segment(1, Some(3), [0, 0, 4, 2], 7, [1.25, 0.5])] },
        ],
        class_table_hash: core::array::from_fn(|i| i as u8),
        stage_nanos: StageNanos { capture: 1, embed: 1000, ..StageNanos::default() },
        degradation_step: 0,
        drops: 2,
        ..Frame::default()
    };
    frame.set_map(4, 2, &[0, 0, 1, 1, 0, 0, 1, NO_SEGMENT]);
    frame
}

fn stream(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = FileHeader::default().to_bytes().to_vec();
    for frame in frames {
        encode_into(frame, &mut bytes).unwrap();
    }
    bytes
}

/// The hexadecimal bytes of the code block in docs/wire.md; what stands behind `|` in a line is explanation.
fn documented_bytes() -> Vec<u8> {
    let text = include_str!("../../../docs/wire.md");
    let block = text.split("```hex\n").nth(1).expect("docs/wire.md has a hex block");
    let block = block.split("```").next().unwrap();
    block
        .lines()
        .flat_map(|line| line.split('|').next().unwrap().split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

#[test]
fn documented_example_is_what_is_written() {
    let bytes = stream(&[example()]);
    let printed: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(documented_bytes(), bytes, "docs/wire.md should hold {}", printed.join(" "));
}

#[test]
fn documented_example_is_read() {
    let bytes = documented_bytes();
    let mut reader = StreamReader::new(&bytes[..]);
    assert_eq!(reader.next_frame().unwrap(), Some(example()));
    assert!(reader.next_frame().unwrap().is_none());
}

#[test]
fn wrong_streams_are_named() {
    let read = |bytes: &[u8]| StreamReader::new(bytes).next_frame();
    let good = stream(&[example()]);
    assert!(matches!(read(b"RIFF....more"), Err(ReadError::Wire(WireError::Magic { .. }))));
    let mut version = good.clone();
    version[4] = 9;
    assert!(matches!(read(&version), Err(ReadError::Wire(WireError::Version { got: 9 }))));
    let mut long = good.clone();
    long[6..10].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(read(&long), Err(ReadError::Wire(WireError::TooLong { .. }))));
    for length in 0..good.len() {
        match read(&good[..length]) {
            Ok(None) if length == 6 => {}
            Err(ReadError::Cut { got }) => assert_eq!(got, if length < 6 { length } else { length - 6 }),
            other => panic!("{length} bytes: {other:?}"),
        }
    }
    let mut body = good[10..].to_vec();
    body.push(0);
    assert_eq!(decode(&body), Err(WireError::TrailingBytes { got: 1 }));
}

#[test]
fn frames_behind_a_damaged_one_are_read() {
    let mut bytes = stream(&[example(), example()]);
    let first_body = 6 + LENGTH_BYTES;
    bytes[first_body] = 0xff; // length of the stream's name
    bytes[first_body + 1] = 0xff;
    let mut reader = StreamReader::new(&bytes[..]);
    assert!(matches!(reader.next_frame(), Err(ReadError::Wire(_))));
    assert_eq!(reader.next_frame().unwrap(), Some(example()));
}

#[test]
fn contradictions_are_refused_on_both_sides() {
    let break_it: [fn(&mut Frame); 7] = [
        |frame| frame.width = 5,
        |frame| frame.map[0].segment = 2,
        |frame| frame.map.push(Run { length: 0, segment: 0 }),
        |frame| frame.levels[0].parents[0] = 1,
        |frame| frame.levels[0].parents.clear(),
        |frame| frame.levels[1].parents.push(0),
        |frame| frame.levels.clear(),
    ];
    for (case, change) in break_it.into_iter().enumerate() {
        let mut frame = example();
        change(&mut frame);
        let mut bytes = vec![1, 2, 3];
        assert!(matches!(encode_into(&frame, &mut bytes), Err(WireError::Content { .. })), "case {case}");
        assert_eq!(bytes, [1, 2, 3], "case {case}");
    }
}

/// A frame that claims 2^32 − 1 runs in ten bytes must not reserve memory for them.
#[test]
fn claimed_counts_reserve_nothing() {
    // Name "", five small numbers, then the number of runs as a varint.
    let mut body = vec![0, 0, 0, 0, 0, 0];
    body.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert!(matches!(decode(&body), Err(WireError::Encoding { .. })));
}

fn segments(count: usize) -> impl Strategy<Value = Vec<Segment>> {
    let segment =
        (any::<u32>(), any::<Option<u8>>(), 0f32..=1.0, 0f32..=2.0, any::<[u32; 4]>(), any::<u32>(), any::<[i16; 2]>());
    prop::collection::vec(segment, count).prop_map(|list| {
        list.into_iter()
            .map(|(track_id, train_id, confidence, unknown_score, bounding_box, area, position)| Segment {
                track_id,
                train_id,
                confidence,
                unknown_score,
                bounding_box,
                area,
                mean_position: position.map(f32::from),
            })
            .collect()
    })
}

prop_compose! {
    fn frames()(counts in prop::collection::vec(1usize..9, 1..4), width in 0u32..9, height in 0u32..9)
        (segments in counts.iter().map(|count| segments(*count)).collect::<Vec<_>>(),
         labels in prop::collection::vec(prop_oneof![0..counts[0] as u16, Just(NO_SEGMENT)], (width * height) as usize),
         parents in counts.windows(2)
             .map(|pair| prop::collection::vec(prop_oneof![0..pair[1] as u16, Just(NO_SEGMENT)], pair[0]))
             .collect::<Vec<_>>(),
         width in Just(width), height in Just(height),
         stream in ".{0,12}", numbers in any::<[u64; 6]>(), class_table_hash in any::<[u8; 32]>(),
         degradation_step in any::<u8>()) -> Frame {
        let mut frame = Frame {
            stream,
            sequence: numbers[0],
            capture_monotonic_nanos: numbers[1],
            capture_utc_nanos: numbers[2],
            levels: segments.into_iter().enumerate().map(|(level, segments)| Level {
                parents: parents.get(level).cloned().unwrap_or_default(),
                segments,
            }).collect(),
            class_table_hash,
            stage_nanos: StageNanos { capture: numbers[3], publish: numbers[4], ..StageNanos::default() },
            degradation_step,
            drops: numbers[5],
            ..Frame::default()
        };
        frame.set_map(width, height, &labels);
        let mut back = Vec::new();
        frame.expand_map_into(&mut back);
        assert_eq!(back, labels);
        frame
    }
}

proptest! {
    #[test]
    fn frames_survive_in_pieces_of_any_size(list in prop::collection::vec(frames(), 0..4), piece in 1usize..400) {
        let bytes = stream(&list);
        let mut deframer = Deframer::new();
        let mut got = Vec::new();
        for bytes in bytes.chunks(piece) {
            deframer.push(bytes);
            while let Some(frame) = deframer.next_frame().unwrap() {
                got.push(frame);
            }
        }
        prop_assert_eq!(got, list);
        prop_assert_eq!(deframer.pending_bytes(), 0);
    }

    #[test]
    fn damaged_bytes_never_panic(frame in frames(), changes in prop::collection::vec(any::<(u16, u8)>(), 1..20), cut in any::<u16>()) {
        let mut bytes = stream(&[frame]);
        for (place, value) in changes {
            let place = usize::from(place) % bytes.len();
            bytes[place] = value;
        }
        let end = bytes.len() - usize::from(cut) % 8;
        let mut reader = StreamReader::new(&bytes[..end]);
        let _ = reader.next_frame();
    }

    #[test]
    fn random_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&body);
    }
}
