//! The page and its sections.

use crate::chart::LineChart;
use crate::escape::escape;
use crate::heat_map::HeatMap;
use crate::palette::{DARK, LIGHT, Palette};
use crate::picture::Picture;
use crate::table::Table;

const STYLE: &str = include_str!("page.css");
/// For sliders alone; without it (printed, scripts switched off) their pictures stand below each other.
const SCRIPT: &str = include_str!("page.js");
/// The page may show what is in it and nothing else, whatever text has come into it.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      base-uri 'none'; form-action 'none'";
/// From so many sections on there is a list of them at the top.
const SECTIONS_WITH_CONTENTS: usize = 4;

/// A report.
#[derive(Clone, Debug, Default)]
pub struct Page {
    title: String,
    subtitle: String,
    sections: Vec<Section>,
}

impl Page {
    /// A page without sections.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// A line below the title.
    pub fn subtitle(&mut self, subtitle: impl Into<String>) -> &mut Self {
        self.subtitle = subtitle.into();
        self
    }

    /// Adds a section and returns it to be filled.
    pub fn section(&mut self, title: impl Into<String>) -> &mut Section {
        self.sections.push(Section { title: title.into(), ..Section::default() });
        // Just pushed, so the index is in range.
        let last = self.sections.len() - 1;
        &mut self.sections[last]
    }

    /// The file.
    pub fn to_html(&self) -> String {
        let title = escape(&self.title);
        let mut html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n"
        );
        html += &format!(":root {{ {} }}\n", variables(&LIGHT));
        // Paper stays light.
        html += &format!("@media screen and (prefers-color-scheme: dark) {{ :root {{ {} }} }}\n", variables(&DARK));
        for index in 0..LIGHT.series.len() {
            html += &format!(".s{index} {{ stroke: var(--s{index}) }}\n");
        }
        html += &format!("{STYLE}</style>\n</head>\n<body>\n<header><h1>{title}</h1>\n");
        if !self.subtitle.is_empty() {
            html += &format!("<p class=\"subtitle\">{}</p>\n", escape(&self.subtitle));
        }
        html += "</header>\n";
        if self.sections.len() >= SECTIONS_WITH_CONTENTS {
            html += "<nav aria-label=\"Contents\"><ul>\n";
            for (index, section) in self.sections.iter().enumerate() {
                html += &format!("<li><a href=\"#section-{}\">{}</a></li>\n", index + 1, escape(&section.title));
            }
            html += "</ul></nav>\n";
        }
        html += "<main>\n";
        for (index, section) in self.sections.iter().enumerate() {
            let id = format!("section-{}", index + 1);
            html += &format!("<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{}</h2>\n", escape(&section.title));
            html += &section.html;
            html += "</section>\n";
        }
        html += "</main>\n";
        if self.sections.iter().any(|section| section.has_slider) {
            html += &format!("<script>\n{SCRIPT}</script>\n");
        }
        html + "</body>\n</html>\n"
    }
}

fn variables(palette: &Palette) -> String {
    let Palette { ground, text, muted, rule, series } = palette;
    let mut css = format!("--ground: {ground}; --text: {text}; --muted: {muted}; --rule: {rule}");
    for (index, color) in series.iter().enumerate() {
        css += &format!("; --s{index}: {color}");
    }
    css
}

/// A part of a page under a heading of its own. What is added appears in this order.
#[derive(Clone, Debug, Default)]
pub struct Section {
    title: String,
    html: String,
    has_slider: bool,
}

impl Section {
    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: impl AsRef<str>) -> &mut Self {
        self.html += &format!("<p>{}</p>\n", escape(text.as_ref()));
        self
    }

    /// Adds keys with their values.
    pub fn key_values<K: AsRef<str>, V: AsRef<str>>(&mut self, entries: impl IntoIterator<Item = (K, V)>) -> &mut Self {
        self.html += "<dl>\n";
        for (key, value) in entries {
            self.html += &format!("<dt>{}</dt><dd>{}</dd>\n", escape(key.as_ref()), escape(value.as_ref()));
        }
        self.html += "</dl>\n";
        self
    }

    /// Adds what colours mean, RGB.
    pub fn legend<N: AsRef<str>>(&mut self, entries: impl IntoIterator<Item = (N, [u8; 3])>) -> &mut Self {
        self.html += "<ul class=\"legend\">\n";
        for (name, [red, green, blue]) in entries {
            let name = escape(name.as_ref());
            // The page's own rules forbid styles in elements; a drawing has its colour as an attribute.
            self.html += &format!(
                "<li><svg width=\"14\" height=\"14\" aria-hidden=\"true\"><rect width=\"14\" height=\"14\" \
                 fill=\"#{red:02x}{green:02x}{blue:02x}\"/></svg> {name}</li>\n"
            );
        }
        self.html += "</ul>\n";
        self
    }

    /// Adds a table.
    pub fn table(&mut self, table: &Table) -> &mut Self {
        self.html += &table.to_html();
        self
    }

    /// Adds text with its line ends and spaces as they are: commands, settings.
    pub fn preformatted(&mut self, text: impl AsRef<str>) -> &mut Self {
        // HTML drops a line end right after the tag, which would be the text's own without this one.
        self.html += &format!("<pre tabindex=\"0\">\n{}</pre>\n", escape(text.as_ref()));
        self
    }

    /// Adds a picture at its own size, or the page's width if it is wider.
    pub fn figure(&mut self, picture: &Picture) -> &mut Self {
        self.html += &picture.to_html();
        self
    }

    /// Adds pictures side by side, all of one width.
    pub fn pictures<'a>(&mut self, pictures: impl IntoIterator<Item = &'a Picture>) -> &mut Self {
        self.html += "<div class=\"grid-of-pictures\">\n";
        self.html.extend(pictures.into_iter().map(Picture::to_html));
        self.html += "</div>\n";
        self
    }

    /// Adds pictures of which one is seen at a time; a slider named `label` chooses. Nothing without pictures.
    pub fn slider(&mut self, label: impl AsRef<str>, pictures: &[Picture]) -> &mut Self {
        if let Some(last) = pictures.len().checked_sub(1) {
            let label = escape(label.as_ref());
            self.html += &format!(
                "<div class=\"slider\">\n<label hidden>{label}\
                 <input type=\"range\" min=\"0\" max=\"{last}\" step=\"1\" value=\"0\"></label>\n"
            );
            self.html.extend(pictures.iter().map(Picture::to_html));
            self.html += "</div>\n";
            self.has_slider = true;
        }
        self
    }

    /// Adds a table of shares.
    pub fn heat_map(&mut self, map: &HeatMap) -> &mut Self {
        self.html += &map.to_html();
        self
    }

    /// Adds a chart.
    pub fn chart(&mut self, chart: &LineChart) -> &mut Self {
        self.html += &chart.to_html();
        self
    }
}
