//! Pictures, embedded in the page.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::escape::escape;

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG_SIGNATURE: &[u8] = &[0xff, 0xd8, 0xff];

/// What cannot stand in a report.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The bytes are no picture that every browser shows.
    #[error("the picture `{alt}`: expected the bytes of a PNG or JPEG file, got {got}; convert it first")]
    NotAPicture {
        /// What the picture was to show.
        alt: String,
        /// The first bytes, in words.
        got: String,
    },
}

/// A PNG or JPEG with the words that stand for it.
#[derive(Clone, Debug)]
pub struct Picture {
    media_type: &'static str,
    bytes: Vec<u8>,
    alt: String,
    caption: String,
    sharp: bool,
}

impl Picture {
    /// A picture from the bytes of a PNG or JPEG file; `alt` says what it shows to those who cannot see it.
    ///
    /// # Errors
    /// [`ReportError::NotAPicture`] when the bytes begin like neither. What follows is not decoded.
    pub fn new(bytes: impl Into<Vec<u8>>, alt: impl Into<String>) -> Result<Self, ReportError> {
        let (bytes, alt) = (bytes.into(), alt.into());
        let media_type = if bytes.starts_with(PNG_SIGNATURE) {
            "image/png"
        } else if bytes.starts_with(JPEG_SIGNATURE) {
            "image/jpeg"
        } else {
            let got = if bytes.is_empty() {
                "no bytes".to_owned()
            } else {
                format!("bytes that begin with {:02x?}", &bytes[..bytes.len().min(8)])
            };
            return Err(ReportError::NotAPicture { alt, got });
        };
        Ok(Self { media_type, bytes, alt, caption: String::new(), sharp: false })
    }

    /// Text below the picture.
    #[must_use]
    pub fn caption(mut self, caption: impl Into<String>) -> Self {
        self.caption = caption.into();
        self
    }

    /// Keeps the pixels' borders when the picture is shown larger than it is: for label maps and small feature maps.
    #[must_use]
    pub fn sharp(mut self) -> Self {
        self.sharp = true;
        self
    }

    pub(crate) fn to_html(&self) -> String {
        let class = if self.sharp { " class=\"sharp\"" } else { "" };
        let data = STANDARD.encode(&self.bytes);
        let alt = escape(&self.alt);
        let mut html = format!("<figure><img{class} src=\"data:{};base64,{data}\" alt=\"{alt}\">", self.media_type);
        if !self.caption.is_empty() {
            html += &format!("<figcaption>{}</figcaption>", escape(&self.caption));
        }
        html + "</figure>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_embedded_whole() {
        let bytes = [PNG_SIGNATURE, &[0, 1, 2, 250]].concat();
        let html = Picture::new(bytes.clone(), "edges").unwrap().sharp().to_html();
        let data = html.split("base64,").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(STANDARD.decode(data).unwrap(), bytes);
        assert!(html.contains("image/png") && html.contains("alt=\"edges\"") && html.contains("class=\"sharp\""));
        let jpeg = Picture::new(JPEG_SIGNATURE, "a").unwrap().caption("b").to_html();
        assert!(jpeg.contains("image/jpeg") && jpeg.contains("<figcaption>b</figcaption>"));
    }

    #[test]
    fn other_files_are_refused() {
        let error = Picture::new("<svg onload=…>", "a drawing").unwrap_err().to_string();
        assert!(error.contains("`a drawing`") && error.contains("3c"), "{error}");
        assert!(Picture::new([], "nothing").unwrap_err().to_string().contains("no bytes"));
    }
}
