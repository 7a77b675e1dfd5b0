//! MCAP recordings as a source. The committed ones were made by other programs (`tests/fixtures/mcap/README.md`), those made
//! here have what those programs would not write.

use std::fs;
use std::path::{Path, PathBuf};

use image::DynamicImage;
use runtime::source::{self, SourceEvent};
use segcore::image::{Frame, ImageSize, PixelFormat};
use tests::bags::{Bag, START, STEP, ros_compressed_image, ros_image};
use tests::folders::{tiny_model, workspace};
use tests::outputs::{assert_whole, files, read_frames, read_json};
use tests::pictures::{SIZE, street, street_folder};
use tests::programs::{Sandbox, assert_refused};

const IMAGE: &str = "sensor_msgs/msg/Image";
const COMPRESSED: &str = "sensor_msgs/msg/CompressedImage";

fn fixture(name: &str) -> PathBuf {
    workspace().join("tests/fixtures/mcap").join(name)
}

fn run(sandbox: &Sandbox, source: impl AsRef<Path>) -> assert_cmd::Command {
    let mut command = sandbox.hsg();
    command.arg("run").arg(source.as_ref()).arg("--model").arg(tiny_model());
    command
}

fn stderr(assert: &assert_cmd::assert::Assert) -> String {
    let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// What a source gives, to its end.
#[derive(Debug, Default)]
struct Read {
    frames: Vec<Frame>,
    skipped: Vec<String>,
    promised_more: Option<u64>,
}

impl Read {
    /// Whether `hsg run` would end with exit code 0.
    fn is_complete(&self) -> bool {
        self.skipped.is_empty() && self.promised_more.is_none()
    }
}

fn read(text: &str) -> Result<Read, String> {
    let mut source = source::open(text).map_err(|error| error.to_string())?;
    let mut read = Read::default();
    let mut frame = Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8);
    loop {
        match source.next(&mut frame).map_err(|error| error.to_string())? {
            SourceEvent::Frame => read.frames.push(frame.clone()),
            SourceEvent::Skipped { reason, .. } => read.skipped.push(reason),
            SourceEvent::End { delivered, promised_more } => {
                assert_eq!(delivered, read.frames.len() as u64);
                read.promised_more = promised_more;
                return Ok(read);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn read_path(path: &Path) -> Result<Read, String> {
    read(path.to_str().expect("a path in UTF-8"))
}

/// A recording of one topic with these messages, outside of chunks.
fn bag_of(sandbox: &Sandbox, schema: &str, messages: &[Vec<u8>]) -> PathBuf {
    let path = sandbox.path("made.mcap");
    let mut bag = Bag::new(&[("/camera", schema, "cdr")]);
    for (index, message) in (0..).zip(messages) {
        bag.message(1, START + index * STEP, message);
    }
    bag.save(&path);
    path
}

#[test]
fn recordings_give_what_their_pictures_give() {
    let sandbox = Sandbox::new();
    let images = format!("{}?rate=10", street_folder(sandbox.path("images"), 4).display());
    run(&sandbox, images).args(["--out", "files", "--save", "labels,classes"]).assert().code(0);
    let names = files(&sandbox.path("files"));
    assert_eq!(names.len(), 4 * 4 + 1, "{names:?}");
    for (number, (file, topic)) in [
        ("zstd.mcap", ""),
        ("lz4.mcap", "?topic=/camera/image"),
        ("lz4.mcap", "?topic=/camera/compressed"),
        ("plain.mcap", ""),
        ("big_endian.mcap", ""),
        ("protobuf.mcap", "?topic=/raw"),
        ("protobuf.mcap", "?topic=/coded"),
        ("json.mcap", "?topic=/raw"),
        ("json.mcap", "?topic=/coded"),
    ]
    .into_iter()
    .enumerate()
    {
        let prefix = if number % 2 == 0 { "replay:" } else { "" };
        let source = format!("{prefix}{}{topic}", fixture(file).display());
        let out = format!("out-{number}");
        run(&sandbox, &source).args(["--out", &out, "--save", "labels,classes"]).assert().code(0);
        for name in names.iter().filter(|name| name.ends_with(".png")) {
            let bytes = |out: &str| fs::read(sandbox.path(&format!("{out}/{name}"))).expect("a map");
            assert!(bytes("files") == bytes(&out), "{source}: {name}");
        }
        let summary = read_json(&sandbox.path(&format!("{out}/summary.json")));
        assert_eq!((summary["frames"].as_u64(), summary["skipped"].as_u64()), (Some(4), Some(0)), "{source}");
    }
}

#[test]
fn pictures_are_those_that_were_recorded() {
    for (file, topic) in [("zstd.mcap", ""), ("lz4.mcap", "?topic=/camera/image"), ("big_endian.mcap", "")] {
        let read = read(&format!("{}{topic}", fixture(file).display())).unwrap();
        assert!(read.is_complete() && read.frames.len() == 4, "{file}");
        for (index, frame) in (0..).zip(&read.frames) {
            assert_eq!((frame.index, &frame.pixels), (u64::from(index), street(index).as_raw()), "{file}");
        }
    }
    // JPEGs outside of chunks: close to what was recorded.
    let read = read_path(&fixture("unchunked.mcap")).unwrap();
    assert!(read.is_complete() && read.frames.len() == 4);
    for (index, frame) in (0..).zip(&read.frames) {
        let recorded = street(index);
        let far = frame.pixels.iter().zip(recorded.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b)));
        assert!(far.sum::<u64>() < 6 * frame.pixels.len() as u64);
    }
}

#[test]
fn capture_times_are_those_of_the_header_or_the_log() {
    let sandbox = Sandbox::new();
    run(&sandbox, fixture("zstd.mcap")).args(["--out", "out", "--save", "frames"]).assert().code(0);
    let times = |name: &str| -> Vec<(u64, u64)> {
        let frames = read_frames(&sandbox.path(name));
        frames.iter().map(|frame| (frame.capture_monotonic_nanos, frame.capture_utc_nanos)).collect()
    };
    let by_header: Vec<_> = (0..4).map(|index| (index * STEP, START + index * STEP)).collect();
    assert_eq!(times("out/frames.hsg"), by_header);
    let without = |_: u64| ros_image(0, SIZE, "rgb8", 3 * SIZE.0, street(0).as_raw());
    let bag = bag_of(&sandbox, IMAGE, &(0..4).map(without).collect::<Vec<_>>());
    let read = read_path(&bag).unwrap();
    let by_log: Vec<_> =
        read.frames.iter().map(|frame| (frame.capture_time.monotonic_nanos, frame.capture_time.utc_nanos)).collect();
    assert_eq!(by_log, by_header);
}

#[test]
fn the_rate_of_the_messages_decides_about_tracking() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("slow.mcap");
    let mut bag = Bag::new(&[("/camera", IMAGE, "cdr")]);
    for index in 0..3 {
        let time = START + index * 1_000_000_000;
        bag.message(1, time, &ros_image(time, SIZE, "rgb8", 3 * SIZE.0, street(0).as_raw()));
    }
    bag.save(&path);
    let info = |text: &str| source::open(text).unwrap().info().clone();
    let slow = info(path.to_str().unwrap());
    assert_eq!((slow.rate_hz, slow.is_sequence, slow.frames_promised), (Some(1.0), false, Some(3)));
    assert!(info(&format!("{}?rate=10", path.display())).is_sequence);
    // A clock that was set while recording: the first message is of 1970.
    let mut bag = Bag::new(&[("/camera", IMAGE, "cdr")]);
    for time in [5, START, START + STEP] {
        bag.message(1, time, &ros_image(time, SIZE, "rgb8", 3 * SIZE.0, street(0).as_raw()));
    }
    bag.save(&sandbox.path("set.mcap"));
    let set = info(sandbox.path("set.mcap").to_str().unwrap());
    assert_eq!((set.rate_hz, set.is_sequence), (None, false));
    assert_refused(run(&sandbox, "set.mcap").arg("--realtime").assert(), &["set.mcap", "?rate="]);
    let fast = info(fixture("zstd.mcap").to_str().unwrap());
    assert!(fast.is_sequence && fast.rate_hz.is_some_and(|rate| (rate - 10.0).abs() < 0.1), "{fast:?}");
    assert_eq!((fast.size, fast.is_live), (Some(ImageSize::new(96, 64)), false));
}

#[test]
fn topics_have_to_be_named_where_there_are_several() {
    let sandbox = Sandbox::new();
    let topic = |name: &str| format!("{}?topic={name}", fixture("lz4.mcap").display());
    let words = ["/camera/image", "/camera/compressed", IMAGE, COMPRESSED, "4 messages", "?topic="];
    assert_refused(run(&sandbox, fixture("lz4.mcap")).assert(), &words);
    assert_refused(run(&sandbox, topic("/camera")).assert(), &["`/camera`", "/camera/image (", "/camera/compressed ("]);
    let words = format!("{}?topic=/words", fixture("zstd.mcap").display());
    assert_refused(run(&sandbox, words).assert(), &["/words", "std_msgs/msg/String", "?topic=", "/camera/image ("]);
    let video = format!("{}?topic=/camera", sandbox.path("images").display());
    street_folder(sandbox.path("images"), 1);
    assert_refused(run(&sandbox, video).assert(), &["for recordings"]);
    assert!(!sandbox.path("hsg-out").exists());
}

#[test]
fn what_is_no_recording_says_so() {
    let sandbox = Sandbox::new();
    for (name, content, words) in [
        ("empty.mcap", &b""[..], ["empty file", "record it again"]),
        ("text.mcap", b"not a recording at all", ["MCAP", "another kind"]),
        ("bag.db3", b"SQLite format 3\0 and so on", ["SQLite", "ros2 bag convert"]),
        ("old.mcap", b"#ROSBAG V2.0\n and so on", ["ROS 1", "rosbags-convert"]),
    ] {
        fs::write(sandbox.path(name), content).unwrap();
        assert_refused(run(&sandbox, name).assert(), &[name, words[0], words[1]]);
    }
    // What `ros2 bag record` makes is a folder.
    fs::create_dir(sandbox.path("bag")).unwrap();
    fs::write(sandbox.path("bag/metadata.yaml"), "").unwrap();
    fs::copy(fixture("zstd.mcap"), sandbox.path("bag/bag_0.mcap")).unwrap();
    assert_refused(run(&sandbox, "bag").assert(), &["bag/bag_0.mcap", "name its file"]);
    assert_refused(run(&sandbox, "replay:bag").assert(), &["folder", ".mcap"]);
    assert_refused(run(&sandbox, "replay:none.mcap").assert(), &["none.mcap", "no such file"]);
}

#[test]
fn images_that_are_not_read_are_named() {
    let sandbox = Sandbox::new();
    let raw = |encoding: &str| ros_image(START, SIZE, encoding, 2 * SIZE.0, &[0; 2 * 96 * 64]);
    for (encoding, remedy) in [
        ("16UC1", "?topic="),
        ("bayer_rggb8", "image_proc"),
        ("mono16", "as rgb8"),
        ("rgb16", "as rgb8"),
        ("\u{1b}[31m", "as rgb8"),
    ] {
        let assert = run(&sandbox, bag_of(&sandbox, IMAGE, &[raw(encoding)])).assert();
        let named = encoding.escape_debug().to_string();
        assert_refused(assert, &["/camera", &named, "yuv422_yuy2", "nv12", remedy]);
    }
    for format in ["h264", "webp", "16UC1; compressedDepth png", ""] {
        let bag = bag_of(&sandbox, COMPRESSED, &[ros_compressed_image(START, format, &[1, 2, 3, 4])]);
        assert_refused(run(&sandbox, bag).assert(), &["/camera", &format!("`{format}`"), "JPEG or PNG"]);
    }
    for (schema, encoding, word) in [
        ("foxglove.CompressedVideo", "protobuf", "compressed video"),
        ("ffmpeg_image_transport_msgs/msg/FFMPEGPacket", "cdr", "image_transport"),
        ("sensor_msgs/Image", "ros1", "rosbags-convert"),
        (IMAGE, "xcdr", "another encoding"),
        ("std_msgs/msg/String", "cdr", "a topic with images"),
    ] {
        let mut bag = Bag::new(&[("/camera", schema, encoding)]);
        bag.message(1, START, &[0; 64]);
        bag.save(&sandbox.path("other.mcap"));
        assert_refused(run(&sandbox, "other.mcap").assert(), &["other.mcap", "/camera", schema, word]);
    }
    // The second version of CDR is damage to us, and said: a single message is a run without a frame.
    let mut second = ros_image(START, SIZE, "rgb8", 288, street(0).as_raw());
    second[1] = 7;
    assert_refused(run(&sandbox, bag_of(&sandbox, IMAGE, &[second])).assert(), &["/camera", "XCDR2"]);
}

#[test]
fn recordings_without_images_are_empty() {
    let sandbox = Sandbox::new();
    assert_refused(run(&sandbox, bag_of(&sandbox, IMAGE, &[])).assert(), &["no frame", "empty"]);
    Bag::new(&[]).save(&sandbox.path("bare.mcap"));
    assert_refused(run(&sandbox, "bare.mcap").assert(), &["bare.mcap", "no topic at all"]);
    assert!(!sandbox.path("hsg-out").exists());
}

#[test]
fn every_encoding_is_read_whatever_its_rows() {
    let sandbox = Sandbox::new();
    let (width, height) = (SIZE.0 as usize, SIZE.1 as usize);
    let rgb = street(1);
    let reorder = |order: &[usize]| -> Vec<u8> {
        let pixel = |pixel: &image::Rgb<u8>| {
            let [r, g, b] = pixel.0;
            order.iter().map(move |channel| [r, g, b, 77][*channel]).collect::<Vec<_>>()
        };
        rgb.pixels().flat_map(pixel).collect()
    };
    let grey: Vec<u8> = DynamicImage::from(rgb.clone()).into_luma8().into_raw();
    let as_rgb = |grey: &[u8]| grey.iter().flat_map(|value| [*value; 3]).collect::<Vec<u8>>();
    // BT.601, limited: 126 is the middle.
    let middle = vec![128; 3 * width * height];
    let nv12 = [vec![126; width * height], vec![128; width * height / 2]].concat();
    let cases: [(&str, usize, Vec<u8>, Vec<u8>); 10] = [
        ("rgb8", 3, rgb.as_raw().clone(), rgb.as_raw().clone()),
        ("bgr8", 3, reorder(&[2, 1, 0]), rgb.as_raw().clone()),
        ("rgba8", 4, reorder(&[0, 1, 2, 3]), rgb.as_raw().clone()),
        ("bgra8", 4, reorder(&[2, 1, 0, 3]), rgb.as_raw().clone()),
        ("mono8", 1, grey.clone(), as_rgb(&grey)),
        ("yuv422", 2, [128, 126].repeat(width * height), middle.clone()),
        ("uyvy", 2, [128, 126].repeat(width * height), middle.clone()),
        ("yuv422_yuy2", 2, [126, 128].repeat(width * height), middle.clone()),
        ("yuyv", 2, [126, 128].repeat(width * height), middle.clone()),
        ("nv12", 1, nv12, middle),
    ];
    for (encoding, bytes_per_pixel, pixels, expected) in cases {
        let row_bytes = bytes_per_pixel * width;
        for padding in [0, 7] {
            let pad = |row: &[u8]| [row, &vec![0xEE; padding]].concat();
            let data: Vec<u8> = pixels.chunks_exact(row_bytes).flat_map(pad).collect();
            let step = (row_bytes + padding) as u32;
            let message = |step: u32, data: &[u8]| ros_image(START, SIZE, encoding, step, data);
            let messages = [
                message(step, &data),
                message(step, &data[1..]),
                message(row_bytes as u32 - 1, &data),
                message(0, &data),
                message(step, &[]),
            ];
            let read = read_path(&bag_of(&sandbox, IMAGE, &messages)).unwrap();
            assert_eq!((read.frames.len(), read.skipped.len()), (1, 4), "{encoding}: {read:?}");
            assert!(read.frames[0].pixels == expected, "{encoding}, {padding} bytes of padding");
        }
    }
    for size in [(0, 0), (0, 64), (96, 0), (u32::MAX, u32::MAX), (40_000, 2), (16_384, 8193)] {
        let message = ros_image(START, size, "rgb8", 288, street(0).as_raw());
        let read = read_path(&bag_of(&sandbox, IMAGE, &[message])).unwrap();
        assert_eq!((read.frames.len(), read.skipped.len()), (0, 1), "{size:?}");
    }
}

#[test]
fn damaged_images_are_skipped_and_counted() {
    let sandbox = Sandbox::new();
    let mut messages: Vec<Vec<u8>> = (0..4)
        .map(|index| ros_image(START + u64::from(index) * STEP, SIZE, "rgb8", 288, street(index).as_raw()))
        .collect();
    let shorter = messages[1].len() - 100;
    messages[1].truncate(shorter);
    let bag = bag_of(&sandbox, IMAGE, &messages);
    let assert = run(&sandbox, bag).args(["--out", "out", "--save", "classes"]).assert().code(1);
    let text = stderr(&assert);
    assert!(text.contains("/camera: message 1") && text.contains("cut"), "{text}");
    assert_eq!(files(&sandbox.path("out/classes")), ["000000.png", "000002.png", "000003.png"]);
    let summary = read_json(&sandbox.path("out/summary.json"));
    assert_eq!((summary["frames"].as_u64(), summary["skipped"].as_u64()), (Some(3), Some(1)));
}

#[test]
fn messages_of_a_chunk_come_by_their_time() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("mixed.mcap");
    let message = |index: u32| {
        let time = START + u64::from(index) * STEP;
        (1, time, ros_image(time, SIZE, "rgb8", 288, street(index).as_raw()))
    };
    let mut bag = Bag::new(&[("/camera", IMAGE, "cdr")]);
    bag.chunk(&[message(2), message(0), message(1)], None);
    bag.chunk(&[message(5), message(4)], None);
    // Chunks stay in their order.
    bag.chunk(&[message(3)], None);
    bag.save(&path);
    let read = read_path(&path).unwrap();
    let order: Vec<u64> = read.frames.iter().map(|frame| frame.capture_time.monotonic_nanos / STEP).collect();
    assert_eq!(order, [0, 1, 2, 4, 5, 3]);
    assert!(read.is_complete());
    assert!((0..).zip(&read.frames).all(|(index, frame)| frame.index == index));
}

