//! `frames.hsg` read without Rust (`docs/wire/hsg_frames.py` and `.hpp`) and by `hsg inspect`, beside the crate `wire`:
//! the same fields, maps and refusals, for good, cut and damaged files.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use segcore::image_io;
use tempfile::TempDir;
use tests::folders::{tiny_model, workspace};
use tests::outputs::{read_frames, read_labels};
use tests::pictures::{street_dataset, street_folder};
use tests::programs::{Sandbox, assert_refused};
use tests::skip;

const NUM_FRAMES: usize = 4;

/// A reader without Rust.
struct Reader {
    name: &'static str,
    /// The program that is asked for `maps` or `cases` of a file.
    program: Vec<PathBuf>,
    /// The program that prints a JSON object per frame.
    json: Vec<PathBuf>,
}

impl Reader {
    fn command(program: &[PathBuf]) -> Command {
        let mut command = Command::new(&program[0]);
        // The checkout stays as it is: no compiled Python in it.
        command
            .args(&program[1..])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONPATH", workspace().join("docs/wire"));
        command
    }

    /// What the reader prints when it is asked for `what` of `path`.
    #[track_caller]
    fn ask(&self, what: &str, path: &Path) -> Vec<u8> {
        let output = match what {
            "json" => Self::command(&self.json).arg(path).output(),
            _ => Self::command(&self.program).arg(what).arg(path).output(),
        };
        let output = output.expect("the reader starts");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {what}: {}: {words}", self.name, output.status);
        output.stdout
    }
}

/// Those that this machine can run; what it cannot is said once.
fn readers() -> &'static [Reader] {
    static READERS: OnceLock<(Vec<Reader>, TempDir)> = OnceLock::new();
    let (readers, _) = READERS.get_or_init(|| {
        let folder = TempDir::new().expect("a temporary folder");
        (python().into_iter().chain(cpp(folder.path())).collect(), folder)
    });
    readers
}

fn python() -> Option<Reader> {
    let works = |name: &str| {
        let version = "import sys; sys.exit(sys.version_info < (3, 8))";
        Command::new(name).args(["-c", version]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let Some(python) = ["python3", "python"].into_iter().find(|name| works(name)).map(PathBuf::from) else {
        skip("docs/wire/hsg_frames.py", "no Python 3.8 or newer here");
        return None;
    };
    Some(Reader {
        name: "hsg_frames.py",
        program: vec![python.clone(), workspace().join("tests/frame_readers/driver.py")],
        json: vec![python, workspace().join("docs/wire/hsg_frames.py"), "--json".into()],
    })
}

fn cpp_compiler() -> OsString {
    std::env::var_os("CXX").unwrap_or_else(|| "c++".into())
}

fn cpp(folder: &Path) -> Option<Reader> {
    let compiler = cpp_compiler();
    if !Command::new(&compiler).arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        skip("docs/wire/hsg_frames.hpp", "no C++ compiler here (c++, or what CXX names)");
        return None;
    }
    let program = folder.join("frame_reader");
    let compile = |more: &[&str]| {
        let mut command = Command::new(&compiler);
        command.args(["-std=c++17", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]);
        command.args(more).arg("-I").arg(workspace().join("docs/wire"));
        command.arg(workspace().join("tests/frame_readers/main.cpp")).arg("-o").arg(&program);
        command.output().expect("the compiler starts")
    };
    let runs = || Command::new(&program).args(["cases", "/dev/null"]).status().is_ok_and(|status| status.success());
    if !compile(&["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]).status.success() || !runs() {
        skip("docs/wire/hsg_frames.hpp with sanitizers", "this compiler has none here; read without them");
        let plain = compile(&[]);
        assert!(plain.status.success(), "{}", String::from_utf8_lossy(&plain.stderr));
    }
    Some(Reader { name: "hsg_frames.hpp", program: vec![program.clone()], json: vec![program, "json".into()] })
}

/// Street pictures through the tiny model with a bank: an output folder with `frames.hsg`, labels and classes.
fn output() -> &'static Path {
    static OUTPUT: OnceLock<Sandbox> = OnceLock::new();
    let sandbox = OUTPUT.get_or_init(|| {
        let sandbox = Sandbox::new();
        let images = street_folder(sandbox.path("images"), NUM_FRAMES as u32);
        // The tiny model names nothing: it gets a bank, so that there are classes to compare.
        let root = street_dataset(sandbox.path("camvid"), "train", 2);
        let mut command = sandbox.hsg();
        command
            .args(["bank", "build", "--dataset", "camvid", "--split", "train", "--out", "model", "--root"])
            .arg(root);
        command.arg("--model").arg(tiny_model()).assert().code(0);
        let mut command = sandbox.hsg();
        command.arg("run").arg(images).args(["--model", "model"]).args(["--out", "out"]);
        command.args(["--save", "frames,labels,classes"]).assert().code(0);
        sandbox
    });
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| sandbox.path("out"))
}

