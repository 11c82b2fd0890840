//! Which filesystems are compared, and how is each of them told what to mount?

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::options::Options;

/// A filesystem to compare.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// What it is called in the tables.
    pub(crate) name: String,
    /// What it says of itself.
    pub(crate) version: String,
    /// Which one it is.
    pub(crate) kind: Kind,
}

/// Everything that differs from one to the other.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// The kernel's overlayfs; in a user namespace it may write user.* attributes only.
    Kernel { userxattr: bool },
    /// A plyfs binary.
    Plyfs(PathBuf),
    /// A fuse-overlayfs binary.
    FuseOverlayfs(PathBuf),
    /// unionfs-fuse.
    Unionfs,
}

/// Whether what was copied up is on disk when the copy is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syncing {
    /// Each filesystem's own choice.
    AsIs,
    /// `-o volatile`, for those that sync otherwise.
    Volatile,
}

/// A stack of directories as they are named from the folder that the mount is made in.
#[derive(Debug)]
pub(crate) struct Layers {
    /// Topmost first.
    pub(crate) lowers: Vec<String>,
    pub(crate) syncing: Syncing,
}

/// The names of the other three in that folder: short, as mount(2) takes one page of options.
pub(crate) const UPPER: &str = "upper";
pub(crate) const WORK: &str = "work";
pub(crate) const MOUNTPOINT: &str = "mnt";

/// The kernel's overlayfs first: all others are compared with it.
pub(crate) fn all(options: &Options) -> Result<Vec<Candidate>> {
    let kernel = Candidate {
        name: "overlayfs".to_owned(),
        version: format!("Linux {}", std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim()),
        kind: Kind::Kernel { userxattr: options.in_namespace },
    };
    let mut all = vec![kernel];
    for (at, path) in options.plyfs.iter().enumerate() {
        let name = if options.plyfs.len() == 1 { "plyfs".to_owned() } else { format!("plyfs-{}", at + 1) };
        all.push(Candidate { name, version: version(path, "plyfs")?, kind: Kind::Plyfs(path.clone()) });
    }
    if options.no_peers {
        return Ok(all);
    }
    for path in &options.fuse_overlayfs {
        let version = version(path, "fuse-overlayfs: version")?;
        let name = format!("fuse-overlayfs {version}");
        all.push(Candidate { name, version, kind: Kind::FuseOverlayfs(path.clone()) });
    }
    let name = "unionfs-fuse".to_owned();
    all.push(Candidate {
        name,
        version: version(Path::new("unionfs"), "unionfs-fuse version:")?,
        kind: Kind::Unionfs,
    });
    Ok(all)
}

/// What follows `before` in what `PROGRAM --version` prints.
fn version(program: &Path, before: &str) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .map_err(|error| format!("{} cannot be started: {error}", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let version = text.lines().find_map(|line| line.strip_prefix(before));
    Ok(version.unwrap_or("of an unknown version").trim().to_owned())
}

impl Candidate {
    pub(crate) fn is_plyfs(&self) -> bool {
        matches!(self.kind, Kind::Plyfs(_))
    }

    /// Whether copies are on disk before they are shown, unless it is told otherwise.
    pub(crate) fn syncs_copies(&self) -> bool {
        matches!(self.kind, Kind::Kernel { .. } | Kind::Plyfs(_))
    }

    /// The command that mounts, to be run in the folder of the layers. A daemon stays in the foreground:
    /// it is our child, and so are its end and its death.
    pub(crate) fn mount_command(&self, layers: &Layers) -> Command {
        let lowers = layers.lowers.join(":");
        let mut options = format!("lowerdir={lowers},upperdir={UPPER},workdir={WORK}");
        if layers.syncing == Syncing::Volatile {
            options += ",volatile";
        }
        match &self.kind {
            Kind::Kernel { userxattr } => {
                if *userxattr {
                    options += ",userxattr";
                }
                let mut mount = Command::new("mount");
                mount.args(["-i", "-t", "overlay", "overlay", "-o", &options, MOUNTPOINT]);
                // fsconfig(2) takes 255 bytes, too few for a deep stack.
                mount.env("LIBMOUNT_FORCE_MOUNT2", "always");
                mount
            }
            Kind::Plyfs(path) | Kind::FuseOverlayfs(path) => {
                let mut daemon = Command::new(path);
                daemon.args(["-f", "-o", &options, MOUNTPOINT]);
                daemon
            }
            Kind::Unionfs => {
                let lowers: String = layers.lowers.iter().map(|lower| format!(":{lower}=RO")).collect();
                let mut daemon = Command::new("unionfs");
                daemon.args(["-f", "-o", "cow", &format!("{UPPER}=RW{lowers}"), MOUNTPOINT]);
                daemon
            }
        }
    }

    /// Whether the command goes on for as long as the mount.
    pub(crate) fn has_daemon(&self) -> bool {
        !matches!(self.kind, Kind::Kernel { .. })
    }
}