#[test]
fn sizes_that_no_recorder_writes_take_no_memory() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("hostile.mcap");
    let message = (1, START, ros_image(START, SIZE, "rgb8", 288, street(0).as_raw()));
    for promised in [1 << 31, 1 << 40, u64::MAX, 900 << 20] {
        let mut bag = Bag::new(&[("/camera", IMAGE, "cdr")]);
        bag.chunk(std::slice::from_ref(&message), Some(promised));
        bag.message(1, START, &message.2);
        bag.save(&path);
        let read = read_path(&path).unwrap();
        assert_eq!(read.frames.len(), 1, "{promised}: the message behind the chunk");
        assert!(!read.is_complete(), "{promised}");
    }
    // Names are kept as long as the file is read: none of a megabyte, and not of all sixty-five thousand channels.
    let (long, names) = ("n".repeat(1 << 20), (0..5000).map(|id| format!("{id:04000}")).collect::<Vec<_>>());
    let many = names.iter().map(|name| (name.as_str(), "x", "cdr"));
    for others in [vec![(long.as_str(), "x", "cdr")], vec![("/x", long.as_str(), "cdr")], many.collect()] {
        let channels = [vec![("/camera", IMAGE, "cdr")], others].concat();
        let mut bag = Bag::new(&channels);
        bag.message(1, START, &message.2);
        bag.save(&path);
        let assert = run(&sandbox, &path).args(["--out", "out", "--save", "none"]).assert().code(1);
        let text = stderr(&assert);
        assert!(text.contains("hostile.mcap") && text.contains("expected names of 4096 bytes"), "{text}");
    }
    // A message whose image promises more than it has.
    let mut long = message.2.clone();
    let at = long.len() - street(0).as_raw().len() - 4;
    long[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let read = read_path(&bag_of(&sandbox, IMAGE, &[long])).unwrap();
    assert_eq!((read.frames.len(), read.skipped.len()), (0, 1));
}

