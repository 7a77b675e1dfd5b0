//! What the user typed after `hsg run`, taken apart.

use std::path::{Path, PathBuf};

use segcore::image::ImageSize;

use super::SourceError;
use super::camera::Address;
use super::pixels::PixelLayout;

/// A parsed SOURCE. Looking at the file system tells folders from files; nothing is opened.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSpec {
    /// What to open.
    pub kind: SourceKind,
    /// `?rate=`, frames per second.
    pub rate_hz: Option<f64>,
    /// `?size=`, of cameras.
    pub size: Option<ImageSize>,
    /// `?format=`, of cameras.
    pub layout: Option<PixelLayout>,
}

/// The forms of SOURCE that this version reads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceKind {
    /// A folder of images.
    Folder(PathBuf),
    /// One image.
    Image(PathBuf),
    /// Several images, in the order in which they were given.
    Images(Vec<PathBuf>),
    /// A video file.
    Video(PathBuf),
    /// An MCAP recording, and the topic (`?topic=`) if one was named.
    Recording(PathBuf, Option<String>),
    /// A camera.
    Camera(Address),
    /// A GStreamer pipeline or an RTSP stream.
    #[cfg(feature = "gstreamer")]
    Gst(super::GstDescription),
    /// Frames of this format and size on standard input.
    Raw(PixelLayout, ImageSize),
}

/// Prefixes that builds with the feature `gstreamer` read.
#[cfg(not(feature = "gstreamer"))]
const WITH_GSTREAMER: [&str; 3] = ["rtsp://", "rtsps://", "gst:"];

impl SourceSpec {
    /// Several images without options become one source (`hsg run *.png`); everything else stays as it is.
    pub fn join_images(specs: Vec<Self>) -> Vec<Self> {
        let image = |spec: &Self| match &spec.kind {
            SourceKind::Image(path) if spec.rate_hz.is_none() => Some(path.clone()),
            _ => None,
        };
        match specs.iter().map(image).collect::<Option<Vec<_>>>() {
            Some(files) if files.len() > 1 => {
                vec![Self { kind: SourceKind::Images(files), rate_hz: None, size: None, layout: None }]
            }
            _ => specs,
        }
    }

    /// Takes SOURCE apart: a path or a prefixed form, then perhaps `?rate=30`.
    ///
    /// # Errors
    /// When it is no SOURCE, a form that this version does not read, or names a path where nothing is.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let syntax = |reason: String| SourceError::Syntax { text: text.to_owned(), reason };
        #[cfg(not(feature = "gstreamer"))]
        if WITH_GSTREAMER.iter().any(|prefix| text.starts_with(prefix)) {
            return Err(SourceError::NotInThisBuild { text: text.to_owned() });
        }
        if text.is_empty() {
            return Err(syntax("it is empty".to_owned()));
        }
        // Options are the pipeline's or the address's own: `?` belongs to them.
        #[cfg(feature = "gstreamer")]
        if let Some(description) = gst_description(text) {
            return Ok(Self { kind: SourceKind::Gst(description), rate_hz: None, size: None, layout: None });
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(syntax(format!("`{scheme}://` is not a kind of source")));
        }
        // A file may have a `?` in its name; what exists is meant.
        let (is_camera, is_raw) = (text.starts_with("v4l2:"), text.starts_with("raw:"));
        let (is_replay, text) = text.strip_prefix("replay:").map_or((false, text), |rest| (true, rest));
        let (path, options) = match text.rsplit_once('?') {
            Some((path, options)) if is_camera || is_raw || !Path::new(text).exists() => (path, Some(options)),
            _ => (text, None),
        };
        let (mut rate_hz, mut size, mut layout, mut topic) = (None, None, None, None);
        for option in options.into_iter().flat_map(|options| options.split('&')) {
            match option.split_once('=') {
                Some(("rate", value)) => {
                    rate_hz = Some(
                        value
                            .parse::<f64>()
                            .ok()
                            .filter(|rate| rate.is_finite() && *rate > 0.0 && *rate <= 1000.0)
                            .ok_or_else(|| {
                                syntax(format!("rate: expected frames per second above 0 to 1000, got `{value}`"))
                            })?,
                    );
                }
                Some(("size", value)) if is_camera => {
                    size = Some(parse_size(value).ok_or_else(|| {
                        syntax(format!("size: expected WIDTHxHEIGHT, for example 1280x720, got `{value}`"))
                    })?);
                }
                Some(("format", value)) if is_camera => {
                    layout = Some(PixelLayout::from_name(value).ok_or_else(|| syntax(unknown_format(value)))?);
                }
                Some(("topic", value)) if !value.is_empty() && (is_replay || is_recording_name(Path::new(path))) => {
                    topic = Some(value.to_owned());
                }
                Some(("topic", "")) => {
                    return Err(syntax("topic: expected a name such as /camera/image_raw".to_owned()));
                }
                Some(("topic", _)) => return Err(syntax("`topic=` is for recordings (.mcap)".to_owned())),
                Some((name @ ("size" | "format"), _)) => {
                    return Err(syntax(format!("`{name}=` is for cameras; files have their own")));
                }
                _ => return Err(syntax(format!("expected `rate=NUMBER` after `?`, got `{option}`"))),
            }
        }
        let kind = if let Some(address) = path.strip_prefix("v4l2:") {
            let address = Address::parse(address);
            SourceKind::Camera(
                address.ok_or_else(|| syntax("expected v4l2:/dev/videoN or v4l2:by-id/NAME".to_owned()))?,
            )
        } else if let Some(form) = path.strip_prefix("raw:") {
            parse_raw(form).map_err(syntax)?
        } else {
            match kind_of(Path::new(path))? {
                SourceKind::Recording(path, _) => SourceKind::Recording(path, topic),
                SourceKind::Folder(path) if is_replay => {
                    let reason = format!("expected a file, got a folder; name the .mcap file in {}", path.display());
                    return Err(syntax(reason));
                }
                // Whatever it is called: `replay:` says what it is.
                _ if is_replay => SourceKind::Recording(PathBuf::from(path), topic),
                other => other,
            }
        };
        Ok(Self { kind, rate_hz, size, layout })
    }
}

