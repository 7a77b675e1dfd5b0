//! `cargo xtask deps gstreamer`: Debian's GStreamer, for the cargo feature `gstreamer` of the runtime.
//!
//! Nothing in the default build needs it. It is a package of the system, because its plugins are: those of a board (Jetson's
//! among them) work with the GStreamer that the board came with.

use anyhow::{Result, bail};

use crate::process::program;

/// What Debian and Ubuntu call them; the last two are the tests' RTSP server.
const PACKAGES: [&str; 9] = [
    "libgstreamer1.0-dev",
    "libgstreamer-plugins-base1.0-dev",
    "gstreamer1.0-plugins-base",
    "gstreamer1.0-plugins-good",
    "gstreamer1.0-plugins-bad",
    "gstreamer1.0-libav",
    "gstreamer1.0-tools",
    "python3-gi",
    "gir1.2-gst-rtsp-server-1.0",
];

/// What is missing to build and test with GStreamer, in words.
pub fn missing() -> Vec<&'static str> {
    let mut missing = Vec::new();
    if !program("pkg-config").args(["--exists", "gstreamer-app-1.0"]).works() {
        missing.push("the libraries (pkg-config gstreamer-app-1.0)");
    }
    for (element, what) in [("rtspsrc", "rtspsrc"), ("videoconvert", "videoconvert"), ("jpegdec", "jpegdec")] {
        if !program("gst-inspect-1.0").args(["--exists", element]).works() {
            missing.push(what);
        }
    }
    missing
}

/// Installs what is missing; says what before.
pub fn install() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        println!("GStreamer and its plugins are installed");
        return Ok(());
    }
    let packages = PACKAGES.join(" ");
    eprintln!("missing: {}; to be installed with apt-get: {packages}", missing.join(", "));
    if !program("apt-get").arg("--version").works() {
        bail!("there is no apt-get here: install GStreamer 1.20 or newer with its headers your system's way");
    }
    if program("id").arg("-u").output("ask who runs this")?.trim() != "0" {
        bail!("installing packages needs root: sudo apt-get install -y --no-install-recommends {packages}");
    }
    program("apt-get")
        .args(["install", "-y", "--no-install-recommends"])
        .args(PACKAGES)
        .run("install GStreamer (try apt-get update first)")
}
