//! `cargo xtask camera-test`: cameras on a real kernel, in QEMU, with what goes wrong with them (tests/vm).

use anyhow::{Result, bail};

use crate::process::{cargo, program, workspace};

/// What the machine must have: a program, and the Debian package that brings it.
const NEEDED: [(&str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("modprobe", "kmod"),
    ("xz", "xz-utils"),
    ("v4l2-ctl", "v4l-utils"),
];

/// Builds `hsg` and the software webcam, boots twice and prints one line per check.
pub fn run() -> Result<()> {
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(name, _)| find(name).is_none()).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        println!(
            "skipped: camera tests need QEMU and tools: apt-get install --no-install-recommends {}",
            missing.join(" ")
        );
        return Ok(());
    }
    cargo().args(["build", "--release", "-p", "runtime", "--bin", "hsg"]).run("build hsg")?;
    let place = workspace().join("tests/vm");
    cargo()
        .args(["build", "--release", "--manifest-path"])
        .arg(place.join("fakeuvc/Cargo.toml"))
        .run("build the software webcam")?;
    let release = |folder: std::path::PathBuf| match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => std::path::PathBuf::from(target).join("release"),
        None => folder.join("target/release"),
    };
    let with = |from: std::path::PathBuf, to: &str| ["--with".into(), format!("{}:{to}", from.display())];
    let common: Vec<String> = [
        with(release(workspace()).join("hsg"), "/root/hsg"),
        with(workspace().join("tests/fixtures/tiny-model"), "/model"),
        with(place.join("lib.sh"), "/root/lib.sh"),
    ]
    .concat();
    let mut failed = Vec::new();
    for script in ["vivid.sh", "uvc.sh"] {
        let own: Vec<String> = if script == "vivid.sh" {
            let control = find("v4l2-ctl").unwrap_or_default();
            [["--ndevs".into(), "2".into()], with(control, "/root/v4l2-ctl")].concat()
        } else {
            [
                ["--module".into(), "vhci-hcd".into()],
                ["--module".into(), "uvcvideo".into()],
                with(release(place.join("fakeuvc")).join("fakeuvc"), "/root/fakeuvc"),
                with(place.join("frame0.jpg"), "/j/0.jpg"),
                with(place.join("frame1.jpg"), "/j/1.jpg"),
            ]
            .concat()
        };
        println!("-- tests/vm/{script}");
        let outcome = program(place.join("run.sh"))
            .args(["--timeout", "900"])
            .args(&common)
            .args(&own)
            .args(with(place.join(script), &format!("/root/{script}")))
            .args(["busybox", "sh", &format!("/root/{script}")])
            .run("run the camera tests");
        if let Err(error) = outcome {
            failed.push(format!("{script}: {error:#}"));
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    Ok(())
}

/// The file of a program, in PATH or where Debian keeps what root needs.
fn find(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}
