//! Classes, their colours, their train ids, and the values that stand for them in raw label files.

use crate::hierarchy::{ClassId, TrainId};
use serde::{Deserialize, Serialize};

/// One class of a label space.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Name as the data set's authors write it, lower case.
    pub name: String,
    /// Dense id used inside the project, 0 first.
    pub train_id: TrainId,
    /// Display colour, RGB.
    pub color: [u8; 3],
    /// Countable object (`true`) or amorphous region (`false`).
    pub thing: bool,
    /// Value in the data set's own annotation files.
    pub class_id: ClassId,
}

/// The classes that a data set labels.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelSpace {
    /// Name, e.g. `camvid_11`.
    pub name: String,
    /// Classes; `classes[i].train_id` is `i` in the built-in spaces.
    pub classes: Vec<Class>,
    /// Train id of pixels without a class, in memory and in written class maps.
    pub ignore_id: u8,
}

/// Train id of "no class" in the built-in spaces.
pub const IGNORE: u8 = 255;

/// Colour of pixels without a class.
pub const IGNORE_COLOR: [u8; 3] = [0, 0, 0];

impl LabelSpace {
    /// The 11 classes of CamVid as SegNet's files number them, in the usual CamVid colours. Files mark void with 11.
    /// Things (used by region measures): pole, sign, car, pedestrian, bicyclist.
    #[must_use]
    pub fn camvid_11() -> Self {
        let classes: [(&str, [u8; 3], bool); 11] = [
            ("sky", [128, 128, 128], false),
            ("building", [128, 0, 0], false),
            ("pole", [192, 192, 128], true),
            ("road", [128, 64, 128], false),
            ("pavement", [60, 40, 222], false),
            ("tree", [128, 128, 0], false),
            ("sign", [192, 128, 128], true),
            ("fence", [64, 64, 128], false),
            ("car", [64, 0, 128], true),
            ("pedestrian", [64, 64, 0], true),
            ("bicyclist", [0, 128, 192], true),
        ];
        Self::from_table("camvid_11", classes.into_iter().enumerate().map(|(i, (n, c, t))| (n, i as i32, c, t)))
    }

    /// The 19 evaluation classes of Cityscapes (also used by KITTI-STEP), official colours; `class_id` is the official
    /// label id.
    #[must_use]
    pub fn cityscapes_19() -> Self {
        let classes: [(&str, i32, [u8; 3], bool); 19] = [
            ("road", 7, [128, 64, 128], false),
            ("sidewalk", 8, [244, 35, 232], false),
            ("building", 11, [70, 70, 70], false),
            ("wall", 12, [102, 102, 156], false),
            ("fence", 13, [190, 153, 153], false),
            ("pole", 17, [153, 153, 153], false),
            ("traffic light", 19, [250, 170, 30], false),
            ("traffic sign", 20, [220, 220, 0], false),
            ("vegetation", 21, [107, 142, 35], false),
            ("terrain", 22, [152, 251, 152], false),
            ("sky", 23, [70, 130, 180], false),
            ("person", 24, [220, 20, 60], true),
            ("rider", 25, [255, 0, 0], true),
            ("car", 26, [0, 0, 142], true),
            ("truck", 27, [0, 0, 70], true),
            ("bus", 28, [0, 60, 100], true),
            ("train", 31, [0, 80, 100], true),
            ("motorcycle", 32, [0, 0, 230], true),
            ("bicycle", 33, [119, 11, 32], true),
        ];
        Self::from_table("cityscapes_19", classes.into_iter())
    }

    /// A built-in label space by name; `-` and `_` are the same, case does not matter.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().replace('-', "_").as_str() {
            "camvid_11" | "camvid" => Some(Self::camvid_11()),
            "cityscapes_19" | "cityscapes" | "kitti_step" => Some(Self::cityscapes_19()),
            _ => None,
        }
    }

    /// Number of classes, the ignore label not counted.
    #[must_use]
    pub fn num_classes(&self) -> usize {
        self.classes.len()
    }

    /// Class of a train id.
    #[must_use]
    pub fn class(&self, train_id: u8) -> Option<&Class> {
        let direct = self.classes.get(usize::from(train_id)).filter(|c| c.train_id.0 == train_id);
        direct.or_else(|| self.classes.iter().find(|c| c.train_id.0 == train_id))
    }

    /// Display colour of every train id; ids without a class are [`IGNORE_COLOR`].
    #[must_use]
    pub fn palette(&self) -> [[u8; 3]; 256] {
        let mut palette = [IGNORE_COLOR; 256];
        for class in &self.classes {
            palette[usize::from(class.train_id.0)] = class.color;
        }
        palette
    }

    fn from_table<'a>(name: &str, rows: impl Iterator<Item = (&'a str, i32, [u8; 3], bool)>) -> Self {
        let classes = rows
            .enumerate()
            .map(|(train_id, (name, class_id, color, thing))| Class {
                name: name.to_owned(),
                train_id: TrainId(train_id as u8),
                color,
                thing,
                class_id: ClassId(class_id),
            })
            .collect();
        Self { name: name.to_owned(), classes, ignore_id: IGNORE }
    }
}

