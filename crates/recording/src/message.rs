//! Messages with images, as ROS 2 and Foxglove define them.

use std::borrow::Cow;

use base64::Engine as _;
use serde::Deserialize;

use crate::cdr::Cdr;
use crate::protobuf::{Value, for_each};

/// How the messages of a topic are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `sensor_msgs/msg/Image` in CDR.
    RosImage,
    /// `sensor_msgs/msg/CompressedImage` in CDR.
    RosCompressedImage,
    /// `foxglove.RawImage` in protobuf.
    ProtobufRawImage,
    /// `foxglove.CompressedImage` in protobuf.
    ProtobufCompressedImage,
    /// `foxglove.RawImage` in JSON.
    JsonRawImage,
    /// `foxglove.CompressedImage` in JSON.
    JsonCompressedImage,
}

/// What the messages of a topic are to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Images that can be read.
    Images(Format),
    /// Images or video that cannot: what, and what to do.
    Unsupported(&'static str),
    /// Something else.
    Other,
}

/// What messages of the type `schema` in `encoding` are.
pub(crate) fn kind_of(schema: &str, encoding: &str) -> Kind {
    match (schema, encoding) {
        ("sensor_msgs/msg/Image", "cdr") => Kind::Images(Format::RosImage),
        ("sensor_msgs/msg/CompressedImage", "cdr") => Kind::Images(Format::RosCompressedImage),
        ("foxglove.RawImage", "protobuf") => Kind::Images(Format::ProtobufRawImage),
        ("foxglove.CompressedImage", "protobuf") => Kind::Images(Format::ProtobufCompressedImage),
        ("foxglove.RawImage", "json") => Kind::Images(Format::JsonRawImage),
        ("foxglove.CompressedImage", "json") => Kind::Images(Format::JsonCompressedImage),
        ("sensor_msgs/Image" | "sensor_msgs/CompressedImage", _) => {
            Kind::Unsupported("a recording of ROS 1; convert it: pip install rosbags && rosbags-convert")
        }
        ("foxglove.CompressedVideo" | "foxglove_msgs/msg/CompressedVideo", _)
        | ("ffmpeg_image_transport_msgs/msg/FFMPEGPacket", _) => Kind::Unsupported(
            "compressed video (H.264 and the like); republish it as images: \
             ros2 run image_transport republish ffmpeg compressed",
        ),
        (
            "sensor_msgs/msg/Image"
            | "sensor_msgs/msg/CompressedImage"
            | "foxglove.RawImage"
            | "foxglove.CompressedImage",
            _,
        ) => Kind::Unsupported(
            "messages in another encoding than cdr (ROS 2), protobuf or json (Foxglove); record or convert it in one of these",
        ),
        _ => Kind::Other,
    }
}

/// A message with one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageMessage<'a> {
    /// When the image was taken by the message's own header, nanoseconds since 1970-01-01 UTC; 0 = it does not say.
    pub stamp_nanos: u64,
    /// The image.
    pub picture: Picture<'a>,
}

/// An image as a message has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picture<'a> {
    /// A JPEG, PNG or other file.
    Coded {
        /// What the sender calls it, for example `rgb8; jpeg compressed bgr8`.
        format: Cow<'a, str>,
        /// The file.
        data: Cow<'a, [u8]>,
    },
    /// Rows of pixels.
    Raw {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// How a pixel lies, for example `rgb8`.
        encoding: Cow<'a, str>,
        /// Bytes from row to row.
        step: u32,
        /// The rows.
        data: Cow<'a, [u8]>,
    },
}

/// Takes a message apart. Nothing is copied but what JSON has in base64.
///
/// # Errors
/// In words, when it is no such message, cut or damaged.
pub fn decode(format: Format, data: &[u8]) -> Result<ImageMessage<'_>, String> {
    match format {
        Format::RosImage => ros_image(data),
        Format::RosCompressedImage => ros_compressed_image(data),
        Format::ProtobufRawImage => protobuf_raw_image(data),
        Format::ProtobufCompressedImage => protobuf_compressed_image(data),
        Format::JsonRawImage | Format::JsonCompressedImage => json_image(format, data),
    }
}

/// `std_msgs/msg/Header`: its time.
fn ros_header(cdr: &mut Cdr<'_>) -> Result<u64, String> {
    let (secs, nanos) = (cdr.u32()?, cdr.u32()?);
    cdr.string()?;
    Ok(stamp(i64::from(secs.cast_signed()), nanos.into()))
}

