//! Self-contained HTML reports: one file that opens anywhere, without a network and without another file beside it.
//!
//! A [`Page`] has sections; a [`Section`] takes paragraphs, key-value lists, [`Table`]s, preformatted text, [`Picture`]s
//! (alone, as a grid, or behind a slider) and [`LineChart`]s. All text is escaped, and the same content gives the same
//! bytes: nothing is dated unless the caller writes a date. Nothing here reads or writes files.
//!
//! ```
//! use report::{LineChart, Page, Table};
//!
//! let mut page = Page::new("Training run camvid-r18");
//! let losses = LineChart::new("Loss").x_label("step").series("total", [[1.0, 5.4], [2.0, 4.9], [3.0, 4.1]]);
//! page.section("Figures")
//!     .paragraph("Step 3 of 4000.")
//!     .table(&Table::new(["figure", "value"]).row(["last loss", "4.1"]))
//!     .chart(&losses);
//! let html = page.to_html();
//! assert!(html.starts_with("<!DOCTYPE html>"));
//! ```

mod chart;
mod escape;
mod heat_map;
mod page;
pub mod palette;
mod picture;
mod scale;
mod table;

pub use chart::{LineChart, Series};
pub use heat_map::HeatMap;
pub use page::{Page, Section};
pub use picture::{Picture, ReportError};
pub use table::Table;
