//! Tables with headers that a screen reader can follow.

use crate::escape::escape;

/// A table: a header per column, and the first cell of each row is the row's header.
///
/// A column whose cells all begin like a number is aligned right. Rows may be of any length; what is missing is empty.
#[derive(Clone, Debug, Default)]
pub struct Table {
    caption: Option<String>,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these column headers.
    pub fn new<T: Into<String>>(columns: impl IntoIterator<Item = T>) -> Self {
        Self { columns: columns.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Text above the table.
    #[must_use]
    pub fn caption(mut self, caption: impl Into<String>) -> Self {
        self.caption = Some(caption.into());
        self
    }

    /// Adds a row.
    #[must_use]
    pub fn row<T: Into<String>>(mut self, cells: impl IntoIterator<Item = T>) -> Self {
        self.rows.push(cells.into_iter().map(Into::into).collect());
        self
    }

    pub(crate) fn to_html(&self) -> String {
        let width = self.rows.iter().map(Vec::len).chain([self.columns.len()]).max().unwrap_or(0);
        let cell = |row: usize, column: usize| self.rows[row].get(column).map_or("", String::as_str);
        let classes: Vec<&str> = (0..width)
            .map(|column| {
                let mut filled = (0..self.rows.len()).map(|row| cell(row, column)).filter(|c| !c.is_empty()).peekable();
                let numeric = filled.peek().is_some() && filled.all(begins_like_a_number);
                if numeric { " class=\"number\"" } else { "" }
            })
            .collect();
        // Wide tables scroll inside their own box, which the keyboard must reach.
        let mut html = String::from("<div class=\"scroll\" tabindex=\"0\"><table>\n");
        if let Some(caption) = &self.caption {
            html += &format!("<caption>{}</caption>\n", escape(caption));
        }
        html += "<thead><tr>";
        for (column, class) in classes.iter().enumerate() {
            let name = self.columns.get(column).map_or("", String::as_str);
            html += &format!("<th scope=\"col\"{class}>{}</th>", escape(name));
        }
        html += "</tr></thead>\n<tbody>\n";
        for row in 0..self.rows.len() {
            html += "<tr>";
            for (column, class) in classes.iter().enumerate() {
                let text = escape(cell(row, column));
                if column == 0 {
                    html += &format!("<th scope=\"row\"{class}>{text}</th>");
                } else {
                    html += &format!("<td{class}>{text}</td>");
                }
            }
            html += "</tr>\n";
        }
        html + "</tbody>\n</table></div>\n"
    }
}

fn begins_like_a_number(cell: &str) -> bool {
    let digits = cell.trim_start_matches(['-', '+', '−', '±', '.', '≥', '≤', '<', '>', ' ']);
    cell == "–" || digits.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_a_scope() {
        let html = Table::new(["name", "loss"]).caption("Runs").row(["a<b", "1.5"]).to_html();
        assert!(html.contains("<caption>Runs</caption>"));
        assert!(html.contains("<th scope=\"col\">name</th><th scope=\"col\" class=\"number\">loss</th>"));
        assert!(html.contains("<tr><th scope=\"row\">a&lt;b</th><td class=\"number\">1.5</td></tr>"));
    }

    #[test]
    fn rows_of_any_length_are_kept_whole() {
        let html = Table::new(["a", "b"]).row(["x"]).row(["y", "2", "extra"]).to_html();
        assert_eq!(html.matches("<td").count(), 4);
        assert!(html.contains("extra"));
        assert_eq!(html.matches("scope=\"col\"").count(), 3);
    }

    #[test]
    fn numbers_are_recognised() {
        for number in ["1", "-0.5", "−3 %", "+2", ".5", "–", "4000 of 4000"] {
            assert!(begins_like_a_number(number), "{number}");
        }
        for text in ["a1", "", "-", "none"] {
            assert!(!begins_like_a_number(text), "{text}");
        }
    }
}
