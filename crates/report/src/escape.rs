//! Text that may stand between tags and inside quoted attributes.

/// `text` with everything replaced that could end a text or a quoted attribute.
///
/// Control characters, which HTML does not allow, become U+FFFD; tabs and line ends stay.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // A browser would turn a bare carriage return into a line feed.
            '\r' => out.push_str("&#13;"),
            '\t' | '\n' => out.push(c),
            _ if c.is_control() => out.push('\u{fffd}'),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn markup_becomes_text() {
        assert_eq!(escape("<b a=\"1\" c='2'>&amp;</b>"), "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;amp;&lt;/b&gt;");
    }

    #[test]
    fn what_html_forbids_is_replaced() {
        assert_eq!(escape("a\0b\u{1b}[1mc\u{85}\td\ne\r"), "a\u{fffd}b\u{fffd}[1mc\u{fffd}\td\ne&#13;");
    }
}
