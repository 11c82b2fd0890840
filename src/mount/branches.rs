//! Are the directories that the user named fit to be a union? Then here they are, open.
//!
//! Every check comes before the first change on disk, which is the default workdir.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Access as Wanted, AtFlags, Mode, OFlags, StatVfsMountFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::error::{Dir, MountError, Role};
use super::lock::{self, Hold, WorkLock};
use super::mountpoint::Mountpoint;
use super::place::{self, Identity, Place};
use super::snapshots::Store;
use super::{exposure, mountinfo, warn_user, work};
use crate::branch::{BranchRoot, BranchRoots, Hidden, InodeId, SnapshotRoot, UpperRoot};
use crate::options::{Access, MountOptions};
use crate::rules::BranchId;
use crate::union::{NewLower, RootRole, Union};

/// The branches, and what follows from them for the mount.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) roots: BranchRoots,
    /// Read-only if the user says so, or if there is no room for a workdir.
    pub(super) access: Access,
    /// What a branch's own mount forbids: the union would otherwise be a way around it.
    pub(super) forbidden: MountFlags,
    /// Kept for as long as the workdir is in use.
    pub(super) lock: Option<WorkLock>,
}

/// Opens and checks every branch and the workdir.
pub(super) fn open(options: &MountOptions, mountpoint: Option<&Mountpoint>) -> Result<Stack, MountError> {
    let upper = options.upper.as_deref().map(|path| Opened::new(Role::Upper, path)).transpose()?;
    let work = match (&options.work, options.access) {
        (None, _) => None,
        (Some(path), Access::ReadWrite) => Some(Opened::new(Role::Work, path)?),
        (Some(path), Access::ReadOnly) => match Opened::new(Role::Work, path) {
            // Nothing is noted in it then.
            Err(MountError::Missing(_)) => None,
            opened => Some(opened?),
        },
    };
    let lowers =
        options.lowers.iter().map(|path| Opened::new(Role::Lower, path)).collect::<Result<Vec<_>, _>>()?;

    let all = || upper.iter().chain(&work).chain(&lowers);
    let known = distinct(all())?;
    let mut hidden = Hidden::default();
    for dir in all() {
        if is_hidden(dir, &known)? {
            hidden.inodes.push(dir.place.identity.inode_id());
        }
    }
    if let Some(mountpoint) = mountpoint {
        hidden.names.extend(hidden_mountpoint(mountpoint, &known)?);
    }
    hide(options, &mut hidden)?;

    let forbidden = upper
        .iter()
        .chain(&lowers)
        .try_fold(MountFlags::empty(), |all, dir| Ok::<_, MountError>(all | dir.forbidden()?))?;
    let forbidden =
        if exposure::matters() { forbidden | unsafe_for_root(upper.as_ref(), &lowers)? } else { forbidden };
    let is_upper_hidden =
        upper.as_ref().is_some_and(|upper| hidden.inodes.contains(&upper.place.identity.inode_id()));
    let lowers: Vec<_> = lowers.into_iter().map(Opened::into_root).collect();
    let read_only = |upper: Option<(Opened, Option<BranchRoot>)>, lowers: Vec<BranchRoot>, hidden| {
        let mut lowers = lowers;
        let upper = match upper {
            Some((upper, work)) => {
                let snapshots = snapshots_below(&upper, false, &mut lowers)?;
                Some(UpperRoot { upper: upper.into_root(), work, writes: false, snapshots })
            }
            None => None,
        };
        let roots = BranchRoots { upper, lowers, hidden };
        Ok(Stack { roots, access: Access::ReadOnly, forbidden, lock: None })
    };
    match (upper, options.access) {
        (None, _) => read_only(None, lowers, hidden),
        (Some(upper), Access::ReadOnly) => {
            lock::take_upper(&upper.fd, Hold::Shared, &upper.dir())?;
            let work = match work {
                Some(work) => Some(work.into_root()),
                None => match work::find_beside(&upper.fd, &upper.path) {
                    Some((path, fd)) => {
                        let work = Opened::from_fd(Role::Work, path, fd)?;
                        // It is beside the upper.
                        if is_upper_hidden {
                            hidden.inodes.push(work.place.identity.inode_id());
                        }
                        Some(work.into_root())
                    }
                    None => None,
                },
            };
            read_only(Some((upper, work)), lowers, hidden)
        }
        (Some(upper), Access::ReadWrite) => {
            writable(&upper)?;
            if let Some(work) = &work {
                writable(work)?;
                can_rename_between(work, &upper)?;
            }
            // Before the first change on disk: a mount that fails for this leaves nothing in anybody's workdir.
            lock::take_upper(&upper.fd, Hold::Exclusive, &upper.dir())?;
            let work = match work {
                Some(work) => work,
                None => match work::make_beside(&upper.fd, &upper.path) {
                    Ok((path, fd)) => {
                        let work = Opened::from_fd(Role::Work, path, fd)?;
                        distinct([&work].into_iter().chain([&upper]))?;
                        if is_upper_hidden {
                            hidden.inodes.push(work.place.identity.inode_id());
                        }
                        work
                    }
                    Err(work::Unmade::Full(errno)) => {
                        warn_user(format_args!(
                            "mounted read-only: there is no room for a workdir beside {} ({errno}); make room, or \
                             give workdir=DIR",
                            upper.dir()
                        ));
                        return read_only(Some((upper, None)), lowers, hidden);
                    }
                    Err(work::Unmade::Unfit(error)) => return Err(error),
                },
            };
            warn_if_exposed(&upper, &work);
            let lock = lock::take_workdir(&work.fd, &work.dir())?;
            let mut lowers = lowers;
            let snapshots = snapshots_below(&upper, true, &mut lowers)?;
            let work = Some(work.into_root());
            let upper = UpperRoot { upper: upper.into_root(), work, writes: true, snapshots };
            let roots = BranchRoots { upper: Some(upper), lowers, hidden };
            Ok(Stack { roots, access: Access::ReadWrite, forbidden, lock })
        }
    }
}

