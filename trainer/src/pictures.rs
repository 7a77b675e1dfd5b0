//! Pictures of what a network does to two fixed images: their views, edge segments, groups of every level, and the
//! embedding's three strongest directions as colours. For TensorBoard and the report.

use segcore::image::ImageSize;
use segcore::image_io::encode_rgb8_into;
use tch::{Kind, Tensor};

use crate::augment::{MEAN, STD};
use crate::base_segments::NO_REGION;
use crate::error::Result;
use crate::graph_module::to_plain;
use crate::loader::Batch;
use crate::objective::Objective;

/// A picture as a PNG file.
pub struct Picture {
    /// Image of the batch, from 0.
    pub sample: usize,
    /// `view0`, …, `edges`, `level1`, …, `embedding`.
    pub what: String,
    /// Pixels.
    pub size: ImageSize,
    /// The file's bytes.
    pub png: Vec<u8>,
}

/// Cells that belong to nothing.
const NOTHING: [u8; 3] = [0, 0, 0];

/// Well told apart on screens and by the colour-blind (Okabe and Ito, and darker ones after them).
const PALETTE: [[u8; 3]; 12] = [
    [230, 159, 0],
    [86, 180, 233],
    [0, 158, 115],
    [240, 228, 66],
    [0, 114, 178],
    [213, 94, 0],
    [204, 121, 167],
    [153, 153, 153],
    [102, 51, 153],
    [128, 64, 0],
    [0, 90, 60],
    [150, 0, 30],
];

/// Where the pixels and cells of a batch lie.
struct Layout {
    images: usize,
    views: usize,
    crop: usize,
    cells: usize,
}

/// Draws what `objective` and `embeddings` `[V, m, cells, cells]` say of `batch`.
///
/// # Errors
/// [`crate::TrainError::Torch`] when shapes do not fit.
pub fn draw(
    batch: &Batch,
    embeddings: &Tensor,
    objective: &Objective,
    views: usize,
    crop: usize,
) -> Result<Vec<Picture>> {
    let cells = embeddings.size()[3] as usize;
    let layout = Layout { images: batch.samples.len(), views, crop, cells };
    let mut pictures = Vec::new();
    let pixels_of_view = crop * crop * 3;
    for image in 0..layout.images {
        for view in 0..views {
            let pixels = &batch.pixels[(image * views + view) * pixels_of_view..][..pixels_of_view];
            let byte = |(i, value): (usize, &f32)| ((value * STD[i % 3] + MEAN[i % 3]) * 255.0).round() as u8;
            let rgb: Vec<u8> = pixels.iter().enumerate().map(byte).collect();
            pictures.push(encode(image, format!("view{view}"), ImageSize::new(crop, crop), &rgb)?);
        }
    }
    let edges = batch.edges.iter().map(|&region| match region {
        NO_REGION => NOTHING,
        region => hashed(region as u64),
    });
    pictures.extend(layout.cells("edges", &edges.collect::<Vec<_>>())?);
    let kept = Vec::<i64>::try_from(&objective.base.kept)?;
    for (level, groups) in objective.levels.iter().enumerate() {
        let groups_of_image = groups.centroids.size()[2];
        let of_pixel = groups.group_of_segment.f_index_select(0, &objective.base.segment_of_pixel)?;
        let of_pixel = Vec::<i64>::try_from(&of_pixel)?;
        let mut colors = vec![NOTHING; batch.edges.len()];
        for (&cell, &group) in kept.iter().zip(&of_pixel) {
            colors[cell as usize] = PALETTE[(group % groups_of_image) as usize % PALETTE.len()];
        }
        pictures.extend(layout.cells(&format!("level{}", level + 1), &colors)?);
    }
    pictures.extend(layout.cells("embedding", &principal_colors(embeddings)?)?);
    Ok(pictures)
}

impl Layout {
    /// One picture an image: all its views side by side, one colour a cell.
    fn cells(&self, what: &str, colors: &[[u8; 3]]) -> Result<Vec<Picture>> {
        let size = ImageSize::new(self.crop * self.views, self.crop);
        let mut pictures = Vec::with_capacity(self.images);
        for image in 0..self.images {
            let mut rgb = Vec::with_capacity(size.num_pixels() * 3);
            for y in 0..self.crop {
                for x in 0..size.width {
                    let view = image * self.views + x / self.crop;
                    let (row, column) = (y * self.cells / self.crop, x % self.crop * self.cells / self.crop);
                    rgb.extend(colors[(view * self.cells + row) * self.cells + column]);
                }
            }
            pictures.push(encode(image, what.to_owned(), size, &rgb)?);
        }
        Ok(pictures)
    }
}

fn encode(sample: usize, what: String, size: ImageSize, rgb: &[u8]) -> Result<Picture> {
    let mut png = Vec::new();
    encode_rgb8_into(&mut png, size, rgb)?;
    Ok(Picture { sample, what, size, png })
}

/// A colour that a region id alone decides.
fn hashed(region: u64) -> [u8; 3] {
    let mixed = (region + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let part = |shift: u32| 40 + ((mixed >> shift) & 0xFF) as u8 % 200;
    [part(56), part(40), part(24)]
}

/// The projections of all cells on the three strongest directions, each stretched over 0 to 255.
fn principal_colors(embeddings: &Tensor) -> Result<Vec<[u8; 3]>> {
    let dim = embeddings.size()[1];
    let rows = embeddings.detach().f_to_kind(Kind::Float)?.f_permute([0, 2, 3, 1])?.f_reshape([-1, dim])?;
    let rows = &rows - rows.f_mean_dim([0i64].as_slice(), true, None::<Kind>)?;
    let (_, directions) = rows.f_transpose(0, 1)?.f_matmul(&rows)?.f_linalg_eigh("L")?;
    // Eigenvalues rise: the last columns are the strongest.
    let strongest = directions.f_narrow(1, (dim - 3).max(0), dim.min(3))?.f_flip([1])?;
    let projected = to_plain(&rows.f_matmul(&strongest)?)?;
    let axes = dim.min(3) as usize;
    let mut range = [(f32::INFINITY, f32::NEG_INFINITY); 3];
    for row in projected.values.chunks_exact(axes) {
        for (range, &value) in range.iter_mut().zip(row) {
            *range = (range.0.min(value), range.1.max(value));
        }
    }
    let color = |row: &[f32]| {
        let mut color = NOTHING;
        for ((byte, &value), (low, high)) in color.iter_mut().zip(row).zip(range) {
            *byte = ((value - low) / (high - low).max(1e-12) * 255.0) as u8;
        }
        color
    };
    Ok(projected.values.chunks_exact(axes).map(color).collect())
}
