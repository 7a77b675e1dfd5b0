//! Finding and opening camera devices.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use segcore::image::ImageSize;
use v4l::capability::Flags;
use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::video::Capture as _;
use v4l::{Device, FourCC};

use super::super::SourceError;
use super::super::pixels::PixelLayout;
use super::negotiate::{Mode, Rates, Wish, describe, sizes_in_range};

/// Where udev keeps names that stay.
const BY_ID: &str = "/dev/v4l/by-id";
/// What the kernel knows about its video nodes; there also where nobody runs udev.
const NODES: &str = "/sys/class/video4linux";

/// What is said about cameras of some boards.
const MULTI_PLANAR: &str =
    "has the multi-planar interface only; use a build with `--features gstreamer` and gst:v4l2src";

/// A camera as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A device node.
    Node(PathBuf),
    /// The name that udev makes of vendor, product and serial number.
    ById(String),
}

/// By what a camera is recognised when it comes back, perhaps under another number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the product.
    pub card: String,
    /// Place on the bus: the same plug.
    pub bus: String,
    /// udev's name, of USB devices: the same device in another plug.
    pub by_id: Option<String>,
}

/// Runs code of the crate `v4l`, which panics where a driver says something unusual (a name that is not UTF-8, a colour
/// space it does not know): the camera then counts as broken, and the process lives on.
pub fn guarded<T>(code: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|_| Err(io::Error::other("the driver's answer is unusual")))
}

impl Address {
    /// As typed after `v4l2:`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("by-id/").or_else(|| text.strip_prefix("/dev/v4l/by-id/")) {
            Some("") => None,
            Some(name) => Some(Self::ById(name.to_owned())),
            None if text.is_empty() => None,
            None => Some(Self::Node(PathBuf::from(text))),
        }
    }

    /// For messages.
    pub fn text(&self) -> String {
        match self {
            Self::Node(path) => path.display().to_string(),
            Self::ById(name) => format!("by-id/{name}"),
        }
    }

    /// The node at present.
    fn node(&self) -> Option<PathBuf> {
        match self {
            Self::Node(path) => Some(path.clone()),
            Self::ById(name) => {
                let link = Path::new(BY_ID).join(name);
                if link.exists() {
                    Some(link)
                } else {
                    nodes().into_iter().find(|node| by_id_of(node).as_ref() == Some(name))
                }
            }
        }
    }
}

/// Opens a camera for capture; where the node is one without pictures (a webcam's metadata node), its sibling that has.
pub fn open(address: &Address) -> Result<(Device, PathBuf, Identity), SourceError> {
    let text = address.text();
    let failed = |reason: String| SourceError::Camera { device: text.clone(), reason };
    let Some(node) = address.node() else {
        return Err(failed(format!("there is no such device; {}", cameras_here())));
    };
    let device = guarded(|| Device::with_path(&node)).map_err(|error| failed(open_reason(&node, &error)))?;
    let caps = guarded(|| device.query_caps())
        .map_err(|error| failed(format!("is no camera ({error}); {}", cameras_here())))?;
    let identity = Identity { card: caps.card, bus: caps.bus, by_id: by_id_of(&node).map(without_index) };
    let flags = caps.capabilities;
    if flags.contains(Flags::VIDEO_CAPTURE | Flags::STREAMING) {
        return Ok((device, node, identity));
    }
    if let Some((sibling, path)) = find(&identity, &node) {
        log::info!("camera {text}: this node has no pictures; taking {} of the same camera", path.display());
        return Ok((sibling, path, identity));
    }
    let reason = if flags.contains(Flags::VIDEO_CAPTURE_MPLANE) {
        MULTI_PLANAR.to_owned()
    } else {
        format!("has no video capture; {}", cameras_here())
    };
    Err(failed(reason))
}

/// Finds a camera that was there before: at its place on the bus, or the same device in another plug. `preferred` is
/// looked at first.
pub fn find(identity: &Identity, preferred: &Path) -> Option<(Device, PathBuf)> {
    let others = nodes().into_iter().filter(|node| node != preferred);
    let candidates: Vec<PathBuf> = std::iter::once(preferred.to_owned()).chain(others).collect();
    let look = |node: &PathBuf, moved: bool| {
        let device = guarded(|| Device::with_path(node)).ok()?;
        let caps = guarded(|| device.query_caps()).ok()?;
        if !caps.capabilities.contains(Flags::VIDEO_CAPTURE | Flags::STREAMING) || caps.card != identity.card {
            return None;
        }
        let same_plug = caps.bus == identity.bus;
        let same_device = identity.by_id.is_some() && by_id_of(node).map(without_index) == identity.by_id;
        (if moved { same_device } else { same_plug }).then(|| (device, node.clone()))
    };
    candidates.iter().find_map(|node| look(node, false)).or_else(|| candidates.iter().find_map(|node| look(node, true)))
}

