//! The page itself, and what a browser may do with it. \[F8\]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// The policy of everything that is no page.
pub(super) const SEALED: &str = "default-src 'none'; frame-ancestors 'none'";

/// `page.html` with its policy.
#[derive(Debug)]
pub(super) struct Page {
    pub html: &'static str,
    /// The header `Content-Security-Policy`: its own style and script, by their hashes, and pictures and figures of this
    /// server. Whatever text comes into the page, it is never more than text.
    pub policy: String,
}

impl Page {
    pub fn new() -> Self {
        let html = include_str!("page.html");
        let hash = |tag: &str| {
            let inside =
                html.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
            STANDARD.encode(Sha256::digest(inside.map_or("", |(inside, _)| inside)))
        };
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src blob: data:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash("script"),
            hash("style")
        );
        Self { html, policy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_all_in_one_file() {
        let page = Page::new();
        for (tag, count) in [("<script", 1), ("<style", 1), ("<link", 1), ("<iframe", 0), ("src=", 0), ("style=", 0)] {
            assert_eq!(page.html.matches(tag).count(), count, "{tag}");
        }
        for address in ["http:", "https:", "//cdn", "url(", "@import", "innerHTML", "eval("] {
            assert!(!page.html.contains(address), "{address}");
        }
        let empty = STANDARD.encode(Sha256::digest(""));
        assert!(page.policy.matches("sha256-").count() == 2 && !page.policy.contains(&empty), "{}", page.policy);
    }
}
