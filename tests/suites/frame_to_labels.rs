//! A real clip from frames to label files: strict nesting, repeatable results, agreement of what is written.

use std::fs;
use std::path::{Path, PathBuf};

use tests::folders::{data, shipped_clip, tiny_model};
use tests::outputs::{Labels, assert_nested, assert_whole, files, read_frames, read_json, read_labels};
use tests::pictures::street_folder;
use tests::programs::Sandbox;

const NUM_FRAMES: usize = 6;

/// Segments `source` with the tiny model into `out`; only labels and `frames.hsg` are written.
fn segment(sandbox: &Sandbox, source: &Path, out: &str, options: &[&str]) -> PathBuf {
    let mut command = sandbox.hsg();
    command.arg("run").arg(source).arg("--model").arg(tiny_model()).args(["--save", "labels,frames", "--out", out]);
    command.args(["--frames", &NUM_FRAMES.to_string()]).args(options).assert().code(0);
    let out = sandbox.path(out);
    assert_eq!(assert_whole(&out), Some(NUM_FRAMES));
    out
}

fn num_values(labels: &Labels) -> usize {
    let mut values = labels.values.clone();
    values.sort_unstable();
    values.dedup();
    values.len()
}

#[test]
fn labels_of_a_clip_nest_strictly() {
    let sandbox = Sandbox::new();
    let frames = assert_nested(&segment(&sandbox, &shipped_clip(), "out", &[]));
    assert_eq!(frames.len(), NUM_FRAMES);
    for (name, levels) in frames {
        assert_eq!(levels.len(), 3, "{name}");
        assert_eq!(levels[0].size, (1280, 720), "{name}");
        let counts: Vec<usize> = levels.iter().map(num_values).collect();
        // 24 clusters, 5 and 3 groups; coarser levels have no more segments than finer ones.
        assert!(counts[0] <= 24 && counts[1] <= 5 && counts[2] <= 3, "{name}: {counts:?}");
        assert!(counts[0] > 4 && counts[0] >= counts[1] && counts[1] >= counts[2], "{name}: {counts:?}");
        assert!(levels[0].values.iter().all(|&value| value != 0), "{name}: every pixel has a label");
    }
}

#[test]
fn street_frames_nest_in_every_mode() {
    let Some(camvid) = data("camvid/val") else { return };
    let sandbox = Sandbox::new();
    let source = sandbox.path("val");
    fs::create_dir(&source).unwrap();
    for name in files(&camvid).iter().take(NUM_FRAMES) {
        fs::copy(camvid.join(name), source.join(name)).unwrap();
    }
    for (out, options) in [
        ("tracked", &["--threads", "2"][..]),
        ("single", &["--no-track"][..]),
        ("reference", &["--reference", "--no-track"][..]),
        ("pixels", &["--cluster-pixels"][..]),
    ] {
        let frames = assert_nested(&segment(&sandbox, &source, out, options));
        assert!(frames.values().all(|levels| levels[0].size == (480, 360)), "{out}");
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let sandbox = Sandbox::new();
    let first = segment(&sandbox, &shipped_clip(), "first", &[]);
    let second = segment(&sandbox, &shipped_clip(), "second", &[]);
    let one_thread = segment(&sandbox, &shipped_clip(), "one-thread", &["--threads", "1"]);
    for name in files(&first).iter().filter(|name| name.starts_with("labels/")) {
        let bytes = fs::read(first.join(name)).unwrap();
        assert!(bytes == fs::read(second.join(name)).unwrap(), "{name} differs in the second run");
        assert!(bytes == fs::read(one_thread.join(name)).unwrap(), "{name} differs on one thread");
    }
}

#[test]
fn without_tracking_a_frame_depends_on_nothing_before_it() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), NUM_FRAMES as u32);
    let together = segment(&sandbox, &images, "together", &["--no-track"]);
    let last = format!("{:06}.png", NUM_FRAMES - 1);
    let alone = sandbox.path("alone");
    fs::create_dir(&alone).unwrap();
    fs::copy(images.join(&last), alone.join("only.png")).unwrap();
    let mut command = sandbox.hsg();
    command.arg("run").arg(&alone).arg("--model").arg(tiny_model());
    command.args(["--no-track", "--save", "labels", "--out", "out"]).assert().code(0);
    for level in 0..3 {
        let expected = read_labels(&together.join(format!("labels/level{level}/{last}")));
        let got = read_labels(&sandbox.path(&format!("out/labels/level{level}/000000.png")));
        assert_eq!(got.values, expected.values, "level {level}");
    }
}