/// The file `classes.toml`: classes with names of one's own, beside labelled images and in model folders.
///
/// A `[[class]]` has `id` (the value in annotation files), `name`, `color` and `thing`; train ids are the places in the
/// list. `name` names the label space, `ignore` is the value of pixels without class.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassTable {
    /// Name of the label space.
    #[serde(default = "ClassTable::default_name")]
    pub name: String,
    /// Value of pixels without class.
    #[serde(default = "ClassTable::default_ignore")]
    pub ignore: u8,
    /// The classes.
    pub class: Vec<ClassEntry>,
}

/// A class of a [`ClassTable`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassEntry {
    /// Value in annotation files.
    pub id: u8,
    /// Name, as it is shown.
    pub name: String,
    /// Display colour, RGB.
    pub color: [u8; 3],
    /// Countable object or amorphous region.
    #[serde(default)]
    pub thing: bool,
}

/// File name of a [`ClassTable`].
pub const CLASSES_FILE: &str = "classes.toml";

/// Why a [`ClassTable`] is no label space.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ClassTableError {
    /// No class.
    #[error("has no `[[class]]`: expected at least one")]
    Empty,
    /// More classes than 8-bit labels can tell apart.
    #[error("has {got} classes: expected at most 255")]
    TooMany {
        /// Their number.
        got: usize,
    },
    /// A class whose value already means "no class".
    #[error("class `{name}` has the id {id} of `ignore`: choose another")]
    IgnoreId {
        /// Its name.
        name: String,
        /// Its id.
        id: u8,
    },
    /// Two classes with one value.
    #[error("two classes have the id {id}: ids must differ")]
    SameId {
        /// The id.
        id: u8,
    },
    /// Two classes with one name.
    #[error("two classes are called `{name}`: names must differ")]
    SameName {
        /// The name.
        name: String,
    },
    /// No name at all.
    #[error("the class with the id {id} has an empty name: give it one")]
    EmptyName {
        /// The id.
        id: u8,
    },
}

impl ClassTable {
    fn default_name() -> String {
        "folder".to_owned()
    }

    const fn default_ignore() -> u8 {
        IGNORE
    }

    /// The label space, with train ids in the order of the list.
    ///
    /// # Errors
    /// When there is no class or too many, or ids or names are not distinct.
    pub fn label_space(&self) -> Result<LabelSpace, ClassTableError> {
        if self.class.is_empty() {
            return Err(ClassTableError::Empty);
        }
        if self.class.len() > usize::from(IGNORE) {
            return Err(ClassTableError::TooMany { got: self.class.len() });
        }
        for (index, class) in self.class.iter().enumerate() {
            let before = &self.class[..index];
            if class.name.trim().is_empty() {
                return Err(ClassTableError::EmptyName { id: class.id });
            }
            if class.id == self.ignore {
                return Err(ClassTableError::IgnoreId { name: class.name.clone(), id: class.id });
            }
            if before.iter().any(|other| other.id == class.id) {
                return Err(ClassTableError::SameId { id: class.id });
            }
            if before.iter().any(|other| other.name == class.name) {
                return Err(ClassTableError::SameName { name: class.name.clone() });
            }
        }
        let rows = self.class.iter().map(|c| (c.name.as_str(), i32::from(c.id), c.color, c.thing));
        Ok(LabelSpace::from_table(&self.name, rows))
    }

    /// The table of a label space, with train ids as `id`: what goes beside a bank, which holds train ids.
    #[must_use]
    pub fn of_train_ids(space: &LabelSpace) -> Self {
        let entry = |class: &Class| ClassEntry {
            id: class.train_id.0,
            name: class.name.clone(),
            color: class.color,
            thing: class.thing,
        };
        Self { name: space.name.clone(), ignore: IGNORE, class: space.classes.iter().map(entry).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_table_of_train_ids_is_the_space_again() {
        let space = LabelSpace::cityscapes_19();
        let again = ClassTable::of_train_ids(&space).label_space().unwrap();
        assert_eq!(again.name, space.name);
        for (a, b) in again.classes.iter().zip(&space.classes) {
            assert_eq!((&a.name, a.train_id, a.color, a.thing), (&b.name, b.train_id, b.color, b.thing));
            assert_eq!(a.class_id.0, i32::from(b.train_id.0));
        }
        let mut table = ClassTable::of_train_ids(&space);
        table.class[3].name = " ".to_owned();
        assert_eq!(table.label_space(), Err(ClassTableError::EmptyName { id: 3 }));
    }

    #[test]
    fn built_in_spaces_are_dense() {
        for (space, n) in [(LabelSpace::camvid_11(), 11), (LabelSpace::cityscapes_19(), 19)] {
            assert_eq!(space.num_classes(), n);
            for (i, class) in space.classes.iter().enumerate() {
                assert_eq!(usize::from(class.train_id.0), i);
                assert_eq!(space.class(i as u8), Some(class));
            }
            assert_eq!(space.class(IGNORE), None);
            assert_eq!(LabelSpace::by_name(&space.name), Some(space));
        }
        assert_eq!(LabelSpace::by_name("ade20k"), None);
    }
}
