//! Portable kernel bodies. No intrinsics: plain loops over `[f32; 8]`.

use super::Kernel;

/// Lanes of one portable vector (one AVX2 register, two NEON or SSE registers).
pub(crate) const NUM_LANES: usize = 8;
/// Pixels of one register tile. 6 × 16 sums are 12 of AVX2's 16 registers, which leaves two for the panel and one for
/// the broadcast pixel value.
pub(crate) const TILE: usize = 6;
/// Centroids of one panel (columns of the register tile).
pub(crate) const PANEL: usize = 2 * NUM_LANES;
/// Tiles that stay in the first-level cache while a panel is applied: 4 · 6 · 130 · 4 bytes = 12.5 kB beside the
/// panel's 8.3 kB.
const TILES_PER_BLOCK: usize = 4;

/// Panels whose products are buffered before the arg-max: 6 · 16 · 24 pixels · 4 bytes = 9.2 kB, so that tiles, panel and
/// products share a first-level cache of 32 kB.
const PANELS_PER_GROUP: usize = 6;

type Lanes = [f32; NUM_LANES];

#[inline(always)]
fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Σ a·b over the common length, in 4 × 8 partial sums.
#[inline(always)]
pub(crate) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut sums = [[0.0f32; NUM_LANES]; 4];
    let (a_blocks, b_blocks) = (a.chunks_exact(4 * NUM_LANES), b.chunks_exact(4 * NUM_LANES));
    let (a_rest, b_rest) = (a_blocks.remainder(), b_blocks.remainder());
    for (a, b) in a_blocks.zip(b_blocks) {
        for part in 0..4 {
            for lane in 0..NUM_LANES {
                let i = part * NUM_LANES + lane;
                sums[part][lane] = mul_add::<FMA>(a[i], b[i], sums[part][lane]);
            }
        }
    }
    let mut total: Lanes = [0.0; NUM_LANES];
    for lane in 0..NUM_LANES {
        total[lane] = (sums[0][lane] + sums[1][lane]) + (sums[2][lane] + sums[3][lane]);
    }
    let mut sum = ((total[0] + total[4]) + (total[1] + total[5])) + ((total[2] + total[6]) + (total[3] + total[7]));
    for (&a, &b) in a_rest.iter().zip(b_rest) {
        sum = mul_add::<FMA>(a, b, sum);
    }
    sum
}

/// out += Σ scales\[i\] · rows\[i\] (or Σ rows\[i\], unless `scaled`) over the listed rows, in the order of the list.
/// Rows with scale 0 are left out: they may hold numbers that are not finite.
#[inline(always)]
pub(crate) fn sum_rows(rows: &[f32], scales: &[f32], scaled: bool, list: &[u32], out: &mut [f32]) {
    let dim = out.len();
    for &i in list {
        let i = i as usize;
        let scale = scales[i];
        if scale == 0.0 {
            continue;
        }
        let scale = if scaled { scale } else { 1.0 };
        // Not fused, so that every machine sums the same products.
        for (o, &v) in out.iter_mut().zip(&rows[i * dim..(i + 1) * dim]) {
            *o += v * scale;
        }
    }
}

/// Cluster of one pixel.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub(crate) struct Assignment {
    /// Cosine similarity to the centroid of `label`.
    pub similarity: f32,
    /// Best cluster.
    pub label: u16,
    /// Cluster before this assignment.
    pub previous: u16,
}

/// Assigns pixels to their most similar centroid: a matrix product that keeps only the arg-max of each row.
pub(crate) struct Assign<'a> {
    /// Pixels, `[tiles, depth, TILE]`.
    pub tiles: &'a [f32],
    /// Centroids, `[panels, depth, PANEL]`. Unused columns of the last panel repeat centroid 0: they tie with it
    /// exactly and lose the tie, so no mask is needed.
    pub panels: &'a [f32],
    /// Length of a feature vector with location.
    pub depth: usize,
    /// `[tiles · TILE]`, overwritten.
    pub out: &'a mut [Assignment],
}

