//! Video files to frames, without system packages: MP4 with H.264, AVI with Motion JPEG. The content decides which.
//!
//! [`VideoReader`] gives the frames of a file in the order in which they are shown, as RGB8 in a caller's
//! [`segcore::image::Frame`].
//!
//! Honoured: presentation times, cropping, limited and full range, the colour matrix that the stream or the container
//! names (where neither does: BT.709 from 1280×720 on, BT.601 below, as players do), fragmented files, files whose end
//! is missing. Ignored: edit lists (every frame is given), rotation, sound, a second video track. Not decoded: other
//! codecs, interlaced video, more than 8 bits, 4:2:2 and 4:4:4; the error names what was found.

mod any;
mod avi;
mod error;
mod mp4;
mod reader;
mod sps;

pub use any::VideoReader;
pub use error::VideoError;
pub use reader::{VideoEnd, VideoInfo};
