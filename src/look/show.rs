//! `plyfs show`: what is this mount, what has it done, and what does it take?

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::statfs;
use serde::Serialize;

use super::Result;
use super::say;
use crate::cli::ShowArgs;
use crate::control::{self, Access};
use crate::exit::Exit;
use crate::mount;
use crate::options::escaped;
use crate::shown::shown;
use crate::units;

#[derive(Debug, Serialize)]
struct Report {
    mountpoint: String,
    #[serde(rename = "type")]
    fs_type: String,
    source: Option<String>,
    version: Option<String>,
    pid: Option<u32>,
    /// As they are written with -o, so that the mount can be made again.
    options: String,
    workdir: Option<String>,
    branches: Vec<Branch>,
    /// Inodes that the kernel knows.
    inodes: Option<u64>,
    /// Directories of lowers that are watched, with `-o watch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    watches: Option<u64>,
    copied_up: Option<u64>,
    copied_up_bytes: Option<u64>,
    /// Of the daemon, where its process is to be seen.
    memory_bytes: Option<u64>,
    descriptors: Option<u64>,
    /// By the names of the FUSE protocol.
    requests: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct Branch {
    id: usize,
    path: String,
    access: &'static str,
    filesystem: Option<&'static str>,
}

pub(super) fn run(args: &ShowArgs) -> Result<ExitCode> {
    let report = report(&args.mountpoint)?;
    say(args.json, &report, || report.text())?;
    Ok(Exit::Success.into())
}

fn report(given: &Path) -> Result<Report> {
    let list = mount::branches(given)?;
    let branches = control::parse_branches(&list);
    // A plyfs that is older than the question says less.
    let status = mount::ask_status(given).inspect_err(|error| log::debug!("{error}")).unwrap_or_default();
    let status = control::parse_status(&status);
    let text = |name: &str| status.get(name).map(|value| shown(value).to_string());
    let number = |name: &str| status.get(name)?.to_str()?.parse::<u64>().ok();
    let requests = mount::messages(given)?;
    let inside = mount::find(&given.canonicalize().map_err(super::Error::io(given))?)?;
    let pid = number("pid").and_then(|pid| u32::try_from(pid).ok()).filter(|pid| is_plyfs(*pid));
    let has_upper = branches.first().is_some_and(|(_, access)| *access == Access::Writable);
    Ok(Report {
        mountpoint: shown(&inside.mountpoint).to_string(),
        fs_type: inside.fs_type,
        source: text("source"),
        version: text("version"),
        options: options(&branches, &status),
        workdir: text("workdir"),
        branches: branches
            .iter()
            .enumerate()
            .map(|(at, (path, access))| Branch {
                id: at + usize::from(!has_upper),
                path: shown(path).to_string(),
                access: if *access == Access::Writable { "rw" } else { "ro" },
                filesystem: filesystem(path),
            })
            .collect(),
        inodes: number("inodes"),
        watches: number("watches"),
        copied_up: number("copied_up"),
        copied_up_bytes: number("copied_up_bytes"),
        memory_bytes: pid.and_then(memory),
        descriptors: pid.and_then(descriptors),
        pid,
        requests: requests_in(&String::from_utf8_lossy(&requests)),
    })
}

/// The whole line, branches included.
fn options(
    branches: &[(std::path::PathBuf, Access)],
    status: &BTreeMap<String, std::ffi::OsString>,
) -> String {
    let lowers = branches.iter().filter(|(_, access)| *access == Access::ReadOnly);
    let lowers: Vec<Vec<u8>> = lowers.map(|(path, _)| escaped(path)).collect();
    let mut words = Vec::new();
    if !lowers.is_empty() {
        words.push([b"lowerdir=".as_slice(), &lowers.join(&b':')].concat());
    }
    for (path, access) in branches {
        if *access == Access::Writable {
            words.push([b"upperdir=".as_slice(), &escaped(path)].concat());
        }
    }
    if let Some(workdir) = status.get("workdir") {
        words.push([b"workdir=".as_slice(), &escaped(Path::new(workdir))].concat());
    }
    if let Some(more) = status.get("options").filter(|more| !more.is_empty()) {
        words.push(more.as_encoded_bytes().to_vec());
    }
    shown(std::os::unix::ffi::OsStrExt::from_bytes(&words.join(&b',')) as &std::ffi::OsStr).to_string()
}

fn requests_in(text: &str) -> BTreeMap<String, u64> {
    let counts = text.lines().filter_map(|line| line.split_once(' '));
    counts.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect()
}

/// A number from another PID namespace may be somebody else's here.
fn is_plyfs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "plyfs")
}

fn memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * units::KIB)
}

fn descriptors(pid: u32) -> Option<u64> {
    Some(std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64)
}

/// The type of the filesystem that a path is on, if it is one that people meet.
pub(super) fn filesystem(path: &Path) -> Option<&'static str> {
    let kind = statfs(path).ok()?.f_type as u32;
    Some(match kind {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x794c_7630 => "overlayfs",
        0x7371_7368 => "squashfs",
        0xe0f5_e1e2 => "erofs",
        0x6573_5546 => "fuse",
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => "cifs",
        0x0bd0_0bd0 => "lustre",
        0x4750_4653 => "gpfs",
        0x00c3_6400 => "ceph",
        0x4d44 => "vfat",
        0x2011_bab0 => "exfat",
        0x9660 => "iso9660",
        0xf2f5_2010 => "f2fs",
        0x2fc1_2fc1 => "zfs",
        0xca45_1a4e => "bcachefs",
        _ => return None,
    })
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!("{} type {}", self.mountpoint, self.fs_type);
        if let Some(source) = &self.source {
            text.push_str(&format!(" source {source}"));
        }
        text.push('\n');
        for branch in &self.branches {
            let filesystem = branch.filesystem.map_or_else(String::new, |name| format!("  {name}"));
            text.push_str(&format!("  {}={}{filesystem}\n", branch.path, branch.access));
        }
        let mut row = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                text.push_str(&format!("{name:<12} {value}\n"));
            }
        };
        row("options", Some(self.options.clone()));
        row("version", self.version.clone());
        row("daemon", self.pid.map(|pid| format!("process {pid}")));
        row("memory", self.memory_bytes.map(units::size));
        row("descriptors", self.descriptors.map(|count| count.to_string()));
        row("inodes", self.inodes.map(|count| format!("{count} known to the kernel")));
        row("watched", self.watches.map(|count| format!("{count} directories of lowers")));
        row(
            "copied up",
            self.copied_up
                .map(|count| format!("{count}, {} of data", units::size(self.copied_up_bytes.unwrap_or(0)))),
        );
        let total: u64 = self.requests.values().sum();
        row("requests", Some(format!("{total} (plyfs stats has the kinds)")));
        text
    }
}
