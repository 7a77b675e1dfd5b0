//! The inner loop of the search: a matrix product whose results are compared with a threshold at once.

use segcore::simd::{Kernel, Wide};

use crate::panels::{PANEL, Panels};

/// Queries of one tile, which lie side by side in memory. 12 × 16 sums are 12 of AVX-512's 32 registers.
pub(crate) const TILE: usize = 12;

/// Queries whose sums are kept in registers at a time without AVX-512: 6 × 16 sums are 12 of AVX2's 16 registers.
const NARROW: usize = 6;

/// Who is told about products above the threshold.
pub(crate) trait Sink {
    /// A lower bound of what `offer` needs to hear of, per query of all tiles. Products that are not above it may be
    /// left out. NaN is never above.
    fn thresholds(&self) -> &[f32];
    /// All products of one query with one panel, at least one of them above the query's threshold.
    fn offer(&mut self, query: usize, panel: usize, products: &[f32; PANEL]);
}

/// Cosines of all queries with all prototypes of some panels.
pub(crate) struct Products<'a, S> {
    /// Queries of unit length, `[tiles, dimension, TILE]`.
    pub(crate) tiles: &'a [f32],
    /// Number of queries; the rest of the last tile is filling.
    pub(crate) num_queries: usize,
    /// Prototypes.
    pub(crate) panels: Panels<'a>,
    /// 1 / norm per slot.
    pub(crate) inverse_norms: &'a [f32],
    /// Index of the first panel, added to what the sink hears.
    pub(crate) first_panel: usize,
    /// `[dimension, PANEL]`: one panel as floats.
    pub(crate) unpacked: &'a mut [f32],
    pub(crate) sink: &'a mut S,
}

impl<S: Sink> Kernel for Products<'_, S> {
    type Output = ();
    /// 1.4 times as fast as AVX2 on a Zen 5, the whole search (`docs/benchmarks/speed.md`).
    const WIDE: bool = true;

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.all(|this, tile, panel, index| {
            for lane in (0..TILE).step_by(NARROW) {
                if tile.first + lane < this.num_queries {
                    let products = tile_times_panel::<FMA>(tile.values, lane, panel);
                    this.report(tile.first + lane, index, &products);
                }
            }
        });
    }

    #[inline(always)]
    fn run_wide(self, wide: Wide) {
        self.all(|this, tile, panel, index| {
            if this.num_queries - tile.first > NARROW {
                let products = wide.products::<TILE>(tile.values, (TILE, 0), panel);
                this.report(tile.first, index, &products);
            } else {
                let products = wide.products::<NARROW>(tile.values, (TILE, 0), panel);
                this.report(tile.first, index, &products);
            }
        });
    }
}

/// One tile of queries.
struct Tile<'a> {
    /// Its first query.
    first: usize,
    /// `[dimension, TILE]`.
    values: &'a [f32],
}

impl<S: Sink> Products<'_, S> {
    /// Every tile with every panel, unpacked, and the panel's number in the range.
    #[inline(always)]
    fn all(mut self, multiply: impl Fn(&mut Self, Tile<'_>, &[f32], usize)) {
        // The stored form of a panel (2 kB in 8 bits at dimension 128) is read from memory once and unpacked once; its
        // floats (8 kB) stay in the first-level cache while all queries (98 kB for 192) pass over them from the second.
        let unpacked = std::mem::take(&mut self.unpacked);
        for (index, panel) in self.panels.bytes.chunks_exact(self.panels.stride()).enumerate() {
            Panels::unpack(self.panels.storage, panel, unpacked);
            for (number, values) in self.tiles.chunks_exact(self.panels.dimension * TILE).enumerate() {
                multiply(&mut self, Tile { first: number * TILE, values }, unpacked, index);
            }
        }
    }

    /// Makes cosines of products, and tells the sink of those that matter.
    #[inline(always)]
    fn report(&mut self, first: usize, panel: usize, products: &[[f32; PANEL]]) {
        let Some(factors) = self.inverse_norms.as_chunks::<PANEL>().0.get(panel) else { return };
        for (lane, products) in products.iter().enumerate() {
            let query = first + lane;
            let threshold = self.sink.thresholds()[query];
            let mut cosines = [0.0f32; PANEL];
            let mut is_above = false;
            for lane in 0..PANEL {
                cosines[lane] = products[lane] * factors[lane];
                is_above |= cosines[lane] > threshold;
            }
            if is_above {
                self.sink.offer(query, self.first_panel + panel, &cosines);
            }
        }
    }
}

/// `[NARROW, PANEL]` dot products of the queries of a tile from `lane` on.
#[inline(always)]
fn tile_times_panel<const FMA: bool>(tile: &[f32], lane: usize, panel: &[f32]) -> [[f32; PANEL]; NARROW] {
    let mut sums = [[0.0f32; PANEL]; NARROW];
    for (queries, prototypes) in tile.chunks_exact(TILE).zip(panel.chunks_exact(PANEL)) {
        let queries = &queries[lane..lane + NARROW];
        for query in 0..NARROW {
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