/// A frame that a reader printed as JSON.
fn frame_of(line: &str) -> wire::Frame {
    let mut value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    // The type in Rust is a list of bytes.
    let hash = value["class_table_hash"].as_str().expect("a string").to_owned();
    let bytes: Vec<u8> =
        (0..hash.len() / 2).map(|i| u8::from_str_radix(&hash[2 * i..2 * i + 2], 16).unwrap()).collect();
    value["class_table_hash"] = bytes.into();
    serde_json::from_value(value).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn stream(frames: &[wire::Frame]) -> Vec<u8> {
    let mut bytes = wire::FileHeader::default().to_bytes().to_vec();
    for frame in frames {
        wire::encode_into(frame, &mut bytes).unwrap();
    }
    bytes
}

/// Every field with the largest value that it can have, or something odd.
fn extreme_frame() -> wire::Frame {
    let segment = |track_id, train_id| wire::Segment {
        track_id,
        train_id,
        confidence: f32::MAX,
        unknown_score: f32::MIN_POSITIVE / 3.0,
        bounding_box: [0, 1, u32::MAX - 1, u32::MAX],
        area: u32::MAX,
        mean_position: [-0.1, 1e-7],
    };
    let mut frame = wire::Frame {
        stream: "Straße \"\\ 道路 🚗".to_owned(),
        sequence: u64::MAX,
        capture_monotonic_nanos: u64::MAX - 1,
        capture_utc_nanos: 1 << 63,
        levels: vec![
            wire::Level {
                parents: vec![1, wire::NO_SEGMENT, 0],
                segments: vec![segment(0, Some(254)), segment(65534, None), segment(300, Some(0))],
            },
            wire::Level { parents: vec![0, wire::NO_SEGMENT], segments: vec![segment(5, None), segment(6, Some(7))] },
            wire::Level { parents: vec![], segments: vec![segment(1, Some(1))] },
        ],
        class_table_hash: [255; 32],
        stage_nanos: wire::StageNanos { capture: u64::MAX, publish: 127, refine: 128, ..Default::default() },
        degradation_step: 255,
        drops: u64::MAX,
        ..wire::Frame::default()
    };
    frame.set_map(5, 3, &[0, 0, 1, 1, 2, 2, 2, 2, wire::NO_SEGMENT, 0, 0, 0, 1, wire::NO_SEGMENT, wire::NO_SEGMENT]);
    frame
}

#[test]
fn all_fields_are_equal() {
    let path = output().join("frames.hsg");
    let expected = read_frames(&path);
    assert_eq!(expected.len(), NUM_FRAMES);
    let folder = TempDir::new().unwrap();
    let odd = folder.path().join("odd.hsg");
    // One without anything in it as well.
    let odd_frames = [extreme_frame(), wire::Frame::default(), extreme_frame()];
    fs::write(&odd, stream(&odd_frames)).unwrap();
    for reader in readers() {
        for (path, expected) in [(&path, &expected[..]), (&odd, &odd_frames)] {
            let text = String::from_utf8(reader.ask("json", path)).unwrap();
            let got: Vec<wire::Frame> = text.lines().map(frame_of).collect();
            assert_eq!(got, expected, "{}", reader.name);
        }
    }
}

#[test]
fn maps_equal_the_label_and_class_files() {
    let out = output();
    let mut expected = Vec::new();
    let frames = read_frames(&out.join("frames.hsg"));
    let mut slots = Vec::new();
    let mut num_values = 0;
    for (index, frame) in frames.iter().enumerate() {
        // Level 0 as the crate expands it, the others along the parents.
        frame.expand_map_into(&mut slots);
        for level in 0..frame.levels.len() {
            expected.extend(slots.iter().flat_map(|value| value.to_ne_bytes()));
            let labels = read_labels(&out.join(format!("labels/level{level}/{index:06}.png")));
            expected.extend(labels.values.iter().flat_map(|value| value.to_ne_bytes()));
            let parents = &frame.levels[level].parents;
            slots
                .iter_mut()
                .for_each(|slot| *slot = parents.get(usize::from(*slot)).copied().unwrap_or(wire::NO_SEGMENT));
        }
        let classes = image_io::read_gray8(out.join(format!("classes/{index:06}.png"))).unwrap();
        let mut values = classes.pixels.clone();
        values.sort_unstable();
        values.dedup();
        num_values = num_values.max(values.len());
        expected.extend(classes.pixels);
    }
    assert!(frames[0].levels.len() == 3 && num_values > 1, "maps of one value show nothing");
    for reader in readers() {
        assert!(reader.ask("maps", &out.join("frames.hsg")) == expected, "{}", reader.name);
    }
}

/// What the crate makes of a stream: a word per frame, as the readers print it.
fn outcome(bytes: &[u8]) -> String {
    let mut reader = wire::StreamReader::new(bytes);
    let mut words = Vec::new();
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => words.push(format!("{}/{}/{}", frame.sequence, frame.drops, digest(&frame))),
            Ok(None) => return words.join(" "),
            Err(error) => {
                let (word, last) = match error {
                    wire::ReadError::Cut { .. } => ("cut", true),
                    wire::ReadError::Wire(
                        wire::WireError::Magic { .. }
                        | wire::WireError::Version { .. }
                        | wire::WireError::TooLong { .. },
                    ) => ("refused", true),
                    wire::ReadError::Wire(_) => ("damaged", false),
                    other => panic!("{other}"),
                };
                words.push(word.to_owned());
                if last {
                    return words.join(" ");
                }
            }
        }
    }
}

