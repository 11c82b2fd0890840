//! What becomes of an option that others know and plyfs does not have?
//!
//! A line that works elsewhere must work here, and must not mean less here. So there are three classes:
//!
//! 1. **Flags** of the mount, which the kernel honours for us.
//! 2. **Refused**: what restricts, or changes what is shown (names, contents, attributes, permissions, or whether a
//!    change behind the mount's back shows). Dropped in silence it would be a promise that nobody keeps.
//! 3. **Accepted**: what is always so here (`default_permissions`), what only asks for speed or for a place to log
//!    to, what gives more where we give less (`relaxed_permissions`), and what is our caller's business (`noauto`).
//!
//! Those that need a second look:
//!
//! - `auto_unmount` is accepted: the daemon takes its mount away however it ends, but for SIGKILL, and nothing that
//!   the mount shows depends on it.
//! - `userxattr` is accepted: both kinds of attributes are read in every lower, and podman writes it always.
//! - `index=on`, `xino=…`, `uuid=…`, `sum` are accepted: hard links, inode numbers, and the figures of df(1) are
//!   plyfs' own.
//! - `auto_cache` is accepted: it allows old content to show for a while. `direct_io` does not allow it, and a change
//!   behind the mount shows late here: refused. (`watch` and `timeout=0` show it.)
//! - `mand` is accepted: the kernel itself ignores it since 5.15.
//! - `hard_remove` is accepted: no hidden file is ever left behind here.
//! - `user_id=`, `group_id=` and `rootmode=` are accepted: they come from a copied line of /proc/mounts, and are the
//!   mounting user's here as there.

use rustix::mount::MountFlags;

/// What an option does to a mount flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    Set,
    Clear,
}
use Setting::{Clear, Set};

/// The mount flags by name; fusermount3 takes the same names.
pub(super) const KERNEL_FLAGS: &[(&str, MountFlags, Setting)] = &[
    ("nosuid", MountFlags::NOSUID, Set),
    ("suid", MountFlags::NOSUID, Clear),
    ("nodev", MountFlags::NODEV, Set),
    ("dev", MountFlags::NODEV, Clear),
    ("noexec", MountFlags::NOEXEC, Set),
    ("exec", MountFlags::NOEXEC, Clear),
    ("noatime", MountFlags::NOATIME, Set),
    ("atime", MountFlags::NOATIME, Clear),
    ("nodiratime", MountFlags::NODIRATIME, Set),
    ("diratime", MountFlags::NODIRATIME, Clear),
    ("relatime", MountFlags::RELATIME, Set),
    ("norelatime", MountFlags::RELATIME, Clear),
    ("strictatime", MountFlags::STRICTATIME, Set),
    ("nostrictatime", MountFlags::STRICTATIME, Clear),
    ("sync", MountFlags::SYNCHRONOUS, Set),
    ("async", MountFlags::SYNCHRONOUS, Clear),
    ("dirsync", MountFlags::DIRSYNC, Set),
    ("nosymfollow", MountFlags::NOSYMFOLLOW, Set),
    ("symfollow", MountFlags::NOSYMFOLLOW, Clear),
];

/// The class of an option that is not plyfs' own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// It sets or clears flags of the mount.
    Flag(MountFlags, Setting),
    /// It is SELinux' business: it goes to the kernel where that knows SELinux.
    Label,
    /// It restricts or changes what is shown: the reason, and what to do.
    Refused(&'static str),
    /// Leaving it out weakens nothing and changes nothing that is shown.
    Accepted,
}

/// The class of the option, or None if nobody knows it.
pub(super) fn class(name: &[u8], value: Option<&[u8]>) -> Option<Class> {
    let is = |known: &str| known.as_bytes() == name;
    if let Some((_, flag, setting)) = KERNEL_FLAGS.iter().find(|(known, ..)| is(known)) {
        return Some(Class::Flag(*flag, *setting));
    }
    // fstab(5): whoever may mount it must not gain by it. `user=NAME` is only a note of who did.
    match (name, value) {
        (b"user" | b"users", None) => {
            let flags = MountFlags::NOEXEC.union(MountFlags::NOSUID).union(MountFlags::NODEV);
            return Some(Class::Flag(flags, Set));
        }
        (b"owner" | b"group", None) => {
            return Some(Class::Flag(MountFlags::NOSUID.union(MountFlags::NODEV), Set));
        }
        _ => {}
    }
    if LABELS.iter().any(|known| is(known)) {
        return Some(Class::Label);
    }
    if let Some((_, when, reason)) = REFUSED.iter().find(|(known, ..)| is(known)) {
        return Some(if when.holds(value) { Class::Refused(reason) } else { Class::Accepted });
    }
    let begins_as_comment = name.starts_with(b"x-") || name.starts_with(b"X-");
    let is_peers = ACCEPTED.iter().any(|(_, names)| names.iter().any(|known| is(known)));
    (begins_as_comment || is_peers).then_some(Class::Accepted)
}

