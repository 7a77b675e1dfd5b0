//! `hsg-train edges` from outside: what it writes, how it goes on, what it makes of bad images and full disks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use image::{GrayImage, ImageBuffer, Luma, Rgb, RgbImage};
use segcore::image_io::{read_gray8, read_gray16, read_rgb};
use serde_json::Value;
use tests::disks::{SmallDisk, with_file_limit};
use tests::outputs::files;
use tests::pictures::{street, street_folder};
use tests::programs::{Sandbox, Started, hsg_train};

/// A folder of pictures and a place for their regions.
struct Edges {
    sandbox: Sandbox,
}

impl Edges {
    /// `num_images` street scenes in `drive/day`.
    fn new(num_images: u32) -> Self {
        let sandbox = Sandbox::new();
        fs::create_dir(sandbox.path("drive")).unwrap();
        street_folder(sandbox.path("drive/day"), num_images);
        Self { sandbox }
    }

    fn command(&self, out: &str, options: &[&str]) -> assert_cmd::Command {
        let mut command = self.sandbox.hsg_train();
        command.args(["edges", "--dataset", "folder", "--root", "drive", "--split", ".", "--out", out]).args(options);
        command
    }

    /// Runs it, expects `code` and returns stderr.
    #[track_caller]
    fn run(&self, out: &str, options: &[&str], code: i32) -> String {
        let assert = self.command(out, options).assert().code(code);
        let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        assert!(!text.contains("panicked"), "{text}");
        text
    }

    /// Starts it on one thread, so that there is something left to be ended.
    fn start(&self, out: &str) -> Started {
        let mut command = self.sandbox.command(hsg_train());
        command.args(["edges", "--dataset", "folder", "--root", "drive", "--split", ".", "--out", out]);
        command.args(["--level", "fast", "--threads", "1"]);
        Started::new(command)
    }

    #[track_caller]
    fn json(&self, out: &str, options: &[&str], code: i32) -> Value {
        let assert = self.command(out, options).arg("--json").assert().code(code);
        serde_json::from_slice(&assert.get_output().stdout).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sandbox.path(name)
    }

    fn save(&self, name: &str, picture: &RgbImage) {
        picture.save(self.path("drive/day").join(name)).unwrap();
    }
}

/// Region ids of a map, after checking that they are dense from 0.
fn region_ids(path: &Path) -> BTreeSet<u16> {
    let map = read_gray16(path).unwrap_or_else(|error| panic!("{error}"));
    let ids: BTreeSet<u16> = map.pixels.iter().copied().collect();
    let dense: BTreeSet<u16> = (0..ids.len() as u16).collect();
    assert_eq!(ids, dense, "{}", path.display());
    ids
}

/// Name and content of every file.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    files(folder).into_iter().map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
}

#[test]
fn every_detector_writes_regions_that_follow_the_picture() {
    let edges = Edges::new(1);
    for options in
        [&["--level", "accurate"][..], &["--level", "fast"], &["--detector", "fast"], &["--detector", "gradient"]]
    {
        let out = format!("out{}", options.join(""));
        edges.run(&out, options, 0);
        let map = read_gray16(edges.path(&out).join("day/000000.png")).unwrap();
        let picture = read_rgb(edges.path("drive/day/000000.png")).unwrap();
        assert_eq!(map.size, picture.size, "{out}");
        let ids = region_ids(&edges.path(&out).join("day/000000.png"));
        assert!((2..1024).contains(&ids.len()), "{out}: {} regions", ids.len());
        // The middle of the car and the road below it, the sky and a house.
        let at = |x: usize, y: usize| map.pixels[y * map.size.width + x];
        assert_ne!(at(19, 45), at(19, 58), "{out}: car and road");
        assert_ne!(at(60, 4), at(60, 28), "{out}: sky and house");
    }
}

#[test]
fn any_number_of_threads_writes_the_same_files() {
    let edges = Edges::new(3);
    let options = ["--ucm", "--preview", "--threads"];
    edges.run("one", &[&options[..], &["1"]].concat(), 0);
    edges.run("three", &[&options[..], &["3"]].concat(), 0);
    edges.run("other", &["--seed", "2", "--ucm", "--preview"], 0);
    let one = contents(&edges.path("one"));
    assert_eq!(one.len(), 3 * 3 + 1, "{:?}", files(&edges.path("one")));
    assert!(one == contents(&edges.path("three")));
    assert!(one != contents(&edges.path("other")), "the seed decides");
}

