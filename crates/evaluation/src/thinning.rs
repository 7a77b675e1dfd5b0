//! Thinning to lines one pixel wide (Z. Guo, R. Hall, "Parallel Thinning with Two-Subiteration Algorithms", CACM 1989,
//! algorithm A1), iterated until nothing changes; the same pixels as `skimage.morphology.thin`.

/// Neighbours of a pixel in the order of the paper's conditions: x₁ east, then counter-clockwise; (row, column) steps.
const NEIGHBOURS: [(isize, isize); 8] = [(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)];

/// Whether a pixel goes, by its neighbours (bit i − 1 = xᵢ), in the first and in the second half of an iteration.
const IS_DELETED: [[bool; 256]; 2] = [deletion_table(false), deletion_table(true)];

const fn deletion_table(second_half: bool) -> [bool; 256] {
    let mut table = [false; 256];
    let mut neighbours = 0;
    while neighbours < 256 {
        table[neighbours] = is_deleted(neighbours, second_half);
        neighbours += 1;
    }
    table
}

/// The paper's conditions G1, G2 and G3.
const fn is_deleted(neighbours: usize, second_half: bool) -> bool {
    // x[i] is xᵢ with x₉ = x₁.
    let mut x = [false; 10];
    let mut i = 1;
    while i <= 8 {
        x[i] = neighbours >> (i - 1) & 1 == 1;
        i += 1;
    }
    x[9] = x[1];
    // G1: the neighbours are one connected piece. G2: the pixel is neither the end of a line nor inside.
    let (mut pieces, mut pairs_from_odd, mut pairs_from_even) = (0, 0, 0);
    let mut k = 1;
    while k <= 4 {
        pieces += (!x[2 * k - 1] && (x[2 * k] || x[2 * k + 1])) as usize;
        pairs_from_odd += (x[2 * k - 1] || x[2 * k]) as usize;
        pairs_from_even += (x[2 * k] || x[2 * k + 1]) as usize;
        k += 1;
    }
    let fewest = if pairs_from_odd < pairs_from_even { pairs_from_odd } else { pairs_from_even };
    // G3: the first half takes pixels away from one side, the second half from the other.
    let is_other_side = if second_half { (x[6] || x[7] || !x[4]) && x[5] } else { (x[2] || x[3] || !x[8]) && x[1] };
    pieces == 1 && (fewest == 2 || fewest == 3) && !is_other_side
}

/// Thins the true pixels of `map`, `[h, w]` with rows of `width` pixels, to lines one pixel wide, in place. Connected
/// pieces (8 neighbours) stay connected; beyond the edge of the map there is nothing. An unfinished last row is no part of
/// the map and stays as it is.
pub fn thin(map: &mut [bool], width: usize) {
    if width == 0 {
        return;
    }
    // With a frame of nothing, so that every pixel has eight neighbours.
    let stride = width + 2;
    let mut is_set = vec![false; (map.len() / width + 2) * stride];
    let mut pixels = Vec::new();
    for (row, values) in map.chunks_exact(width).enumerate() {
        for column in (0..width).filter(|&column| values[column]) {
            let at = (row + 1) * stride + column + 1;
            is_set[at] = true;
            pixels.push(at);
        }
    }
    let steps = NEIGHBOURS.map(|(row, column)| row * stride as isize + column);
    let mut deleted = Vec::new();
    loop {
        let before = pixels.len();
        for table in &IS_DELETED {
            // All at once: what goes is decided by what is there at the beginning of the half.
            deleted.clear();
            deleted.extend(pixels.iter().copied().filter(|&at| {
                let bit = |i: usize| usize::from(is_set[at.wrapping_add_signed(steps[i])]) << i;
                table[(0..8).map(bit).sum::<usize>()]
            }));
            if !deleted.is_empty() {
                deleted.iter().for_each(|&at| is_set[at] = false);
                pixels.retain(|&at| is_set[at]);
            }
        }
        if pixels.len() == before {
            break;
        }
    }
    for (row, values) in map.chunks_exact_mut(width).enumerate() {
        let from = (row + 1) * stride + 1;
        values.copy_from_slice(&is_set[from..from + width]);
    }
}
