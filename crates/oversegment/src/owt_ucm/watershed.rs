//! Meyer's watershed with line pixels.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::StrengthMap;
use crate::watershed::{FramedRanks, NIL, UNLABELLED, label_minima};

/// In the queue.
const QUEUED: u32 = UNLABELLED - 1;
/// Between two basins.
const LINE: u32 = UNLABELLED - 2;

/// Which pixels lie on the lines between basins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LineMap {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) is_line: Vec<bool>,
}

impl LineMap {
    /// A map of `height` × `width` pixels, row-major; `None` when a side is 0 or the number of pixels is another.
    pub fn new(height: usize, width: usize, is_line: Vec<bool>) -> Option<Self> {
        let fits = height > 0 && width > 0 && height.checked_mul(width) == Some(is_line.len());
        fits.then_some(Self { height, width, is_line })
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// True on lines, `[height, width]` row-major.
    pub fn is_line(&self) -> &[bool] {
        &self.is_line
    }
}

/// Pixels waiting to be flooded: least rank first, then first in first out.
///
/// Mostly a list per rank, as in [`crate::watershed::watershed`]. But line pixels push nothing, so a pixel behind them
/// may be reached after its level has passed; such latecomers wait in a heap and go first.
struct Queue<'a> {
    ranks: &'a [u32],
    /// Level of the flood.
    level: usize,
    first: Vec<u32>,
    last: Vec<u32>,
    next_in_list: Vec<u32>,
    late: BinaryHeap<Reverse<(u32, u32, u32)>>,
    num_late: u32,
}

impl<'a> Queue<'a> {
    fn new(framed: &'a FramedRanks) -> Self {
        Self {
            ranks: &framed.ranks,
            level: 0,
            first: vec![NIL; framed.num_ranks],
            last: vec![NIL; framed.num_ranks],
            next_in_list: vec![NIL; framed.ranks.len()],
            late: BinaryHeap::new(),
            num_late: 0,
        }
    }

    fn push(&mut self, pixel: usize) {
        let rank = self.ranks[pixel] as usize;
        if rank < self.level {
            self.late.push(Reverse((rank as u32, self.num_late, pixel as u32)));
            self.num_late += 1;
        } else if self.first[rank] == NIL {
            self.first[rank] = pixel as u32;
            self.last[rank] = pixel as u32;
        } else {
            self.next_in_list[self.last[rank] as usize] = pixel as u32;
            self.last[rank] = pixel as u32;
        }
    }

    fn pop(&mut self) -> Option<usize> {
        if let Some(Reverse((_, _, pixel))) = self.late.pop() {
            return Some(pixel as usize);
        }
        while *self.first.get(self.level)? == NIL {
            self.level += 1;
        }
        let pixel = self.first[self.level] as usize;
        self.first[self.level] = self.next_in_list[pixel];
        Some(pixel)
    }
}

/// Floods `map` from its 8-connected regional minima in the order of (strength, time of entering the queue) and leaves
/// a line where two basins meet (F. Meyer, "Topographic distance and watershed lines", 1994).
///
/// A pixel whose labelled neighbours all have one label takes it and queues its unqueued neighbours; a pixel between
/// two labels stays a line pixel and queues nothing. Every pixel enters the queue at most once, so a few pixels that
/// line pixels enclose are never reached and become lines too. Markers and neighbours are scanned column by column.
pub fn watershed_with_lines(map: &StrengthMap) -> LineMap {
    let (height, width) = (map.height(), map.width());
    let framed = FramedRanks::new(map);
    let (mut labels, _) = label_minima(height, width, &framed);
    let neighbours = framed.neighbours();
    let stride = framed.stride;
    let mut queue = Queue::new(&framed);
    let queue_neighbours = |pixel: usize, labels: &mut [u32], queue: &mut Queue<'_>| {
        for offset in neighbours {
            let neighbour = pixel.wrapping_add_signed(offset);
            if labels[neighbour] == UNLABELLED {
                labels[neighbour] = QUEUED;
                queue.push(neighbour);
            }
        }
    };
    for column in 1..=width {
        for row in 1..=height {
            let pixel = row * stride + column;
            // Nothing has a basin's label yet but the markers: all ids of basins are below `LINE`.
            if labels[pixel] < LINE {
                queue_neighbours(pixel, &mut labels, &mut queue);
            }
        }
    }
    while let Some(pixel) = queue.pop() {
        let mut found = neighbours.iter().map(|&o| labels[pixel.wrapping_add_signed(o)]).filter(|&label| label < LINE);
        let label = found.next();
        labels[pixel] = match label {
            Some(label) if found.all(|other| other == label) => label,
            _ => LINE,
        };
        if labels[pixel] != LINE {
            queue_neighbours(pixel, &mut labels, &mut queue);
        }
    }
    let mut is_line = Vec::with_capacity(height * width);
    for row in 1..=height {
        is_line.extend(labels[row * stride + 1..][..width].iter().map(|&label| label >= LINE));
    }
    LineMap { height, width, is_line }
}
