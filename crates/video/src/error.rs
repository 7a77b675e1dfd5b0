//! Why a video cannot be read.

use std::io;
use std::path::PathBuf;

/// Why a video cannot be read. Every message names the file, what was expected, what was found, and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VideoError {
    /// The operating system refused.
    #[error("{path}: cannot be read: {source}; check that the file exists and may be read", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file has no bytes.
    #[error("{path}: expected an MP4 video, got an empty file; copy or record it again", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is no MP4.
    #[error("{path}: expected an MP4 video, got {found}; check the file, or convert it: ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4", path = path.display())]
    NotMp4 {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        found: String,
    },
    /// The file lacks its index.
    #[error("{path}: expected an index (moov box), got none within {file_bytes} bytes; the file was cut or its recording never finished: copy it again, or repair it with a tool such as untrunc", path = path.display())]
    IndexMissing {
        /// The file.
        path: PathBuf,
        /// Its length.
        file_bytes: u64,
    },
    /// The index contradicts itself.
    #[error("{path}: the index is damaged: {what}: expected {expected}, got {got}; copy the file again, or rewrite it: ffmpeg -i IN -c copy OUT.mp4", path = path.display())]
    IndexDamaged {
        /// The file.
        path: PathBuf,
        /// The table or field.
        what: &'static str,
        /// What it should hold.
        expected: String,
        /// What it holds.
        got: String,
    },
    /// The container has no video.
    #[error("{path}: expected a video track, got {found}; check that this is the right file", path = path.display())]
    NoVideoTrack {
        /// The file.
        path: PathBuf,
        /// The tracks found, in words.
        found: String,
    },
    /// A codec, or a variant of H.264, that the built-in decoder does not know.
    #[error("{path}: expected H.264 video (4:2:0, 8 bit, progressive), got {codec}; convert it (ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4) or use a build with `--features gstreamer`", path = path.display())]
    UnsupportedCodec {
        /// The file.
        path: PathBuf,
        /// The codec in words, with the container's name of it.
        codec: String,
    },
    /// A codec in an AVI file that is not built in.
    #[error("{path}: expected Motion JPEG, got {codec}; convert it (ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4) or use a build with `--features gstreamer`", path = path.display())]
    UnsupportedAviCodec {
        /// The file.
        path: PathBuf,
        /// The codec, by the container's name of it.
        codec: String,
    },
    /// Not a single frame could be decoded.
    #[error("{path}: no frame could be decoded: expected {promised}, got 0 ({reason}); copy or record the file again", path = path.display())]
    NothingDecoded {
        /// The file.
        path: PathBuf,
        /// Frames that the container promised.
        promised: u64,
        /// What was wrong with the first of them.
        reason: String,
    },
    /// The decoder could not be started, or a decoded picture not converted: an error of the program or its memory.
    #[error("{path}: the H.264 decoder failed: {reason}", path = path.display())]
    Decoder {
        /// The file.
        path: PathBuf,
        /// The decoder's reason.
        reason: String,
    },
}
