//! Line charts as inline SVG.

use crate::escape::escape;
use crate::palette::NUM_SERIES;
use crate::scale::{Axis, Spacing};

/// The drawing's size in its own units, about one a pixel.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
/// The plot's borders within it: room for the numbers left and below.
const LEFT: f64 = 62.0;
const RIGHT: f64 = WIDTH - 18.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = HEIGHT - 42.0;
/// Ticks along each axis, at most about.
const MOST_X_TICKS: usize = 8;
const MOST_Y_TICKS: usize = 6;
/// After the colours come these dashes.
const NUM_DASHES: usize = 3;

/// A named curve: points `[x, y]` in the order in which they are joined.
#[derive(Clone, Debug)]
pub struct Series {
    name: String,
    points: Vec<[f64; 2]>,
    faint: bool,
}

impl Series {
    /// A curve through `points`. Where a number is not finite (or not above 0 on a logarithmic axis), it has a gap.
    pub fn new(name: impl Into<String>, points: impl IntoIterator<Item = [f64; 2]>) -> Self {
        Self { name: name.into(), points: points.into_iter().collect(), faint: false }
    }

    /// Draws it pale, behind a curve that smooths it.
    #[must_use]
    pub fn faint(mut self) -> Self {
        self.faint = true;
        self
    }
}

/// Curves over a common axis.
///
/// The drawing's size does not depend on the number of points: of those that share a column of pixels, the first, the
/// lowest, the highest and the last are drawn.
#[derive(Clone, Debug)]
pub struct LineChart {
    title: String,
    x_label: String,
    y_label: String,
    y_spacing: Spacing,
    y_range: Vec<f64>,
    series: Vec<Series>,
}

impl LineChart {
    /// A chart without curves.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            x_label: String::new(),
            y_label: String::new(),
            y_spacing: Spacing::Linear,
            y_range: Vec::new(),
            series: Vec::new(),
        }
    }

    /// What runs along the bottom.
    #[must_use]
    pub fn x_label(mut self, label: impl Into<String>) -> Self {
        self.x_label = label.into();
        self
    }

    /// What runs upwards, with its unit.
    #[must_use]
    pub fn y_label(mut self, label: impl Into<String>) -> Self {
        self.y_label = label.into();
        self
    }

    /// Makes the upward axis logarithmic.
    #[must_use]
    pub fn log_y(mut self) -> Self {
        self.y_spacing = Spacing::Log;
        self
    }

    /// Makes the upward axis reach `value` even if no curve does; usually 0.
    #[must_use]
    pub fn reach_y(mut self, value: f64) -> Self {
        self.y_range.push(value);
        self
    }

    /// Adds a curve.
    #[must_use]
    pub fn series(self, name: impl Into<String>, points: impl IntoIterator<Item = [f64; 2]>) -> Self {
        self.with(Series::new(name, points))
    }

    /// Adds a curve that is made already.
    #[must_use]
    pub fn with(mut self, series: Series) -> Self {
        self.series.push(series);
        self
    }

    /// Whether there is no point to draw.
    pub fn is_empty(&self) -> bool {
        let (x, y) = self.axes();
        !self
            .series
            .iter()
            .any(|series| series.points.iter().any(|&[a, b]| x.place(a).is_some() && y.place(b).is_some()))
    }

    fn axes(&self) -> (Axis, Axis) {
        let y_spacing = self.y_spacing;
        // A point without a height takes no room along the bottom either, but one that is a gap only upwards does.
        let points = || self.series.iter().flat_map(|series| series.points.iter().copied());
        let x = Axis::over(points().map(|[x, _]| x), Spacing::Linear);
        let heights = points().filter(|[x, _]| x.is_finite()).map(|[_, y]| y).chain(self.y_range.iter().copied());
        (x, Axis::over(heights, y_spacing).widened(MOST_Y_TICKS))
    }

    pub(crate) fn to_html(&self) -> String {
        let mut html = format!("<figure class=\"chart\"><figcaption>{}</figcaption>\n", escape(&self.title));
        html += &self.to_svg();
        html += "<ul class=\"legend\">";
        for (index, series) in self.series.iter().enumerate() {
            let class = class_of(index, series);
            html += &format!(
                "<li><svg viewBox=\"0 0 28 10\" aria-hidden=\"true\"><path class=\"{class}\" d=\"M2 5H26\"/></svg> {}</li>",
                escape(&series.name)
            );
        }
        html + "</ul></figure>\n"
    }

    /// The drawing; its colours come from the page's style sheet.
    fn to_svg(&self) -> String {
        let (x_axis, y_axis) = self.axes();
        let names: Vec<&str> = self.series.iter().map(|series| series.name.as_str()).collect();
        let label = format!("Line chart: {} ({})", self.title, names.join(", "));
        let mut svg =
            format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n", escape(&label));
        for (value, text) in y_axis.ticks(MOST_Y_TICKS) {
            let Some(y) = y_axis.place(value).map(y_of) else { continue };
            svg += &format!("<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>");
            svg += &format!("<text class=\"y\" x=\"{}\" y=\"{:.1}\">{}</text>\n", LEFT - 6.0, y + 4.0, escape(&text));
        }
        for (value, text) in x_axis.ticks(MOST_X_TICKS) {
            let Some(x) = x_axis.place(value).map(x_of) else { continue };
            svg += &format!("<path class=\"grid\" d=\"M{x:.1} {BOTTOM}v4\"/>");
            svg += &format!("<text class=\"x\" x=\"{x:.1}\" y=\"{}\">{}</text>\n", BOTTOM + 17.0, escape(&text));
        }
        svg += &format!("<path class=\"axis\" d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\"/>\n");
        if !self.x_label.is_empty() {
            let (x, y) = ((LEFT + RIGHT) / 2.0, HEIGHT - 6.0);
            svg += &format!("<text class=\"x\" x=\"{x}\" y=\"{y}\">{}</text>\n", escape(&self.x_label));
        }
        if !self.y_label.is_empty() {
            let y = (TOP + BOTTOM) / 2.0;
            let label = escape(&self.y_label);
            svg += &format!("<text class=\"x\" transform=\"translate(13 {y}) rotate(-90)\">{label}</text>\n");
        }
        if self.is_empty() {
            let (x, y) = ((LEFT + RIGHT) / 2.0, (TOP + BOTTOM) / 2.0);
            svg += &format!("<text class=\"x\" x=\"{x}\" y=\"{y}\">nothing to show yet</text>\n");
        }
        // Pale curves first: what smooths them lies above.
        let (faint, clear): (Vec<_>, Vec<_>) = self.series.iter().enumerate().partition(|(_, series)| series.faint);
        for (index, series) in faint.into_iter().chain(clear) {
            let places = series.points.iter().map(|&[x, y]| Some([x_of(x_axis.place(x)?), y_of(y_axis.place(y)?)]));
            let path = path_data(places);
            let title = escape(&series.name);
            svg += &format!("<path class=\"{}\" d=\"{path}\"><title>{title}</title></path>\n", class_of(index, series));
        }
        svg + "</svg>\n"
    }
}

