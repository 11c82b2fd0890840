//! Which options of others are taken without a word?
//!
//! A line that works elsewhere must work here. What these ask for is either always so
//! (`default_permissions`), meaningless for a union in userspace (`redirect_dir=`), or the
//! business of whoever called us (`noauto`).

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
];

/// The names of `flags`, as `-o` options of fusermount3.
pub fn names_of(flags: MountFlags) -> impl Iterator<Item = &'static str> {
    KERNEL_FLAGS
        .iter()
        .filter(move |(_, flag, setting)| *setting == Set && flags.contains(*flag))
        .map(|(name, ..)| *name)
}

/// Whether `name` is an option of a peer, of libfuse or of mount(8).
pub(super) fn is_known(name: &[u8]) -> bool {
    let begins_as_comment = name.starts_with(b"x-") || name.starts_with(b"X-");
    begins_as_comment || PEERS.iter().any(|(_, names)| names.iter().any(|n| n.as_bytes() == name))
}

/// Every peer's options that we have no use for.
#[rustfmt::skip]
const PEERS: &[(&str, &[&str])] = &[
    ("mount(8), fstab and systemd", &[
        "defaults", "auto", "noauto", "user", "nouser", "users", "nousers", "owner", "group",
        "nofail", "_netdev", "comment", "silent", "loud", "mand", "nomand", "iversion",
        "noiversion", "lazytime", "nolazytime", "nosymfollow", "symfollow", "remount", "helper",
        "uhelper", "context", "fscontext", "defcontext", "rootcontext", "private", "rprivate",
        "shared", "rshared", "slave", "rslave",
    ]),
    ("libfuse", &[
        "default_permissions", "subtype", "auto_unmount", "big_writes", "max_read", "max_write",
        "max_readahead", "max_background", "congestion_threshold", "attr_timeout",
        "entry_timeout", "negative_timeout", "ac_attr_timeout", "noforget", "remember",
        "kernel_cache", "auto_cache", "noauto_cache", "direct_io", "hard_remove", "use_ino",
        "readdir_ino", "nonempty", "blkdev", "blksize", "async_read", "sync_read",
        "atomic_o_trunc", "no_remote_lock", "no_remote_flock", "no_remote_posix_lock",
        "splice_write", "no_splice_write", "splice_move", "no_splice_move", "splice_read",
        "no_splice_read", "intr", "nointr", "intr_signal", "modules", "umask", "uid", "gid",
        "debug", "clone_fd", "max_idle_threads", "max_threads", "setuid", "drop_privileges",
        "writeback_cache", "no_writeback_cache", "readdirplus", "async_dio",
        "parallel_direct_writes", "fd", "rootmode", "user_id", "group_id",
    ]),
    ("fuse-overlayfs", &[
        "redirect_dir", "timeout", "threaded", "fsync", "fast_ino", "writeback", "noxattrs",
        "plugins", "xattr_permissions", "static_nlink", "noacl", "ino32", "cache",
    ]),
    ("overlayfs", &[
        "index", "xino", "metacopy", "userxattr", "nfs_export", "verity", "uuid", "default",
        "nouuid", "override_creds", "nooverride_creds",
    ]),
    ("unionfs-fuse", &[
        "cow", "max_files", "hide_meta_files", "hide_meta_dir", "chroot", "relaxed_permissions",
        "preserve_branch", "nocow", "noinitgroups", "statfs_omit_ro", "stats", "debug_file",
        "direct_io",
    ]),
    ("aufs", &[
        "noxino", "trunc_xino", "notrunc_xino", "trunc_xino_path", "itrunc_xino", "plink",
        "noplink", "clean_plink", "udba", "create", "create_policy", "copyup", "copyup_policy",
        "cpup", "coo", "noshwh", "shwh", "sum", "nosum", "wsum", "dirwh", "dirperm1",
        "nodirperm1", "diropq", "warn_perm", "nowarn_perm", "rdcache", "rdblk", "rdhash",
        "rendir", "acl", "dio", "nodio", "hinotify", "wbr_create", "wbr_copyup", "verbose", "v",
        "noverbose", "quiet", "q", "si",
    ]),
];
