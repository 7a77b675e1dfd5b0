//! From one label space to another: the classes that both have, by what they mean.
//!
//! A class means a set of *concepts*; those are the 19 evaluation classes of Cityscapes, and for any other name the name
//! itself. Classes of two spaces that share a concept belong together; what belongs together is one common class as long
//! as on one side it is a single class: `bicyclist` of CamVid is `rider`, `motorcycle` and `bicycle` of Cityscapes. Where
//! several classes stand against several others, no pixel could be judged, and they are left out.

use crate::hierarchy::{ClassId, TrainId};
use crate::label_space::{Class, IGNORE, LabelSpace};

/// Names that mean the same as a class of Cityscapes; `-` and `_` are spaces, case does not matter. Words of other data
/// sets (CamVid, Mapillary Vistas, BDD100K, ADE20K) and their plain plurals; nothing that only overlaps.
const SYNONYMS: [(&str, &[&str]); 13] = [
    ("road", &["street", "roadway", "lane marking", "lane markings", "road marking", "road markings"]),
    ("sidewalk", &["pavement", "footpath", "footway"]),
    ("building", &["buildings", "house", "houses"]),
    ("pole", &["poles", "column pole"]),
    ("traffic light", &["traffic lights"]),
    ("traffic sign", &["traffic signs", "traffic sign front"]),
    ("vegetation", &["tree", "trees"]),
    ("terrain", &["grass"]),
    ("person", &["pedestrian", "pedestrians", "people", "persons"]),
    ("rider", &["riders"]),
    ("car", &["cars"]),
    ("motorcycle", &["motorcycles", "motorbike", "motorbikes"]),
    ("bicycle", &["bicycles", "bike", "bikes"]),
];

/// Names that mean several concepts, in every label space. Both are words of CamVid, whose `sign` is "SignSymbol,
/// Misc_Text, TrafficLight" and whose `bicyclist` is "Bicyclist, MotorcycleScooter", the person with what it rides.
const COMPOSITES: [(&str, &[&str]); 4] = [
    ("sign", &["traffic sign", "traffic light"]),
    ("sign symbol", &["traffic sign", "traffic light"]),
    ("bicyclist", &["rider", "motorcycle", "bicycle"]),
    ("cyclist", &["rider", "motorcycle", "bicycle"]),
];

/// What three classes of `camvid_11` mean beyond their names. The 11 classes are groups of CamVid's 32 (V. Badrinarayanan
/// et al., "SegNet", PAMI 2017): building = Archway, Bridge, Building, Tunnel, Wall; car = Car, SUVPickupTruck, Truck_Bus,
/// Train, OtherMoving; tree = Tree, VegetationMisc. Grass is in VegetationMisc, which Cityscapes calls `terrain`. (The
/// road's LaneMkgs, the pavement's ParkingBlock and RoadShoulder and the pole's TrafficCone are no classes of Cityscapes.)
const CAMVID_WIDER: [(&str, &[&str]); 3] = [
    ("building", &["building", "wall"]),
    ("car", &["car", "truck", "bus", "train"]),
    ("tree", &["vegetation", "terrain"]),
];

/// A class that two label spaces have in common.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CommonClass {
    /// Its name: that of the side where it is a single class; the second space's where it is one on both.
    pub name: String,
    /// Train ids in the first space, ascending; at least one.
    pub first: Vec<u8>,
    /// Train ids in the second space, ascending; at least one.
    pub second: Vec<u8>,
}

/// Which classes of two label spaces correspond. Every class of either is in at most one common class.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LabelMapping {
    common: Vec<CommonClass>,
    space: LabelSpace,
    first: [u8; 256],
    second: [u8; 256],
}