#[test]
fn contour_maps_hold_the_borders_of_the_regions() {
    let edges = Edges::new(1);
    edges.run("out", &["--ucm"], 0);
    let (map, contours) = (
        read_gray16(edges.path("out/day/000000.png")).unwrap(),
        read_gray16(edges.path("out/day/000000.ucm.png")).unwrap(),
    );
    assert_eq!(map.size, contours.size);
    assert!(contours.pixels.iter().any(|&strength| strength > 65535 / 10));
    // Inside a region, 4 pixels from its border (the contour's own two pixels belong to one of its sides), nothing is
    // stronger than the threshold.
    let width = map.size.width;
    let inner = |at: usize| {
        let rows = (0..9).map(|y| at + y * width - 4 * width - 4);
        rows.into_iter().all(|start| map.pixels[start..start + 9].iter().all(|&id| id == map.pixels[at]))
    };
    let pixels = (4..map.size.height - 4).flat_map(|y| (4..width - 4).map(move |x| y * width + x));
    let strong = pixels.filter(|&at| inner(at) && contours.pixels[at] > 65535 / 20 + 1).count();
    assert_eq!(strong, 0);
    // The gradient has no contour map.
    assert!(edges.run("other", &["--ucm", "--detector", "gradient"], 2).contains("--detector"));
    assert!(!edges.path("other").exists());
}

#[test]
fn finished_files_are_kept_and_missing_ones_made() {
    let edges = Edges::new(3);
    let first = edges.json("out", &["--detector", "fast"], 0);
    assert_eq!((first["made"].as_u64(), first["present"].as_u64()), (Some(3), Some(0)));
    let before = contents(&edges.path("out"));
    fs::remove_file(edges.path("out/day/000001.png")).unwrap();
    // What a killed writer leaves behind goes away; no process has this number.
    fs::write(edges.path("out/day/.000001.png.99999999.3.tmp"), b"half").unwrap();
    let second = edges.json("out", &["--detector", "fast"], 0);
    assert_eq!((second["made"].as_u64(), second["present"].as_u64()), (Some(1), Some(2)));
    assert!(before == contents(&edges.path("out")));
    // Other settings do not mix with these.
    let text = edges.run("out", &["--detector", "fast", "--max-regions", "50"], 2);
    assert!(text.contains("edges.toml") && text.contains("empty folder"), "{text}");
    let text = edges.run("out", &["--level", "fast"], 2);
    assert!(text.contains("edges.toml"), "{text}");
    assert!(before == contents(&edges.path("out")));
}

#[test]
fn a_killed_run_goes_on_to_the_same_files() {
    let edges = Edges::new(12);
    edges.run("whole", &["--level", "fast"], 0);
    let mut program = edges.start("cut");
    let out = edges.path("cut/day");
    program.wait_until("two files", || fs::read_dir(&out).is_ok_and(|entries| entries.count() >= 2));
    program.send("KILL");
    program.finish();
    let left = files(&edges.path("cut"));
    assert!(left.len() < 13, "it was killed too late to test anything: {left:?}");
    for name in left.iter().filter(|name| name.ends_with(".png")) {
        region_ids(&edges.path("cut").join(name));
    }
    edges.run("cut", &["--level", "fast"], 0);
    assert!(contents(&edges.path("whole")) == contents(&edges.path("cut")));
}

#[test]
fn ctrl_c_leaves_whole_files() {
    let edges = Edges::new(30);
    let mut program = edges.start("out");
    let out = edges.path("out/day");
    program.wait_until("a file", || fs::read_dir(&out).is_ok_and(|entries| entries.count() >= 1));
    program.send("INT");
    let output = program.finish();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("the same command goes on"), "{text}");
    let made = files(&edges.path("out"));
    assert!(made.len() < 31 && made.iter().all(|name| !name.contains(".tmp")), "{made:?}");
    made.iter().filter(|name| name.ends_with(".png")).for_each(|name| _ = region_ids(&edges.path("out").join(name)));
}

