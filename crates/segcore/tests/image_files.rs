//! Image files, good and bad.
#![cfg(feature = "image-io")]

use segcore::image::{ImageSize, PixelFormat};
use segcore::image_io::{
    ImageFileError, encode_gray8_into, encode_gray16_into, encode_rgb8_into, gray_bit_depth, read_gray8, read_gray16,
    read_rgb, read_size, remedy_for, write_file_atomically, write_gray8, write_gray16, write_rgb8,
};
use std::path::{Path, PathBuf};

const SIZE: ImageSize = ImageSize::new(31, 17);

fn file(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn rgb_pixels() -> Vec<u8> {
    (0..SIZE.num_pixels() * 3).map(|i| (i * 37 % 251) as u8).collect()
}

fn jpeg() -> Vec<u8> {
    let image = image::RgbImage::from_raw(31, 17, rgb_pixels()).unwrap();
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

#[test]
fn sizes_are_read_from_headers() {
    let folder = tempfile::tempdir().unwrap();
    let png = folder.path().join("a.png");
    write_rgb8(&png, SIZE, &rgb_pixels()).unwrap();
    assert_eq!(read_size(png).unwrap(), SIZE);
    assert_eq!(read_size(file(&folder, "a.jpg", &jpeg())).unwrap(), SIZE);
    assert!(matches!(read_size(file(&folder, "a.txt", b"text")), Err(ImageFileError::NotAnImage { .. })));
    assert!(matches!(read_size(folder.path().join("none.png")), Err(ImageFileError::Read { .. })));
}

#[test]
fn files_come_back_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let rgb = rgb_pixels();
    write_rgb8(at("rgb.png"), SIZE, &rgb).unwrap();
    let frame = read_rgb(at("rgb.png")).unwrap();
    assert_eq!((frame.size, frame.format, &frame.pixels), (SIZE, PixelFormat::Rgb8, &rgb));

    let gray: Vec<u8> = (0..SIZE.num_pixels()).map(|i| i as u8).collect();
    write_gray8(at("8.png"), SIZE, &gray).unwrap();
    assert_eq!(read_gray8(at("8.png")).unwrap().pixels, gray);
    assert_eq!(gray_bit_depth(at("8.png")).unwrap(), 8);
    // Grey is spread over the three channels.
    assert_eq!(read_rgb(at("8.png")).unwrap().pixels[9..12], [3, 3, 3]);

    let deep: Vec<u16> = (0..SIZE.num_pixels()).map(|i| (i * 123) as u16).collect();
    write_gray16(at("16.png"), SIZE, &deep).unwrap();
    let back = read_gray16(at("16.png")).unwrap();
    assert_eq!((back.size, back.pixels), (SIZE, deep));
    assert_eq!(gray_bit_depth(at("16.png")).unwrap(), 16);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "temporary files are gone");
}

#[test]
fn jpeg_is_read_by_content() {
    let folder = tempfile::tempdir().unwrap();
    let frame = read_rgb(file(&folder, "really_a_jpeg.png", &jpeg())).unwrap();
    assert_eq!(frame.size, SIZE);
}

#[test]
fn bad_files_are_named_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let mut png = Vec::new();
    encode_rgb8_into(&mut png, SIZE, &rgb_pixels()).unwrap();
    let check = |path: &Path, words: &[&str]| {
        for message in [
            read_rgb(path).unwrap_err().to_string(),
            read_gray8(path).unwrap_err().to_string(),
            read_gray16(path).unwrap_err().to_string(),
        ] {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(message.contains(name), "{message}");
            assert!(words.iter().all(|w| message.contains(w)), "{message}: expected {words:?}");
        }
    };
    check(&folder.path().join("missing.png"), &["cannot read", "; check the path"]);
    check(folder.path(), &["cannot read", "; check the path"]);
    check(&file(&folder, "empty.png", &[]), &["empty (0 bytes)"]);
    check(&file(&folder, "text.png", b"hello, this is no image at all"), &["not an image", "; convert it"]);
    check(&file(&folder, "signature.png", &png[..8]), &["header is cut off", "; write or copy the file again"]);

    // Width and height are bytes 16 to 24; the checksum after them is not reached.
    let mut zero = png.clone();
    zero[16..20].fill(0);
    check(&file(&folder, "zero.png", &zero), &["zero-sized (0×17)", "; write or copy the file again"]);
    let mut huge = png.clone();
    huge[16..24].fill(0x7F);
    check(&file(&folder, "huge.png", &huge), &["2139062143×2139062143: more than"]);

    for length in [20, 33, 40, png.len() / 2, png.len() - 20] {
        let path = file(&folder, &format!("cut{length}.png"), &png[..length]);
        let message = read_rgb(&path).unwrap_err().to_string();
        assert!(message.contains("damaged or truncated") || message.contains("cut off"), "{message}");
    }
    let jpeg = jpeg();
    for length in [3, 20, jpeg.len() / 2, jpeg.len() - 2] {
        let path = file(&folder, &format!("cut{length}.jpg"), &jpeg[..length]);
        assert!(matches!(read_rgb(&path), Err(ImageFileError::Damaged { .. })));
    }
}

