//! Where frames come from and which parts of them count, with the real program: raw frames on standard input, Motion-JPEG
//! AVI, cameras that are none, masks. Cameras that are some: `cargo xtask camera-test`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use image::{GrayImage, Luma, RgbImage};
use tests::folders::{shipped_clip, tiny_model, workspace};
use tests::outputs::{assert_nested, assert_whole, files, read_frames, read_json, read_labels};
use tests::pictures::{SIZE, street, street_folder};
use tests::programs::{Sandbox, assert_refused, hsg};
use tests::skip;

const RAW: &str = "raw:96x64:RGB24";

fn run(sandbox: &Sandbox, sources: &[&str]) -> assert_cmd::Command {
    let mut command = sandbox.hsg();
    command.arg("run").args(sources).arg("--model").arg(tiny_model());
    command
}

fn stderr(assert: &assert_cmd::assert::Assert) -> String {
    let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// The first `count` frames of the street as they come through a pipe.
fn raw_frames(count: u32) -> Vec<u8> {
    (0..count).flat_map(|index| street(index).into_raw()).collect()
}

#[test]
fn raw_frames_on_stdin_give_what_images_give() {
    let sandbox = Sandbox::new();
    let images = format!("{}?rate=10", street_folder(sandbox.path("images"), 4).display());
    run(&sandbox, &[&images]).args(["--out", "files", "--save", "labels"]).assert().code(0);
    let raw = format!("{RAW}?rate=10");
    run(&sandbox, &[&raw]).args(["--out", "piped", "--save", "labels"]).write_stdin(raw_frames(4)).assert().code(0);
    let names = files(&sandbox.path("files/labels"));
    assert_eq!(names.len(), 12);
    assert_eq!(files(&sandbox.path("piped/labels")), names);
    for name in names {
        let labels = |out: &str| fs::read(sandbox.path(&format!("{out}/labels/{name}"))).unwrap();
        assert!(labels("files") == labels("piped"), "{name}");
    }
}

#[test]
fn a_pipe_that_ends_within_a_frame_gives_the_frames_before() {
    let sandbox = Sandbox::new();
    let mut bytes = raw_frames(3);
    bytes.truncate(bytes.len() - 1000);
    let assert = run(&sandbox, &[RAW]).args(["--out", "out"]).write_stdin(bytes).assert().code(1);
    let text = stderr(&assert);
    assert!(text.contains(RAW) && text.contains("3 frames") && text.contains('2'), "{text}");
    assert_eq!(assert_whole(&sandbox.path("out")), Some(2));
    // Frames of another size than promised end somewhere within one.
    let assert = run(&sandbox, &["raw:100x64:RGB24"]).args(["--save", "none"]).write_stdin(raw_frames(2)).assert();
    assert!(stderr(&assert.code(1)).contains("raw:100x64"));
}

#[test]
fn raw_frames_that_are_none() {
    let sandbox = Sandbox::new();
    let attempt = |sources: &[&str], bytes: Vec<u8>| run(&sandbox, sources).write_stdin(bytes).assert();
    assert_refused(attempt(&[RAW], Vec::new()), &["raw", "no frame", "empty"]);
    assert_refused(attempt(&[RAW], vec![0; 99]), &["raw", "no frame"]);
    assert_refused(attempt(&["raw:96x64:H264"], Vec::new()), &["raw:96x64:H264", "RGB24", "NV12"]);
    assert_refused(attempt(&["raw:96:RGB24"], Vec::new()), &["raw:96:RGB24", "WIDTHxHEIGHT"]);
    assert_refused(attempt(&["raw:0x64:RGB24"], Vec::new()), &["0x64"]);
    assert_refused(attempt(&["raw:95x64:NV12"], Vec::new()), &["raw:95x64:NV12", "even width", "YU12"]);
    assert_refused(attempt(&[RAW, RAW], raw_frames(2)), &["2 sources read standard input"]);
    assert!(!sandbox.path("hsg-out").exists());
}

#[test]
fn signals_during_a_pipe_leave_whole_files() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let sandbox = Sandbox::new();
        let mut command = sandbox.command(hsg());
        command.args(["run", RAW, "--out", "out", "--model"]).arg(tiny_model());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // The pipe stays open: the program waits for the next frame when the signal comes.
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(&raw_frames(3)).unwrap();
        let third = sandbox.path("out/classes/000002.png");
        let start = Instant::now();
        while !third.exists() {
            assert!(start.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(5));
        }
        Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        let sent = Instant::now();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(sent.elapsed() < Duration::from_secs(2), "{:?}", sent.elapsed());
        assert_eq!(assert_whole(&sandbox.path("out")), Some(3));
    }
}