#[test]
fn cut_recordings_give_the_frames_that_are_there() {
    let sandbox = Sandbox::new();
    for (file, topic) in
        [("plain.mcap", ""), ("unchunked.mcap", ""), ("zstd.mcap", ""), ("lz4.mcap", "?topic=/camera/compressed")]
    {
        let bytes = fs::read(fixture(file)).unwrap();
        let whole = read(&format!("{}{topic}", fixture(file).display())).unwrap();
        let path = sandbox.path(file);
        let text = format!("{}{topic}", path.display());
        let (mut most, mut in_between) = (0, 0);
        for length in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
            fs::write(&path, &bytes[..length]).unwrap();
            match read(&text) {
                Ok(read) => {
                    let count = read.frames.len();
                    assert!(count >= most, "{file}, {length} bytes: {count} frames, {most} of fewer");
                    assert!(read.frames == whole.frames[..count], "{file}, {length} bytes");
                    // The data may be whole where only the index is cut.
                    assert!(count == 4 || !read.is_complete(), "{file}, {length} bytes: {count} frames");
                    most = count;
                    in_between += usize::from((1..4).contains(&count));
                }
                Err(error) => assert!(most == 0 && error.contains(file), "{file}, {length} bytes: {error}"),
            }
        }
        assert_eq!(most, 4, "{file}");
        // Of a cut chunk in zstd nothing is taken; these files have one chunk.
        assert_eq!(in_between > 0, file != "zstd.mcap", "{file}");
    }
    // The program says so and ends with exit code 1; without any frame with 2.
    let bytes = fs::read(fixture("plain.mcap")).unwrap();
    fs::write(sandbox.path("cut.mcap"), &bytes[..bytes.len() / 2]).unwrap();
    let assert = run(&sandbox, "cut.mcap").args(["--out", "out", "--save", "frames"]).assert().code(1);
    assert!(stderr(&assert).contains("cut"), "{}", stderr(&assert));
    let summary = read_json(&sandbox.path("out/summary.json"));
    let frames = summary["frames"].as_u64().unwrap();
    assert!((1..4).contains(&frames) && summary["skipped"] == 1, "{summary}");
    fs::write(sandbox.path("stub.mcap"), &bytes[..600]).unwrap();
    let words = ["stub.mcap"];
    assert_refused(run(&sandbox, "stub.mcap").assert(), &words);
}

