//! What can be done to a tree?

use proptest::prelude::*;
use rustix::fs::{FallocateFlags, FileType, RenameFlags, XattrFlags};

use super::name::{Name, Where, any_entry, any_name, anywhere};
use super::times::{Instant, TIMES};

/// An operation, and the user who does it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) user: u32,
    pub(crate) op: Op,
}

/// Which of the open files.
pub(crate) type Slot = usize;
/// How many there may be.
pub(crate) const SLOTS: usize = 2;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Read,
    Write,
    Both,
    Append,
    Truncate,
    Directory,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    // With a path.
    Create {
        path: Where,
        mode: u32,
        umask: u32,
        exclusive: bool,
        slot: Slot,
    },
    Open {
        path: Where,
        how: Mode,
        slot: Slot,
    },
    Read(Where),
    Write {
        path: Where,
        offset: u64,
        len: usize,
    },
    Append {
        path: Where,
        len: usize,
    },
    Truncate {
        path: Where,
        len: u64,
    },
    Unlink(Where),
    Rmdir(Where),
    Mkdir {
        path: Where,
        mode: u32,
        umask: u32,
    },
    Symlink {
        path: Where,
        target: &'static str,
    },
    Mknod {
        path: Where,
        kind: FileType,
        device: (u32, u32),
        mode: u32,
        umask: u32,
    },
    Link {
        from: Where,
        to: Where,
    },
    Rename {
        from: Where,
        to: Where,
        flags: RenameFlags,
    },
    Chmod {
        path: Where,
        mode: u32,
    },
    Chown {
        path: Where,
        owner: Option<u32>,
        group: Option<u32>,
        follow: bool,
    },
    Utimens {
        path: Where,
        time: SetTime,
        follow: bool,
    },
    SetXattr {
        path: Where,
        key: &'static str,
        value: &'static str,
        flags: XattrFlags,
    },
    GetXattr {
        path: Where,
        key: &'static str,
    },
    RemoveXattr {
        path: Where,
        key: &'static str,
    },
    ListXattr(Where),
    List(Where),
    Stat(Where),
    Lstat(Where),
    ReadLink(Where),
    // With an open file.
    Close(Slot),
    FdStat(Slot),
    FdRead {
        slot: Slot,
        offset: u64,
        len: usize,
    },
    FdWrite {
        slot: Slot,
        offset: u64,
        len: usize,
    },
    /// At the file's position, or its end if it was opened so.
    FdWriteOn {
        slot: Slot,
        len: usize,
    },
    FdTruncate {
        slot: Slot,
        len: u64,
    },
    FdChmod {
        slot: Slot,
        mode: u32,
    },
    FdChown {
        slot: Slot,
        owner: u32,
    },
    FdUtimens {
        slot: Slot,
        time: SetTime,
    },
    FdSetXattr {
        slot: Slot,
        key: &'static str,
        value: &'static str,
    },
    FdAllocate {
        slot: Slot,
        how: FallocateFlags,
        offset: u64,
        len: u64,
    },
    FdSync(Slot),
    FdList(Slot),
    FdCopy {
        from: Slot,
        to: Slot,
        offset: u64,
        len: usize,
    },
    /// openat(2), in a directory that may be gone.
    FdCreate {
        slot: Slot,
        name: Name,
    },
    /// unlinkat(2), likewise.
    FdUnlink {
        slot: Slot,
        name: Name,
    },
    // With the whole.
    Compare,
    Remount,
    /// The upper is a lower from then on, and an empty one takes its place.
    Snapshot,
}

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum SetTime {
    To(Instant),
    Now,
    /// Only the time of access.
    Keep,
}

impl Op {
    /// The paths whose last component comes or goes.
    pub(crate) fn names(&self) -> Vec<&Where> {
        match self {
            Self::Create { path, .. }
            | Self::Unlink(path)
            | Self::Rmdir(path)
            | Self::Mkdir { path, .. }
            | Self::Symlink { path, .. }
            | Self::Mknod { path, .. } => vec![path],
            Self::Link { from, to } | Self::Rename { from, to, .. } => vec![from, to],
            _ => Vec::new(),
        }
    }

