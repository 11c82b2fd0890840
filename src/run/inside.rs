//! What does the process do that goes into a run, before it is the command?
//!
//! It makes namespaces, mounts the union in them and hands the session to the daemon outside; puts in their places what is
//! as it is outside; makes the union its root; and becomes the command. Whatever fails it says by the channel.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount,
    open_tree,
};

use super::channel::{Channel, Word};
use super::namespace::Spaces;
use super::{alone, namespace};
use crate::mount::FS_TYPE;

/// What the process is to see.
#[derive(Debug)]
pub(super) struct View {
    /// Where the union is mounted; None for the root of all.
    pub(super) at: Option<PathBuf>,
    /// A directory to mount on until the union is the root.
    pub(super) stage: PathBuf,
    /// An empty directory.
    pub(super) void: PathBuf,
    /// What is as it is outside, and whether it has to be there.
    pub(super) pass: Vec<(PathBuf, bool)>,
    /// What shows another directory: the place of the runs.
    pub(super) instead: (PathBuf, PathBuf),
    /// What of the real tree does not show.
    pub(super) cover: Vec<PathBuf>,
    /// Whether what covers something must not be taken away by root in the run.
    pub(super) locks: bool,
    /// Who the mount is made by, as the namespace has it.
    pub(super) owner: (u32, u32),
    /// Its own network.
    pub(super) net: bool,
}

/// What comes to be in a run.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) command: Vec<OsString>,
    pub(super) directory: PathBuf,
    pub(super) run: String,
    /// The directory of runs, if it is root of a run that has no other user.
    pub(super) alone: Option<PathBuf>,
}

/// A step that failed.
#[derive(Debug)]
struct Failure(String, Errno);

type Result<T> = std::result::Result<T, Failure>;

fn at<T>(step: impl Into<String>, done: std::result::Result<T, Errno>) -> Result<T> {
    done.map_err(|errno| Failure(step.into(), errno))
}

fn at_path<T>(step: &str, path: &Path, done: std::result::Result<T, Errno>) -> Result<T> {
    done.map_err(|errno| Failure(format!("{step} {}", path.display()), errno))
}

/// In a new process: becomes the command, or, without one, waits until nobody listens any more. Returns if it fails.
pub(super) fn go(view: &View, program: Option<&Program>, channel: Channel) -> u8 {
    let entered = build(view, &channel);
    become_or_wait(entered, program, channel)
}

/// In a new process: becomes the command in namespaces that are there.
pub(super) fn join(process: &OwnedFd, net: bool, program: &Program, channel: Channel) -> u8 {
    let entered = at("setns", namespace::join(process, net)).map(|()| Spaces::own());
    become_or_wait(entered, Some(program), channel)
}

fn become_or_wait(entered: Result<Spaces>, program: Option<&Program>, channel: Channel) -> u8 {
    let failed = |Failure(step, errno)| {
        let text = [&errno.raw_os_error().to_le_bytes()[..], step.as_bytes()].concat();
        // Nobody may be there to hear it.
        channel.say(Word::Failed, &text, None).unwrap_or_default();
        1
    };
    let tell = |spaces: Spaces| channel.say(Word::Ready, spaces.text().as_bytes(), None);
    let ready = entered.and_then(|spaces| at("say it", tell(spaces)));
    match (ready, program) {
        (Err(failure), _) => failed(failure),
        (Ok(()), Some(program)) => {
            let Err(failure) = start(program);
            failed(failure)
        }
        (Ok(()), None) => {
            while channel.hear().is_ok_and(|heard| heard.is_some()) {}
            0
        }
    }
}

fn start(program: &Program) -> Result<Infallible> {
    at_path("cd", &program.directory, rustix::process::chdir(&program.directory))?;
    let mut words = program.command.iter();
    let first = words.next().cloned().unwrap_or_default();
    let mut command = Command::new(&first);
    command.args(words).env("PLYFS_RUN", &program.run);
    if let Some(runs) = &program.alone {
        alone::pretend().map_err(|error| Failure(error, Errno::NOSYS))?;
        if std::env::var_os("APT_CONFIG").is_none() {
            command.env("APT_CONFIG", alone::apt_config(runs));
        }
    }
    let error: io::Error = command.exec();
    let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
    Err(Failure(String::new(), errno))
}