#[test]
fn in_real_time_the_newest_frame_wins() {
    let sandbox = Sandbox::new();
    // Far faster than the shipped model computes on any machine: 38 frames in 0.2 s.
    let clip = format!("{}?rate=190", shipped_clip().display());
    let mut command = sandbox.hsg();
    command.args(["run", &clip, "--realtime", "--save", "frames", "--out", "out", "--threads", "1"]);
    command.arg("--model").arg(workspace().join("models/zoo/camvid-r18")).assert().code(0);
    let summary = read_json(&sandbox.path("out/summary.json"));
    let (frames, dropped) = (summary["frames"].as_u64().unwrap(), summary["dropped"].as_u64().unwrap());
    assert_eq!(frames + dropped, 38, "none is lost uncounted");
    assert!(dropped >= 15, "{dropped} dropped");
    let published = read_frames(&sandbox.path("out/frames.hsg"));
    assert_eq!(published.len() as u64, frames);
    // What is computed last is the newest there was.
    let last = published.last().unwrap().capture_monotonic_nanos;
    assert!(last > 36 * 1_000_000_000 / 25, "the last frame is from {last} ns of 1.5 s");
}

/// The video of a run over the shipped clip.
fn made_video(sandbox: &Sandbox, frames: &str) -> PathBuf {
    let clip = shipped_clip().display().to_string();
    let options = ["--out", "made", "--save", "video", "--frames", frames];
    run(sandbox, &[&clip]).args(options).assert().code(0);
    sandbox.path("made/video.avi")
}

#[test]
fn motion_jpeg_avi_files_are_read() {
    let sandbox = Sandbox::new();
    let video = made_video(&sandbox, "5");
    let text = video.to_str().unwrap();
    run(&sandbox, &[text]).args(["--out", "out", "--save", "labels,frames"]).assert().code(0);
    let out = sandbox.path("out");
    assert_eq!(assert_whole(&out), Some(5));
    let summary = read_json(&out.join("summary.json"));
    assert_eq!((summary["frames"].as_u64(), summary["skipped"].as_u64()), (Some(5), Some(0)));
    // A file by another name is the same file.
    fs::copy(&video, sandbox.path("video.bin")).unwrap();
    run(&sandbox, &["video.bin"]).args(["--save", "none"]).assert().code(0);
}

#[test]
fn cut_and_foreign_avi_files() {
    let sandbox = Sandbox::new();
    let whole = fs::read(made_video(&sandbox, "6")).unwrap();
    let attempt = |name: &str, bytes: &[u8]| {
        fs::write(sandbox.path(name), bytes).unwrap();
        run(&sandbox, &[name]).args(["--out", name.trim_end_matches(".avi"), "--save", "frames"]).assert()
    };
    let text = stderr(&attempt("cut.avi", &whole[..whole.len() * 2 / 3]).code(1));
    assert!(text.contains("cut.avi") && text.contains("6 frames were promised"), "{text}");
    let read = assert_whole(&sandbox.path("cut")).unwrap();
    assert!((2..6).contains(&read), "{read}");
    // Cut within the first frame, and before it.
    assert_refused(attempt("first.avi", &whole[..1000]), &["first.avi"]);
    assert_refused(attempt("header.avi", &whole[..100]), &["header.avi"]);
    let mut foreign = whole.clone();
    let places: Vec<usize> = whole.windows(4).enumerate().filter(|(_, w)| w == b"MJPG").map(|(at, _)| at).collect();
    for place in places {
        foreign[place..place + 4].copy_from_slice(b"XVID");
    }
    assert_refused(attempt("foreign.avi", &foreign), &["foreign.avi", "XVID", "Motion JPEG", "gstreamer"]);
}

