//! Whole pages, read by a small parser: what is text for us must be text for the browser.

use proptest::prelude::*;
use report::{LineChart, Page, Picture, Series, Table};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nrest";

/// A page with `text` in every place that takes text.
fn page_with(text: &str) -> Page {
    let picture = || Picture::new(PNG, text).unwrap().caption(text);
    let chart = LineChart::new(text).x_label(text).y_label(text).series(text, [[0.0, 1.0], [1.0, 2.0]]);
    let mut page = Page::new(text);
    page.subtitle(format!("_{text}"));
    page.section(text)
        .paragraph(text)
        .key_values([(text, text)])
        .table(&Table::new(["_", text]).caption(text).row(["_", text]).row(["_", "_"]))
        .preformatted(text);
    page.section("pictures")
        .figure(&picture())
        .pictures([&picture(), &picture()])
        .slider(text, &[picture(), picture()]);
    page.section("charts").chart(&chart.with(Series::new(text, []).faint()));
    page.section("empty");
    page
}

/// What a browser makes of a page.
#[derive(Debug, Default)]
struct Document {
    /// Tags with the names of their attributes, in order.
    tags: Vec<(String, Vec<String>)>,
    /// Texts between tags and values of attributes, decoded.
    texts: Vec<String>,
}

fn decode(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let end = at + rest[at..].find(';').expect("an entity without its end");
        out.push_str(match &rest[at + 1..end] {
            "amp" => "&",
            "lt" => "<",
            "gt" => ">",
            "quot" => "\"",
            "#39" => "'",
            "#13" => "\r",
            other => panic!("entity {other}"),
        });
        rest = &rest[end + 1..];
    }
    out + rest
}

/// Parses a page, and panics at what is not well formed: tags must close in order, attributes be quoted.
fn parse(html: &str) -> Document {
    const VOID: [&str; 3] = ["meta", "img", "input"];
    let mut document = Document::default();
    let mut open: Vec<String> = Vec::new();
    let mut rest = html.strip_prefix("<!DOCTYPE html>\n").expect("a document type");
    while !rest.is_empty() {
        let raw = open.last().filter(|name| ["style", "script"].contains(&name.as_str()));
        let end = match raw {
            Some(name) => rest.find(&format!("</{name}>")).expect("the end of raw text"),
            None => rest.find('<').unwrap_or(rest.len()),
        };
        if raw.is_none() {
            assert!(!rest[..end].contains('>'), "a bare > in {:?}", &rest[..end]);
            document.texts.push(decode(&rest[..end]));
        }
        rest = &rest[end..];
        let Some(tag) = rest.strip_prefix('<') else { break };
        if let Some(closing) = tag.strip_prefix('/') {
            let (name, after) = closing.split_once('>').unwrap();
            assert_eq!(open.pop().as_deref(), Some(name));
            rest = after;
            continue;
        }
        let at = tag.find([' ', '>', '/']).unwrap();
        let (name, mut tag) = tag.split_at(at);
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric()), "tag {name}");
        let mut attributes = Vec::new();
        loop {
            tag = tag.trim_start_matches(' ');
            if let Some(after) = tag.strip_prefix("/>") {
                rest = after;
                break;
            }
            if let Some(after) = tag.strip_prefix('>') {
                rest = after;
                if !VOID.contains(&name) {
                    open.push(name.to_owned());
                }
                break;
            }
            let end = tag.find([' ', '=', '>']).unwrap();
            attributes.push(tag[..end].to_owned());
            tag = &tag[end..];
            if let Some(value) = tag.strip_prefix("=\"") {
                let (value, after) = value.split_once('"').unwrap();
                document.texts.push(decode(value));
                tag = after;
            }
        }
        document.tags.push((name.to_owned(), attributes));
    }
    assert!(open.is_empty(), "left open: {open:?}");
    document
}

fn check_is_text(text: &str) {
    let (plain, document) = (parse(&page_with("_").to_html()), parse(&page_with(text).to_html()));
    assert_eq!(document.tags, plain.tags, "{text:?} made or broke a tag");
    let shown: String =
        text.chars().map(|c| if c.is_control() && !"\t\n\r".contains(c) { '\u{fffd}' } else { c }).collect();
    let count = |document: &Document, text: &str| document.texts.iter().filter(|t| t.contains(text)).count();
    assert_eq!(count(&document, &shown), count(&document, &shown).max(24), "{text:?} is not shown everywhere");
}

proptest! {
    #[test]
    fn no_text_breaks_out(text in "[^0-9]{1,30}") {
        // `_` stands for a text, so that there is one, and so that no cell looks like a number.
        check_is_text(&format!("_{text}"));
    }

    #[test]
    fn no_markup_breaks_out(text in "(</?(script|style|pre|title|svg|b)>|<!--|-->|[\"'&;<>=/ ]|]]>|&lt;|&#0;|x){1,12}") {
        check_is_text(&format!("_{text}"));
    }
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    assert_eq!(page_with("text").to_html(), page_with("text").to_html());
}

#[test]
fn nothing_is_fetched() {
    let html = page_with("text").to_html();
    for address in ["http:", "https:", "//", "@import", "url(", "<link"] {
        assert!(!html.contains(address), "{address}");
    }
    for source in html.split("src=\"").skip(1) {
        assert!(source.starts_with("data:image/"));
    }
}

#[test]
fn a_script_comes_with_sliders_only() {
    assert!(page_with("text").to_html().contains("<script>"));
    let mut page = Page::new("plain");
    page.section("one").paragraph("text").slider("none", &[]);
    assert!(!page.to_html().contains("<script>") && !page.to_html().contains("range"));
}

#[test]
fn pictures_and_charts_have_words() {
    let document = parse(&page_with("text").to_html());
    for (name, attributes) in &document.tags {
        let has = |attribute: &str| attributes.iter().any(|a| a == attribute);
        match name.as_str() {
            "img" => assert!(has("alt")),
            "svg" => assert!(has("aria-label") || has("aria-hidden")),
            "th" => assert!(has("scope")),
            _ => {}
        }
    }
}

#[test]
fn preformatted_text_keeps_its_first_line_end() {
    let mut page = Page::new("a");
    page.section("b").preformatted("\nx\n  y\n");
    assert!(page.to_html().contains("<pre tabindex=\"0\">\n\nx\n  y\n</pre>"));
}