/// What the user hides of the lowers, whether it is there by now or not.
fn hide(options: &MountOptions, hidden: &mut Hidden) -> Result<(), MountError> {
    for path in &options.hide {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let failed = |errno| MountError::CannotHide { path: path.clone(), errno };
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(failed(Errno::INVAL));
        };
        let around =
            rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let around = around.map_err(failed)?;
        hidden.names.push((Place::of(&around).map_err(failed)?.identity.inode_id(), name.to_owned()));
        match rustix::fs::openat(
            &around,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(inode) => hidden.inodes.push(Place::of(&inode).map_err(failed)?.identity.inode_id()),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    for path in &options.empty {
        let dir = open_dir(path, Role::Lower)?;
        let failed = |errno| MountError::CannotHide { path: path.clone(), errno };
        hidden.emptied.push(Place::of(&dir).map_err(failed)?.identity.inode_id());
    }
    Ok(())
}

/// What the upper lies on of its own past. A lower that is one of these is not a lower besides.
fn snapshots_below(
    upper: &Opened,
    writes: bool,
    lowers: &mut Vec<BranchRoot>,
) -> Result<Vec<SnapshotRoot>, MountError> {
    let Some(mut store) = Store::find(&upper.fd, &upper.path)? else { return Ok(Vec::new()) };
    let snapshots = store.below(&upper.fd, &upper.path, writes)?;
    let identity = |fd: &OwnedFd| Place::of(fd).ok().map(|place| place.identity);
    let known: Vec<_> = snapshots.iter().map(|snapshot| identity(&snapshot.layer)).collect();
    lowers.retain(|lower| !known.contains(&identity(&lower.fd)));
    Ok(snapshots)
}

/// What is written as root should not be renamed behind the union's back by whoever owns a directory in it.
fn warn_if_exposed(upper: &Opened, work: &Opened) {
    if !exposure::matters() {
        return;
    }
    for dir in [upper, work] {
        match exposure::is_reachable(&dir.fd) {
            Ok(true) => {
                warn_user(format_args!(
                    "{} can be reached by other users, past the mount: move it into a directory of mode 0700",
                    dir.dir()
                ));
                return;
            }
            Ok(false) => {}
            Err(errno) => log::debug!("{}: {errno}", dir.dir()),
        }
    }
}

/// Where the mountpoint is: what a lower that comes later must know of it.
#[derive(Debug, Default)]
pub(super) struct Around {
    /// The directories around it, from the innermost.
    dirs: Vec<Identity>,
    /// Its name in the innermost.
    name: OsString,
    /// What the user hides.
    hidden: Hidden,
}

impl Around {
    /// Of a mountpoint, if there is one.
    pub(super) fn of(mountpoint: Option<&Mountpoint>, options: &MountOptions) -> Result<Self, MountError> {
        let mut around = Self::default();
        hide(options, &mut around.hidden)?;
        if let Some(mountpoint) = mountpoint {
            around.dirs = place::ancestors(&mountpoint.dir)
                .map_err(|errno| MountError::MountpointUnreadable { path: mountpoint.path.clone(), errno })?;
            around.name = mountpoint.path.file_name().unwrap_or_default().to_owned();
        }
        Ok(around)
    }
}

/// A directory that is to come into a live stack, open.
#[derive(Debug)]
pub(super) struct Added {
    pub(super) root: BranchRoot,
    /// What of the union's own lies in it.
    pub(super) hidden: Hidden,
    /// What its own mount forbids.
    pub(super) forbidden: MountFlags,
    /// Its device number and inode number.
    pub(super) identity: InodeId,
}

/// Opens and checks a directory that is to come into the stack of a union as a lower, beside the lowers that are kept.
pub(super) fn open_added(
    path: &Path,
    union: &Union,
    kept: &[BranchId],
    around: &Around,
) -> Result<Added, MountError> {
    let added = Opened::new(Role::Lower, path)?;
    let failed = |errno| MountError::Directory { dir: added.dir(), call: "open ..", errno };
    let above = place::ancestors(&added.fd).map_err(failed)?;
    let mut hidden = around.hidden.clone();
    for (role, other, path) in union.roots() {
        if role == RootRole::Lower && !kept.contains(&other.branch()) {
            continue;
        }
        let role = match role {
            RootRole::Upper => Role::Upper,
            RootRole::Lower => Role::Lower,
            RootRole::Work => Role::Work,
        };
        let dir = || Dir { role, path: path.to_owned() };
        let failed = |call| move |errno| MountError::Directory { dir: dir(), call, errno };
        let identity = Place::of(other).map_err(failed("statx"))?.identity;
        if identity == added.place.identity {
            return Err(MountError::Same(added.dir(), dir()));
        }
        if above.contains(&identity) {
            return Err(MountError::Nested { inner: added.dir(), outer: dir() });
        }
        if place::ancestors(other).map_err(failed("open .."))?.contains(&added.place.identity) {
            if role == Role::Lower {
                return Err(MountError::Nested { inner: dir(), outer: added.dir() });
            }
            hidden.inodes.push(identity.inode_id());
        }
    }
    if around.dirs.contains(&added.place.identity)
        && let Some(parent) = around.dirs.first()
    {
        hidden.names.push((parent.inode_id(), around.name.clone()));
    }
    let mut forbidden = added.forbidden()?;
    if exposure::matters() {
        forbidden |= unsafe_for_root(None, std::slice::from_ref(&added))?;
    }
    let identity = added.place.identity.inode_id();
    Ok(Added { root: added.into_root(), hidden, forbidden, identity })
}

/// Of directories that come into a stack in one change, none is inside another.
pub(super) fn distinct_lowers(lowers: Vec<NewLower>) -> Result<Vec<NewLower>, MountError> {
    let mut added: Vec<(Identity, Vec<Identity>, &Path)> = Vec::new();
    for lower in &lowers {
        let NewLower::Added(BranchRoot { path, fd }, _) = lower else { continue };
        let dir = |path: &Path| Dir { role: Role::Lower, path: path.to_owned() };
        let failed = |call| move |errno| MountError::Directory { dir: dir(path), call, errno };
        let identity = Place::of(fd).map_err(failed("statx"))?.identity;
        let above = place::ancestors(fd).map_err(failed("open .."))?;
        for (other, around, at) in &added {
            if *other == identity {
                return Err(MountError::Same(dir(at), dir(path)));
            }
            if above.contains(other) {
                return Err(MountError::Nested { inner: dir(path), outer: dir(at) });
            }
            if around.contains(&identity) {
                return Err(MountError::Nested { inner: dir(at), outer: dir(path) });
            }
        }
        added.push((identity, above, path));
    }
    Ok(lowers)
}

/// Opens a directory as the kernel resolves its path.
pub(super) fn open_dir(path: &Path, role: Role) -> Result<OwnedFd, MountError> {
    Opened::new(role, path).map(|opened| opened.fd)
}

/// One directory of the stack.
#[derive(Debug)]
struct Opened {
    role: Role,
    /// Absolute where that can be found out: for messages and listings only.
    path: PathBuf,
    fd: OwnedFd,
    place: Place,
}

impl Opened {
    /// Opens `given` as the kernel resolves it: from the start directory, through symlinks.
    fn new(role: Role, given: &Path) -> Result<Self, MountError> {
        let dir = || Dir { role, path: given.to_owned() };
        // For reading, not O_PATH: a lock needs it, and an unreadable branch shows here.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(given, flags, Mode::empty())
            .and_then(|fd| rustix::fs::accessat(&fd, c".", Wanted::EXEC_OK, AtFlags::EACCESS).map(|()| fd))
            .map_err(|errno| match errno {
                Errno::NOENT => MountError::Missing(dir()),
                Errno::NOTDIR => MountError::NotADirectory(dir()),
                errno => MountError::Unreadable { dir: dir(), errno },
            })?;
        let path =
            given.canonicalize().or_else(|_| std::path::absolute(given)).unwrap_or_else(|_| given.to_owned());
        Self::from_fd(role, path, fd)
    }

    fn from_fd(role: Role, path: PathBuf, fd: OwnedFd) -> Result<Self, MountError> {
        match Place::of(&fd) {
            Ok(place) => Ok(Self { role, path, fd, place }),
            Err(errno) => Err(MountError::Directory { dir: Dir { role, path }, call: "statx", errno }),
        }
    }

    fn dir(&self) -> Dir {
        Dir { role: self.role, path: self.path.clone() }
    }

    /// nosuid, nodev and noexec of the mount that it is on.
    fn forbidden(&self) -> Result<MountFlags, MountError> {
        let disk = self.disk()?;
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::NOSUID, disk.contains(StatVfsMountFlags::NOSUID));
        // Not known to rustix: ST_NODEV and ST_NOEXEC of statvfs(3).
        flags.set(MountFlags::NODEV, disk.bits() & 4 != 0);
        flags.set(MountFlags::NOEXEC, disk.bits() & 8 != 0);
        Ok(flags)
    }

    fn disk(&self) -> Result<StatVfsMountFlags, MountError> {
        let disk = rustix::fs::fstatvfs(&self.fd);
        disk.map(|disk| disk.f_flag).map_err(|errno| MountError::Directory {
            dir: self.dir(),
            call: "statvfs",
            errno,
        })
    }

    fn into_root(self) -> BranchRoot {
        BranchRoot { path: self.path, fd: self.fd }
    }
}

