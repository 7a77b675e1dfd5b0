//! The inner loop of the search: a matrix product whose results are compared with a threshold at once.

use segcore::simd::Kernel;

/// Queries of one register tile.
pub(crate) const TILE: usize = 6;
/// Prototypes of one panel. 6 × 16 sums are 12 of AVX2's 16 registers.
pub(crate) const PANEL: usize = 16;

/// Who is told about products above the threshold.
pub(crate) trait Sink {
    /// A lower bound of what `offer` needs to hear of, per query of all tiles. Products that are not above it may be
    /// left out. NaN is never above.
    fn thresholds(&self) -> &[f32];
    /// All products of one query with one panel, at least one of them above the query's threshold.
    fn offer(&mut self, query: usize, panel: usize, products: &[f32; PANEL]);
}

/// Products of all `tiles` with all `panels`.
pub(crate) struct Products<'a, S> {
    /// Queries, `[tiles, dimension, TILE]`.
    pub(crate) tiles: &'a [f32],
    /// Prototypes, `[panels, dimension, PANEL]`.
    pub(crate) panels: &'a [f32],
    /// Length of a vector.
    pub(crate) dimension: usize,
    /// Index of the first panel, added to what the sink hears.
    pub(crate) first_panel: usize,
    pub(crate) sink: &'a mut S,
}

impl<S: Sink> Kernel for Products<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        // A panel (8 kB at dimension 128) stays in the first-level cache while all queries (98 kB for 192) pass over it
        // from the second-level cache; the bank is read from memory once.
        for (index, panel) in self.panels.chunks_exact(self.dimension * PANEL).enumerate() {
            for (tile_index, tile) in self.tiles.chunks_exact(self.dimension * TILE).enumerate() {
                let products = tile_times_panel::<FMA>(tile, panel);
                for (lane, products) in products.iter().enumerate() {
                    let query = tile_index * TILE + lane;
                    let threshold = self.sink.thresholds()[query];
                    let mut is_above = false;
                    for product in products {
                        is_above |= *product > threshold;
                    }
                    if is_above {
                        self.sink.offer(query, self.first_panel + index, products);
                    }
                }
            }
        }
    }
}

/// `[TILE, PANEL]` dot products.
#[inline(always)]
fn tile_times_panel<const FMA: bool>(tile: &[f32], panel: &[f32]) -> [[f32; PANEL]; TILE] {
    let mut sums = [[0.0f32; PANEL]; TILE];
    for (queries, prototypes) in tile.chunks_exact(TILE).zip(panel.chunks_exact(PANEL)) {
        for query in 0..TILE {
            for lane in 0..PANEL {
                let sum = &mut sums[query][lane];
                *sum = if FMA {
                    queries[query].mul_add(prototypes[lane], *sum)
                } else {
                    queries[query] * prototypes[lane] + *sum
                };
            }
        }
    }
    sums
}