/// The names of `flags`, as `-o` options of fusermount3.
pub fn names_of(flags: MountFlags) -> impl Iterator<Item = &'static str> {
    KERNEL_FLAGS
        .iter()
        .filter(move |(_, flag, setting)| *setting == Set && flags.contains(*flag))
        .map(|(name, ..)| *name)
}

/// SELinux' words of mount(8).
const LABELS: &[&str] = &["context", "fscontext", "defcontext", "rootcontext"];

/// With which values an option is refused.
#[derive(Debug, Clone, Copy)]
enum When {
    Always,
    /// With all but these, and without a value.
    Unless(&'static [&'static str]),
}

impl When {
    fn holds(self, value: Option<&[u8]>) -> bool {
        let value = value.map(String::from_utf8_lossy);
        match self {
            Self::Always => true,
            Self::Unless(harmless) => !value.is_some_and(|value| harmless.contains(&&*value)),
        }
    }
}

const NO_WATCH: &str = "the kernel caches what plyfs told it, and a change behind the mount shows late: leave the \
    option out, and use watch or timeout=0 if others change lowers";

/// What cannot be kept, and what to do instead.
#[rustfmt::skip]
const REFUSED: &[(&str, When, &str)] = &[
    // mount(8)
    ("remount", When::Always, "a live mount keeps its branches and options: `mount -i -o remount,ro MOUNTPOINT` makes it read-only, and rw writable again; for all else unmount it, then mount it anew"),
    // libfuse
    ("umask", When::Always, "permissions are shown as they are on disk: leave it out, and chmod(1) what others should not see"),
    ("uid", When::Always, "owners are shown as they are on disk: use squash_to_uid=N or uidmapping="),
    ("gid", When::Always, "groups are shown as they are on disk: use squash_to_gid=N or gidmapping="),
    ("modules", When::Always, "libfuse's modules are not available: leave it out"),
    ("setuid", When::Always, "start plyfs as that user instead, for example with setpriv(1)"),
    ("drop_privileges", When::Always, "start plyfs as an ordinary user or in a user namespace instead"),
    ("fd", When::Always, "plyfs opens /dev/fuse itself: leave it out"),
    ("direct_io", When::Always, NO_WATCH),
    // fuse-overlayfs
    ("plugins", When::Always, "there are no plugins: leave it out, and unpack what the plugin would supply"),
    ("noxattrs", When::Unless(&["0"]), "extended attributes are always shown: leave it out"),
    ("noacl", When::Always, "ACLs always hold: leave it out, and remove them with `setfacl -b` where they should not"),
    ("ino32", When::Unless(&["0"]), "inode numbers have 64 bits: leave it out"),
    // overlayfs
    ("redirect_dir", When::Unless(&["off", "nofollow"]), "plyfs makes no redirects: a renamed directory is copied up; write redirect_dir=off"),
    ("metacopy", When::Unless(&["off"]), "plyfs makes no copies of metadata alone: the whole file is copied up; write metacopy=off"),
    ("nfs_export", When::Unless(&["off"]), "file handles do not outlive the kernel's cache: write nfs_export=off, and export the branches"),
    ("verity", When::Unless(&["off"]), "digests are not checked: write verity=off"),
    ("override_creds", When::Unless(&["on"]), "branches are read with the daemon's rights: leave it out"),
    ("datadir+", When::Always, "there are no data-only lowers: give lowers that hold their own data, with lowerdir="),
    // unionfs-fuse
    ("chroot", When::Always, "give the branches' paths as they are seen from here"),
    ("nocow", When::Always, "what is changed is copied up: leave it out, or mount with -o ro"),
    ("stats", When::Always, "there is no file `stats`: use `plyfs stats MOUNTPOINT`"),
    // aufs
    ("hinotify", When::Always, NO_WATCH),
    ("shwh", When::Always, "whiteouts are never shown: look into the upper itself"),
    ("nodirperm1", When::Always, "the topmost directory's permissions hold for all that is merged into it: leave it out"),
];