fn class_of(index: usize, series: &Series) -> String {
    let dash = (index / NUM_SERIES) % (NUM_DASHES + 1);
    let faint = if series.faint { " faint" } else { "" };
    let dash = if dash == 0 { String::new() } else { format!(" dash{dash}") };
    format!("series s{}{dash}{faint}", index % NUM_SERIES)
}

fn x_of(share: f64) -> f64 {
    LEFT + share * (RIGHT - LEFT)
}

fn y_of(share: f64) -> f64 {
    BOTTOM - share * (BOTTOM - TOP)
}

/// The `d` of a path through places in the drawing; `None` is a gap. A lone point becomes a dot.
fn path_data(places: impl Iterator<Item = Option<[f64; 2]>>) -> String {
    let mut path = String::new();
    let mut column = Column::default();
    let mut gap = true;
    let mut drawn = 0;
    for place in places {
        let Some(place) = place else {
            gap = true;
            continue;
        };
        // A gap within a column cannot be seen, and thousands of them would make the path as long as its points.
        if column.holds(place) {
            column.add(place);
            gap = false;
            continue;
        }
        drawn = column.draw(&mut path, drawn);
        if gap {
            dot_if_alone(&mut path, drawn);
            drawn = 0;
            gap = false;
        }
        column = Column::start(place);
    }
    drawn = column.draw(&mut path, drawn);
    dot_if_alone(&mut path, drawn);
    path
}

/// A line of no length, which its round ends make a dot.
fn dot_if_alone(path: &mut String, drawn: usize) {
    if drawn == 1 {
        path.push_str("h0");
    }
}

/// Consecutive points in the same column of pixels.
#[derive(Default)]
struct Column {
    /// First, lowest, highest, last: number within the column and place.
    points: Option<[(usize, [f64; 2]); 4]>,
    len: usize,
}

impl Column {
    fn start(place: [f64; 2]) -> Self {
        Self { points: Some([(0, place); 4]), len: 1 }
    }

    fn holds(&self, place: [f64; 2]) -> bool {
        self.points.is_some_and(|[(_, [x, _]), ..]| x.floor() == place[0].floor())
    }

    fn add(&mut self, place: [f64; 2]) {
        let new = (self.len, place);
        self.len += 1;
        if let Some([_, low, high, last]) = &mut self.points {
            if place[1] < low.1[1] {
                *low = new;
            }
            if place[1] > high.1[1] {
                *high = new;
            }
            *last = new;
        }
    }

