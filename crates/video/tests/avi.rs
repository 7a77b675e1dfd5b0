//! Motion-JPEG AVI files, made here as writers make them, and broken in all the ways.

use segcore::image::{Frame, ImageSize, PixelFormat};
use video::{VideoEnd, VideoReader};

fn chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut out = kind.to_vec();
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(body);
    out.resize(out.len() + body.len() % 2, 0);
    out
}

fn list(kind: &[u8; 4], parts: &[Vec<u8>]) -> Vec<u8> {
    chunk(b"LIST", &[kind.to_vec(), parts.concat()].concat())
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A file of `frames` chunks; stream 0 is sound, stream 1 the video.
fn avi(codec: &[u8; 4], promised: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let sound = list(b"strl", &[chunk(b"strh", &[b"auds".to_vec(), vec![0; 52]].concat())]);
    let strh = [b"vids".to_vec(), codec.to_vec(), words(&[0, 0, 0, 2, 50, 0, promised, 0, 0, 0, 0, 0])].concat();
    let strf = [words(&[40, 32, (-16i32).cast_unsigned(), 24 << 16 | 1]), codec.to_vec(), vec![0; 20]].concat();
    let video = list(b"strl", &[chunk(b"strh", &strh), chunk(b"strf", &strf)]);
    let header = list(b"hdrl", &[chunk(b"avih", &words(&[0; 14])), sound, video]);
    let mut movie = vec![chunk(b"00wb", &[1, 2, 3])];
    movie.extend(frames.iter().map(|frame| chunk(b"01dc", frame)));
    let body = [b"AVI ".to_vec(), header, chunk(b"JUNK", &[0; 7]), list(b"movi", &movie)].concat();
    chunk(b"RIFF", &body)
}

/// A grey JPEG of 32×16, committed so that the test needs no encoder.
fn jpeg() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/grey.jpg")).unwrap()
}

fn open(bytes: &[u8]) -> Result<VideoReader, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    VideoReader::open(file.path()).map_err(|error| error.to_string())
}

/// Indices and times in milliseconds of the frames, and the end.
fn read(bytes: &[u8]) -> Result<(Vec<(u64, u64)>, VideoEnd), String> {
    let mut reader = open(bytes)?;
    assert_eq!(reader.info().size, ImageSize::new(32, 16));
    let mut frame = Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8);
    let mut frames = Vec::new();
    while reader.next_frame(&mut frame).map_err(|error| error.to_string())? {
        assert!(frame.pixels.iter().all(|value| value.abs_diff(128) < 4));
        frames.push((frame.index, frame.capture_time.monotonic_nanos / 1_000_000));
    }
    Ok((frames, reader.end()))
}

#[test]
fn frames_have_places_and_times() {
    let bytes = avi(b"MJPG", 3, &[jpeg(), Vec::new(), jpeg()]);
    assert_eq!(open(&bytes).unwrap().info().fps, 25.0);
    // The empty chunk repeats the frame before it.
    let end = VideoEnd { decoded: 2, promised: 2 };
    assert_eq!(read(&bytes).unwrap(), (vec![(0, 0), (2, 80)], end));
}

#[test]
fn cut_and_unfinished_files_give_what_they_have() {
    let frames = vec![jpeg(); 4];
    let whole = avi(b"mjpg", 4, &frames);
    let cut = &whole[..whole.len() - jpeg().len() / 2];
    assert_eq!(read(cut).unwrap().1, VideoEnd { decoded: 3, promised: 4 });
    // A recording that never finished: no counts, no sizes.
    let mut unfinished = avi(b"MJPG", 0, &frames);
    unfinished[4..8].fill(0);
    assert_eq!(read(&unfinished).unwrap().1, VideoEnd { decoded: 4, promised: 4 });
    let mut damaged = frames.clone();
    damaged[1].truncate(40);
    assert_eq!(read(&avi(b"MJPG", 4, &damaged)).unwrap().1, VideoEnd { decoded: 3, promised: 4 });
    assert!(read(&avi(b"MJPG", 4, &[vec![0; 9]])).unwrap_err().contains("no frame could be decoded"));
}

#[test]
fn other_codecs_are_named() {
    let message = open(&avi(b"H264", 1, &[jpeg()])).err().unwrap();
    assert!(message.contains("expected Motion JPEG, got `H264`"), "{message}");
    let header = list(b"hdrl", &[]);
    let message = open(&chunk(b"RIFF", &[b"AVI ".to_vec(), header].concat())).err().unwrap();
    assert!(message.contains("video track"), "{message}");
}

#[test]
fn no_prefix_and_no_flipped_byte_panics() {
    let whole = avi(b"MJPG", 2, &[jpeg(), jpeg()]);
    for length in 0..400.min(whole.len()) {
        let _ = read(&whole[..length]);
    }
    for at in 0..380 {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        if let Ok(mut reader) = open(&bytes) {
            let mut frame = Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8);
            while reader.next_frame(&mut frame).unwrap_or(false) {}
        }
    }
}