/// A number out of the maps of the lowest and the highest level and of the classes.
fn digest(frame: &wire::Frame) -> u32 {
    let mut sum = 1_u32;
    let mut add = |value: u32| sum = sum.wrapping_mul(31).wrapping_add(value);
    if u64::from(frame.width) * u64::from(frame.height) <= 100_000 {
        let mut slots = Vec::new();
        frame.expand_map_into(&mut slots);
        slots.iter().for_each(|slot| add((*slot).into()));
        let mut top = slots.clone();
        let below = frame.levels.split_last().map_or(&[][..], |(_, below)| below);
        for level in below {
            top.iter_mut().filter(|s| **s != wire::NO_SEGMENT).for_each(|s| *s = level.parents[usize::from(*s)]);
        }
        top.iter().for_each(|slot| add((*slot).into()));
        let class = |slot: &u16| frame.levels.first()?.segments.get(usize::from(*slot))?.train_id;
        slots.iter().for_each(|slot| add(class(slot).unwrap_or(255).into()));
    }
    sum
}

/// Streams that somebody has cut or damaged: every cut and every byte of a small one, random ones of a real one.
fn damaged_streams() -> Vec<Vec<u8>> {
    let small = stream(&[extreme_frame(), extreme_frame()]);
    let mut cases: Vec<Vec<u8>> = (0..=small.len()).map(|end| small[..end].to_vec()).collect();
    for place in 0..small.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff, small[place] ^ 0x80, small[place] ^ 1, small[place].wrapping_add(1)] {
            let mut bytes = small.clone();
            bytes[place] = value;
            cases.push(bytes);
        }
    }
    let real = fs::read(output().join("frames.hsg")).unwrap();
    // A fixed sequence (xorshift): what fails once fails again.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..150 {
        let mut bytes = real.clone();
        for _ in 0..=random(4) {
            let place = random(bytes.len());
            bytes[place] = random(256) as u8;
        }
        if random(3) == 0 {
            bytes.truncate(random(bytes.len()));
        }
        cases.push(bytes);
    }
    // Counts and sizes that no memory holds: a map of 2^32 - 1 runs, names of 2^64 - 1 bytes, images of 2^64 pixels.
    for body in [
        &[0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f][..],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0],
        &[],
    ] {
        let mut bytes = stream(&[]);
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(body);
        cases.push(bytes);
    }
    // Numbers longer than need be are numbers still; one bit too many is none.
    let mut padded = stream(&[wire::Frame::default()]);
    padded.splice(11..12, [0x80, 0x00]);
    padded[6] += 1;
    cases.push(padded.clone());
    padded.splice(11..13, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x03]);
    padded[6] += 8;
    cases.push(padded);
    // Names that are no UTF-8, and the last that is.
    for name in [
        "\u{10ffff}".as_bytes(),
        &[0xf4, 0x90, 0x80, 0x80],
        &[0xed, 0xa0, 0x80],
        &[0xc1, 0xbf],
        &[0xe0, 0x9f, 0xbf],
        &[0xf0, 0x8f, 0xbf, 0xbf],
        &[0xe2, 0x82],
        &[0x80],
        &[0xff],
    ] {
        let mut bytes = stream(&[wire::Frame::default()]);
        bytes.splice(11..11, name.iter().copied());
        bytes[6] += name.len() as u8;
        bytes[10] = name.len() as u8;
        cases.push(bytes);
    }
    cases
}