/// What root's mount does without, beyond what the branches' own mounts forbid: what filesystems that are mounted
/// inside a branch forbid (the union shows them, and has one set of flags), and suid on an upper whose inodes cannot
/// be told apart, since somebody else's program could take the place of one that is looked at.
fn unsafe_for_root(upper: Option<&Opened>, lowers: &[Opened]) -> Result<MountFlags, MountError> {
    let mut flags = MountFlags::empty();
    let mounts =
        mountinfo::all().map_err(|error| MountError::Process { what: "/proc/self/mountinfo", error })?;
    for dir in upper.into_iter().chain(lowers) {
        let inside = |mount: &&mountinfo::Entry| {
            mount.mountpoint.starts_with(&dir.path) && mount.mountpoint != dir.path
        };
        for mount in mounts.iter().filter(inside) {
            let forbids = |word: &str| mount.flags.split(',').any(|flag| flag == word);
            flags.set(MountFlags::NOSUID, flags.contains(MountFlags::NOSUID) || forbids("nosuid"));
            flags.set(MountFlags::NODEV, flags.contains(MountFlags::NODEV) || forbids("nodev"));
        }
    }
    if let Some(upper) = upper {
        let stat = rustix::fs::statx(&upper.fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME);
        if !stat.is_ok_and(|stat| stat.stx_mask & StatxFlags::BTIME.bits() != 0) {
            log::info!("nosuid: the upper's filesystem keeps no times of birth");
            flags |= MountFlags::NOSUID;
        }
    }
    Ok(flags)
}

