//! `--save-predictions`: class maps as files that the data sets' own tools read.
//!
//! | data set | file | values |
//! |---|---|---|
//! | cityscapes | `CITY/CITY_SEQ_FRAME_pred_labelIds.png`, 8-bit grey | label ids; 0 (unlabeled) without class |
//! | kitti-step | `SEQ/FRAME.png`, RGB | R = train id (255 without class), 256·G + B = instance id, 0 for stuff |
//! | camvid | `NAME.png`, 8-bit grey | 0 to 10; 11 (void) without class |
//! | folder | `NAME.png`, 8-bit grey | ids of `classes.toml`; 255 without class |

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use datasets::{Dataset, DatasetKind};
use segcore::image::ImageSize;
use segcore::label_space::{IGNORE, LabelSpace};

/// Fails when `folder` is in the data set, whose files are looked for there, or has images or annotations of it, whose names
/// predictions have. Links are followed.
pub(super) fn refuse_folder_of(dataset: &dyn Dataset, root: &Path, folder: &Path) -> anyhow::Result<()> {
    let target = full_path(folder);
    let refuse = |why: String| {
        bail!("--save-predictions {}: {why}; name a folder apart from the data set", folder.display());
    };
    if target.starts_with(full_path(root)) {
        return refuse(format!("it is in the folder of the data set, {}", root.display()));
    }
    let files = dataset.samples().iter().flat_map(|sample| std::iter::once(&sample.image).chain(&sample.annotation));
    for file in files {
        if full_path(file).starts_with(&target) {
            return refuse(format!("{} of the data set is in it, and predictions have the same names", file.display()));
        }
    }
    Ok(())
}

/// A path without links and dots; its last parts may be missing.
fn full_path(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for there in absolute.ancestors() {
        if let (Ok(full), Ok(rest)) = (there.canonicalize(), absolute.strip_prefix(there)) {
            return full.join(rest);
        }
    }
    absolute
}

/// Writes predictions.
pub(super) struct PredictionWriter {
    folder: PathBuf,
    kind: DatasetKind,
    /// Value in the file of each train id.
    values: [u8; 256],
    bytes: Vec<u8>,
}

impl PredictionWriter {
    /// Writes below `folder` in the format of `kind`, whose classes are `label_space`.
    pub(super) fn new(folder: &Path, kind: DatasetKind, label_space: &LabelSpace) -> Self {
        let without_class = match kind {
            DatasetKind::Cityscapes => 0,
            DatasetKind::CamVid => u8::try_from(label_space.num_classes()).unwrap_or(IGNORE),
            _ => IGNORE,
        };
        let mut values = [without_class; 256];
        for class in &label_space.classes {
            let train_id = class.train_id.0;
            values[usize::from(train_id)] = match kind {
                DatasetKind::KittiStep => train_id,
                _ => u8::try_from(class.class_id.0).unwrap_or(without_class),
            };
        }
        Self { folder: folder.to_owned(), kind, values, bytes: Vec::new() }
    }

    /// Writes the class map `train_ids` of the sample `name`, whole or not at all. `instance_ids` are written where the
    /// format has them.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(
        &mut self,
        name: &str,
        size: ImageSize,
        train_ids: &[u8],
        instance_ids: Option<&[u16]>,
    ) -> anyhow::Result<()> {
        let path = self.folder.join(match self.kind {
            DatasetKind::Cityscapes => {
                format!("{}_pred_labelIds.png", name.strip_suffix("_leftImg8bit").unwrap_or(name))
            }
            _ => format!("{name}.png"),
        });
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("cannot make the folder {}; check its permissions", parent.display()))?;
        }
        self.bytes.clear();
        if self.kind == DatasetKind::KittiStep {
            for (at, &train_id) in train_ids.iter().enumerate() {
                let [high, low] = instance_ids.and_then(|ids| ids.get(at)).copied().unwrap_or(0).to_be_bytes();
                self.bytes.extend([self.values[usize::from(train_id)], high, low]);
            }
            segcore::image_io::write_rgb8(&path, size, &self.bytes)?;
        } else {
            self.bytes.extend(train_ids.iter().map(|&train_id| self.values[usize::from(train_id)]));
            segcore::image_io::write_gray8(&path, size, &self.bytes)?;
        }
        Ok(())
    }
}