    /// All paths.
    pub(crate) fn paths(&self) -> Vec<&Where> {
        match self {
            Self::Open { path, .. }
            | Self::Read(path)
            | Self::Write { path, .. }
            | Self::Append { path, .. }
            | Self::Truncate { path, .. }
            | Self::Chmod { path, .. }
            | Self::Chown { path, .. }
            | Self::Utimens { path, .. }
            | Self::SetXattr { path, .. }
            | Self::GetXattr { path, .. }
            | Self::RemoveXattr { path, .. }
            | Self::ListXattr(path)
            | Self::List(path)
            | Self::Stat(path)
            | Self::Lstat(path)
            | Self::ReadLink(path) => vec![path],
            _ => self.names(),
        }
    }
}

/// A sequence of operations.
pub(crate) fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any_step(), 1..100)
}

fn any_step() -> impl Strategy<Value = Step> {
    let user = prop_oneof![10 => Just(0), 2 => Just(1000), 1 => Just(65_534)];
    let op = prop_oneof![
        30 => any_name_op(),
        18 => any_path_op(),
        22 => any_fd_op(),
        1 => Just(Op::Compare),
        1 => Just(Op::Remount),
        1 => Just(Op::Snapshot),
    ];
    (user, op).prop_map(|(user, op)| Step { user, op })
}

fn any_name_op() -> BoxedStrategy<Op> {
    let kinds = prop::sample::select(vec![
        (FileType::Fifo, (0, 0)),
        (FileType::Socket, (0, 0)),
        (FileType::RegularFile, (0, 0)),
        (FileType::CharacterDevice, (0, 0)),
        (FileType::CharacterDevice, (1, 3)),
    ]);
    let targets = prop::sample::select(vec!["a", "b", "b/c", "nowhere", "."]);
    let flags = prop_oneof![
        6 => Just(RenameFlags::empty()),
        1 => Just(RenameFlags::NOREPLACE),
        3 => Just(RenameFlags::EXCHANGE),
        1 => Just(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE),
    ];
    prop_oneof![
        6 => (any_entry(), any_file_mode(), any_umask(), any::<bool>(), any_slot()).prop_map(
            |(path, mode, umask, exclusive, slot)| Op::Create { path, mode, umask, exclusive, slot }),
        7 => any_entry().prop_map(Op::Unlink),
        6 => any_entry().prop_map(Op::Rmdir),
        6 => (any_entry(), any_mode(), any_umask()).prop_map(|(path, mode, umask)| Op::Mkdir { path, mode, umask }),
        2 => (any_entry(), targets).prop_map(|(path, target)| Op::Symlink { path, target }),
        2 => (any_entry(), kinds, any_file_mode(), any_umask()).prop_map(
            |(path, (kind, device), mode, umask)| Op::Mknod { path, kind, device, mode, umask }),
        5 => (any_entry(), any_entry()).prop_map(|(from, to)| Op::Link { from, to }),
        12 => (any_entry(), any_entry(), flags).prop_map(|(from, to, flags)| Op::Rename { from, to, flags }),
    ]
    .boxed()
}

fn any_path_op() -> BoxedStrategy<Op> {
    let id = || prop::sample::select(vec![0, 1000, 65_534]);
    // Not neither: the kernel does not tell a FUSE filesystem of a chown that only takes suid away.
    let owners = prop_oneof![
        id().prop_map(|owner| (Some(owner), None)),
        id().prop_map(|group| (None, Some(group))),
        (id(), id()).prop_map(|(owner, group)| (Some(owner), Some(group))),
    ];
    let flags = prop_oneof![Just(XattrFlags::empty()), Just(XattrFlags::CREATE), Just(XattrFlags::REPLACE)];
    prop_oneof![
        4 => anywhere().prop_map(Op::Read),
        4 => (anywhere(), any_offset(), any_len()).prop_map(|(path, offset, len)| Op::Write { path, offset, len }),
        2 => (anywhere(), any_len()).prop_map(|(path, len)| Op::Append { path, len }),
        2 => (anywhere(), any_offset()).prop_map(|(path, len)| Op::Truncate { path, len }),
        4 => (anywhere(), any_mode()).prop_map(|(path, mode)| Op::Chmod { path, mode }),
        3 => (anywhere(), owners, any::<bool>()).prop_map(
            |(path, (owner, group), follow)| Op::Chown { path, owner, group, follow }),
        3 => (anywhere(), any_time(), any::<bool>()).prop_map(
            |(path, time, follow)| Op::Utimens { path, time, follow }),
        3 => (anywhere(), any_key(), any_value(), flags).prop_map(
            |(path, key, value, flags)| Op::SetXattr { path, key, value, flags }),
        1 => (anywhere(), any_key()).prop_map(|(path, key)| Op::GetXattr { path, key }),
        2 => (anywhere(), any_key()).prop_map(|(path, key)| Op::RemoveXattr { path, key }),
        1 => anywhere().prop_map(Op::ListXattr),
        4 => anywhere().prop_map(Op::List),
        2 => anywhere().prop_map(Op::Stat),
        4 => anywhere().prop_map(Op::Lstat),
        1 => anywhere().prop_map(Op::ReadLink),
    ]
    .boxed()
}