#[test]
fn cut_and_damaged_streams_are_refused_alike() {
    let cases = damaged_streams();
    let expected: Vec<String> = cases.iter().map(|bytes| outcome(bytes)).collect();
    for word in ["cut", "damaged", "refused"] {
        assert!(expected.iter().filter(|outcome| outcome.contains(word)).count() > 5, "{word} is not tried");
    }
    // A frame that can be read behind a damaged one is given.
    assert!(expected.iter().any(|outcome| outcome.starts_with("damaged 1844674407")), "{expected:?}");
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("cases");
    let mut file = fs::File::create(&path).unwrap();
    for case in &cases {
        file.write_all(&(case.len() as u32).to_le_bytes()).unwrap();
        file.write_all(case).unwrap();
    }
    drop(file);
    for reader in readers() {
        let text = String::from_utf8(reader.ask("cases", &path)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), cases.len(), "{}", reader.name);
        for (index, (line, expected)) in lines.iter().zip(&expected).enumerate() {
            // The C++ reader is asked twice, of memory and of a stream.
            for got in line.split('|') {
                assert_eq!(got.trim(), expected, "{}: case {index}: {:02x?}", reader.name, cases[index]);
            }
        }
    }
}

#[test]
fn the_python_program_says_what_it_reads() {
    let Some(reader) = readers().iter().find(|reader| reader.name == "hsg_frames.py") else { return };
    let path = output().join("frames.hsg");
    let run = |path: &Path| {
        let output = Reader::command(&reader.json[..2]).arg(path).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, lines, words) = run(&path);
    assert_eq!((code, lines.lines().count(), words.as_str()), (Some(0), NUM_FRAMES, ""));
    assert!(lines.starts_with("\"images\" 0: 0.000 s, 96x64, "), "{lines}");
    let folder = TempDir::new().unwrap();
    let bytes = fs::read(&path).unwrap();
    let cut = folder.path().join("cut.hsg");
    fs::write(&cut, &bytes[..bytes.len() - 1]).unwrap();
    let (code, lines, words) = run(&cut);
    assert_eq!((code, lines.lines().count()), (Some(1), NUM_FRAMES - 1), "{words}");
    assert!(words.contains("cut.hsg") && words.contains("is cut") && !words.contains("Traceback"), "{words}");
    for (path, word) in [(output().join("summary.json"), "HSGF"), (folder.path().join("none"), "No such file")] {
        let (code, lines, words) = run(&path);
        assert_eq!((code, lines.as_str()), (Some(2), ""), "{words}");
        assert!(words.contains(word) && !words.contains("Traceback"), "{words}");
    }
}

/// The code block of `docs/wire.md` in `language`.
fn documented(language: &str) -> String {
    let text = fs::read_to_string(workspace().join("docs/wire.md")).unwrap();
    let block = text.split(&format!("```{language}\n")).nth(1).expect("docs/wire.md has an example");
    block.split("```").next().unwrap().to_owned()
}

#[test]
fn documented_examples_work() {
    // They read hsg-out/frames.hsg.
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("hsg-out")).unwrap();
    fs::copy(output().join("frames.hsg"), folder.path().join("hsg-out/frames.hsg")).unwrap();
    for reader in readers() {
        let mut command = if reader.name == "hsg_frames.py" {
            let mut command = Reader::command(&reader.json[..1]);
            let numpy = Command::new(&reader.json[0]).args(["-c", "import numpy"]).stderr(Stdio::null()).status();
            let mut code = documented("python");
            if !numpy.is_ok_and(|status| status.success()) {
                skip("Frame.image of hsg_frames.py", "no numpy here");
                code = code
                    .lines()
                    .filter(|line| !line.contains("frame.image("))
                    .map(|line| format!("{line}\n"))
                    .collect();
            }
            command.args(["-c", &code]);
            command
        } else {
            let (source, program) = (folder.path().join("example.cpp"), folder.path().join("example"));
            fs::write(&source, documented("cpp")).unwrap();
            let mut compiler = Command::new(cpp_compiler());
            compiler.arg("-std=c++17").arg("-I").arg(workspace().join("docs/wire")).arg(source).arg("-o").arg(&program);
            let compiled = compiler.output().unwrap();
            assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
            Command::new(program)
        };
        let output = command.current_dir(folder.path()).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && words.is_empty(), "{}: {words}", reader.name);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text.lines().filter(|line| line.starts_with("images ")).count(), NUM_FRAMES, "{text}");
    }
}

