//! Real and damaged files through the public interface.

use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use segcore::image::{Frame, ImageSize, PixelFormat};
use video::{VideoEnd, VideoError, VideoReader};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn clip() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/clips/highway.mp4")
}

fn empty_frame() -> Frame {
    Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8)
}

fn mean(frame: &Frame) -> [f64; 3] {
    let mut sums = [0.0; 3];
    for pixel in frame.pixels.chunks_exact(3) {
        for channel in 0..3 {
            sums[channel] += f64::from(pixel[channel]);
        }
    }
    sums.map(|sum| sum / frame.size.num_pixels() as f64)
}

/// Decodes everything; checks that indices and times grow; compares the mean colour of some frames, as
/// fixtures/generate.py computes it from the planes that FFmpeg decodes, within half a grey level.
fn decode(path: &Path, expected: &[(u64, [f64; 3])]) -> VideoEnd {
    let mut reader = VideoReader::open(path).unwrap();
    let mut frame = empty_frame();
    let mut last = None;
    while reader.next_frame(&mut frame).unwrap() {
        assert_eq!(frame.size, reader.info().size);
        assert_eq!(frame.pixels.len(), frame.size.num_pixels() * 3);
        let now = (frame.index, frame.capture_time.monotonic_nanos);
        assert!(last.is_none_or(|(index, time)| index < now.0 && time < now.1), "{last:?} then {now:?}");
        last = Some(now);
        if let Some((_, expected)) = expected.iter().find(|(index, _)| *index == frame.index) {
            let got = mean(&frame);
            let far = got.iter().zip(expected).any(|(got, expected)| (got - expected).abs() > 0.5);
            assert!(!far, "{} frame {}: expected {expected:?}, got {got:?}", path.display(), frame.index);
        }
    }
    assert!(!reader.next_frame(&mut frame).unwrap(), "the end stays the end");
    assert_eq!(reader.end().decoded, reader.frames_decoded());
    reader.end()
}

#[test]
fn shipped_clip_decodes_completely() {
    let reader = VideoReader::open(clip()).unwrap();
    assert_eq!(reader.info().size, ImageSize::new(1280, 720));
    assert!((reader.info().fps - 25.0).abs() < 1e-6);
    let expected = [
        (0, [99.66, 107.39, 114.78]),
        (5, [97.05, 102.38, 107.36]),
        (11, [95.77, 99.7, 103.63]),
        (20, [96.58, 105.04, 113.34]),
        (37, [115.43, 125.82, 132.42]),
    ];
    assert_eq!(decode(&clip(), &expected), VideoEnd { decoded: 38, promised: 38 });
}

/// A file of the street data (`HSG_DATA`, relative to the workspace, else `../shared/data` beside it), or `None` with
/// a printed line.
fn shared_data(path: &str) -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = match std::env::var_os("HSG_DATA") {
        Some(folder) => {
            let folder = workspace.join(folder);
            assert!(folder.is_dir(), "HSG_DATA is {}, which is no folder", folder.display());
            folder
        }
        None => workspace.join("../shared/data"),
    };
    let found = folder.join(path);
    if found.exists() {
        return Some(found);
    }
    // Not `eprintln!`: the test harness keeps that of passing tests to itself.
    let _ = writeln!(std::io::stderr(), "skipped: {}: not there", found.display());
    None
}

#[test]
fn second_real_clip_decodes_completely() {
    let Some(path) = shared_data("clips/solidWhiteRight.mp4") else { return };
    let expected = [
        (0, [115.75, 128.69, 139.23]),
        (5, [116.15, 129.95, 140.96]),
        (11, [117.46, 131.97, 143.06]),
        (37, [119.73, 133.45, 144.57]),
        (220, [119.72, 135.73, 149.09]),
    ];
    assert_eq!(decode(&path, &expected), VideoEnd { decoded: 221, promised: 221 });
}

#[test]
fn fragments_and_b_frames_are_read() {
    let expected = [(0, [100.64, 107.57, 114.49]), (5, [98.15, 102.77, 107.15]), (11, [96.8, 99.71, 103.13])];
    assert_eq!(decode(&fixture("fragmented.mp4"), &expected), VideoEnd { decoded: 12, promised: 12 });
}

#[test]
fn presentation_times_are_those_of_the_container() {
    let mut reader = VideoReader::open(clip()).unwrap();
    let mut frame = empty_frame();
    for index in 0..38 {
        assert!(reader.next_frame(&mut frame).unwrap());
        assert_eq!((frame.index, frame.capture_time.monotonic_nanos), (index, index * 40_000_000));
    }
}

