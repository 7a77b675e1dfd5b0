//! Watershed lines as arcs between vertices, cut into nearly straight pieces.

use std::collections::{HashMap, VecDeque};

use super::LineMap;

/// A piece of a line between two vertices.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LineArc {
    /// Pixel of the first vertex, `row * width + column`.
    pub start: u32,
    /// Pixel of the last vertex; never that of the first.
    pub end: u32,
    first: u32,
    last: u32,
}

/// All arcs of a line map.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LineArcs {
    width: usize,
    arcs: Vec<LineArc>,
    /// Pixels of all arcs' interiors, arc by arc; a split makes two ranges out of one and copies nothing.
    pixels: Vec<u32>,
}

impl LineArcs {
    /// The arcs in the order of their making.
    pub fn arcs(&self) -> &[LineArc] {
        &self.arcs
    }

    /// Pixels between the vertices of `arc`, from its start to its end; may be empty.
    pub fn interior(&self, arc: &LineArc) -> &[u32] {
        &self.pixels[arc.first as usize..arc.last as usize]
    }

    /// Row and column of a pixel.
    fn position(&self, pixel: u32) -> [i64; 2] {
        let pixel = pixel as usize;
        [(pixel / self.width) as i64, (pixel % self.width) as i64]
    }

    /// Orientation channel, 0 to 7, of the direction of `arc`: the bin of 22.5° around 90°, 67.5°, … -67.5° that holds
    /// atan(Δrow / Δcolumn), closed at its lower end.
    pub fn channel(&self, arc: &LineArc) -> usize {
        let ([r0, c0], [r1, c1]) = (self.position(arc.start), self.position(arc.end));
        let angle = if c0 == c1 { 90.0 } else { ((r1 - r0) as f64 / (c1 - c0) as f64).atan().to_degrees() };
        if !(-78.75..78.75).contains(&angle) { 0 } else { (4.0 - ((angle + 11.25) / 22.5).floor()) as usize }
    }

    /// Splits arcs until each is nearly straight: no interior pixel further from the chord than both 2 pixels and 5 %
    /// of its length, and none behind either end. The pixel furthest from the chord (the first of several) becomes a
    /// vertex; the first half keeps its place in the list and the second is appended.
    pub fn subdivide(&mut self) {
        let mut queue: VecDeque<usize> = (0..self.arcs.len()).collect();
        while let Some(slot) = queue.pop_front() {
            let Some(at) = self.split_point(&self.arcs[slot]) else { continue };
            queue.push_back(slot);
            queue.push_back(self.split(slot, at));
        }
    }

    /// Splits arcs until no two have the same two vertices: of two such arcs the one that runs further from the chord
    /// (the first of two equals) is split at its furthest pixel. The tools that made the maps published with BSDS500
    /// did this after [`LineArcs::subdivide`], those published with PMI edges do not.
    pub fn split_parallel_arcs(&mut self) {
        let mut slot_between = HashMap::new();
        let mut queue: VecDeque<usize> = (0..self.arcs.len()).collect();
        while let Some(slot) = queue.pop_front() {
            let vertices = |arc: &LineArc| (arc.start.min(arc.end), arc.start.max(arc.end));
            let ends = vertices(&self.arcs[slot]);
            let other = *slot_between.entry(ends).or_insert(slot);
            if other == slot {
                continue;
            }
            let (first, second) = (slot.min(other), slot.max(other));
            let (of_first, of_second) = (self.furthest_pixel(first), self.furthest_pixel(second));
            let (bent, straight, at) = match (of_first, of_second) {
                (Some((distance, at)), Some((other, _))) if distance >= other => (first, second, at),
                (Some((_, at)), None) => (first, second, at),
                (_, Some((_, at))) => (second, first, at),
                (None, None) => continue,
            };
            slot_between.insert(ends, straight);
            queue.push_back(bent);
            queue.push_back(self.split(bent, at));
        }
    }

    /// Splits an arc at an index into the interiors: the pixel becomes a vertex, the first half stays in the slot. The
    /// slot of the second half.
    fn split(&mut self, slot: usize, at: u32) -> usize {
        let arc = self.arcs[slot];
        let vertex = self.pixels[at as usize];
        self.arcs[slot] = LineArc { end: vertex, last: at, ..arc };
        self.arcs.push(LineArc { start: vertex, first: at + 1, ..arc });
        self.arcs.len() - 1
    }

    /// Distance from the line through both vertices, times the chord's length, of the furthest pixel between them (the
    /// first of several), and the pixel's index into the interiors; `None` if there are no pixels between.
    fn furthest_pixel(&self, slot: usize) -> Option<(i64, u32)> {
        let arc = &self.arcs[slot];
        let (p, q) = (self.position(arc.start), self.position(arc.end));
        let distance = |pixel: u32| {
            let x = self.position(pixel);
            ((x[0] - p[0]) * (q[1] - p[1]) - (x[1] - p[1]) * (q[0] - p[0])).abs()
        };
        let distances = (arc.first..arc.last).map(|at| (distance(self.pixels[at as usize]), at));
        distances.reduce(|furthest, next| if next.0 > furthest.0 { next } else { furthest })
    }