#[test]
fn the_scale_of_the_data_set_is_found_once_and_kept() {
    let edges = Edges::new(3);
    let options = ["--scale", "dataset", "--level", "fast", "--ucm"];
    edges.run("out", &options, 0);
    let before = contents(&edges.path("out"));
    let names: Vec<&str> = before.iter().map(|(name, _)| name.as_str()).collect();
    let expected = ["000000.png", "000000.ucm.png", "000001.png", "000001.ucm.png", "000002.png", "000002.ucm.png"];
    let expected: Vec<String> = expected.iter().map(|name| format!("day/{name}")).collect();
    assert_eq!(names[..6], expected);
    assert_eq!(names[6..], ["edges.toml", "scale.toml"]);
    // One image again, on the scale of all.
    fs::remove_file(edges.path("out/day/000002.png")).unwrap();
    edges.run("out", &options, 0);
    assert!(before == contents(&edges.path("out")));
    // Another set of images has another scale.
    edges.save("000003.png", &street(9));
    let text = edges.run("out", &options, 2);
    assert!(text.contains("scale.toml") && text.contains("empty folder"), "{text}");
    // Interrupted between the two passes, it goes on from the edges that are there.
    edges.run("again", &options, 0);
    fs::create_dir_all(edges.path("half/.work")).unwrap();
    fs::copy(edges.path("again/edges.toml"), edges.path("half/edges.toml")).unwrap();
    let hash = models::files::sha256_hex(&fs::read(edges.path("drive/day/000001.png")).unwrap());
    let work = edges.path("half/.work").join(format!("{hash}.e8"));
    fs::write(&work, b"cut").unwrap();
    let text = edges.run("half", &options, 2);
    assert!(text.contains(&format!("{hash}.e8")) && text.contains("delete the file"), "{text}");
    // The edges of the other images are there by now, and are used.
    assert_eq!(files(&edges.path("half/.work")).len(), 4);
    fs::remove_file(&work).unwrap();
    // Those of another image of the same name would be as well, were they found by name.
    street(30).save(edges.path("drive/day/000002.png")).unwrap();
    edges.run("half", &options, 0);
    edges.run("changed", &options, 0);
    assert!(contents(&edges.path("changed")) == contents(&edges.path("half")));
    // A changed image is not on the scale that was found before.
    let text = edges.run("again", &options, 2);
    assert!(text.contains("changed ones"), "{text}");
    street(2).save(edges.path("drive/day/000002.png")).unwrap();
    fs::remove_dir_all(edges.path("half")).unwrap();
    edges.run("half", &options, 0);
    assert!(contents(&edges.path("again")) == contents(&edges.path("half")));
}

/// A CMYK JPEG as printing programs write it.
fn cmyk_jpeg(width: u16, height: u16) -> Vec<u8> {
    let pixel = |x: u16, y: u16| if x < width / 2 { [0, 200, 255, y as u8] } else { [255, 40, 0, 0] };
    let pixels: Vec<u8> = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect();
    let mut bytes = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut bytes, 95);
    encoder.encode(&pixels, width, height, jpeg_encoder::ColorType::Cmyk).unwrap();
    bytes
}

#[test]
fn unusual_images_are_segmented_like_others() {
    let edges = Edges::new(1);
    let day = edges.path("drive/day");
    let (width, height) = (60u32, 40u32);
    let two_halves = |x: u32| if x < width / 2 { 40u8 } else { 200 };
    GrayImage::from_fn(width, height, |x, y| Luma([two_halves(x) + (y % 5) as u8])).save(day.join("grey.png")).unwrap();
    let deep = ImageBuffer::from_fn(width, height, |x, y| Luma([u16::from(two_halves(x)) << 8 | (y as u16 % 7) << 9]));
    deep.save(day.join("sixteen.png")).unwrap();
    fs::write(day.join("cmyk.jpg"), cmyk_jpeg(60, 40)).unwrap();
    edges.save("pixel.png", &RgbImage::from_pixel(1, 1, Rgb([9, 200, 3])));
    edges.save("row.png", &RgbImage::from_fn(17, 1, |x, _| Rgb([(x * 15) as u8, 0, 0])));
    edges.save("column.png", &RgbImage::from_fn(1, 23, |_, y| Rgb([0, (y % 2 * 255) as u8, 9])));
    edges.save("small.png", &RgbImage::from_fn(3, 2, |x, y| Rgb([(x * 80) as u8, (y * 90) as u8, 7])));
    edges.save("flat.png", &RgbImage::from_pixel(50, 30, Rgb([120, 130, 140])));
    edges.save("white.png", &RgbImage::from_pixel(31, 33, Rgb([255; 3])));
    for options in [
        &["--ucm"][..],
        &["--level", "fast", "--ucm"],
        &["--detector", "fast", "--ucm"],
        &["--detector", "gradient"],
        &["--scale", "dataset", "--ucm"],
    ] {
        let out = format!("out{}", options.join(""));
        edges.run(&out, options, 0);
        let ids = |name: &str| region_ids(&edges.path(&out).join(format!("day/{name}.png")));
        for name in ["pixel", "flat", "white"] {
            assert_eq!(ids(name).len(), 1, "{out}: {name}");
        }
        // On the scale of a data set, the edge of one image may be nothing beside those of the others.
        let by_itself = ["grey", "sixteen", "cmyk"].into_iter().filter(|_| !options.contains(&"dataset"));
        for name in by_itself {
            assert!(ids(name).len() >= 2, "{out}: {name}");
            let map = read_gray16(edges.path(&out).join(format!("day/{name}.png"))).unwrap();
            assert_ne!(map.pixels[20 * 60 + 10], map.pixels[20 * 60 + 50], "{out}: the halves of {name}");
        }
        for name in ["row", "column", "small", "grey", "sixteen", "cmyk"] {
            ids(name);
        }
    }
}

