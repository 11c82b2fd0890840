//! What a filesystem may lack for good.

/// What is not there, and what is answered instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MissingFeature {
    /// Extended attributes: EOPNOTSUPP.
    Xattrs,
    /// `RENAME_NOREPLACE` and `RENAME_EXCHANGE`: EINVAL.
    RenameFlags,
    /// link(2): EPERM, as vfat has it.
    HardLinks,
    /// mknod(2) of anything: ENOSYS. Files are made by open(2) only.
    Nodes,
    /// symlink(2): EPERM, as vfat has it.
    Symlinks,
    /// Owners other than one for all: chown(2) is EPERM, as vfat has it.
    Owners,
    /// Permission bits: chmod(2) to others is EPERM, as vfat has it.
    Modes,
    /// chmod(2) does nothing, as on a CIFS share or a quiet vfat.
    ModesSilently,
    /// Lower case: `a` and `A` are one name.
    Case,
    /// Numbers in a listing: all are unknown, as libfuse has it without `readdir_ino`.
    NumbersInListings,
    /// rewinddir(3): who begins anew with a descriptor is shown an empty directory, as sshfs has it.
    Rewinding,
}
