//! Watershed by priority flooding, without line pixels.
//!
//! Markers are the 8-connected regional minima (plateaus allowed); pixels are flooded in the order of
//! (strength, time of entering the queue), as in F. Meyer, "Topographic distance and watershed lines", 1994, with the
//! scan order of the published OWT-UCM tools (column-major). Unlike Meyer's variant with lines, every pixel takes the
//! label of the neighbour that queued it, so every pixel ends in a basin.
//!
//! The queue is a bucket queue over the *ranks* of the strengths. That is exact, not a quantisation: equal strengths
//! share a bucket, buckets are first in first out, and flooding never goes back to a lower level (a pixel below the
//! current level would have been reached from its own minimum before).

use crate::StrengthMap;

/// Outside the image, in the maps with a frame of one pixel.
pub(crate) const OUTSIDE: u32 = u32::MAX;
/// Not reached yet.
pub(crate) const UNLABELLED: u32 = u32::MAX - 1;
/// End of a linked list of pixels.
pub(crate) const NIL: u32 = u32::MAX;

/// The catchment basins of a strength map.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Basins {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Basin of every pixel, `[height, width]` row-major, dense from 0 in column-major order of the minima.
    pub labels: Vec<u32>,
    /// Number of basins = number of 8-connected regional minima.
    pub num_basins: usize,
}

/// The strengths as ranks, in a frame of one pixel so that every pixel has eight neighbours.
pub(crate) struct FramedRanks {
    /// Row length: width + 2.
    pub(crate) stride: usize,
    /// Rank of every pixel, `[height + 2, width + 2]`; 0 in the frame.
    pub(crate) ranks: Vec<u32>,
    /// Number of different strengths.
    pub(crate) num_ranks: usize,
}

impl FramedRanks {
    pub(crate) fn new(map: &StrengthMap) -> Self {
        let (height, width) = (map.height(), map.width());
        let stride = width + 2;
        // Strengths are finite and not negative, so their bits sort like their values. `+ 0.0` makes -0 a 0.
        let mut order: Vec<u64> = map
            .values()
            .iter()
            .enumerate()
            .map(|(pixel, &value)| (u64::from((value + 0.0).to_bits()) << 32) | pixel as u64)
            .collect();
        order.sort_unstable();
        let mut ranks = vec![0; stride * (height + 2)];
        let mut rank = 0u32;
        let mut previous = order.first().map_or(0, |first| first >> 32);
        for &entry in &order {
            let bits = entry >> 32;
            if bits != previous {
                rank += 1;
                previous = bits;
            }
            let pixel = (entry & 0xffff_ffff) as usize;
            ranks[(pixel / width + 1) * stride + pixel % width + 1] = rank;
        }
        Self { stride, ranks, num_ranks: rank as usize + 1 }
    }

    /// Index offsets to the eight neighbours in column-major order.
    pub(crate) fn neighbours(&self) -> [isize; 8] {
        let s = self.stride as isize;
        [-s - 1, -1, s - 1, -s, s, -s + 1, 1, s + 1]
    }
}

/// Labels every regional minimum; all other pixels are `UNLABELLED`, the frame is `OUTSIDE`.
pub(crate) fn label_minima(height: usize, width: usize, framed: &FramedRanks) -> (Vec<u32>, usize) {
    let stride = framed.stride;
    let neighbours = framed.neighbours();
    let mut labels = vec![OUTSIDE; framed.ranks.len()];
    for row in 1..=height {
        labels[row * stride + 1..row * stride + 1 + width].fill(UNLABELLED);
    }
    let mut is_seen = vec![false; labels.len()];
    let mut plateau: Vec<usize> = Vec::new();
    let mut num_basins = 0;
    for column in 1..=width {
        for row in 1..=height {
            let start = row * stride + column;
            if is_seen[start] {
                continue;
            }
            let rank = framed.ranks[start];
            plateau.clear();
            plateau.push(start);
            is_seen[start] = true;
            let mut is_minimum = true;
            let mut next = 0;
            while next < plateau.len() {
                let pixel = plateau[next];
                next += 1;
                for offset in neighbours {
                    let neighbour = pixel.wrapping_add_signed(offset);
                    if labels[neighbour] == OUTSIDE {
                        continue;
                    }
                    let other = framed.ranks[neighbour];
                    if other < rank {
                        // The rest of the plateau is still walked, so that it is not looked at again.
                        is_minimum = false;
                    } else if other == rank && !is_seen[neighbour] {
                        is_seen[neighbour] = true;
                        plateau.push(neighbour);
                    }
                }
            }
            if is_minimum {
                for &pixel in &plateau {
                    labels[pixel] = num_basins;
                }
                num_basins += 1;
            }
        }
    }
    (labels, num_basins as usize)
}

/// Floods `map` from its regional minima: one basin per minimum, each basin 8-connected, no pixel left over.
///
/// Takes O(P log P) for the sort and O(P) for everything else.
pub fn watershed(map: &StrengthMap) -> Basins {
    let (height, width) = (map.height(), map.width());
    let framed = FramedRanks::new(map);
    let (mut labels, num_basins) = label_minima(height, width, &framed);
    let neighbours = framed.neighbours();
    let stride = framed.stride;

    // One first-in-first-out list per rank, threaded through `next_in_bucket`.
    let mut first = vec![NIL; framed.num_ranks];
    let mut last = vec![NIL; framed.num_ranks];
    let mut next_in_bucket = vec![NIL; labels.len()];
    let mut push_neighbours = |pixel: usize, labels: &mut [u32], first: &mut [u32], next: &mut [u32]| {
        let label = labels[pixel];
        for offset in neighbours {
            let neighbour = pixel.wrapping_add_signed(offset);
            if labels[neighbour] != UNLABELLED {
                continue;
            }
            labels[neighbour] = label;
            let rank = framed.ranks[neighbour] as usize;
            if first[rank] == NIL {
                first[rank] = neighbour as u32;
            } else {
                next[last[rank] as usize] = neighbour as u32;
            }
            last[rank] = neighbour as u32;
        }
    };

    // A pixel labelled while the minima are scanned is queued, not a marker: it must not push before its turn.
    let mut markers: Vec<usize> = Vec::new();
    for column in 1..=width {
        for row in 1..=height {
            let pixel = row * stride + column;
            if labels[pixel] != UNLABELLED {
                markers.push(pixel);
            }
        }
    }
    for pixel in markers {
        push_neighbours(pixel, &mut labels, &mut first, &mut next_in_bucket);
    }
    for rank in 0..framed.num_ranks {
        // A list may grow while it is emptied, but only at its end.
        while first[rank] != NIL {
            let pixel = first[rank] as usize;
            first[rank] = next_in_bucket[pixel];
            push_neighbours(pixel, &mut labels, &mut first, &mut next_in_bucket);
        }
    }

    let mut cropped = Vec::with_capacity(height * width);
    for row in 1..=height {
        cropped.extend_from_slice(&labels[row * stride + 1..row * stride + 1 + width]);
    }
    Basins { height, width, labels: cropped, num_basins }
}