fn build(view: &View, channel: &Channel) -> Result<Spaces> {
    at("unshare", namespace::unshare(view.net))?;
    let spaces = Spaces::own();
    at("say it", channel.say(Word::Unshared, b"", None))?;
    wait_for(channel, Word::Mapped)?;
    // What is mounted outside from now on comes in, and nothing goes out.
    let ours = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    at("make mounts our own", mount_change("/", ours))?;
    if view.net {
        at("switch the loopback on", namespace::loopback_up())?;
    }
    let target = view.at.as_ref().unwrap_or(&view.stage);
    // Before anything is mounted over it.
    let instead = clone(&view.instead.1)?;
    let covers = view.cover.iter().map(|path| cover(path, &view.void)).collect::<Result<Vec<_>>>()?;
    let pass = view.pass.iter().filter_map(|(path, is_needed)| match clone(path) {
        Err(_) if !is_needed => None,
        cloned => Some(cloned.map(|tree| (path, tree, *is_needed))),
    });
    let pass = pass.collect::<Result<Vec<_>>>()?;

    let device =
        at_path("open", Path::new("/dev/fuse"), rustix::fs::open("/dev/fuse", READ_WRITE, Mode::empty()))?;
    mount(&device, target, view.owner)?;
    at("hand the session over", channel.say(Word::Mounted, b"", Some(&device)))?;
    drop(device);
    wait_for(channel, Word::Served)?;

    let base = if view.at.is_some() { Path::new("/") } else { &view.stage };
    let root = at_path("open", base, rustix::fs::open(base, PATH_DIR, Mode::empty()))?;
    for (path, tree, is_needed) in pass {
        match attach(&root, path, &tree) {
            Err(_) if !is_needed => {}
            attached => attached?,
        }
    }
    match attach(&root, &view.instead.0, &instead) {
        // It is hidden with a directory around it.
        Err(Failure(_, Errno::NOENT | Errno::NOTDIR)) => {}
        attached => attached?,
    }
    for (path, tree) in covers.into_iter().flatten() {
        attach(&root, &path, &tree)?;
    }
    if view.at.is_none() {
        make_root(&root)?;
    }
    // What is mounted over something is to stay there, also for root in here: in a namespace within, it is locked.
    if view.locks {
        at("lock the mounts", namespace::unshare_again())?;
    }
    Ok(spaces.with_own_mounts())
}

const READ_WRITE: OFlags = OFlags::RDWR.union(OFlags::CLOEXEC);
const PATH_DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn wait_for(channel: &Channel, word: Word) -> Result<()> {
    match at("listen", channel.hear())? {
        Some(heard) if heard.word == word => Ok(()),
        // Whoever waits outside has given up.
        _ => Err(Failure("wait".to_owned(), Errno::CANCELED)),
    }
}

fn mount(device: &OwnedFd, target: &Path, (uid, gid): (u32, u32)) -> Result<()> {
    use std::os::fd::AsRawFd;
    let data = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions,allow_other",
        device.as_raw_fd()
    );
    let data = CString::new(data).map_err(|_| Failure("mount".to_owned(), Errno::INVAL))?;
    at("mount", rustix::mount::mount("plyfs", target, FS_TYPE, MountFlags::empty(), data.as_c_str()))
}

/// What is mounted at a path and beneath, to be put elsewhere.
fn clone(path: &Path) -> Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    at_path("open_tree", path, open_tree(CWD, path, flags))
}

/// Something empty in place of a path, if that is there.
fn cover(path: &Path, void: &Path) -> Result<Option<(PathBuf, OwnedFd)>> {
    let empty = match path.symlink_metadata() {
        Err(_) => return Ok(None),
        Ok(found) if found.is_dir() => void,
        Ok(_) => Path::new("/dev/null"),
    };
    Ok(Some((path.to_owned(), clone(empty)?)))
}

/// Puts a tree over what a path leads to beneath a root, and nowhere else.
fn attach(root: &OwnedFd, path: &Path, tree: &OwnedFd) -> Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let place = at_path("find", path, rustix::fs::openat2(root, path, flags, Mode::empty(), inside))?;
    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    at_path("move_mount", path, move_mount(tree, "", &place, "", how))
}

/// Makes a mount the root of everything, and lets go of the one before.
fn make_root(root: &OwnedFd) -> Result<()> {
    at("chdir", rustix::process::fchdir(root))?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => at("let go of the old root", rustix::mount::unmount(".", UnmountFlags::DETACH))?,
        // On the first file system of all, that of an initramfs, there is nothing to change places with.
        Err(Errno::INVAL) => {
            at("move the root", rustix::mount::mount_move(".", "/"))?;
            at("chroot", rustix::process::chroot("."))?;
        }
        Err(errno) => return Err(Failure("pivot_root".to_owned(), errno)),
    }
    at("chdir", rustix::process::chdir("/"))
}