#[test]
fn cameras_that_are_none() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("file"), "text").unwrap();
    let file = format!("v4l2:{}", sandbox.path("file").display());
    for (source, words) in [
        ("v4l2:/dev/video99", &["/dev/video99", "no such device"][..]),
        ("v4l2:by-id/usb-Nobody_Nothing-video-index0", &["by-id/usb-Nobody_Nothing-video-index0", "no such device"]),
        ("v4l2:/dev/null", &["/dev/null", "is no camera"]),
        (&file, &["is no camera"]),
        ("v4l2:", &["v4l2:/dev/videoN"]),
        ("v4l2:/dev/video0?size=big", &["WIDTHxHEIGHT", "big"]),
        ("v4l2:/dev/video0?format=H264", &["H264", "MJPG"]),
        ("v4l2:/dev/video0?colour=red", &["colour=red"]),
    ] {
        let start = Instant::now();
        assert_refused(run(&sandbox, &[source]).args(["--out", "out"]).assert(), words);
        assert!(start.elapsed() < Duration::from_secs(10), "{source}");
        assert!(!sandbox.path("out").exists(), "{source}");
    }
}

#[test]
fn a_device_that_may_not_be_opened_names_the_group() {
    let case = "a device that may not be opened";
    // /tmp rather than a private folder: another user must get there.
    let folder = tempfile::Builder::new().prefix("hsg-device").tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let device = folder.path().join("video0");
    fs::write(&device, "").unwrap();
    fs::set_permissions(&device, fs::Permissions::from_mode(0o660)).unwrap();
    let owned = Command::new("chgrp").arg("video").arg(&device).output();
    if !owned.as_ref().is_ok_and(|output| output.status.success()) {
        return skip(case, "chgrp video: needs root and a group `video`");
    }
    let program = folder.path().join("hsg");
    fs::copy(hsg(), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    command.args(["run", &format!("v4l2:{}", device.display())]).current_dir(folder.path()).env("HOME", folder.path());
    let Ok(output) = command.output() else { return skip(case, "there is no setpriv") };
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if text.contains("setpriv:") {
        return skip(case, &text);
    }
    assert_eq!(output.status.code(), Some(2), "{text}");
    for word in ["video0", "permission denied", "join the group `video`", "usermod -aG video"] {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

/// Black below row `from` and in the right upper corner; `size` as the frames.
fn bonnet((width, height): (u32, u32), from: u32) -> GrayImage {
    let is_black = |x: u32, y: u32| y >= from || (x >= width - 13 && y < 9);
    GrayImage::from_fn(width, height, |x, y| Luma([if is_black(x, y) { 0 } else { 255 }]))
}

fn assert_masked(out: &Path, mask: &GrayImage, frames: usize) {
    let levels = assert_nested(out);
    assert_eq!(levels.len(), frames);
    for (name, levels) in levels {
        for (level, labels) in levels.iter().enumerate() {
            let wrong = mask.pixels().zip(&labels.values).position(|(mask, label)| (mask.0[0] == 0) != (*label == 0));
            assert_eq!(wrong, None, "{name}, level {level}: exactly the black pixels have no label");
        }
    }
}

#[test]
fn masked_pixels_have_no_label_and_all_others_have_one() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 3);
    let images = format!("{}?rate=10", images.display());
    // The edge of the bonnet lies within a row of cells.
    let mask = bonnet(SIZE, 51);
    mask.save(sandbox.path("mask.png")).unwrap();
    let ways = [
        ("refined", &[][..]),
        ("nearest", &["--no-refine"]),
        ("pixels", &["--cluster-pixels"]),
        ("reference", &["--reference"]),
    ];
    for (out, options) in ways {
        let save = ["--mask", "mask.png", "--save", "labels,classes", "--out", out];
        run(&sandbox, &[&images]).args(save).args(options).assert().code(0);
        assert_masked(&sandbox.path(out), &mask, 3);
    }
    // What is under the mask has no say in the clustering: the segments of the rest differ from those without it.
    run(&sandbox, &[&images]).args(["--save", "labels", "--out", "plain"]).assert().code(0);
    let labels = |out: &str| read_labels(&sandbox.path(&format!("{out}/labels/level0/000000.png"))).values;
    let (masked, plain) = (labels("refined"), labels("plain"));
    assert!(plain.iter().all(|label| *label > 0));
    assert!(masked.iter().zip(&plain).any(|(masked, plain)| *masked > 0 && masked != plain));
}

/// The kinds of PNG that drawing programs write.
#[test]
fn masks_of_one_bit_and_in_colour() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 1).display().to_string();
    let mask = bonnet(SIZE, 40);
    let colour = RgbImage::from_fn(SIZE.0, SIZE.1, |x, y| image::Rgb([mask.get_pixel(x, y).0[0], 0, 0]));
    colour.save(sandbox.path("colour.png")).unwrap();
    fs::write(sandbox.path("bit.png"), one_bit_png(&mask)).unwrap();
    for name in ["colour", "bit"] {
        let file = format!("{name}.png");
        run(&sandbox, &[&images]).args(["--mask", &file, "--save", "labels", "--out", name]).assert().code(0);
        assert_masked(&sandbox.path(name), &mask, 1);
    }
}

