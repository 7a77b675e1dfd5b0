//! A small copy of CamVid for machines that are reached through a narrow door (`cargo xtask gpu-pack`): the images of
//! `train` and every fourth of `val` as JPEG, the annotations as they are.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

/// High enough that what is learned does not see the difference.
const QUALITY: u8 = 90;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [root, out] = arguments.as_slice() else {
        eprintln!("usage: camvid-jpeg CAMVID OUT");
        return ExitCode::from(2);
    };
    match copy(root.as_ref(), out.as_ref(), "train", 1).and_then(|()| copy(root.as_ref(), out.as_ref(), "val", 4)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Copies one of `step` images of a split.
fn copy(root: &Path, out: &Path, split: &str, step: usize) -> Result<(), Box<dyn Error>> {
    let list = root.join(format!("{split}.txt"));
    let text = fs::read_to_string(&list).map_err(|error| format!("{}: {error}", list.display()))?;
    let mut copied = String::new();
    fs::create_dir_all(out.join(split))?;
    fs::create_dir_all(out.join(format!("{split}annot")))?;
    for line in text.lines().filter(|line| !line.trim().is_empty()).step_by(step) {
        let [image, annotation] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(format!("{}: `{line}` is no image and annotation", list.display()).into());
        };
        let frame = segcore::image_io::read_rgb(root.join(image))?;
        let jpeg = Path::new(image).with_extension("jpg");
        let mut encoder = Encoder::new_file(out.join(&jpeg), QUALITY)?;
        encoder.set_sampling_factor(SamplingFactor::F_1_1);
        let (width, height) = (u16::try_from(frame.size.width)?, u16::try_from(frame.size.height)?);
        encoder.encode(&frame.pixels, width, height, ColorType::Rgb)?;
        fs::copy(root.join(annotation), out.join(annotation))?;
        copied += &format!("{} {annotation}\n", jpeg.display());
    }
    fs::write(out.join(format!("{split}.txt")), copied)?;
    Ok(())
}
