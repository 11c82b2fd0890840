//! How does a process come to be in namespaces of its own, or in those of others?
//!
//! One of the seven files with `unsafe` code: fork(2), and the calls that no library names safely.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::Pid;
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use super::ids::{Ids, Line, Writer, find_program};

/// Runs `child` in a copy of this process, which must have one thread.
pub(super) fn fork(child: impl FnOnce() -> u8) -> io::Result<Pid> {
    debug_assert_eq!(threads(), 1, "only the thread that forks goes on in the child");
    // SAFETY: there is one thread, so no lock is held by one that the child does not have.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(1);
            // SAFETY: what is left to be done at exit is the parent's.
            unsafe { libc::_exit(code.into()) }
        }
        pid => Pid::from_raw(pid).ok_or_else(|| io::Error::from(Errno::SRCH)),
    }
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// A user and a mount namespace for this process, and a network if it is to have its own.
pub(super) fn unshare(net: bool) -> Result<(), Errno> {
    let mut flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNS;
    flags.set(UnshareFlags::NEWNET, net);
    // SAFETY: there is one thread, and no memory or descriptor comes to be another's.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// The same once more, with the same ids: what was mounted by now cannot be taken away in the new one.
pub(super) fn unshare_again() -> Result<(), Errno> {
    let maps = ["uid_map", "gid_map"].map(|name| (name, fs::read_to_string(format!("/proc/self/{name}"))));
    let [uids, gids] = maps.map(|(name, map)| {
        let same = |line: Line| format!("{0} {0} {1}\n", line.inside, line.count);
        let lines = map.ok().and_then(|map| super::ids::parse_map(&map)).unwrap_or_default();
        (name, lines.into_iter().map(same).collect::<String>())
    });
    let has_groups = fs::read_to_string("/proc/self/setgroups").is_ok_and(|said| said.trim() == "allow");
    let us = rustix::process::getpid().as_raw_nonzero();
    let failed = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // Whoever stays in the namespace around it may give it ids.
    let helper = fork(|| {
        let begun = rustix::io::read(&ours, &mut [0][..]);
        let write = |name: &str, text: &str| fs::write(format!("/proc/{us}/{name}"), text);
        let written = begun.map_err(io::Error::from).and_then(|_| {
            if !has_groups {
                write("setgroups", "deny")?;
            }
            write(uids.0, &uids.1)?;
            write(gids.0, &gids.1)
        });
        u8::from(written.is_err())
    });
    let helper = helper.map_err(failed)?;
    unshare(false)?;
    rustix::io::write(&theirs, &[0])?;
    let ended = rustix::process::waitpid(Some(helper), rustix::process::WaitOptions::empty())?;
    let is_done = ended.is_some_and(|(_, status)| status.exit_status() == Some(0));
    if is_done { Ok(()) } else { Err(Errno::PERM) }
}

/// Joins the namespaces of a process.
pub(super) fn join(process: impl AsFd, net: bool) -> Result<(), Errno> {
    let mut kinds = ThreadNameSpaceType::USER | ThreadNameSpaceType::MOUNT;
    kinds.set(ThreadNameSpaceType::NETWORK, net);
    rustix::thread::move_into_thread_name_spaces(process.as_fd(), kinds)
}

/// Gives a process's new user namespace its ids.
pub(super) fn map(pid: Pid, ids: &Ids) -> io::Result<()> {
    let pid = pid.as_raw_nonzero().to_string();
    match ids.writer {
        Writer::Helper => {
            run_helper("newuidmap", &pid, &ids.uids)?;
            run_helper("newgidmap", &pid, &ids.gids)
        }
        Writer::Ourselves => {
            let text = |lines: &[Line]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
            if ids.count == 0 {
                // The kernel asks for it of whoever gives his one group only.
                fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
            }
            fs::write(format!("/proc/{pid}/uid_map"), text(&ids.uids))?;
            fs::write(format!("/proc/{pid}/gid_map"), text(&ids.gids))
        }
    }
}

fn run_helper(name: &str, pid: &str, lines: &[Line]) -> io::Result<()> {
    let program = find_program(name).ok_or(io::ErrorKind::NotFound)?;
    let words = lines.iter().flat_map(|line| [line.inside, line.outside, line.count]);
    let mut command = Command::new(program);
    command.arg(pid).args(words.map(|number| number.to_string())).stdin(Stdio::null());
    let done = command.output()?;
    if done.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&done.stderr).trim().to_owned()))
}

