//! What the measures of a level give to segmentations that look at no pixel: one segment for the whole image, and regular
//! grids. `cargo run --release -p evaluation --example trivial_levels -- FOLDER…`, each a folder of CamVid annotations
//! (8-bit grey PNG, 11 = void), for example `../shared/data/camvid/valannot`.

use std::error::Error;
use std::path::{Path, PathBuf};

use evaluation::{LevelCovering, MIN_REGION_PIXELS, NfCovering, Overlap, RegionF, TruthRegions};
use segcore::label_space::LabelSpace;

/// Value of void in CamVid's annotations.
const VOID: u8 = 11;

/// Rows and columns of segments: all one; as many as the groups of the shipped model; the grid its clustering starts from.
const GRIDS: [(usize, usize); 4] = [(1, 1), (2, 2), (2, 4), (12, 16)];

fn main() -> Result<(), Box<dyn Error>> {
    println!("{:<24} {:>8} {:>10} {:>12} {:>10}", "folder", "grid", "covering", "NFCovering", "region F");
    for folder in std::env::args_os().skip(1).map(PathBuf::from) {
        for grid in GRIDS {
            let [covering, nf_covering, region_f] = measure(&folder, grid)?
                .map(|value| value.map_or("-".to_owned(), |value| format!("{:.1}", 100.0 * value)));
            let (name, grid) =
                (folder.file_name().unwrap_or_default().to_string_lossy(), format!("{}×{}", grid.0, grid.1));
            println!("{name:<24} {grid:>8} {covering:>10} {nf_covering:>12} {region_f:>10}");
        }
    }
    Ok(())
}

fn measure(folder: &Path, (rows, columns): (usize, usize)) -> Result<[Option<f64>; 3], Box<dyn Error>> {
    let label_space = LabelSpace::camvid_11();
    let (mut covering, mut nf_covering, mut region_f) =
        (LevelCovering::default(), NfCovering::default(), RegionF::default());
    for entry in std::fs::read_dir(folder)? {
        let segcore::image_io::GrayImage { size, pixels: train_ids } = segcore::image_io::read_gray8(entry?.path())?;
        let truth = TruthRegions::new(size.height, size.width, &train_ids, VOID)?;
        let place = |pixel: usize| {
            let (y, x) = (pixel / size.width, pixel % size.width);
            (y * rows / size.height * columns + x * columns / size.width) as u16
        };
        let labels: Vec<u16> = (0..train_ids.len()).map(place).collect();
        let overlap = Overlap::of_labels(&labels, rows * columns, &truth)?;
        covering.update(&overlap);
        let is_thing = |train_id| label_space.class(train_id).is_some_and(|class| class.thing);
        nf_covering.update(&overlap, &truth.choose(MIN_REGION_PIXELS, is_thing))?;
        region_f.update(&overlap, &truth.choose(MIN_REGION_PIXELS, |_| true))?;
    }
    Ok([covering.result(), nf_covering.result(), region_f.result()])
}