#[test]
fn several_sources_do_not_touch_each_other() {
    let sandbox = Sandbox::new();
    let images = street_folder(sandbox.path("images"), NUM_FRAMES as u32);
    let alone = segment(&sandbox, &images, "alone", &["--no-track"]);
    let mut command = sandbox.hsg();
    command.arg("run").arg(&images).arg(shipped_clip()).arg(&images).arg("--model").arg(tiny_model());
    command.args(["--name", "left", "--name", "clip", "--name", "right", "--no-track"]);
    command.args(["--save", "labels", "--out", "out", "--frames", &NUM_FRAMES.to_string()]).assert().code(0);
    assert_eq!(assert_nested(&sandbox.path("out/clip")).len(), NUM_FRAMES);
    for side in ["left", "right"] {
        for name in files(&alone).iter().filter(|name| name.starts_with("labels/")) {
            let got = fs::read(sandbox.path(&format!("out/{side}")).join(name)).unwrap();
            assert!(got == fs::read(alone.join(name)).unwrap(), "{side}/{name}");
        }
    }
}

#[test]
fn published_frames_equal_the_label_files() {
    let sandbox = Sandbox::new();
    let out = segment(&sandbox, &shipped_clip(), "out", &[]);
    let summary = read_json(&out.join("summary.json"));
    let frames = read_frames(&out.join("frames.hsg"));
    assert_eq!(frames.len() as u64, summary["frames"].as_u64().unwrap());
    let mut map = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        assert_eq!(frame.sequence, index as u64);
        assert_eq!((frame.width, frame.height), (1280, 720));
        frame.validate().unwrap();
        frame.expand_map_into(&mut map);
        // Indices at level 0 are followed up the hierarchy, level by level.
        for (level, content) in frame.levels.iter().enumerate() {
            let labels = read_labels(&out.join(format!("labels/level{level}/{index:06}.png")));
            let values: Vec<u16> = map
                .iter()
                .map(|&segment| content.segments.get(usize::from(segment)).map_or(0, |s| 1 + s.track_id as u16))
                .collect();
            assert!(values == labels.values, "frame {index}, level {level}");
            let mut areas = vec![0_u32; content.segments.len()];
            map.iter().filter(|&&segment| segment != wire::NO_SEGMENT).for_each(|&s| areas[usize::from(s)] += 1);
            let stated: Vec<u32> = content.segments.iter().map(|segment| segment.area).collect();
            assert_eq!(areas, stated, "frame {index}, level {level}");
            if let Some(parents) = Some(&content.parents).filter(|parents| !parents.is_empty()) {
                map.iter_mut().filter(|s| **s != wire::NO_SEGMENT).for_each(|s| *s = parents[usize::from(*s)]);
            }
        }
    }
}

#[test]
fn tracks_stay_while_the_scene_does() {
    let sandbox = Sandbox::new();
    let out = segment(&sandbox, &shipped_clip(), "out", &[]);
    let frames = assert_nested(&out);
    let names: Vec<_> = frames.keys().collect();
    for pair in names.windows(2) {
        let (before, after) = (&frames[pair[0]][0].values, &frames[pair[1]][0].values);
        let same = before.iter().zip(after).filter(|(a, b)| a == b).count();
        let share = same as f64 / before.len() as f64;
        // 1/25 s of motorway: most of the picture keeps its ids, even with untrained features.
        assert!(share > 0.5, "{} → {}: {share:.2} of the pixels keep their id", pair[0], pair[1]);
    }
}
