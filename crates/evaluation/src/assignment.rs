//! One-to-one assignment of the largest total weight (H. W. Kuhn, "The Hungarian Method for the Assignment Problem", Naval
//! Research Logistics Quarterly 1955; J. Munkres, "Algorithms for the Assignment and Transportation Problems", 1957), as
//! shortest augmenting paths with potentials.

/// The largest sum of `weights`, `[num_rows, num_columns]` and each ≥ 0, with at most one of each row and each column.
/// Takes (smaller side)² · larger side steps.
pub(crate) fn largest_total(num_rows: usize, num_columns: usize, weights: &[i64]) -> i64 {
    let weight = |(row, column): (usize, usize)| weights[row * num_columns + column];
    if num_rows <= num_columns {
        return assign(num_rows, num_columns, |row, column| weight((row, column))).into_iter().map(weight).sum();
    }
    let pairs = assign(num_columns, num_rows, |column, row| weight((row, column)));
    pairs.into_iter().map(|(column, row)| weight((row, column))).sum()
}

/// The column of every row in an assignment of the largest sum of `weights`, `[size, size]` and each ≥ 0.
pub(crate) fn best_columns(size: usize, weights: &[i64]) -> Vec<usize> {
    let mut columns = vec![0; size];
    for (row, column) in assign(size, size, |row, column| weights[row * size + column]) {
        columns[row] = column;
    }
    columns
}

/// No row.
const FREE: usize = usize::MAX;

/// The pairs (row, column) of [`largest_total`], with no more rows than columns: every row gets a column then.
fn assign(num_rows: usize, num_columns: usize, weight: impl Fn(usize, usize) -> i64) -> Vec<(usize, usize)> {
    // The potentials keep `row potential + column potential ≤ −weight`, with equality along the assignment.
    let mut row_potentials = vec![0i64; num_rows];
    let mut column_potentials = vec![0i64; num_columns];
    let mut row_of_column = vec![FREE; num_columns];
    // Of the search from one row: how far each column is, the column before it on the way (none: the row itself), and
    // whether its distance is final.
    let mut distances = vec![i64::MAX; num_columns];
    let mut previous = vec![None; num_columns];
    let mut is_final = vec![false; num_columns];
    for start in 0..num_rows {
        distances.fill(i64::MAX);
        is_final.fill(false);
        let (mut row, mut reached, mut last) = (start, 0i64, None);
        let end = loop {
            let mut nearest: Option<usize> = None;
            for column in (0..num_columns).filter(|&column| !is_final[column]) {
                let slack = -weight(row, column) - row_potentials[row] - column_potentials[column];
                if reached + slack < distances[column] {
                    distances[column] = reached + slack;
                    previous[column] = last;
                }
                if nearest.is_none_or(|best: usize| distances[column] < distances[best]) {
                    nearest = Some(column);
                }
            }
            // There are at least as many columns as rows, so a free one is always reached before none is left.
            let Some(column) = nearest else { break None };
            (reached, is_final[column], last) = (distances[column], true, Some(column));
            match row_of_column[column] {
                FREE => break Some(column),
                next => row = next,
            }
        };
        row_potentials[start] += reached;
        for column in (0..num_columns).filter(|&column| is_final[column]) {
            let ahead = reached - distances[column];
            column_potentials[column] -= ahead;
            if row_of_column[column] != FREE {
                row_potentials[row_of_column[column]] += ahead;
            }
        }
        // Each column on the way hands its row on to the one after it.
        let mut column = end;
        while let Some(at) = column {
            column = previous[at];
            row_of_column[at] = column.map_or(start, |before| row_of_column[before]);
        }
    }
    let assigned = row_of_column.into_iter().enumerate().filter(|&(_, row)| row != FREE);
    assigned.map(|(column, row)| (row, column)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every assignment tried.
    fn by_trying(num_columns: usize, weights: &[i64], used: &mut Vec<usize>) -> i64 {
        let Some(row) = weights.get(..num_columns).filter(|row| !row.is_empty()) else { return 0 };
        let rest = &weights[num_columns..];
        let mut best = by_trying(num_columns, rest, used);
        for column in 0..num_columns {
            if !used.contains(&column) {
                used.push(column);
                best = best.max(row[column] + by_trying(num_columns, rest, used));
                used.pop();
            }
        }
        best
    }

    #[test]
    fn greed_is_not_best() {
        assert_eq!(largest_total(2, 2, &[9, 8, 7, 1]), 15);
        assert_eq!(largest_total(1, 3, &[2, 5, 3]), 5);
        assert_eq!(largest_total(3, 1, &[2, 5, 3]), 5);
        assert_eq!(largest_total(0, 3, &[]), 0);
        assert_eq!(largest_total(3, 0, &[]), 0);
        assert_eq!(best_columns(2, &[9, 8, 7, 1]), [1, 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_else_has_a_larger_total(
            (rows, columns, weights) in (1usize..6, 1usize..6).prop_flat_map(|(rows, columns)| {
                (Just(rows), Just(columns), prop::collection::vec(0i64..12, rows * columns))
            })
        ) {
            prop_assert_eq!(largest_total(rows, columns, &weights), by_trying(columns, &weights, &mut Vec::new()));
        }
    }
}