#[test]
fn unreadable_images_are_reported_and_left_out() {
    let edges = Edges::new(4);
    let broken = edges.path("drive/day/000001.png");
    let bytes = fs::read(&broken).unwrap();
    fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    fs::write(edges.path("drive/day/000002.png"), b"").unwrap();
    fs::write(edges.path("drive/day/text.jpg"), b"no picture").unwrap();
    let text = edges.run("out", &["--detector", "fast"], 1);
    for name in ["000001.png", "000002.png", "text.jpg"] {
        assert!(text.lines().any(|line| line.starts_with("skipped:") && line.contains(name)), "{name}: {text}");
    }
    assert!(text.contains("2 made") && text.contains("3 could not be read"), "{text}");
    assert_eq!(files(&edges.path("out")), ["day/000000.png", "day/000003.png", "edges.toml"]);
    // Mended, they are all that is left to do.
    fs::write(&broken, bytes).unwrap();
    let json = edges.json("out", &["--detector", "fast"], 1);
    assert_eq!((json["made"].as_u64(), json["present"].as_u64()), (Some(1), Some(2)));
    assert_eq!(json["skipped"].as_array().unwrap().len(), 2);
    // The same in both passes over a data set.
    let json = edges.json("scaled", &["--scale", "dataset", "--level", "fast"], 1);
    assert_eq!((json["made"].as_u64(), json["skipped"].as_array().unwrap().len()), (Some(3), 2), "{json}");
}