impl LabelMapping {
    /// The classes that `first` and `second` have in common, in the order of the second space. Spaces whose classes have
    /// the same names map name by name, whatever the names mean.
    #[must_use]
    pub fn between(first: &LabelSpace, second: &LabelSpace) -> Self {
        let mut common = Vec::new();
        for (first_ids, second_ids) in components(first, second) {
            if first_ids.len() > 1 && second_ids.len() > 1 {
                continue;
            }
            let (space, index) = match (&first_ids[..], &second_ids[..]) {
                (_, &[index]) => (second, index),
                (&[index, ..], _) => (first, index),
                ([], _) => continue,
            };
            common.push((space.classes[index].clone(), first_ids, second_ids));
        }
        let (mut of_first, mut of_second) = ([IGNORE; 256], [IGNORE; 256]);
        let mut classes = Vec::with_capacity(common.len());
        let mut pairs = Vec::with_capacity(common.len());
        for (id, (class, first_indices, second_indices)) in (0u8..).zip(common) {
            let ids = |space: &LabelSpace, indices: Vec<usize>| -> Vec<u8> {
                indices.into_iter().map(|index| space.classes[index].train_id.0).collect()
            };
            let (first_ids, second_ids) = (ids(first, first_indices), ids(second, second_indices));
            first_ids.iter().for_each(|&train_id| of_first[usize::from(train_id)] = id);
            second_ids.iter().for_each(|&train_id| of_second[usize::from(train_id)] = id);
            pairs.push(CommonClass { name: class.name.clone(), first: first_ids, second: second_ids });
            classes.push(Class { train_id: TrainId(id), class_id: ClassId(id.into()), ..class });
        }
        let name =
            if first.name == second.name { second.name.clone() } else { format!("{} and {}", first.name, second.name) };
        Self {
            common: pairs,
            space: LabelSpace { name, classes, ignore_id: IGNORE },
            first: of_first,
            second: of_second,
        }
    }

    /// The common classes; their ids are their places in this list.
    #[must_use]
    pub fn common(&self) -> &[CommonClass] {
        &self.common
    }

    /// The common classes as a label space, coloured as where the name is from.
    #[must_use]
    pub const fn space(&self) -> &LabelSpace {
        &self.space
    }

    /// Common class of every train id of the first space; [`IGNORE`] where there is none.
    #[must_use]
    pub const fn of_first(&self) -> &[u8; 256] {
        &self.first
    }

    /// The same of the second space.
    #[must_use]
    pub const fn of_second(&self) -> &[u8; 256] {
        &self.second
    }
}

/// Indices of the classes of both spaces that belong together, in the order of the second space; classes of one space
/// alone are left out.
fn components(first: &LabelSpace, second: &LabelSpace) -> Vec<(Vec<usize>, Vec<usize>)> {
    let names = |space: &LabelSpace| -> Vec<String> { space.classes.iter().map(|c| normalise(&c.name)).collect() };
    let (first_names, second_names) = (names(first), names(second));
    let is_same = {
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names
        };
        sorted(&first_names) == sorted(&second_names)
    };
    let meanings = |space: &LabelSpace, names: &[String]| -> Vec<Vec<String>> {
        names.iter().map(|name| if is_same { vec![name.clone()] } else { meaning(space, name) }).collect()
    };
    let (first_means, second_means) = (meanings(first, &first_names), meanings(second, &second_names));
    let share = |a: &[String], b: &[String]| a.iter().any(|concept| b.contains(concept));
    let mut taken = vec![false; second_means.len()];
    let mut found = Vec::new();
    for start in 0..second_means.len() {
        if std::mem::replace(&mut taken[start], true) {
            continue;
        }
        // Grows until no further class of either side shares a concept with one of the other side.
        let (mut of_first, mut of_second) = (Vec::new(), vec![start]);
        loop {
            let size = of_first.len() + of_second.len();
            for (index, means) in first_means.iter().enumerate() {
                if !of_first.contains(&index) && of_second.iter().any(|&other| share(means, &second_means[other])) {
                    of_first.push(index);
                }
            }
            for (index, means) in second_means.iter().enumerate() {
                if !taken[index] && of_first.iter().any(|&other| share(means, &first_means[other])) {
                    taken[index] = true;
                    of_second.push(index);
                }
            }
            if size == of_first.len() + of_second.len() {
                break;
            }
        }
        if !of_first.is_empty() {
            of_first.sort_unstable();
            of_second.sort_unstable();
            found.push((of_first, of_second));
        }
    }
    found
}