/// Whatever else peers know.
#[rustfmt::skip]
const ACCEPTED: &[(&str, &[&str])] = &[
    ("mount(8), fstab and systemd", &[
        "defaults", "auto", "noauto", "user", "nouser", "nousers",
        "nofail", "_netdev", "comment", "silent", "loud", "mand", "nomand", "iversion",
        "noiversion", "lazytime", "nolazytime", "helper",
        "uhelper", "private", "rprivate",
        "shared", "rshared", "slave", "rslave",
    ]),
    ("libfuse", &[
        "default_permissions", "subtype", "auto_unmount", "big_writes", "max_read", "max_write",
        "max_readahead", "max_background", "congestion_threshold", "ac_attr_timeout", "noforget", "remember",
        "kernel_cache", "auto_cache", "noauto_cache", "hard_remove", "use_ino",
        "readdir_ino", "nonempty", "blkdev", "blksize", "async_read", "sync_read",
        "atomic_o_trunc", "no_remote_lock", "no_remote_flock", "no_remote_posix_lock",
        "splice_write", "no_splice_write", "splice_move", "no_splice_move", "splice_read",
        "no_splice_read", "intr", "nointr", "intr_signal",
        "debug", "clone_fd", "max_idle_threads", "max_threads",
        "writeback_cache", "no_writeback_cache", "readdirplus", "async_dio",
        "parallel_direct_writes", "rootmode", "user_id", "group_id",
    ]),
    ("fuse-overlayfs", &[
        "threaded", "fast_ino", "writeback", "cache",
    ]),
    ("overlayfs", &[
        "index", "xino", "userxattr", "uuid", "default", "nouuid", "nooverride_creds",
    ]),
    ("unionfs-fuse", &[
        "cow", "max_files", "hide_meta_files", "hide_meta_dir", "relaxed_permissions",
        "preserve_branch", "noinitgroups", "statfs_omit_ro", "debug_file",
    ]),
    ("aufs", &[
        "noxino", "trunc_xino", "notrunc_xino", "trunc_xino_path", "itrunc_xino", "plink",
        "noplink", "clean_plink", "create", "create_policy", "copyup", "copyup_policy",
        "cpup", "coo", "noshwh", "sum", "nosum", "wsum", "dirwh", "dirperm1",
        "diropq", "warn_perm", "nowarn_perm", "rdcache", "rdblk", "rdhash",
        "rendir", "acl", "dio", "nodio", "wbr_create", "wbr_copyup", "verbose", "v",
        "noverbose", "quiet", "q", "si",
    ]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_option_is_in_one_class() {
        let flags = KERNEL_FLAGS.iter().map(|(name, ..)| *name);
        let refused = REFUSED.iter().map(|(name, ..)| *name);
        let accepted = ACCEPTED.iter().flat_map(|(_, names)| names.iter().copied());
        let mut seen = BTreeSet::new();
        for name in flags.chain(LABELS.iter().copied()).chain(refused).chain(accepted) {
            assert!(seen.insert(name), "{name} is in two places");
        }
    }

    #[test]
    fn a_reason_says_what_to_do() {
        for (name, _, reason) in REFUSED {
            let acts = [
                "leave it out",
                "leave the option out",
                "write ",
                "use ",
                "unmount",
                "start plyfs",
                "give ",
                "look ",
            ];
            assert!(acts.iter().any(|act| reason.contains(act)), "{name}: {reason}");
            assert!(!reason.ends_with('.') && !reason.contains("  "), "{name}: {reason}");
        }
    }

    /// What each option of a peer comes to, one line a class. A new option of theirs belongs here first.
    #[test]
    fn the_classes() {
        let class_of = |option: &str| match option.split_once('=') {
            Some((name, value)) => class(name.as_bytes(), Some(value.as_bytes())),
            None => class(option.as_bytes(), None),
        };
        for option in "remount umask=077 umask=0 uid=0 gid=5 modules=subdir setuid=bin drop_privileges fd=3 direct_io \
            plugins=a.so noxattrs=1 noxattrs noacl ino32=1 redirect_dir=on redirect_dir=follow metacopy=on \
            nfs_export=on verity=on verity=require override_creds=off datadir+=d chroot=/x nocow stats hinotify shwh \
            nodirperm1"
            .split_whitespace()
        {
            assert!(matches!(class_of(option), Some(Class::Refused(_))), "{option}: {:?}", class_of(option));
        }
        for option in "defaults noauto auto nofail _netdev user=root comment=x x-systemd.automount X-mount.mkdir=0755 \
            auto_unmount default_permissions hard_remove noforget use_ino \
            noxattrs=0 redirect_dir=off redirect_dir=nofollow metacopy=off index=off \
            index=on xino=auto nfs_export=off verity=off override_creds=on uuid=null userxattr cow hide_meta_files \
            sum noplink acl create=rr si=7 user_id=0 rootmode=40000"
            .split_whitespace()
        {
            assert_eq!(class_of(option), Some(Class::Accepted), "{option}");
        }
        let (nosuid, nodev) = (MountFlags::NOSUID, MountFlags::NODEV);
        for (option, flags, setting) in [
            ("nosymfollow", MountFlags::NOSYMFOLLOW, Set),
            ("symfollow", MountFlags::NOSYMFOLLOW, Clear),
            ("suid", nosuid, Clear),
            ("owner", nosuid | nodev, Set),
            ("users", nosuid | nodev | MountFlags::NOEXEC, Set),
        ] {
            assert_eq!(class_of(option), Some(Class::Flag(flags, setting)), "{option}");
        }
        assert_eq!(class_of("context=u:r:t:s0"), Some(Class::Label));
        assert_eq!(class_of("bogus"), None);
    }
}
