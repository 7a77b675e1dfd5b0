//! Region maps that others made.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use datasets::Dataset;
use segcore::image_io::{self, GrayImage16};

use super::make::{EdgesDone, make_parent};
use super::{Marker, edge_file, remove_leftovers, resolved};
use crate::error::{Result, TrainError};
use crate::progress::say;

/// "No region" in 8-bit files.
const NONE_8: u8 = 255;
/// "No region" in ours.
const NONE_16: u16 = 65535;

/// Copies all region maps below `source` (PNG, 8- or 16-bit grey) to `folder`, as 16-bit files under the same relative
/// paths; 255 in 8-bit files becomes 65535. With `dataset`, only maps of its images are taken, their sizes are compared,
/// and images without a map are reported.
///
/// # Errors
/// When `source` is no folder or has no PNG, `folder` holds edge segments that were made here, or a file cannot be
/// written. A map that cannot be read, or does not fit, is reported and left out.
pub fn import_edges(
    source: &Path,
    folder: &Path,
    dataset: Option<&dyn Dataset>,
    interrupt: &AtomicBool,
) -> Result<EdgesDone> {
    let (from, to) = (resolved(source), resolved(folder));
    if from.starts_with(&to) || to.starts_with(&from) {
        return Err(TrainError::Invalid {
            what: folder.display().to_string(),
            expected: "a folder apart from the maps".into(),
            got: format!("one in, or around, {}", source.display()),
            remedy: "choose another --out".into(),
        });
    }
    let mut names = Vec::new();
    list_png(source, "", &mut HashSet::new(), &mut names)?;
    names.sort();
    if names.is_empty() {
        return Err(TrainError::Invalid {
            what: source.display().to_string(),
            expected: "region maps (PNG), in this folder or below".into(),
            got: "none".into(),
            remedy: "give --import the folder that holds them".into(),
        });
    }
    // `a.PNG` and `a.png` are two maps and one name.
    let targets: Vec<PathBuf> = names.iter().map(|name| folder.join(name).with_extension("png")).collect();
    let mut seen = HashSet::new();
    if let Some((second, _)) = names.iter().zip(&targets).find(|(_, target)| !seen.insert(*target)) {
        return Err(TrainError::Invalid {
            what: source.join(second).display().to_string(),
            expected: "one map of this name".into(),
            got: "two that differ in their extension".into(),
            remedy: "rename one of them".into(),
        });
    }
    std::fs::create_dir_all(folder).map_err(|e| TrainError::file("create", folder, e))?;
    remove_leftovers(folder)?;
    Marker::imported().check(folder)?;
    let mut done = EdgesDone::default();
    let skip = |reason: String| {
        say(&format!("skipped: {reason}"));
        reason
    };
    let mut wanted: Vec<(PathBuf, PathBuf, Option<PathBuf>)> = Vec::new();
    match dataset {
        None => {
            wanted.extend(names.iter().zip(targets).map(|(name, target)| (source.join(name), target, None)));
        }
        Some(dataset) => {
            for sample in dataset.samples() {
                let map = edge_file(source, sample);
                if map.is_file() {
                    wanted.push((map, edge_file(folder, sample), Some(sample.image.clone())));
                } else {
                    let reason = format!("{}: no region map {}", sample.image.display(), map.display());
                    done.skipped.push(skip(reason));
                }
            }
        }
    }
    for (from, to, image) in wanted {
        if interrupt.load(Ordering::Relaxed) {
            done.interrupted = true;
            break;
        }
        // With images to compare with, what is there is looked at again.
        if to.is_file() && (image.is_none() || read_map(&to, image.as_deref()).is_ok()) {
            done.present += 1;
            continue;
        }
        match read_map(&from, image.as_deref()) {
            Ok(map) => {
                make_parent(&to)?;
                image_io::write_gray16(&to, map.size, &map.pixels)?;
                done.made += 1;
            }
            Err(error) => done.skipped.push(skip(error.to_string())),
        }
    }
    match done.skipped.first() {
        Some(first) if done.made + done.present == 0 && !done.interrupted => Err(TrainError::Invalid {
            what: source.display().to_string(),
            expected: "region maps of these images".into(),
            got: format!("{} that cannot be used; first: {first}", done.skipped.len()),
            remedy: "give the folder that the maps of these images are in, named as the images are".into(),
        }),
        _ => Ok(done),
    }
}

/// A region map of 8 or 16 bits, of the size of `image`.
fn read_map(path: &Path, image: Option<&Path>) -> Result<GrayImage16> {
    let map = if image_io::gray_bit_depth(path)? == 8 {
        let map = image_io::read_gray8(path)?;
        let widen = |&id: &u8| if id == NONE_8 { NONE_16 } else { u16::from(id) };
        GrayImage16 { size: map.size, pixels: map.pixels.iter().map(widen).collect() }
    } else {
        image_io::read_gray16(path)?
    };
    if let Some(image) = image {
        let size = image_io::read_size(image)?;
        if size != map.size {
            return Err(TrainError::Invalid {
                what: path.display().to_string(),
                expected: format!("{size}, the size of {}", image.display()),
                got: map.size.to_string(),
                remedy: "give the maps of these very images".into(),
            });
        }
    }
    Ok(map)
}

/// Whether a file is one that `hsg-train edges` writes beside its region maps.
fn is_extra(name: &str) -> bool {
    name.ends_with(".ucm.png") || name.ends_with(".preview.png")
}

/// Paths of all PNG files below `folder`, relative to where the search began; hidden ones are left out.
fn list_png(folder: &Path, prefix: &str, visited: &mut HashSet<PathBuf>, names: &mut Vec<String>) -> Result<()> {
    let read = |e| TrainError::file("read", folder, e);
    // Links to folders are followed, but never in a circle.
    if !visited.insert(folder.canonicalize().map_err(read)?) {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        let name = entry.file_name().into_string().map_err(|name| TrainError::Invalid {
            what: folder.join(&name).display().to_string(),
            expected: "a name in UTF-8".into(),
            got: "another encoding".into(),
            remedy: "rename it".into(),
        })?;
        if name.starts_with('.') {
            continue;
        }
        let relative = format!("{prefix}{name}");
        if entry.path().is_dir() {
            list_png(&entry.path(), &format!("{relative}/"), visited, names)?;
        } else if name.to_ascii_lowercase().ends_with(".png") && !is_extra(&name) {
            names.push(relative);
        }
    }
    Ok(())
}
