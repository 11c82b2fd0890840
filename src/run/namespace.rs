//! How does a process come to be in namespaces of its own, or in those of others?
//!
//! One of the files with `unsafe` code: fork(2), and the calls that no library names safely.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};

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

/// The mount namespace of a process, by the kernel's name for it; None if it is gone, or not to be seen.
pub(super) fn mounts_of(pid: &str) -> Option<String> {
    fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()?.to_str().map(ToOwned::to_owned)
}

/// The processes that are in a mount namespace.
pub(super) fn processes_in(mounts: &str) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let mut pids: Vec<_> =
        pids.filter(|pid| mounts_of(&pid.to_string()).is_some_and(|its| its == mounts)).collect();
    pids.sort_unstable();
    pids
}