/// A video device of this machine, for people to read.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its node.
    pub node: PathBuf,
    /// What it calls itself; empty where it may not be asked.
    pub card: String,
    /// The name that stays when it is plugged in again, of USB devices.
    pub by_id: Option<String>,
    /// Its formats, sizes and rates in words, or why it cannot be used and what to do.
    pub modes: Result<String, String>,
}

/// All cameras of this machine. Nodes without pictures (a webcam's metadata node, an output) are left out; opening starts
/// nothing.
pub fn list() -> Vec<Listed> {
    let named = |node: &Path| {
        let name = fs::read_to_string(Path::new(NODES).join(node.file_name().unwrap_or_default()).join("name"));
        name.map_or(String::new(), |name| name.trim().to_owned())
    };
    let mut cameras = Vec::new();
    for node in nodes() {
        let by_id = by_id_of(&node);
        let device = match guarded(|| Device::with_path(&node)) {
            Ok(device) => device,
            Err(error) => {
                let modes = Err(open_reason(&node, &error));
                cameras.push(Listed { card: named(&node), node, by_id, modes });
                continue;
            }
        };
        let Ok(caps) = guarded(|| device.query_caps()) else { continue };
        let modes = if caps.capabilities.contains(Flags::VIDEO_CAPTURE | Flags::STREAMING) {
            modes(&device, &Wish::default()).map(|modes| describe(&modes)).map_err(|error| open_reason(&node, &error))
        } else if caps.capabilities.contains(Flags::VIDEO_CAPTURE_MPLANE) {
            Err(MULTI_PLANAR.to_owned())
        } else {
            continue;
        };
        cameras.push(Listed { node, card: caps.card, by_id, modes });
    }
    cameras
}

/// What the camera offers that this program can read.
pub fn modes(device: &Device, wish: &Wish) -> io::Result<Vec<Mode>> {
    let mut modes = Vec::new();
    for description in guarded(|| device.enum_formats())? {
        let Some(layout) = PixelLayout::from_fourcc(&description.fourcc.repr) else { continue };
        let mut sizes = Vec::new();
        for size in guarded(|| device.enum_framesizes(description.fourcc)).unwrap_or_default() {
            match size.size {
                FrameSizeEnum::Discrete(size) => sizes.push(ImageSize::new(size.width as usize, size.height as usize)),
                FrameSizeEnum::Stepwise(range) => sizes.extend(sizes_in_range(
                    ImageSize::new(range.min_width as usize, range.min_height as usize),
                    ImageSize::new(range.max_width as usize, range.max_height as usize),
                    ImageSize::new(range.step_width as usize, range.step_height as usize),
                    wish.size,
                )),
            }
        }
        if sizes.is_empty() {
            // A driver that lists no sizes has the one that is set.
            let now = guarded(|| device.format())?;
            sizes.push(ImageSize::new(now.width as usize, now.height as usize));
        }
        for size in sizes {
            modes.push(Mode { layout, size, rates: rates(device, description.fourcc, size) });
        }
    }
    Ok(modes)
}

fn rates(device: &Device, fourcc: FourCC, size: ImageSize) -> Rates {
    let hertz = |interval: v4l::Fraction| f64::from(interval.denominator) / f64::from(interval.numerator.max(1));
    let (width, height) = (size.width as u32, size.height as u32);
    let intervals = guarded(|| device.enum_frameintervals(fourcc, width, height)).unwrap_or_default();
    let mut list = Vec::new();
    for interval in intervals {
        match interval.interval {
            FrameIntervalEnum::Discrete(interval) => list.push(hertz(interval)),
            FrameIntervalEnum::Stepwise(range) => return Rates::Range(hertz(range.max), hertz(range.min)),
        }
    }
    if list.is_empty() { Rates::Unknown } else { Rates::List(list) }
}