fn any_fd_op() -> BoxedStrategy<Op> {
    use Mode::{Append, Both, Directory, Read, Truncate, Write};
    let how = prop::sample::select(vec![Read, Read, Write, Both, Both, Append, Truncate, Directory]);
    let allocate = prop::sample::select(vec![
        FallocateFlags::empty(),
        FallocateFlags::KEEP_SIZE,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        FallocateFlags::ZERO_RANGE,
    ]);
    prop_oneof![
        20 => (anywhere(), how, any_slot()).prop_map(|(path, how, slot)| Op::Open { path, how, slot }),
        2 => any_slot().prop_map(Op::Close),
        4 => any_slot().prop_map(Op::FdStat),
        4 => (any_slot(), any_offset(), any_len()).prop_map(
            |(slot, offset, len)| Op::FdRead { slot, offset, len }),
        6 => (any_slot(), any_offset(), any_len()).prop_map(
            |(slot, offset, len)| Op::FdWrite { slot, offset, len }),
        3 => (any_slot(), any_len()).prop_map(|(slot, len)| Op::FdWriteOn { slot, len }),
        2 => (any_slot(), any_offset()).prop_map(|(slot, len)| Op::FdTruncate { slot, len }),
        3 => (any_slot(), any_mode()).prop_map(|(slot, mode)| Op::FdChmod { slot, mode }),
        2 => (any_slot(), prop::sample::select(vec![0, 1000, 65_534])).prop_map(
            |(slot, owner)| Op::FdChown { slot, owner }),
        3 => (any_slot(), any_time()).prop_map(|(slot, time)| Op::FdUtimens { slot, time }),
        2 => (any_slot(), any_key(), any_value()).prop_map(
            |(slot, key, value)| Op::FdSetXattr { slot, key, value }),
        2 => (any_slot(), allocate, any_offset(), 1..20_000_u64).prop_map(
            |(slot, how, offset, len)| Op::FdAllocate { slot, how, offset, len }),
        1 => any_slot().prop_map(Op::FdSync),
        3 => any_slot().prop_map(Op::FdList),
        2 => (any_slot(), any_slot(), any_offset(), any_len()).prop_map(
            |(from, to, offset, len)| Op::FdCopy { from, to, offset, len }),
        3 => (any_slot(), any_name()).prop_map(|(slot, name)| Op::FdCreate { slot, name }),
        3 => (any_slot(), any_name()).prop_map(|(slot, name)| Op::FdUnlink { slot, name }),
    ]
    .boxed()
}

fn any_slot() -> impl Strategy<Value = Slot> {
    prop_oneof![2 => Just(0), 1 => Just(1)]
}

fn any_mode() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0o644, 0o777, 0o600, 0o755, 0o444, 0o000, 0o4777, 0o2777, 0o1777])
}

/// Without setgid: should a umask take the group's `x` away, the meaning of setgid would be another one (once:
/// mandatory locking), and whether a write clears it depends on the groups of who writes to the disk.
fn any_file_mode() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0o644, 0o777, 0o600, 0o755, 0o444, 0o000, 0o4777])
}

fn any_umask() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0o022, 0, 0o077])
}

fn any_offset() -> impl Strategy<Value = u64> {
    prop::sample::select(vec![0, 0, 3, 4096, 9000, 70_000])
}

fn any_len() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![0, 1, 5, 5000, 140_000])
}

fn any_time() -> impl Strategy<Value = SetTime> {
    prop_oneof![
        4 => prop::sample::select(TIMES.to_vec()).prop_map(SetTime::To),
        1 => Just(SetTime::Now),
        1 => Just(SetTime::Keep),
    ]
}

fn any_key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["user.t", "user.t", "user.u", "trusted.t"])
}

fn any_value() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["one", "two", ""])
}
