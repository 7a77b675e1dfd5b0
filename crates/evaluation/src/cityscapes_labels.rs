//! What the Cityscapes measures know of its labels (M. Cordts et al., "The Cityscapes Dataset", CVPR 2016, §4; the values
//! are those of cityscapesScripts 2.3.0).

use serde::{Deserialize, Serialize};

/// What the values of label maps mean.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CityscapesValues {
    /// The data set's label ids 0–33: what the benchmark takes as predictions.
    LabelIds,
    /// Train ids 0–18, and 255 for everything else.
    TrainIds,
}

/// The groups of classes, in the data set's order.
pub const CITYSCAPES_CATEGORIES: [&str; 7] = ["flat", "construction", "object", "nature", "sky", "human", "vehicle"];

/// Number of categories.
pub(crate) const NUM_CATEGORIES: usize = CITYSCAPES_CATEGORIES.len();

/// Number of classes that are evaluated.
pub(crate) const NUM_CLASSES: usize = 19;

/// Category of each train id, as an index into [`CITYSCAPES_CATEGORIES`].
pub(crate) const CATEGORY_OF_CLASS: [usize; NUM_CLASSES] = [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6, 6, 6, 6, 6, 6];

/// Label id of each train id.
const LABEL_ID_OF_CLASS: [usize; NUM_CLASSES] =
    [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33];

/// Label ids that are not evaluated but count as their category, `vehicle`, where instances are measured: caravan, trailer.
const IGNORED_VEHICLES: [usize; 2] = [29, 30];

/// Mean number of pixels of an instance of each train id in the training set; `None` for classes without instances.
pub(crate) const MEAN_INSTANCE_PIXELS: [Option<f64>; NUM_CLASSES] = [
    None,
    None,
    None,
    None,
    None,
    None,
    None,
    None,
    None,
    None,
    None,
    Some(3_462.475_633_764_4),
    Some(3_930.478_805_651_8),
    Some(12_794.020_273_818_5),
    Some(27_855.126_436_781_6),
    Some(35_732.151_111_111_1),
    Some(67_583.707_581_227_4),
    Some(6_298.720_083_974_8),
    Some(4_672.324_922_226_1),
];

/// No class or no category.
pub(crate) const NONE: u8 = 255;

impl CityscapesValues {
    /// Train id of each value; 255 for values that are not evaluated.
    pub fn train_ids(self) -> [u8; 256] {
        let mut train_ids = [NONE; 256];
        for (train_id, &label_id) in LABEL_ID_OF_CLASS.iter().enumerate() {
            let value = match self {
                Self::LabelIds => label_id,
                Self::TrainIds => train_id,
            };
            train_ids[value] = train_id as u8;
        }
        train_ids
    }

    /// Category of each value for measures of instances; 255 for values in none.
    pub(crate) fn categories(self) -> [u8; 256] {
        let category = |train_id: u8| CATEGORY_OF_CLASS.get(usize::from(train_id)).map_or(NONE, |&index| index as u8);
        let mut categories = self.train_ids().map(category);
        if self == Self::LabelIds {
            let car = categories[LABEL_ID_OF_CLASS[13]];
            IGNORED_VEHICLES.iter().for_each(|&label_id| categories[label_id] = car);
        }
        categories
    }
}

/// The values that instances can have in `instanceIds`, label id · 1000 + number: those of label ids 24 to 33.
pub(crate) const INSTANCE_VALUES: std::ops::Range<u16> = 24_000..34_000;

/// Train id of an instance and the mean number of pixels of its class, by its value in `instanceIds`; `None` where that is no
/// instance or one of a class that is not evaluated.
pub(crate) fn class_of_instance(value: u16) -> Option<(usize, f64)> {
    if !INSTANCE_VALUES.contains(&value) {
        return None;
    }
    let label_id = usize::from(value / 1000);
    let train_id = LABEL_ID_OF_CLASS.iter().position(|&id| id == label_id)?;
    MEAN_INSTANCE_PIXELS[train_id].map(|mean_pixels| (train_id, mean_pixels))
}