    /// Where to split `arc`, as an index into the interiors; `None` if it is straight enough.
    fn split_point(&self, arc: &LineArc) -> Option<u32> {
        let (p, q) = (self.position(arc.start), self.position(arc.end));
        let chord = [q[0] - p[0], q[1] - p[1]];
        let squared_length = i128::from(chord[0] * chord[0] + chord[1] * chord[1]);
        let mut is_bent = false;
        let mut furthest = (-1i128, 0);
        for (index, &pixel) in (arc.first..).zip(self.interior(arc)) {
            let x = self.position(pixel);
            let (from_p, from_q) = ([x[0] - p[0], x[1] - p[1]], [x[0] - q[0], x[1] - q[1]]);
            let is_behind_p = from_p[0] * chord[0] + from_p[1] * chord[1] < 0;
            let is_behind_q = from_q[0] * chord[0] + from_q[1] * chord[1] > 0;
            // Distance to the segment and length of the chord, squared and multiplied: whole numbers, so that
            // equal distances are equal.
            let distance = if is_behind_p {
                i128::from(from_p[0] * from_p[0] + from_p[1] * from_p[1]) * squared_length
            } else if is_behind_q {
                i128::from(from_q[0] * from_q[0] + from_q[1] * from_q[1]) * squared_length
            } else {
                let cross = i128::from(from_p[0] * chord[1] - from_p[1] * chord[0]);
                cross * cross
            };
            is_bent |= is_behind_p || is_behind_q;
            is_bent |= distance * 400 > squared_length * squared_length && distance > 4 * squared_length;
            if distance > furthest.0 {
                furthest = (distance, index);
            }
        }
        is_bent.then_some(furthest.1)
    }
}

/// No vertex.
const NONE: u32 = u32::MAX;

/// A line map in a frame of one pixel, while it is being traced.
struct Tracing<'a> {
    lines: &'a LineMap,
    stride: usize,
    /// Line pixel, `[height + 2, width + 2]`.
    is_line: Vec<bool>,
    /// Interior of an arc already.
    is_traced: Vec<bool>,
    /// Number of the vertex at a pixel, or `NONE`.
    vertex_at: Vec<u32>,
    /// Framed pixels of the vertices in the order of their making.
    vertices: Vec<usize>,
    out: LineArcs,
}

/// Traces the lines of a map: vertices are their ends and junctions (and one pixel of every closed loop), arcs what
/// lies between. Lines are 8-connected; a line of one pixel gives no arc.
pub fn trace(lines: &LineMap) -> LineArcs {
    let mut tracing = Tracing::new(lines);
    tracing.find_vertices();
    tracing.add_vertices_on_loops();
    let mut number = 0;
    // Dead ends add vertices on the way.
    while number < tracing.vertices.len() {
        tracing.trace_from(number as u32);
        number += 1;
    }
    tracing.out
}

impl<'a> Tracing<'a> {
    fn new(lines: &'a LineMap) -> Self {
        let (height, width) = (lines.height, lines.width);
        let stride = width + 2;
        let mut is_line = vec![false; stride * (height + 2)];
        for (row, source) in lines.is_line.chunks_exact(width).enumerate() {
            is_line[(row + 1) * stride + 1..][..width].copy_from_slice(source);
        }
        let is_traced = vec![false; is_line.len()];
        let vertex_at = vec![NONE; is_line.len()];
        let out = LineArcs { width, arcs: Vec::new(), pixels: Vec::new() };
        Self { lines, stride, is_line, is_traced, vertex_at, vertices: Vec::new(), out }
    }

    fn add_vertex(&mut self, pixel: usize) -> u32 {
        let number = self.vertices.len() as u32;
        self.vertex_at[pixel] = number;
        self.vertices.push(pixel);
        number
    }

    fn at(&self, pixel: usize, rows: isize, columns: isize) -> usize {
        pixel.wrapping_add_signed(rows * self.stride as isize + columns)
    }

    fn unframed(&self, pixel: usize) -> u32 {
        ((pixel / self.stride - 1) * self.lines.width + pixel % self.stride - 1) as u32
    }

    /// The eight neighbours on the ring from north, clockwise: N, NE, E, SE, S, SW, W, NW.
    fn ring(&self, pixel: usize) -> [bool; 8] {
        RING.map(|(rows, columns)| self.is_line[self.at(pixel, rows, columns)])
    }

    fn find_vertices(&mut self) {
        for row in 1..=self.lines.height {
            for column in 1..=self.lines.width {
                let pixel = row * self.stride + column;
                if self.is_line[pixel] && is_vertex(self.ring(pixel)) {
                    self.add_vertex(pixel);
                }
            }
        }
    }