/// A 1-bit grey PNG with its pixels in one stored block.
fn one_bit_png(mask: &GrayImage) -> Vec<u8> {
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        let body = [&kind[..], data].concat();
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(&body);
        let mut crc = u32::MAX;
        for byte in body {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            }
        }
        out.extend((!crc).to_be_bytes());
    };
    let header = [&mask.width().to_be_bytes()[..], &mask.height().to_be_bytes()[..], &[1, 0, 0, 0, 0]].concat();
    chunk(b"IHDR", &header);
    let mut rows = Vec::new();
    for row in mask.rows() {
        rows.push(0);
        let values: Vec<u8> = row.map(|pixel| u8::from(pixel.0[0] > 0)).collect();
        rows.extend(values.chunks(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | bit) << (8 - bits.len())));
    }
    let (mut a, mut b) = (1u32, 0u32);
    for byte in &rows {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    let length = rows.len() as u16;
    let stored = [&[1][..], &length.to_le_bytes(), &(!length).to_le_bytes(), &rows].concat();
    chunk(b"IDAT", &[&[0x78, 0x01][..], &stored, &(b << 16 | a).to_be_bytes()].concat());
    chunk(b"IEND", &[]);
    out
}

#[test]
fn masks_that_do_not_fit() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 2);
    let images = images.to_str().unwrap();
    bonnet((50, 40), 30).save(sandbox.path("small.png")).unwrap();
    GrayImage::new(SIZE.0, SIZE.1).save(sandbox.path("black.png")).unwrap();
    fs::write(sandbox.path("text.png"), "text").unwrap();
    let attempt = |source: &str, mask: &str| {
        let assert =
            run(&sandbox, &[source]).args(["--out", "out", "--mask", mask]).write_stdin(raw_frames(1)).assert();
        assert!(!sandbox.path("out").exists());
        assert
    };
    // Known before the first frame, or with it.
    assert_refused(attempt(RAW, "small.png"), &["small.png", "96×64", "50×40"]);
    assert_refused(attempt(images, "small.png"), &["small.png", "96×64", "50×40"]);
    assert_refused(attempt(images, "black.png"), &["black.png", "black ones only"]);
    assert_refused(attempt(images, "text.png"), &["text.png"]);
    assert_refused(attempt(images, "nowhere.png"), &["nowhere.png", "check the path"]);
    let mut several = run(&sandbox, &[images, images, images]);
    assert_refused(several.args(["--mask", "a.png", "--mask", "b.png"]).assert(), &["--mask", "2 times", "3 sources"]);
}

#[test]
fn each_source_may_have_a_mask_of_its_own() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), 2).display().to_string();
    let (low, high) = (bonnet(SIZE, 56), bonnet(SIZE, 33));
    low.save(sandbox.path("low.png")).unwrap();
    high.save(sandbox.path("high.png")).unwrap();
    let options = ["--name", "front", "--name", "rear", "--mask", "low.png", "--mask", "high.png", "--save", "labels"];
    run(&sandbox, &[&images, &images]).args(options).args(["--out", "out"]).assert().code(0);
    assert_masked(&sandbox.path("out/front"), &low, 2);
    assert_masked(&sandbox.path("out/rear"), &high, 2);
}

#[test]
fn doctor_says_what_is_with_cameras() {
    let sandbox = Sandbox::new();
    let output = sandbox.hsg().args(["doctor", "--json"]).assert();
    let report: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let cameras: Vec<_> = findings.iter().filter(|f| f["what"].as_str().unwrap().starts_with("camera")).collect();
    assert!(!cameras.is_empty());
    for camera in cameras {
        // Whatever this machine has: nothing is unused, and what is lacking has a remedy.
        let standing = camera["standing"].as_str().unwrap();
        assert!(["ok", "missing", "broken"].contains(&standing), "{camera}");
        assert_eq!(standing == "ok", camera["remedy"].is_null(), "{camera}");
    }
}