/// Every directory by its identity; an error if one is there twice.
fn distinct<'a>(dirs: impl Iterator<Item = &'a Opened>) -> Result<HashMap<Identity, &'a Opened>, MountError> {
    let mut known: HashMap<Identity, &Opened> = HashMap::new();
    for dir in dirs {
        if let Some(first) = known.insert(dir.place.identity, dir) {
            return Err(MountError::Same(first.dir(), dir.dir()));
        }
    }
    Ok(known)
}

/// Whether a directory lies inside a lower, and so has to be hidden there: the upper and the workdir may, as with a
/// home that is mounted over itself with its changes kept in it.
fn is_hidden(inner: &Opened, known: &HashMap<Identity, &Opened>) -> Result<bool, MountError> {
    let above = place::ancestors(&inner.fd).map_err(|errno| MountError::Directory {
        dir: inner.dir(),
        call: "open ..",
        errno,
    })?;
    let mut is_hidden = false;
    for outer in above.iter().filter_map(|identity| known.get(identity)) {
        if outer.role != Role::Lower || inner.role == Role::Lower {
            return Err(MountError::Nested { inner: inner.dir(), outer: outer.dir() });
        }
        is_hidden = true;
    }
    Ok(is_hidden)
}

/// On a branch itself is allowed, as `mount -t overlay -o lowerdir=/x /x` is: the descriptors
/// reach what lies under the mount. Inside a lower the mountpoint is hidden, by its directory and name. Inside the upper
/// or the workdir the union would show itself.
fn hidden_mountpoint(
    mountpoint: &Mountpoint,
    known: &HashMap<Identity, &Opened>,
) -> Result<Option<(InodeId, OsString)>, MountError> {
    let unreadable = |errno| MountError::MountpointUnreadable { path: mountpoint.path.clone(), errno };
    let above = place::ancestors(&mountpoint.dir).map_err(unreadable)?;
    let outer: Vec<_> = above.iter().filter_map(|identity| known.get(identity)).collect();
    if let Some(dir) = outer.iter().find(|dir| dir.role != Role::Lower) {
        return Err(MountError::MountpointInside { path: mountpoint.path.clone(), dir: dir.dir() });
    }
    if outer.is_empty() {
        return Ok(None);
    }
    let name = mountpoint.path.file_name().unwrap_or_default().to_owned();
    let parent = place::open_parent(&mountpoint.dir).map_err(unreadable)?;
    let parent = Place::of(&parent).map_err(unreadable)?;
    Ok(Some((parent.identity.inode_id(), name)))
}

fn writable(dir: &Opened) -> Result<(), MountError> {
    if dir.disk()?.contains(StatVfsMountFlags::RDONLY) {
        return Err(MountError::ReadOnlyDisk(dir.dir()));
    }
    rustix::fs::accessat(&dir.fd, c".", Wanted::WRITE_OK | Wanted::EXEC_OK, AtFlags::EACCESS)
        .map_err(|errno| MountError::Unwritable { dir: dir.dir(), errno })
}

/// A staged file is published by one rename, and a rename does not cross mounts.
fn can_rename_between(work: &Opened, upper: &Opened) -> Result<(), MountError> {
    let same_disk = work.place.identity.device() == upper.place.identity.device();
    if same_disk && work.place.mount_id == upper.place.mount_id {
        return Ok(());
    }
    Err(MountError::WorkElsewhere { work: work.path.clone(), upper: upper.path.clone() })
}
