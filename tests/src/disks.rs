//! Disks that are full, and quotas that are reached.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::Sandbox;
use crate::skip;

/// `program` with its arguments and a bound of `kibibytes` on every file that it writes, as a quota would set.
pub fn with_file_limit(sandbox: &Sandbox, kibibytes: u32, program: &Path) -> Command {
    let mut command = sandbox.command("bash");
    command.args(["-c", &format!("ulimit -f {kibibytes}; trap '' XFSZ; exec \"$@\""), "bash"]).arg(program);
    command
}

/// A small file system, unmounted at the end.
#[derive(Debug)]
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    /// Mounts one at `folder`, which is not there yet; `None`, with a printed line, where that is not allowed.
    pub fn mount(folder: PathBuf) -> Option<Self> {
        Self::mount_of(folder, "200k")
    }

    /// The same of another size, as `mount` writes it: `8m`.
    pub fn mount_of(folder: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir(&folder).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(&folder);
        match command.output() {
            Ok(output) if output.status.success() => Some(Self(folder)),
            Ok(output) => {
                skip("a full disk", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                skip("a full disk", &format!("mount: {error}"));
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().ok();
    }
}
