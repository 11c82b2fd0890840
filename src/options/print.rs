//! How would a person write the options of a mount?

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Access, DEFAULT_THREADS, IdMapping, MountOptions, Sharing, Watch, names_of};
use crate::rules::override_stat::OverrideXattr;

impl MountOptions {
    /// The options for `-o` that say the same, but for the branches. Those that are as by default are left out.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut flag = |is_set: bool, word: &str| {
            if is_set {
                words.push(word.to_owned());
            }
        };
        flag(self.access == Access::ReadOnly, "ro");
        flag(self.volatile, "volatile");
        flag(self.sharing == Sharing::Everybody, "allow_other");
        flag(self.overlay_upper, "upper_from_overlayfs");
        flag(self.stable_inodes, "stable_inodes");
        flag(self.one_filesystem, "xdev");
        flag(self.empties_unreadable, "unreadable=empty");
        flag(self.plain_lowers, "plain_lowers");
        flag(self.bases, "bases");
        flag(self.static_nlink, "static_nlink");
        flag(!self.follows_callers, "affinity=none");
        words.extend(names_of(self.flags).map(str::to_owned));
        words.extend(self.labels.iter().map(|label| label.to_string_lossy().into_owned()));
        let number = |name: &str, value: Option<u64>| value.map(|value| format!("{name}={value}"));
        words.extend(number("size", self.size));
        words.extend(number("inodes", self.inodes));
        words.extend(number("userns_ids", self.userns_ids.map(u64::from)));
        let path = |name: &str, path: &PathBuf| format!("{name}={}", String::from_utf8_lossy(&escaped(path)));
        words.extend(self.hide.iter().map(|hidden| path("hide", hidden)));
        words.extend(self.empty.iter().map(|emptied| path("empty", emptied)));
        let timeout = |name: &str, value: Option<Duration>| {
            value.map(|value| format!("{name}={}", value.as_secs_f64()))
        };
        words.extend(timeout("attr_timeout", self.timeouts.attr));
        words.extend(timeout("entry_timeout", self.timeouts.entry));
        words.extend(timeout("negative_timeout", self.timeouts.negative));
        words.extend(self.watch.map(|watch| match watch {
            Watch::Share => "watch".to_owned(),
            Watch::Most(most) => format!("watch={most}"),
        }));
        words.extend(self.overrides.map(|xattr| match xattr {
            OverrideXattr::Privileged => "xattr_permissions=1".to_owned(),
            OverrideXattr::User => "xattr_permissions=2".to_owned(),
        }));
        words.extend(self.ids.words());
        if self.threads != DEFAULT_THREADS {
            words.push(format!("threads={}", self.threads));
        }
        words
    }
}

impl IdMapping {
    fn words(&self) -> Vec<String> {
        let map = |name: &str, map: &crate::rules::ids::IdMap| {
            (!map.is_identity()).then(|| format!("{name}={map}"))
        };
        let squash = |name: &str, id: Option<u32>| id.map(|id| format!("{name}={id}"));
        [
            map("uidmapping", &self.uid),
            map("gidmapping", &self.gid),
            squash("squash_to_uid", self.squash_uid),
            squash("squash_to_gid", self.squash_gid),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A path as it is written in a list of paths within `-o`.
#[must_use]
pub fn escaped(path: &Path) -> Vec<u8> {
    let mut escaped = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b',' | b':' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn parse(options: &str) -> MountOptions {
        let line = ["plyfs", "-o", "lowerdir=a,upperdir=u", "-o", options, "m"];
        let crate::cli::Command::Mount(args) = crate::cli::Cli::try_parse_from(line).unwrap().into_command()
        else {
            panic!("a mount");
        };
        super::super::parse(&args).unwrap().0
    }

    #[test]
    fn what_is_printed_means_the_same() {
        for options in [
            "rw",
            "ro,nosuid,noatime,allow_other",
            "volatile,xattr_permissions=2,size=1g,inodes=10k,xdev,static_nlink",
            "timeout=0,threads=3,affinity=none,stable_inodes,upper_from_overlayfs",
            "watch",
            "watch=0",
            "watch=5000,affinity=none",
            "hide=/home/a\\,b,hide=/c\\:d,empty=/e,unreadable=empty,bases,plain_lowers,userns_ids=65536",
            "udba=notify",
            "udba=reval",
            "attr_timeout=0.5,uidmapping=0:1000:1:1:100000:65536,gidmapping=0:5:1,squash_to_uid=7",
        ] {
            let read = parse(options);
            let again = parse(&read.words().join(","));
            // Which flags the user decided on is more than which are set.
            let again = MountOptions { decided: read.decided, ..again };
            assert_eq!(again, read, "{options}");
        }
        assert!(parse("rw").words().is_empty());
    }

    #[test]
    fn a_path_is_escaped_as_it_is_read() {
        let path = Path::new("a:b,c\\d");
        assert_eq!(super::super::escape::unescape(&escaped(path)), path.as_os_str().as_bytes());
    }
}