/// Why a device cannot be opened or taken, and what to do.
pub fn open_reason(node: &Path, error: &io::Error) -> String {
    match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::BUSY) => {
            format!("is in use by another program; close it (`fuser -v {}` names it)", node.display())
        }
        Some(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => {
            let group = group_of(node).unwrap_or_else(|| "video".to_owned());
            format!("permission denied; join the group `{group}` (sudo usermod -aG {group} $USER), then log in again")
        }
        Some(rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::NXIO) => {
            format!("there is no such device; {}", cameras_here())
        }
        _ => format!("cannot be opened: {error}; {}", cameras_here()),
    }
}

/// Name of the group that a node belongs to.
fn group_of(node: &Path) -> Option<String> {
    let gid = fs::metadata(node).ok()?.gid().to_string();
    let groups = fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find(|line| line.split(':').nth(2) == Some(&gid))?;
    line.split(':').next().map(str::to_owned)
}

/// The cameras of this machine, in words.
fn cameras_here() -> String {
    let mut words = Vec::new();
    for node in nodes() {
        let Ok(device) = guarded(|| Device::with_path(&node)) else { continue };
        let Ok(caps) = guarded(|| device.query_caps()) else { continue };
        if caps.capabilities.contains(Flags::VIDEO_CAPTURE) {
            words.push(format!("{} ({})", node.display(), caps.card));
        }
    }
    if words.is_empty() {
        "no camera is connected that this user may open".to_owned()
    } else {
        format!("cameras here: {}", words.join(", "))
    }
}

/// Video nodes in the order of their numbers.
fn nodes() -> Vec<PathBuf> {
    let entries = fs::read_dir(NODES).into_iter().flatten().flatten();
    let mut names: Vec<(u32, String)> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| Some((name.strip_prefix("video")?.parse().ok()?, name)))
        .collect();
    names.sort();
    names.into_iter().map(|(_, name)| Path::new("/dev").join(name)).collect()
}

/// The name that udev would give a USB camera's node: `usb-VENDOR_PRODUCT_SERIAL-video-indexN`.
fn by_id_of(node: &Path) -> Option<String> {
    let node = fs::canonicalize(node).ok()?;
    let sys = Path::new(NODES).join(node.file_name()?);
    let read = |path: PathBuf| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    // The node's device is an interface of the USB device.
    let usb = fs::canonicalize(sys.join("device")).ok()?.parent()?.to_owned();
    let vendor = read(usb.join("manufacturer")).or_else(|| read(usb.join("idVendor")))?;
    let product = read(usb.join("product")).or_else(|| read(usb.join("idProduct")))?;
    let mut words = vec![udev_word(&vendor), udev_word(&product)];
    words.extend(read(usb.join("serial")).map(|serial| udev_word(&serial)));
    Some(format!("usb-{}-video-index{}", words.join("_"), read(sys.join("index"))?))
}

fn without_index(name: String) -> String {
    name.rsplit_once("-video-index").map_or(name.clone(), |(device, _)| device.to_owned())
}

/// A text as udev writes it in names: runs of white space and other characters become `_`.
fn udev_word(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let keep = |c: char| if c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c) { c } else { '_' };
    words.join("_").chars().map(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(Address::parse("/dev/video3"), Some(Address::Node("/dev/video3".into())));
        assert_eq!(Address::parse("by-id/usb-A-video-index0"), Some(Address::ById("usb-A-video-index0".to_owned())));
        assert_eq!(Address::parse("/dev/v4l/by-id/x"), Some(Address::ById("x".to_owned())));
        assert_eq!((Address::parse(""), Address::parse("by-id/")), (None, None));
        assert_eq!(udev_word(" HD  Pro Webcam/C920 "), "HD_Pro_Webcam_C920");
        assert_eq!(without_index("usb-A_B-video-index1".to_owned()), "usb-A_B");
    }

    #[test]
    fn missing_devices_and_other_files_are_named() {
        let message = open(&Address::Node("/dev/no-such-video".into())).err().unwrap().to_string();
        assert!(message.contains("/dev/no-such-video") && message.contains("no such device"), "{message}");
        let message = open(&Address::ById("usb-nobody".to_owned())).err().unwrap().to_string();
        assert!(message.contains("by-id/usb-nobody"), "{message}");
        let message = open(&Address::Node("/dev/null".into())).err().unwrap().to_string();
        assert!(message.contains("is no camera"), "{message}");
        let node = tempfile::NamedTempFile::new().unwrap();
        let denied = open_reason(node.path(), &io::Error::from_raw_os_error(13));
        assert!(denied.contains("join the group"), "{denied}");
        assert!(open_reason(node.path(), &io::Error::from_raw_os_error(16)).contains("in use by another program"));
    }
}