#[cfg(feature = "gstreamer")]
fn gst_description(text: &str) -> Option<super::GstDescription> {
    if text.starts_with("rtsp://") || text.starts_with("rtsps://") {
        return Some(super::GstDescription::Rtsp(text.to_owned()));
    }
    text.strip_prefix("gst:").map(|pipeline| super::GstDescription::Pipeline(pipeline.trim().to_owned()))
}

fn parse_size(text: &str) -> Option<ImageSize> {
    let (width, height) = text.split_once(['x', '×'])?;
    let size = ImageSize::new(width.parse().ok()?, height.parse().ok()?);
    (!size.is_empty() && size.width.max(size.height) <= 16384).then_some(size)
}

/// `WIDTHxHEIGHT:FORMAT`.
fn parse_raw(form: &str) -> Result<SourceKind, String> {
    let (size, format) = form
        .split_once(':')
        .ok_or_else(|| format!("expected raw:WIDTHxHEIGHT:FORMAT, for example raw:640x480:RGB24, got `raw:{form}`"))?;
    let size = parse_size(size)
        .ok_or_else(|| format!("expected WIDTHxHEIGHT of 1 to 16384 pixels, for example 640x480, got `{size}`"))?;
    match PixelLayout::from_name(format) {
        Some(PixelLayout::Mjpeg) | None => Err(unknown_format(format)),
        // Programs do not agree on whether rows of Y then have a byte more.
        Some(PixelLayout::Nv12) if size.width % 2 != 0 => {
            Err(format!("NV12: expected an even width, got {}; use YU12 or RGB24", size.width))
        }
        Some(layout) => Ok(SourceKind::Raw(layout, size)),
    }
}

/// Whether a file of this name is taken for a recording: `.mcap`, and `.db3`, whose error says how to convert it.
pub(super) fn is_recording_name(path: &Path) -> bool {
    let is = |wanted: &str| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(wanted));
    is("mcap") || is("db3")
}

fn unknown_format(format: &str) -> String {
    format!("format: expected RGB24, BGR24, YUYV, UYVY, NV12, YU12, GRAY8 or, of cameras, MJPG, got `{format}`")
}