impl Kernel for Assign<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let tile_len = self.depth * TILE;
        let blocks = self.tiles.chunks(tile_len * TILES_PER_BLOCK);
        for (block, out) in blocks.zip(self.out.chunks_mut(TILE * TILES_PER_BLOCK)) {
            for assignment in out.iter_mut() {
                assignment.previous = assignment.label;
                (assignment.label, assignment.similarity) = (0, f32::NEG_INFINITY);
            }
            // The products go through a buffer: keeping the best label of each lane while they are made becomes
            // branches or masked stores, which cost as much as half the products.
            let mut products = [[[0.0f32; PANEL]; PANELS_PER_GROUP]; TILE * TILES_PER_BLOCK];
            let panel_len = self.depth * PANEL;
            for (group, panels) in self.panels.chunks(panel_len * PANELS_PER_GROUP).enumerate() {
                for (p, panel) in panels.chunks_exact(panel_len).enumerate() {
                    for (tile, products) in block.chunks_exact(tile_len).zip(products.as_chunks_mut::<TILE>().0) {
                        let sums = tile_times_panel::<FMA>(tile, panel);
                        for pixel in 0..TILE {
                            let (low, high) = products[pixel][p].split_at_mut(NUM_LANES);
                            low.copy_from_slice(&sums[pixel][0]);
                            high.copy_from_slice(&sums[pixel][1]);
                        }
                    }
                }
                let num_panels = panels.len() / panel_len;
                for (assignment, products) in out.iter_mut().zip(&products) {
                    if let Some((place, value)) = first_maximum(products[..num_panels].as_flattened())
                        && value > assignment.similarity
                    {
                        // Strictly greater: the lowest label keeps a tie.
                        assignment.label = (group * PANELS_PER_GROUP * PANEL + place) as u16;
                        assignment.similarity = value;
                    }
                }
            }
        }
    }
}

/// All products of cells with centroids, `[cell, panels · PANEL]`.
pub(crate) struct Products<'a> {
    /// Cells, `[tiles, depth, TILE]`.
    pub tiles: &'a [f32],
    /// Centroids, `[panels, depth, PANEL]`.
    pub panels: &'a [f32],
    /// Length of a feature vector.
    pub depth: usize,
    /// `[tiles · TILE, panels · PANEL]`, overwritten.
    pub out: &'a mut [f32],
}

impl Kernel for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let (tile_len, panel_len) = (self.depth * TILE, self.depth * PANEL);
        let row_len = self.panels.len() / panel_len * PANEL;
        let blocks = self.tiles.chunks(tile_len * TILES_PER_BLOCK);
        for (block, out) in blocks.zip(self.out.chunks_mut(row_len * TILE * TILES_PER_BLOCK)) {
            for (p, panel) in self.panels.chunks_exact(panel_len).enumerate() {
                for (tile, out) in block.chunks_exact(tile_len).zip(out.chunks_exact_mut(row_len * TILE)) {
                    let sums = tile_times_panel::<FMA>(tile, panel);
                    for (row, sums) in out.chunks_exact_mut(row_len).zip(&sums) {
                        row[p * PANEL..(p + 1) * PANEL].copy_from_slice(sums.as_flattened());
                    }
                }
            }
        }
    }
}

/// Index and value of the first maximum; NaN never wins.
#[inline(always)]
fn first_maximum(values: &[f32]) -> Option<(usize, f32)> {
    let (lanes, _) = values.as_chunks::<NUM_LANES>();
    let mut maxima: Lanes = [f32::NEG_INFINITY; NUM_LANES];
    for lanes in lanes {
        maxima = std::array::from_fn(|i| if lanes[i] > maxima[i] { lanes[i] } else { maxima[i] });
    }
    let maximum = maxima.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
    let block = lanes.iter().position(|lanes| lanes.iter().fold(false, |any, &v| any | (v == maximum)))?;
    let lane = lanes[block].iter().position(|&v| v == maximum)?;
    Some((block * NUM_LANES + lane, maximum))
}

/// `[TILE, PANEL]` dot products of one tile of pixels with one panel of centroids.
#[inline(always)]
fn tile_times_panel<const FMA: bool>(tile: &[f32], panel: &[f32]) -> [[Lanes; 2]; TILE] {
    let mut sums = [[[0.0f32; NUM_LANES]; 2]; TILE];
    for (pixels, centroids) in tile.chunks_exact(TILE).zip(panel.chunks_exact(PANEL)) {
        for pixel in 0..TILE {
            for half in 0..2 {
                for lane in 0..NUM_LANES {
                    sums[pixel][half][lane] =
                        mul_add::<FMA>(pixels[pixel], centroids[half * NUM_LANES + lane], sums[pixel][half][lane]);
                }
            }
        }
    }
    sums
}