    /// Gives every component without a vertex one: its last pixel in row-major order.
    fn add_vertices_on_loops(&mut self) {
        let mut is_seen = vec![false; self.is_line.len()];
        let mut component: Vec<usize> = Vec::new();
        for column in 1..=self.lines.width {
            for row in 1..=self.lines.height {
                let start = row * self.stride + column;
                if !self.is_line[start] || is_seen[start] {
                    continue;
                }
                component.clear();
                component.push(start);
                is_seen[start] = true;
                let (mut last, mut has_vertex) = (start, false);
                while let Some(pixel) = component.pop() {
                    last = last.max(pixel);
                    has_vertex |= self.vertex_at[pixel] != NONE;
                    for (rows, columns) in RING {
                        let neighbour = self.at(pixel, rows, columns);
                        if self.is_line[neighbour] && !is_seen[neighbour] {
                            is_seen[neighbour] = true;
                            component.push(neighbour);
                        }
                    }
                }
                if !has_vertex {
                    self.add_vertex(last);
                }
            }
        }
    }

    fn trace_from(&mut self, number: u32) {
        let vertex = self.vertices[number as usize];
        for (rows, columns) in CANDIDATES {
            let candidate = self.at(vertex, rows, columns);
            if !self.is_line[candidate] || self.is_traced[candidate] {
                continue;
            }
            // Around a corner the straight neighbour goes first, and has taken the diagonal one with it.
            let is_diagonal = rows != 0 && columns != 0;
            if is_diagonal && (self.is_line[self.at(vertex, rows, 0)] || self.is_line[self.at(vertex, 0, columns)]) {
                continue;
            }
            let first = self.out.pixels.len() as u32;
            let other = self.vertex_at[candidate];
            if other == NONE {
                let end = self.follow(vertex, candidate);
                self.add_arc(vertex, end, first);
            } else if other > number {
                self.add_arc(vertex, candidate, first);
            }
        }
    }

    fn add_arc(&mut self, start: usize, end: usize, first: u32) {
        let last = self.out.pixels.len() as u32;
        self.out.arcs.push(LineArc { start: self.unframed(start), end: self.unframed(end), first, last });
    }

    /// Walks from `pixel` away from the vertex `start` and returns the vertex at the end; notes the pixels between.
    fn follow(&mut self, start: usize, mut pixel: usize) -> usize {
        loop {
            let step = [false, true].into_iter().find_map(|is_diagonal| {
                let steps = if is_diagonal { DIAGONAL_STEPS } else { STRAIGHT_STEPS };
                let mut found = steps.iter().map(|&(rows, columns)| self.at(pixel, rows, columns));
                let is_free = |next: usize| self.is_line[next] && !self.is_traced[next] && next != start;
                found
                    .clone()
                    .find(|&next| is_free(next) && self.vertex_at[next] == NONE)
                    .or_else(|| found.find(|&next| is_free(next)))
            });
            let Some(next) = step else {
                // A dead end: what is left around it is traced from here later.
                self.add_vertex(pixel);
                return pixel;
            };
            self.is_traced[pixel] = true;
            let inner = self.unframed(pixel);
            self.out.pixels.push(inner);
            if self.vertex_at[next] != NONE {
                return next;
            }
            pixel = next;
        }
    }
}

/// (row, column) steps to N, NE, E, SE, S, SW, W, NW.
const RING: [(isize, isize); 8] = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)];
/// Where a trace may start, in order.
const CANDIDATES: [(isize, isize); 8] = [(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)];
/// Where a trace may go on, in order.
const STRAIGHT_STEPS: [(isize, isize); 4] = [(0, 1), (0, -1), (1, 0), (-1, 0)];
const DIAGONAL_STEPS: [(isize, isize); 4] = [(1, 1), (-1, 1), (1, -1), (-1, -1)];

/// Whether a line pixel with these neighbours (N, NE, E, … clockwise) is an end or a junction.
fn is_vertex(ring: [bool; 8]) -> bool {
    let straight = |i: usize| ring[(2 * i) % 8];
    let diagonal = |i: usize| ring[(2 * i + 1) % 8];
    let num_straight = (0..4).filter(|&i| straight(i)).count();
    let num_diagonal = (0..4).filter(|&i| diagonal(i)).count();
    match num_straight + num_diagonal {
        0 | 1 => true,
        2 => (0..8).any(|i| ring[i] && ring[(i + 1) % 8]),
        total @ (3 | 4) => {
            // A full block of 2×2 with the centre: straight, the diagonal after it, straight.
            if (0..4).any(|i| straight(i) && diagonal(i) && straight(i + 1)) {
                return true;
            }
            // All three on one side: diagonal, straight, diagonal.
            if (0..4).any(|i| diagonal(i) && straight(i + 1) && diagonal(i + 1)) {
                return total == 3;
            }
            num_straight >= 3
                || num_diagonal >= 3
                // Y shapes: a straight one with the two opposite diagonals, or the other way round. Opposite of the
                // straight neighbour i are the diagonals before and after the straight neighbour i + 2.
                || (0..4).any(|i| straight(i) && diagonal(i + 1) && diagonal(i + 2))
                || (0..4).any(|i| diagonal(i) && straight(i + 2) && straight(i + 3))
        }
        _ => !(num_straight == 2 && (straight(0) == straight(2))),
    }
}