#[test]
fn a_full_disk_ends_it_with_whole_files() {
    let edges = Edges::new(3);
    let Some(disk) = SmallDisk::mount(edges.path("small")) else { return };
    fs::write(disk.0.join("filler"), vec![1u8; 190 << 10]).unwrap();
    let text = edges.run("small/out", &["--detector", "fast", "--preview"], 2);
    assert!(text.contains("small/out") && text.contains("free some space"), "{text}");
    for name in files(&disk.0).iter().filter(|name| name.ends_with(".png")) {
        image::open(disk.0.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    fs::remove_file(disk.0.join("filler")).unwrap();
    edges.run("small/out", &["--detector", "fast", "--preview"], 0);
}

#[test]
fn a_quota_ends_it_with_whole_files() {
    let edges = Edges::new(2);
    let mut command = with_file_limit(&edges.sandbox, 1, hsg_train());
    command.args(["edges", "--dataset", "folder", "--root", "drive", "--split", ".", "--out", "out", "--preview"]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains(".png") && text.contains("free some space"), "{text}");
    let left = files(&edges.path("out"));
    assert!(left.iter().all(|name| !name.contains(".tmp") && !name.contains("preview")), "{left:?}");
}

#[test]
fn maps_of_others_are_imported() {
    let edges = Edges::new(4);
    let theirs = edges.path("theirs/day");
    fs::create_dir_all(&theirs).unwrap();
    let (width, height) = (street(0).width(), street(0).height());
    // Eight bits with "none", sixteen bits, another size, no grey.
    GrayImage::from_fn(width, height, |x, y| Luma([if y == 0 { 255 } else { (x / 50) as u8 }]))
        .save(theirs.join("000000.png"))
        .unwrap();
    ImageBuffer::from_fn(width, height, |x, _| Luma([300 + (x / 30) as u16])).save(theirs.join("000001.png")).unwrap();
    GrayImage::new(5, 4).save(theirs.join("000002.png")).unwrap();
    RgbImage::new(width, height).save(theirs.join("coloured.png")).unwrap();

    let mut import = edges.sandbox.hsg_train();
    let assert = import.args(["edges", "--import", "theirs", "--out", "all"]).assert().code(1);
    let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(text.contains("coloured.png") && text.contains("3 made"), "{text}");
    let first = read_gray16(edges.path("all/day/000000.png")).unwrap();
    let original = read_gray8(theirs.join("000000.png")).unwrap();
    assert!(first.pixels.iter().zip(&original.pixels).all(|(&to, &from)| match from {
        255 => to == 65535,
        id => to == u16::from(id),
    }));
    let second = read_gray16(edges.path("all/day/000001.png")).unwrap();
    assert_eq!(second.pixels, read_gray16(theirs.join("000001.png")).unwrap().pixels);

    // Compared with the images: one has another size, one has no map.
    let text = edges.run("checked", &["--import", "theirs"], 1);
    assert!(text.contains("theirs/day/000002.png") && text.contains("96×64"), "{text}");
    assert!(text.contains("000003.png") && text.contains("no region map"), "{text}");
    assert_eq!(files(&edges.path("checked")), ["day/000000.png", "day/000001.png", "edges.toml"]);
    // Again, with a file in its place that does not fit.
    fs::copy(theirs.join("000002.png"), edges.path("checked/day/000000.png")).unwrap();
    edges.run("checked", &["--import", "theirs"], 1);
    assert_eq!(
        fs::read(edges.path("checked/day/000000.png")).unwrap(),
        fs::read(edges.path("all/day/000000.png")).unwrap()
    );

    // Maps that were made here are not overwritten, and an empty folder is no mistake to be silent about.
    edges.run("made", &["--detector", "fast"], 0);
    assert!(edges.run("made", &["--import", "theirs"], 2).contains("empty folder"));
    let text = edges.run("checked", &["--detector", "fast"], 2);
    assert!(text.contains("edges.toml") && text.contains("import"), "{text}");
    // Nor do region maps take the place of the images.
    let text = edges.run("drive", &["--detector", "fast"], 2);
    assert!(text.contains("apart from the images"), "{text}");
    let text = edges.run("drive/edges/of/today", &["--detector", "fast"], 2);
    assert!(text.contains("apart from the images") && !edges.path("drive/edges").exists(), "{text}");
    assert!(edges.run("theirs/in", &["--import", "theirs"], 2).contains("apart from the maps"));
    // Previews and contour maps of ours are no region maps.
    edges.run("beside", &["--detector", "fast", "--ucm", "--preview"], 0);
    let json = edges.json("clean", &["--import", "beside"], 0);
    assert_eq!(json["made"], 4);
    fs::create_dir(edges.path("nothing")).unwrap();
    assert!(edges.run("other", &["--import", "nothing"], 2).contains("region maps"));
    assert!(edges.run("other", &["--import", "nowhere"], 2).contains("nowhere"));
    assert!(!edges.path("other").exists());
}

#[cfg(unix)]
#[test]
fn links_that_go_in_circles_end() {
    let edges = Edges::new(1);
    edges.run("made", &["--detector", "gradient"], 0);
    for name in ["a", "b"] {
        std::os::unix::fs::symlink(".", edges.path("made").join(name)).unwrap();
    }
    edges.run("made", &["--detector", "gradient"], 0);
    let mut import = edges.sandbox.hsg_train();
    import.args(["edges", "--import", "made", "--out", "copy"]).assert().code(0);
    assert_eq!(files(&edges.path("copy")), ["day/000000.png", "edges.toml"]);
}

#[test]
fn one_file_is_of_one_image() {
    let edges = Edges::new(1);
    edges.save("000000.ucm.png", &street(4));
    let text = edges.run("out", &["--detector", "fast", "--ucm"], 2);
    assert!(text.contains("000000.ucm.png") && text.contains("rename"), "{text}");
    assert!(!edges.path("out").exists());
    edges.run("out", &["--detector", "fast"], 0);
    // Two maps of one name.
    fs::create_dir(edges.path("theirs")).unwrap();
    for name in ["a.png", "a.PNG"] {
        GrayImage::new(4, 4).save_with_format(edges.path("theirs").join(name), image::ImageFormat::Png).unwrap();
    }
    let text = edges.run("maps", &["--import", "theirs"], 2);
    assert!(text.contains("rename one of them"), "{text}");
}

#[test]
fn options_that_make_no_sense_are_refused_before_anything_is_written() {
    let edges = Edges::new(1);
    for (options, word) in [
        (&["--detector", "canny"][..], "pmi, fast, gradient"),
        (&["--level", "medium"], "accurate, fast"),
        (&["--detector", "gradient", "--scale", "dataset"], "--detector"),
        (&["--max-regions", "1"], "max_regions"),
        (&["--max-regions", "70000"], "max_regions"),
        (&["--scale", "world"], "dataset"),
        (&["--import", "drive", "--ucm"], "--import"),
    ] {
        let text = edges.run("out", options, 2);
        assert!(text.contains(word), "{options:?}: {text}");
        assert!(!edges.path("out").exists(), "{options:?}");
    }
}
