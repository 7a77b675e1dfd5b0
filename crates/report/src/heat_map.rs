//! Tables of shares as inline SVG: confusion matrices.

use crate::escape::escape;

/// Size of a cell in the drawing's own units, about one a pixel.
const CELL: [f64; 2] = [38.0, 24.0];
/// Space between cells.
const GAP: f64 = 1.0;
/// About the width of a letter of the names, for the room that they need.
const LETTER: f64 = 7.0;
/// Names longer than this are cut.
const MOST_LETTERS: usize = 18;
/// From this share on the ground is so dark that white text reads better.
const DARK_SHARE: f64 = 0.6;
/// A share below this is left without a number: half a percent.
const LEAST_WRITTEN: f64 = 0.005;

/// Shares in rows and columns: the larger the darker, with the number in percent.
///
/// ```
/// use report::HeatMap;
/// let map = HeatMap::new("Confusion", ["road", "car"], ["road", "car"]).axes("truth", "prediction");
/// let map = map.row([Some(0.9), Some(0.1)]).row([None, None]);
/// let mut page = report::Page::new("Evaluation");
/// page.section("Confusion").heat_map(&map);
/// assert!(page.to_html().contains("car as road: –"));
/// ```
#[derive(Clone, Debug)]
pub struct HeatMap {
    title: String,
    row_names: Vec<String>,
    column_names: Vec<String>,
    row_axis: String,
    column_axis: String,
    rows: Vec<Vec<Option<f64>>>,
}

impl HeatMap {
    /// A map without numbers yet, with the names of its rows and columns.
    pub fn new<T: Into<String>, U: Into<String>>(
        title: impl Into<String>,
        row_names: impl IntoIterator<Item = T>,
        column_names: impl IntoIterator<Item = U>,
    ) -> Self {
        Self {
            title: title.into(),
            row_names: row_names.into_iter().map(Into::into).collect(),
            column_names: column_names.into_iter().map(Into::into).collect(),
            row_axis: String::new(),
            column_axis: String::new(),
            rows: Vec::new(),
        }
    }

    /// What the rows and what the columns are.
    #[must_use]
    pub fn axes(mut self, rows: impl Into<String>, columns: impl Into<String>) -> Self {
        (self.row_axis, self.column_axis) = (rows.into(), columns.into());
        self
    }

    /// Adds the next row: shares in 0 to 1, `None` where there is none. What is missing or not finite counts as none.
    #[must_use]
    pub fn row(mut self, shares: impl IntoIterator<Item = Option<f64>>) -> Self {
        self.rows.push(shares.into_iter().collect());
        self
    }

    pub(crate) fn to_html(&self) -> String {
        let letters = |names: &[String]| names.iter().map(|name| short(name).chars().count()).max().unwrap_or(0) as f64;
        let left = letters(&self.row_names) * LETTER + 30.0;
        // Column names lean by 45°.
        let top = letters(&self.column_names) * LETTER * 0.75 + 36.0;
        let width = left + self.column_names.len() as f64 * CELL[0] + letters(&self.column_names) * LETTER * 0.75;
        let height = top + self.row_names.len() as f64 * CELL[1] + 4.0;
        let title = escape(&self.title);
        let mut html = format!(
            "<figure class=\"chart\"><figcaption>{title}</figcaption>\n<div class=\"scroll\" tabindex=\"0\">\
             <svg class=\"heat-map\" viewBox=\"0 0 {width:.0} {height:.0}\" style=\"width: {width:.0}px\" role=\"img\" \
             aria-label=\"{title}\">\n"
        );
        for (column, name) in self.column_names.iter().enumerate() {
            let (x, y) = (left + (column as f64 + 0.5) * CELL[0], top - 6.0);
            html += &format!(
                "<text transform=\"translate({x:.1} {y:.1}) rotate(-45)\"><title>{}</title>{}</text>\n",
                escape(name),
                escape(&short(name))
            );
        }
        html += &format!("<text x=\"{left:.1}\" y=\"12\">{} →</text>\n", escape(&self.column_axis));
        html += &format!(
            "<text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{} ↓</text>\n",
            left - 8.0,
            top - 6.0,
            escape(&self.row_axis)
        );
        for (row, name) in self.row_names.iter().enumerate() {
            let y = top + row as f64 * CELL[1];
            html += &format!(
                "<text class=\"y\" x=\"{:.1}\" y=\"{:.1}\"><title>{}</title>{}</text>\n",
                left - 8.0,
                y + CELL[1] / 2.0 + 4.0,
                escape(name),
                escape(&short(name))
            );
            for (column, column_name) in self.column_names.iter().enumerate() {
                let share = self.rows.get(row).and_then(|shares| shares.get(column).copied().flatten());
                let share = share.filter(|share| share.is_finite()).map(|share| share.clamp(0.0, 1.0));
                let x = left + column as f64 * CELL[0];
                let words = share.map_or("–".to_owned(), |share| format!("{:.1} %", 100.0 * share));
                html += &format!(
                    "<g><title>{} as {}: {words}</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" \
                     style=\"fill-opacity: {:.3}\"/>",
                    escape(name),
                    escape(column_name),
                    CELL[0] - GAP,
                    CELL[1] - GAP,
                    // A trace is left of nothing, so that the table's grid is seen.
                    0.04 + 0.96 * share.unwrap_or(0.0),
                );
                if let Some(share) = share.filter(|share| *share >= LEAST_WRITTEN) {
                    let class = if share >= DARK_SHARE { "x on-dark" } else { "x on-light" };
                    let (x, y) = (x + (CELL[0] - GAP) / 2.0, y + CELL[1] / 2.0 + 4.0);
                    html += &format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{:.0}</text>", 100.0 * share);
                }
                html += "</g>\n";
            }
        }
        html + "</svg></div></figure>\n"
    }
}

/// A name that fits.
fn short(name: &str) -> String {
    if name.chars().count() <= MOST_LETTERS {
        return name.to_owned();
    }
    let start: String = name.chars().take(MOST_LETTERS - 1).collect();
    format!("{}…", start.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_says_what_it_is() {
        let map = HeatMap::new("Confusion", ["a<b", "c"], ["a<b", "c"]).row([Some(0.75), Some(0.25)]).row([None]);
        let html = map.to_html();
        assert!(html.contains("a&lt;b as c: 25.0 %") && html.contains("a&lt;b as a&lt;b: 75.0 %"));
        assert!(html.contains("c as c: –"), "a row that is too short");
        assert_eq!(html.matches("<rect").count(), 4);
        assert!(html.contains("on-dark\"") && html.contains(">75</text>"));
    }

    #[test]
    fn numbers_out_of_range_do_not_break_the_drawing() {
        let html = HeatMap::new("x", ["a"], ["b", "c", "d"]).row([Some(f64::NAN), Some(7.0), Some(-1.0)]).to_html();
        assert!(html.contains("a as b: –") && html.contains("a as c: 100.0 %") && html.contains("a as d: 0.0 %"));
    }

    #[test]
    fn long_names_are_cut_and_kept_in_the_title() {
        let name = "a very long name of a class";
        let html = HeatMap::new("x", [name], ["b"]).row([Some(0.0)]).to_html();
        assert!(html.contains(&format!("<title>{name}</title>")) && html.contains(">a very long name…<"));
    }
}