fn ros_image(data: &[u8]) -> Result<ImageMessage<'_>, String> {
    let mut cdr = Cdr::new(data)?;
    let stamp_nanos = ros_header(&mut cdr)?;
    let (height, width) = (cdr.u32()?, cdr.u32()?);
    let encoding = cdr.string()?.into();
    // Whether numbers of 16 bits are big-endian: encodings with those are not read.
    cdr.u8()?;
    let step = cdr.u32()?;
    let data = cdr.bytes()?.into();
    Ok(ImageMessage { stamp_nanos, picture: Picture::Raw { width, height, encoding, step, data } })
}

fn ros_compressed_image(data: &[u8]) -> Result<ImageMessage<'_>, String> {
    let mut cdr = Cdr::new(data)?;
    let stamp_nanos = ros_header(&mut cdr)?;
    let format = cdr.string()?.into();
    let data = cdr.bytes()?.into();
    Ok(ImageMessage { stamp_nanos, picture: Picture::Coded { format, data } })
}

fn protobuf_raw_image(message: &[u8]) -> Result<ImageMessage<'_>, String> {
    let mut time = &[][..];
    let (mut width, mut height, mut step, mut encoding, mut data) = (0, 0, 0, &[][..], &[][..]);
    for_each(message, |number, value| match (number, value) {
        (1, Value::Bytes(bytes)) => time = bytes,
        (2, Value::Number(number)) => width = number,
        (3, Value::Number(number)) => height = number,
        (4, Value::Bytes(bytes)) => encoding = bytes,
        (5, Value::Number(number)) => step = number,
        (6, Value::Bytes(bytes)) => data = bytes,
        _ => {}
    })?;
    let number = |value: u64| u32::try_from(value).map_err(|_| format!("a size in it is {value}"));
    let picture = Picture::Raw {
        width: number(width)?,
        height: number(height)?,
        encoding: String::from_utf8_lossy(encoding),
        step: number(step)?,
        data: data.into(),
    };
    Ok(ImageMessage { stamp_nanos: protobuf_time(time)?, picture })
}

fn protobuf_compressed_image(message: &[u8]) -> Result<ImageMessage<'_>, String> {
    let (mut time, mut format, mut data) = (&[][..], &[][..], &[][..]);
    for_each(message, |number, value| match (number, value) {
        (1, Value::Bytes(bytes)) => time = bytes,
        (2, Value::Bytes(bytes)) => data = bytes,
        (3, Value::Bytes(bytes)) => format = bytes,
        _ => {}
    })?;
    let picture = Picture::Coded { format: String::from_utf8_lossy(format), data: data.into() };
    Ok(ImageMessage { stamp_nanos: protobuf_time(time)?, picture })
}

/// `google.protobuf.Timestamp`.
fn protobuf_time(message: &[u8]) -> Result<u64, String> {
    let (mut secs, mut nanos) = (0, 0);
    for_each(message, |number, value| match (number, value) {
        (1, Value::Number(number)) => secs = number,
        (2, Value::Number(number)) => nanos = number,
        _ => {}
    })?;
    Ok(stamp(secs.cast_signed(), nanos))
}

/// A message of either kind in JSON; bytes are in base64.
#[derive(Deserialize)]
struct JsonImage<'a> {
    #[serde(default)]
    timestamp: JsonTime,
    #[serde(default, borrow)]
    format: Cow<'a, str>,
    #[serde(default)]
    width: u32,
    #[serde(default)]
    height: u32,
    #[serde(default, borrow)]
    encoding: Cow<'a, str>,
    #[serde(default)]
    step: u32,
    #[serde(borrow)]
    data: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
struct JsonTime {
    sec: i64,
    nsec: u64,
}

fn json_image(kind: Format, message: &[u8]) -> Result<ImageMessage<'_>, String> {
    let image: JsonImage<'_> =
        serde_json::from_slice(message).map_err(|error| format!("the JSON is damaged: {error}"))?;
    let data = base64::engine::general_purpose::STANDARD.decode(image.data.as_bytes());
    let data = Cow::Owned(data.map_err(|error| format!("`data` is no base64: {error}"))?);
    let JsonImage { timestamp, format, width, height, encoding, step, .. } = image;
    let picture = match kind {
        Format::JsonRawImage => Picture::Raw { width, height, encoding, step, data },
        _ => Picture::Coded { format, data },
    };
    Ok(ImageMessage { stamp_nanos: stamp(timestamp.sec, timestamp.nsec), picture })
}

/// Seconds and nanoseconds in one number; 0 for times before 1970 and after 2554.
fn stamp(secs: i64, nanos: u64) -> u64 {
    let whole = u64::try_from(secs).ok().and_then(|secs| secs.checked_mul(1_000_000_000));
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::stamp;

    #[test]
    fn times_that_do_not_fit_are_none() {
        assert_eq!(stamp(2, 5), 2_000_000_005);
        assert_eq!((stamp(-1, 5), stamp(i64::MAX, 5), stamp(18_446_744_073, u64::MAX)), (0, 0, 0));
    }
}