#[test]
fn flipped_bytes_are_noticed_or_harmless() {
    let sandbox = Sandbox::new();
    for (file, topic, step) in
        [("zstd.mcap", "/camera/image", 3), ("plain.mcap", "/camera/image", 3), ("lz4.mcap", "/camera/compressed", 11)]
    {
        let bytes = fs::read(fixture(file)).unwrap();
        let path = sandbox.path(file);
        let text = format!("{}?topic={topic}", path.display());
        let mut noticed = 0;
        for at in (0..bytes.len()).step_by(step) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, &flipped).unwrap();
            let Ok(read) = read(&text) else {
                noticed += 1;
                continue;
            };
            noticed += usize::from(!read.is_complete());
            // Chunks have checksums: no picture that is given is another than was recorded.
            for frame in &read.frames {
                let is_one = (0..4).any(|index| frame.pixels == *street(index).as_raw());
                assert!(is_one, "{file}, byte {at}: a changed picture was given as frame {}", frame.index);
            }
        }
        assert!(noticed > bytes.len() / step / 3, "{file}: {noticed} noticed");
    }
    // Without checksums anything may come of it, but an end.
    for file in ["unchunked.mcap", "protobuf.mcap", "json.mcap", "big_endian.mcap"] {
        let bytes = fs::read(fixture(file)).unwrap();
        for at in (0..bytes.len()).step_by(23) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0xFF;
            fs::write(sandbox.path(file), &flipped).unwrap();
            let _ = read_path(&sandbox.path(file));
        }
    }
}