    /// Appends its points to a path that has `drawn` points since its last gap; returns how many it then has.
    fn draw(&self, path: &mut String, mut drawn: usize) -> usize {
        let Some(mut points) = self.points else { return drawn };
        points.sort_by_key(|&(index, _)| index);
        let mut before = None;
        for (index, [x, y]) in points {
            if before != Some(index) {
                let command = if drawn == 0 { 'M' } else { 'L' };
                path.push_str(&format!("{command}{x:.1} {y:.1}"));
                drawn += 1;
            }
            before = Some(index);
        }
        drawn
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All coordinates of the curves of a chart.
    fn coordinates(svg: &str) -> Vec<[f64; 2]> {
        let curves = svg.split("<path class=\"series").skip(1);
        let paths = curves.map(|curve| curve.split("d=\"").nth(1).unwrap().split('"').next().unwrap());
        let points = paths.flat_map(|path| path.split(['M', 'L']).skip(1));
        let number = |text: &str| text.parse::<f64>().unwrap();
        points
            .map(|point| {
                let (x, y) = point.trim_end_matches("h0").split_once(' ').unwrap();
                [number(x), number(y)]
            })
            .collect()
    }

    fn path(points: &[Option<[f64; 2]>]) -> String {
        path_data(points.iter().copied())
    }

    #[test]
    fn gaps_lift_the_pen_and_lone_points_are_dots() {
        assert_eq!(path(&[]), "");
        assert_eq!(path(&[None, None]), "");
        assert_eq!(path(&[Some([1.0, 2.0])]), "M1.0 2.0h0");
        let points = [Some([1.0, 2.0]), Some([3.0, 4.0]), None, Some([5.0, 6.0]), None, Some([7.0, 8.0])];
        assert_eq!(path(&points), "M1.0 2.0L3.0 4.0M5.0 6.0h0M7.0 8.0h0");
    }

    #[test]
    fn a_column_keeps_its_extremes_in_order() {
        let points: Vec<_> = [5.0, 9.0, 4.0, 1.0, 7.0, 6.0].iter().map(|&y| Some([3.5, y])).collect();
        assert_eq!(path(&points), "M3.5 5.0L3.5 9.0L3.5 1.0L3.5 6.0");
    }

    #[test]
    fn a_hundred_thousand_points_stay_small_and_keep_the_spike() {
        let wave = |i: usize| if i == 54_321 { 50.0 } else { (i as f64 * 0.37).sin() };
        let chart = LineChart::new("wave").series("a", (0..100_000).map(|i| [i as f64, wave(i)]));
        let svg = chart.to_svg();
        assert!(svg.len() < 60_000, "{} bytes", svg.len());
        let highest = coordinates(&svg).iter().map(|[_, y]| *y).fold(f64::INFINITY, f64::min);
        assert!((TOP..TOP + 1.0).contains(&highest), "{highest}");
        // Every other point missing does not make it longer.
        let holes = (0..100_000).map(|i| [i as f64, if i % 2 == 0 { wave(i) } else { f64::NAN }]);
        assert!(LineChart::new("holes").series("a", holes).to_svg().len() < 60_000);
    }

    #[test]
    fn empty_one_point_and_constant_series_are_drawn() {
        let empty = LineChart::new("empty").series("a", []);
        assert!(empty.is_empty() && empty.to_svg().contains("nothing to show yet"));
        let one = LineChart::new("one").series("a", [[7.0, 3.0]]);
        assert!(!one.is_empty());
        assert_eq!(coordinates(&one.to_svg()).len(), 1);
        let constant = LineChart::new("constant").series("a", [[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]);
        let heights: Vec<f64> = coordinates(&constant.to_svg()).iter().map(|[_, y]| *y).collect();
        assert_eq!(heights, [(TOP + BOTTOM) / 2.0; 3]);
    }

    #[test]
    fn a_logarithmic_axis_leaves_out_what_is_not_above_zero() {
        let points = [[1.0, 100.0], [2.0, 0.0], [3.0, -1.0], [4.0, 1.0], [5.0, 10.0]];
        let svg = LineChart::new("log").log_y().series("a", points).to_svg();
        let heights: Vec<f64> = coordinates(&svg).iter().map(|[_, y]| *y).collect();
        assert_eq!(heights.len(), 3);
        assert!((heights[2] - (heights[0] + heights[1]) / 2.0).abs() < 0.11, "{heights:?}");
    }

    #[test]
    fn curves_beyond_the_colours_are_dashed() {
        let chart =
            (0..9).fold(LineChart::new("many"), |chart, i| chart.series(format!("c{i}"), [[0.0, f64::from(i)]]));
        let html = chart.to_html();
        assert!(html.contains("class=\"series s6\"") && html.contains("class=\"series s1 dash1\""));
        assert!(html.contains("<title>c8</title>"));
    }

    proptest! {
        #[test]
        fn curves_stay_inside_the_plot(
            points in proptest::collection::vec((any::<f64>(), any::<f64>()), 0..50),
            small in proptest::collection::vec((0.0_f64..10.0, -5.0_f64..5.0), 0..50),
            log in any::<bool>(),
        ) {
            for points in [points, small] {
                let points = points.into_iter().map(|(x, y)| [x, y]);
                let mut chart = LineChart::new("any").series("a", points);
                if log {
                    chart = chart.log_y();
                }
                for [x, y] in coordinates(&chart.to_svg()) {
                    prop_assert!((LEFT..=RIGHT).contains(&x) && (TOP..=BOTTOM).contains(&y), "{x} {y}");
                }
            }
        }
    }
}