/// Switches the loopback of a new network on.
pub(super) fn loopback_up() -> Result<(), Errno> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: all zeros are a value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads a `struct ifreq`, which this is.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if done == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

/// The namespaces of a run, by the kernel's names for them. The name of its user namespace is no other's for as long as its
/// mount is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spaces {
    user: String,
    mounts: String,
}

impl Spaces {
    /// Of this process.
    pub(super) fn own() -> Self {
        let name = |kind| name_of("self", kind).unwrap_or_default();
        Self { user: name("user"), mounts: name("mnt") }
    }

    /// The same with this process's mount namespace of now.
    pub(super) fn with_own_mounts(self) -> Self {
        Self { mounts: Self::own().mounts, ..self }
    }

    /// As it is written.
    pub(super) fn text(&self) -> String {
        format!("{} {}", self.user, self.mounts)
    }

    /// What [`Self::text`] was made of.
    pub(super) fn parse(text: &str) -> Self {
        let (user, mounts) = text.split_once(' ').unwrap_or((text, ""));
        Self { user: user.to_owned(), mounts: mounts.to_owned() }
    }

    /// The processes that are in them, or in namespaces within.
    pub(super) fn processes(&self) -> Vec<i32> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let ours = name_of("self", "user");
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let is_in = |pid: &i32| match name_of(&pid.to_string(), "user") {
            Some(user) if user == self.user => true,
            Some(user) if Some(&user) == ours.as_ref() => false,
            Some(_) => self.is_around(*pid),
            None => false,
        };
        // One that is on its way out has no mounts any more.
        let is_alive = |pid: &i32| name_of(&pid.to_string(), "mnt").is_some();
        let mut pids: Vec<_> = pids.filter(|pid| is_in(pid) && is_alive(pid)).collect();
        pids.sort_unstable();
        pids
    }

    /// One of them that sees what the run shows.
    pub(super) fn entrance(&self) -> Option<i32> {
        let sees = |pid: &i32| name_of(&pid.to_string(), "mnt").is_some_and(|mounts| mounts == self.mounts);
        self.processes().into_iter().find(sees)
    }

    /// Whether a process is in a user namespace within.
    fn is_around(&self, pid: i32) -> bool {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mut space = rustix::fs::open(format!("/proc/{pid}/ns/user"), flags, Mode::empty()).ok();
        while let Some(inner) = space {
            let name = fs::read_link(format!("/proc/self/fd/{}", inner.as_raw_fd()));
            if name.is_ok_and(|name| name.to_str() == Some(&self.user)) {
                return true;
            }
            space = parent_of(&inner);
        }
        false
    }
}

/// The user namespace around another; None around our own.
fn parent_of(space: &OwnedFd) -> Option<OwnedFd> {
    // include/uapi/linux/nsfs.h: NS_GET_PARENT, which answers with a descriptor.
    const NS_GET_PARENT: libc::c_ulong = 0xb702;
    // SAFETY: it takes no argument, and what it gives is nobody's yet.
    let parent = unsafe { libc::ioctl(space.as_raw_fd(), NS_GET_PARENT as _) };
    // SAFETY: the kernel has just opened it for us.
    (parent >= 0).then(|| unsafe { OwnedFd::from_raw_fd(parent) })
}

/// None if the process is gone, or not to be seen.
fn name_of(pid: &str, kind: &str) -> Option<String> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?.to_str().map(ToOwned::to_owned)
}