fn open_bytes(bytes: &[u8]) -> Result<VideoReader, VideoError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    VideoReader::open(file.path())
}

fn message_of(bytes: &[u8]) -> String {
    open_bytes(bytes).err().expect("should be refused").to_string()
}

#[test]
fn files_that_are_no_video_say_what_they_are() {
    let missing = VideoReader::open("no/such.mp4").err().unwrap().to_string();
    assert!(missing.contains("no/such.mp4") && missing.contains("cannot be read"), "{missing}");
    for (bytes, word) in [
        (&b""[..], "empty file"),
        (b"This is a text file that somebody renamed.", "text file"),
        (b"\x89PNG\r\n\x1a\n0000000000000000", "PNG image"),
        (b"RIFF\x00\x10\x00\x00AVI LIST", "AVI"),
        (&[0x1a, 0x45, 0xdf, 0xa3, 1, 2, 3, 4, 5, 6], "Matroska"),
        (&[7; 100], "07 07"),
        (&[0; 3], "00 00"),
    ] {
        let message = message_of(bytes);
        assert!(message.contains(word), "{message}");
    }
}

/// The shipped clip has its index first, so a cut file has the frames before the cut.
#[test]
fn cut_file_gives_what_is_there() {
    let bytes = std::fs::read(clip()).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes[..bytes.len() / 2]).unwrap();
    let end = decode(file.path(), &[(0, [99.66, 107.39, 114.78]), (5, [97.05, 102.38, 107.36])]);
    assert_eq!(end.promised, 38);
    assert!((10..30).contains(&end.decoded), "{end:?}");

    let mut reader = open_bytes(&bytes[..bytes.len() / 2]).unwrap();
    let mut frame = empty_frame();
    while reader.next_frame(&mut frame).unwrap() {}
    assert!(reader.first_problem().unwrap().contains("the file was cut"));
}

#[test]
fn file_without_any_frame_is_an_error() {
    let bytes = std::fs::read(clip()).unwrap();
    let mut reader = open_bytes(&bytes[..1900]).unwrap();
    let error = reader.next_frame(&mut empty_frame()).unwrap_err();
    assert!(matches!(error, VideoError::NothingDecoded { promised: 38, .. }), "{error}");
    assert!(message_of(&bytes[..1000]).contains("index (moov box)"));
}

#[test]
fn fragmented_file_that_is_cut_gives_whole_fragments() {
    let bytes = std::fs::read(fixture("fragmented.mp4")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes[..bytes.len() - 2300]).unwrap();
    let end = decode(file.path(), &[(0, [100.64, 107.57, 114.49])]);
    assert_eq!(end.decoded, 6);
}

#[test]
fn other_codecs_are_named() {
    for (name, word) in [("hevc.mp4", "H.265"), ("ten_bit.mp4", "10 bit")] {
        let message = VideoReader::open(fixture(name)).err().expect(name).to_string();
        assert!(message.contains(word) && message.contains("--features gstreamer"), "{message}");
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn damage_within_is_passed_over() {
    let mut bytes = std::fs::read(clip()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 2000].fill(0xff);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let end = decode(file.path(), &[(0, [99.66, 107.39, 114.78])]);
    assert!(end.decoded < end.promised && end.decoded > 5, "{end:?}");
}

fn changed(bytes: &[u8], changes: &[(u32, u8)], range: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (place, value) in changes {
        bytes[*place as usize % range] = *value;
    }
    bytes
}

fn read_all(bytes: &[u8]) {
    if let Ok(mut reader) = open_bytes(bytes) {
        let mut frame = empty_frame();
        while let Ok(true) = reader.next_frame(&mut frame) {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// The index of the shipped clip (its first 1814 bytes) with a few bytes changed.
    #[test]
    fn damaged_index_never_panics(changes in prop::collection::vec(any::<(u32, u8)>(), 1..8)) {
        let bytes = std::fs::read(clip()).unwrap();
        let _ = open_bytes(&changed(&bytes[..4000], &changes, 1814));
    }

    /// Index and pictures of the small clip.
    #[test]
    fn damaged_file_never_panics(changes in prop::collection::vec(any::<(u32, u8)>(), 1..8), cut in 0usize..5000) {
        let bytes = std::fs::read(fixture("fragmented.mp4")).unwrap();
        let bytes = changed(&bytes, &changes, bytes.len());
        read_all(&bytes[..bytes.len() - cut.saturating_sub(2500)]);
    }
}
