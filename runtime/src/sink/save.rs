//! The list after `--save`.

use std::fmt;
use std::str::FromStr;

use super::SinkError;

/// Which files a run writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaveKinds {
    /// `overlay/NNNNNN.jpg`.
    pub overlay: bool,
    /// `labels/level{L}/NNNNNN.png`.
    pub labels: bool,
    /// `classes/NNNNNN.png`.
    pub classes: bool,
    /// `frames.hsg`.
    pub frames: bool,
    /// `video.avi`.
    pub video: bool,
    /// `recording.mcap`.
    pub mcap: bool,
}

impl SaveKinds {
    /// Nothing: the default for live sources.
    pub const NONE: Self =
        Self { overlay: false, labels: false, classes: false, frames: false, video: false, mcap: false };

    /// Everything but `mcap`, which holds much of the same once more: the default for files.
    pub const ALL: Self = Self { overlay: true, labels: true, classes: true, frames: true, video: true, mcap: false };

    /// Whether anything is to be written; without, no folder is made.
    pub fn any(&self) -> bool {
        *self != Self::NONE
    }
}

impl FromStr for SaveKinds {
    type Err = SinkError;

    /// Parses a comma list of overlay, labels, classes, frames, video, mcap, none; `none` stands alone.
    fn from_str(text: &str) -> Result<Self, SinkError> {
        let refuse = |reason: String| SinkError::SaveList { text: text.to_owned(), reason };
        let mut kinds = Self::NONE;
        let words: Vec<&str> = text.split(',').map(str::trim).collect();
        for word in &words {
            match *word {
                "overlay" => kinds.overlay = true,
                "labels" => kinds.labels = true,
                "classes" => kinds.classes = true,
                "frames" => kinds.frames = true,
                "video" => kinds.video = true,
                "none" if words.len() == 1 => return Ok(Self::NONE),
                "none" => return Err(refuse("`none` cannot be combined with other kinds".to_owned())),
                "mcap" => kinds.mcap = true,
                "" => return Err(refuse("one of the kinds is empty".to_owned())),
                other => return Err(refuse(format!("`{other}` is not a kind of file"))),
            }
        }
        Ok(kinds)
    }
}

impl fmt::Display for SaveKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (self.overlay, "overlay"),
            (self.labels, "labels"),
            (self.classes, "classes"),
            (self.frames, "frames"),
            (self.video, "video"),
            (self.mcap, "mcap"),
        ];
        let mut first = true;
        for (_, name) in names.iter().filter(|(on, _)| *on) {
            if !first {
                f.write_str(",")?;
            }
            f.write_str(name)?;
            first = false;
        }
        if first {
            f.write_str("none")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_parse_and_print_back() {
        for text in ["overlay", "labels,classes", "overlay,labels,classes,frames,video,mcap", "none"] {
            assert_eq!(text.parse::<SaveKinds>().unwrap().to_string(), text);
        }
        assert_eq!(" video , frames".parse::<SaveKinds>().unwrap().to_string(), "frames,video");
        assert!(!"none".parse::<SaveKinds>().unwrap().any());
    }

    #[test]
    fn wrong_lists_name_the_word() {
        for (text, word) in [("none,labels", "`none`"), ("labels,", "empty"), ("", "empty"), ("jpeg", "`jpeg`")] {
            let message = text.parse::<SaveKinds>().unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }
}