#[test]
fn damage_is_reported_by_the_program() {
    let sandbox = Sandbox::new();
    let mut bytes = fs::read(fixture("plain.mcap")).unwrap();
    // Within the last picture: its chunk alone is damaged.
    let at = bytes.windows(4).rposition(|bytes| bytes == b"IEND").unwrap() - 20;
    bytes[at] ^= 0x10;
    fs::write(sandbox.path("flipped.mcap"), &bytes).unwrap();
    let assert = run(&sandbox, "flipped.mcap").args(["--out", "out", "--save", "frames"]).assert().code(1);
    let text = stderr(&assert);
    assert!(text.contains("flipped.mcap") && text.contains("CRC-32"), "{text}");
    let summary = read_json(&sandbox.path("out/summary.json"));
    let count = |key: &str| summary[key].as_u64().unwrap();
    assert!(count("frames") >= 1 && count("skipped") >= 1 && count("frames") + count("skipped") == 4, "{summary}");
}

#[test]
fn recordings_can_be_looked_at_and_timed() {
    let sandbox = Sandbox::new();
    let inspect = |path: &Path| {
        let mut command = sandbox.hsg();
        command.args(["--json", "inspect"]).arg(path);
        command.assert()
    };
    let assert = inspect(&fixture("lz4.mcap")).code(0);
    let report: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    let topics = report["topics"].as_array().unwrap();
    assert_eq!((report["finished"].as_bool(), topics.len()), (Some(true), 2));
    for topic in topics {
        assert_eq!((topic["messages"].as_u64(), topic["image_size"].as_str()), (Some(4), Some("96x64")), "{topic}");
    }
    let text = sandbox.hsg().arg("inspect").arg(fixture("zstd.mcap")).assert().code(0);
    let text = String::from_utf8_lossy(&text.get_output().stdout).into_owned();
    assert!(text.contains("/camera/image") && text.contains("std_msgs/msg/String") && text.contains("96x64"), "{text}");
    let bytes = fs::read(fixture("plain.mcap")).unwrap();
    fs::write(sandbox.path("cut.mcap"), &bytes[..bytes.len() / 2]).unwrap();
    let assert = inspect(&sandbox.path("cut.mcap")).code(1);
    let report: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    assert!(report["finished"] == false && report["fault"].is_string(), "{report}");

    let mut bench = sandbox.hsg();
    bench.args(["--json", "bench", "--frames", "10", "--model"]).arg(tiny_model()).arg(fixture("zstd.mcap"));
    let assert = bench.assert().code(0);
    let report: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    assert_eq!(report["frames"], 10);
}