#[test]
fn truncated_label_maps_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let values: Vec<u16> = (0..SIZE.num_pixels()).map(|i| (i * i) as u16).collect();
    let mut png = Vec::new();
    encode_gray16_into(&mut png, SIZE, &values).unwrap();
    for length in 8..png.len() - 12 {
        let path = file(&folder, "cut.png", &png[..length]);
        assert!(read_gray16(&path).is_err(), "{length} of {} bytes were accepted", png.len());
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut png = Vec::new();
    encode_gray8_into(&mut png, SIZE, &rgb_pixels()[..SIZE.num_pixels()]).unwrap();
    for bytes in [png, jpeg()] {
        for place in 0..bytes.len().min(700) {
            for change in [0x01, 0x80, 0xFF] {
                let mut bad = bytes.clone();
                bad[place] ^= change;
                let path = file(&folder, "bad", &bad);
                // Some changes are harmless; only a panic or a hang is wrong.
                let _ = (read_rgb(&path), read_gray8(&path));
            }
        }
    }
}

#[test]
fn label_maps_must_have_the_right_mode() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_rgb8(at("rgb.png"), SIZE, &rgb_pixels()).unwrap();
    let message = read_gray8(at("rgb.png")).unwrap_err().to_string();
    assert!(message.contains("8-bit RGB, expected 8-bit grey"), "{message}");
    write_gray8(at("8.png"), SIZE, &[1; SIZE.num_pixels()]).unwrap();
    let message = read_gray16(at("8.png")).unwrap_err().to_string();
    assert!(message.contains("8-bit grey, expected 16-bit grey"), "{message}");

    let mut palettised = Vec::new();
    let mut encoder = png::Encoder::new(&mut palettised, 2, 1);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_palette(vec![0u8, 0, 0, 255, 0, 0]);
    encoder.write_header().unwrap().write_image_data(&[0, 1]).unwrap();
    let path = file(&folder, "palette.png", &palettised);
    assert!(read_gray8(&path).unwrap_err().to_string().contains("8-bit palettised"));
    assert_eq!(read_rgb(&path).unwrap().pixels, [0, 0, 0, 255, 0, 0]);
    assert!(read_gray8(file(&folder, "photo.jpg", &jpeg())).unwrap_err().to_string().contains("JPEG"));
}

#[test]
fn a_full_disk_says_what_to_do() {
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let remedy = "; free some space or choose another folder";
    assert_eq!(remedy_for(&full), remedy);
    let message = ImageFileError::Write { path: "out/1.png".into(), source: full }.to_string();
    assert!(message.contains("out/1.png") && message.ends_with(remedy), "{message}");
}

#[test]
fn failed_writes_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("taken");
    std::fs::create_dir(&blocked).unwrap();
    std::fs::write(blocked.join("inside"), b"x").unwrap();
    // Renaming over a folder fails after the temporary file was written.
    assert!(matches!(write_file_atomically(&blocked, b"new"), Err(ImageFileError::Write { .. })));
    let message = write_file_atomically(folder.path().join("no/such/folder/a.png"), b"new").unwrap_err().to_string();
    assert!(message.contains("a.png") && message.ends_with("; check the path"), "{message}");
    assert!(write_gray8(folder.path().join("short.png"), SIZE, &[0; 3]).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