fn inspected(sandbox: &Sandbox, path: &Path, code: i32) -> serde_json::Value {
    let assert = sandbox.hsg().args(["inspect", "--json"]).arg(path).assert().code(code);
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}

#[test]
fn inspect_says_what_is_in_a_stream() {
    let sandbox = Sandbox::new();
    let path = output().join("frames.hsg");
    let frames = read_frames(&path);
    let report = inspected(&sandbox, &path, 0);
    let bytes = fs::metadata(&path).unwrap().len();
    assert_eq!((&report["frames"], &report["whole"], &report["bytes"]), (&4.into(), &true.into(), &bytes.into()));
    // All that is not the bytes of a frame: the header and four lengths.
    let mean = report["frame_bytes"]["mean"].as_f64().unwrap();
    assert!((mean * 4.0 - (bytes - 6 - 16) as f64).abs() < 0.01, "{mean} of {bytes}");
    let stream = &report["streams"][0];
    assert_eq!(report["streams"].as_array().unwrap().len(), 1);
    assert_eq!((&stream["name"], &stream["label_space"]), (&"images".into(), &"camvid_11".into()));
    assert_eq!((&stream["sizes"]["96x64"], &stream["last_sequence"]), (&4.into(), &3.into()));
    assert_eq!((&stream["drops"], &stream["degradation_steps"]["0"]), (&0.into(), &4.into()));
    assert_eq!(stream["last_capture_monotonic_nanos"], frames[3].capture_monotonic_nanos);
    let classes = stream["classes"].as_array().unwrap();
    let shares: f64 = classes.iter().map(|class| class["share"].as_f64().unwrap()).sum();
    assert!((shares - 1.0).abs() < 1e-9 && classes.iter().all(|class| class["name"].is_string()), "{stream}");
    let words = ["4 frames", "\"images\"", "96x64", "camvid_11", "step 0"];
    let assert = sandbox.hsg().arg("inspect").arg(&path).assert().code(0);
    let text = String::from_utf8_lossy(&assert.get_output().stdout).into_owned();
    assert!(words.iter().all(|word| text.contains(word)) && !text.contains("not whole"), "{text}");
}

#[test]
fn inspect_says_what_is_wrong_with_a_stream() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("odd.hsg");
    let mut other = extreme_frame();
    other.stream = "rear\u{1b}[2J".to_owned();
    let good = stream(&[extreme_frame(), other]);
    fs::write(&path, &good).unwrap();
    let report = inspected(&sandbox, &path, 0);
    assert_eq!(report["streams"].as_array().unwrap().len(), 2);
    assert_eq!(report["streams"][0]["drops"], u64::MAX);
    assert_eq!(report["streams"][0]["label_space"], serde_json::Value::Null);
    // A name is somebody else's: it does not clear the terminal.
    let assert = sandbox.hsg().arg("inspect").arg(&path).assert().code(0);
    assert!(!assert.get_output().stdout.contains(&0x1b));
    // Cut: what is before is told, exit code 1.
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    let report = inspected(&sandbox, &path, 1);
    assert_eq!((&report["frames"], &report["whole"]), (&1.into(), &false.into()));
    assert!(report["fault"].as_str().unwrap().contains("frame 1 is cut"), "{report}");
    let words = predicates::str::contains("not whole: frame 1 is cut");
    sandbox.hsg().arg("inspect").arg(&path).assert().code(1).stdout(words);
    // Damaged: the frame behind it is told still.
    let mut damaged = good.clone();
    damaged[10] = 0xff;
    fs::write(&path, damaged).unwrap();
    let report = inspected(&sandbox, &path, 1);
    assert_eq!((&report["frames"], &report["damaged_frames"]), (&1.into(), &1.into()));
    // A length that cannot be: nothing behind it is found.
    let mut long = good.clone();
    long[9] = 0xff;
    fs::write(&path, long).unwrap();
    assert_eq!(inspected(&sandbox, &path, 1)["frames"], 0);
    let mut version = good;
    version[4] = 2;
    fs::write(&path, version).unwrap();
    assert_refused(sandbox.hsg().arg("inspect").arg(&path).assert(), &["odd.hsg", "expected version 1, got 2"]);
}