#[test]
fn what_a_run_records_can_be_replayed() {
    let sandbox = Sandbox::new();
    // With a time of day, as cameras have it, and without.
    street_folder(sandbox.path("images"), 4);
    fs::copy(fixture("zstd.mcap"), sandbox.path("bag.mcap")).unwrap();
    for (source, name, first_nanos) in [("images?rate=10", "images", 0), ("bag.mcap", "bag", START)] {
        let out = format!("out-{name}");
        let list = "mcap,overlay,frames";
        run(&sandbox, source).args(["--out", &out, "--save", list]).assert().code(0);
        assert_eq!(assert_whole(&sandbox.path(&out)), Some(4));
        let recording = sandbox.path(&format!("{out}/recording.mcap"));
        let topic = |topic: &str| format!("replay:{}?topic=/hsg/{name}/{topic}", recording.display());
        let overlay = read(&topic("overlay")).unwrap();
        assert!(overlay.is_complete() && overlay.frames.len() == 4);
        for (index, frame) in (0..).zip(&overlay.frames) {
            let mut panel = Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8);
            let file = fs::read(sandbox.path(&format!("{out}/overlay/{index:06}.jpg"))).unwrap();
            segcore::image_io::decode_jpeg_into(&file, &mut panel).unwrap();
            assert!(frame.pixels == panel.pixels && frame.size == panel.size, "{name}, {index}");
            assert_eq!(frame.capture_time.utc_nanos, first_nanos + index * STEP);
        }
        run(&sandbox, topic("image")).args(["--save", "none"]).assert().code(0);
        // The frames lie in it as frames.hsg has them, without their lengths.
        let (bytes, frames) =
            (fs::read(&recording).unwrap(), fs::read(sandbox.path(&format!("{out}/frames.hsg"))).unwrap());
        let mut rest = &frames[6..];
        while let Some((length, body)) = rest.split_first_chunk::<4>() {
            let (body, next) = body.split_at(u32::from_le_bytes(*length) as usize);
            assert!(bytes.windows(body.len()).any(|window| window == body));
            rest = next;
        }
        assert_refused(run(&sandbox, topic("frame")).assert(), &["/frame", "hsg.Frame in postcard"]);
    }
}

#[test]
fn recordings_stay_within_the_disk_that_is_allowed() {
    let sandbox = Sandbox::new();
    street_folder(sandbox.path("images"), 8);
    run(&sandbox, "images").args(["--out", "all", "--save", "mcap"]).assert().code(0);
    let all = fs::metadata(sandbox.path("all/recording.mcap")).unwrap().len();
    let bound = (all / 2).to_string();
    run(&sandbox, "images").args(["--out", "part", "--save", "mcap", "--max-disk", &bound]).assert().code(1);
    let part = fs::metadata(sandbox.path("part/recording.mcap")).unwrap().len();
    assert!(part <= all / 2, "{part} of {all} bytes");
    let read = read(&format!("{}?topic=/hsg/images/image", sandbox.path("part/recording.mcap").display())).unwrap();
    assert!(read.is_complete() && (1..8).contains(&read.frames.len()), "{} frames", read.frames.len());
    assert_eq!(files(&sandbox.path("part")), ["recording.mcap", "summary.json"]);
}