fn normalise(name: &str) -> String {
    let words = name.to_lowercase().replace(['-', '_'], " ");
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The concepts of a class, by its normalised name.
fn meaning(space: &LabelSpace, name: &str) -> Vec<String> {
    let owned = |concepts: &[&str]| concepts.iter().map(|&concept| concept.to_owned()).collect();
    let is_camvid = LabelSpace::by_name(&space.name).is_some_and(|known| known.name == "camvid_11");
    if is_camvid && let Some((_, concepts)) = CAMVID_WIDER.iter().find(|(wide, _)| *wide == name) {
        return owned(concepts);
    }
    if let Some((_, concepts)) = COMPOSITES.iter().find(|(composite, _)| *composite == name) {
        return owned(concepts);
    }
    let concept = SYNONYMS.iter().find(|(_, synonyms)| synonyms.contains(&name)).map_or(name, |(concept, _)| concept);
    vec![concept.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label_space::LabelSpace;

    fn space(names: &[&str]) -> LabelSpace {
        let classes = (0u8..).zip(names).map(|(id, name)| Class {
            name: (*name).to_owned(),
            train_id: TrainId(id),
            color: [id; 3],
            thing: false,
            class_id: ClassId(i32::from(id) + 100),
        });
        LabelSpace { name: "mine".to_owned(), classes: classes.collect(), ignore_id: IGNORE }
    }

    fn names(space: &LabelSpace, ids: &[u8]) -> Vec<String> {
        ids.iter().map(|&id| space.class(id).unwrap().name.clone()).collect()
    }

    #[test]
    fn camvid_is_a_coarser_cityscapes() {
        let (camvid, cityscapes) = (LabelSpace::camvid_11(), LabelSpace::cityscapes_19());
        let mapping = LabelMapping::between(&camvid, &cityscapes);
        let pairs: Vec<(String, String)> = mapping
            .common()
            .iter()
            .map(|class| (names(&camvid, &class.first).join("+"), names(&cityscapes, &class.second).join("+")))
            .collect();
        let expected = [
            ("road", "road"),
            ("pavement", "sidewalk"),
            ("building", "building+wall"),
            ("fence", "fence"),
            ("pole", "pole"),
            ("sign", "traffic light+traffic sign"),
            ("tree", "vegetation+terrain"),
            ("sky", "sky"),
            ("pedestrian", "person"),
            ("bicyclist", "rider+motorcycle+bicycle"),
            ("car", "car+truck+bus+train"),
        ];
        assert_eq!(pairs, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        // Named by the coarser side; by the second where both are single.
        let found: Vec<&str> = mapping.space().classes.iter().map(|class| class.name.as_str()).collect();
        assert_eq!(
            found,
            ["road", "sidewalk", "building", "fence", "pole", "sign", "tree", "sky", "person", "bicyclist", "car"]
        );
        // The other way round: the same classes.
        let back = LabelMapping::between(&cityscapes, &camvid);
        assert_eq!(back.common().len(), 11);
        for class in back.common() {
            assert!(
                mapping.common().iter().any(|other| (&other.first, &other.second) == (&class.second, &class.first))
            );
        }
    }

    #[test]
    fn a_space_maps_to_itself() {
        for space in [LabelSpace::camvid_11(), LabelSpace::cityscapes_19()] {
            let mapping = LabelMapping::between(&space, &space);
            assert_eq!(mapping.space().classes.len(), space.classes.len());
            for id in 0..=255u8 {
                let expected = if space.class(id).is_some() { id } else { IGNORE };
                assert_eq!(
                    (mapping.of_first()[usize::from(id)], mapping.of_second()[usize::from(id)]),
                    (expected, expected)
                );
            }
        }
    }

    #[test]
    fn own_classes_map_by_name_and_synonym() {
        let mine = space(&["Robot", "Trees", "traffic_sign", "lane-marking", "road", "grass"]);
        let camvid = LabelSpace::camvid_11();
        let mapping = LabelMapping::between(&camvid, &mine);
        let found: Vec<_> =
            mapping.common().iter().map(|c| (c.name.as_str(), c.first.clone(), c.second.clone())).collect();
        assert_eq!(
            found,
            [("tree", vec![5], vec![1, 5]), ("traffic_sign", vec![6], vec![2]), ("road", vec![3], vec![3, 4])]
        );
        assert_eq!(mapping.of_second()[0], IGNORE, "nobody knows robots");
        assert_eq!((mapping.of_first()[5], mapping.of_second()[5]), (0, 0));
        assert_eq!(mapping.of_first()[8], IGNORE, "cars are not labelled there");
    }

    #[test]
    fn several_against_several_are_left_out() {
        // `cyclist` spans two classes of the other side, one of which spans two of ours.
        let mapping =
            LabelMapping::between(&space(&["cyclist", "motorcycle", "sky"]), &space(&["rider", "bicyclist", "sky"]));
        let found: Vec<&str> = mapping.common().iter().map(|class| class.name.as_str()).collect();
        assert_eq!(found, ["sky"]);
    }

    #[test]
    fn same_names_in_another_order_are_the_same_classes() {
        // By meaning `pedestrian` and `person` would be one.
        let mapping = LabelMapping::between(&space(&["pedestrian", "person"]), &space(&["Person", "Pedestrian"]));
        let found: Vec<_> = mapping.common().iter().map(|c| (c.first.clone(), c.second.clone())).collect();
        assert_eq!(found, [(vec![1], vec![0]), (vec![0], vec![1])]);
        assert!(LabelMapping::between(&space(&["a"]), &space(&["b"])).common().is_empty());
    }
}