fn kind_of(path: &Path) -> Result<SourceKind, SourceError> {
    let metadata = std::fs::metadata(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => SourceError::Missing {
            path: path.to_owned(),
            folder: std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
        },
        _ => SourceError::Io { path: path.to_owned(), source },
    })?;
    if metadata.is_dir() {
        return Ok(SourceKind::Folder(path.to_owned()));
    }
    if !metadata.is_file() {
        let text = path.display().to_string();
        let reason = if text.starts_with("/dev/video") {
            format!("it is a camera: `v4l2:{text}`")
        } else {
            "it is a pipe or a device, no file; raw frames come on standard input".to_owned()
        };
        return Err(SourceError::Syntax { text, reason });
    }
    if super::folder::is_image_name(path) {
        return Ok(SourceKind::Image(path.to_owned()));
    }
    if is_recording_name(path) {
        return Ok(SourceKind::Recording(path.to_owned(), None));
    }
    // Whatever else it is called: the content decides, and the reader says what it found.
    Ok(SourceKind::Video(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_rates_are_taken_apart() {
        let folder = tempfile::tempdir().unwrap();
        let clip = folder.path().join("a.mp4");
        let odd = folder.path().join("what?.png");
        for file in [&clip, &odd] {
            std::fs::write(file, "").unwrap();
        }
        let parse = |text: &str| SourceSpec::parse(text).unwrap();
        let folder_text = folder.path().to_str().unwrap();
        assert_eq!(
            parse(&format!("{folder_text}?rate=7.5")),
            SourceSpec {
                kind: SourceKind::Folder(folder.path().to_owned()),
                rate_hz: Some(7.5),
                size: None,
                layout: None
            }
        );
        assert_eq!(parse(clip.to_str().unwrap()).kind, SourceKind::Video(clip.clone()));
        let camera = parse("v4l2:/dev/video2?size=640x480&rate=30&format=MJPG");
        assert_eq!(camera.kind, SourceKind::Camera(Address::Node("/dev/video2".into())));
        assert_eq!((camera.rate_hz, camera.size), (Some(30.0), Some(ImageSize::new(640, 480))));
        assert_eq!(camera.layout, Some(PixelLayout::Mjpeg));
        assert_eq!(parse("raw:6x4:gray8").kind, SourceKind::Raw(PixelLayout::Gray8, ImageSize::new(6, 4)));
        let bag = folder.path().join("bag.mcap");
        std::fs::write(&bag, "").unwrap();
        let bag_text = bag.to_str().unwrap();
        let with_topic = SourceKind::Recording(bag.clone(), Some("/front/image_raw".to_owned()));
        assert_eq!(parse(bag_text).kind, SourceKind::Recording(bag.clone(), None));
        for prefix in ["", "replay:"] {
            let spec = parse(&format!("{prefix}{bag_text}?topic=/front/image_raw&rate=10"));
            assert_eq!((spec.kind, spec.rate_hz), (with_topic.clone(), Some(10.0)));
        }
        assert_eq!(parse(&format!("replay:{}", clip.display())).kind, SourceKind::Recording(clip.clone(), None));
        assert!(SourceSpec::parse(&format!("replay:{folder_text}")).is_err());
        for bad in [
            "v4l2:",
            "v4l2:/dev/video0?size=3",
            "v4l2:/dev/video0?format=H264",
            "raw:3x3",
            "raw:0x3:RGB24",
            "raw:3x3:MJPG",
            "raw:3x4:NV12",
        ] {
            let error = SourceSpec::parse(bad).unwrap_err();
            assert!(matches!(error, SourceError::Syntax { .. }), "{bad}: {error}");
        }
        assert_eq!(parse(odd.to_str().unwrap()).kind, SourceKind::Image(odd));
        for options in ["?rate=0", "?rate=fast", "?rate=inf", "?size=3x3", "?x", "?"] {
            let error = SourceSpec::parse(&format!("{folder_text}{options}")).unwrap_err();
            assert!(matches!(error, SourceError::Syntax { .. }), "{options}: {error}");
        }
    }

    #[test]
    fn other_forms_say_what_is_missing() {
        for (text, word) in [
            #[cfg(not(feature = "gstreamer"))]
            ("rtsp://host/path?rate=3", "--features gstreamer"),
            #[cfg(not(feature = "gstreamer"))]
            ("gst:videotestsrc ! appsink name=hsg", "cargo xtask deps gstreamer"),
            ("replay:a.mcap", "no such file"),
            ("a.mp4?topic=/camera", "for recordings"),
            ("a.mcap?topic=", "/camera/image_raw"),
            ("https://host/a.mp4", "`https://`"),
            ("", "empty"),
            ("no/such/folder", "no/such/folder"),
        ] {
            let message = SourceSpec::parse(text).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }
}
