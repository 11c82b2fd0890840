//! How does a run begin, and how does one more process come into it?
//!
//! A process goes into namespaces of its own, mounts there, and hands the session out; a daemon serves it from outside,
//! where it never meets its own mount. Whoever has started both waits, see `wait`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Child;

use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use super::channel::{Channel, Message, Word};
use super::error::{Error, Result};
use super::ids::{Giver, Ids, Writer};
use super::inside::{self, Program};
use super::namespace::{self, Spaces};
use super::place::{Place, Run};
use super::view::Plan;
use crate::mount;

/// A process in a run.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) pid: Pid,
    /// Those of the run.
    pub(super) spaces: Spaces,
    /// Closes when it has become the command.
    channel: Channel,
}

/// A run that has begun.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) entered: Entered,
    pub(super) daemon: Child,
}

const MAP: &str = "cannot give the run its ids";

/// Begins a run that is not live, with a command, or with a process that only keeps it.
pub(super) fn begin(place: &Place, run: &Run, program: Option<&Program>) -> Result<Begun> {
    let giver = Giver::this();
    let ids = if run.about.alone { giver.alone(true) } else { giver.ids(run.about.root) };
    match attempt(place, run, program, &ids) {
        // The administrator lends less than the files say.
        Err(Error::Process { what: MAP, error }) if ids.writer == Writer::Helper => {
            log::warn!("you are the only user in the run: {error}");
            attempt(place, run, program, &giver.alone(run.about.root))
        }
        begun => begun,
    }
}

fn attempt(place: &Place, run: &Run, program: Option<&Program>, ids: &Ids) -> Result<Begun> {
    // What it says is of another time.
    match fs::remove_file(run.path("live")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        removed => removed.map_err(Error::io("remove", &run.path("live")))?,
    }
    let Plan { view, daemon } = Plan::of(place, run, ids);
    let mut entered = fork(|channel| inside::go(&view, program, channel))?;
    let begun = serve(&mut entered, daemon, ids);
    match begun {
        Ok(daemon) => {
            let live = run.path("live");
            fs::write(&live, entered.spaces.text()).map_err(Error::io("write", &live))?;
            Ok(Begun { entered, daemon })
        }
        Err(e) => {
            end(entered.pid);
            Err(e)
        }
    }
}

/// Outside's part of what `inside` does.
fn serve(entered: &mut Entered, words: Vec<OsString>, ids: &Ids) -> Result<Child> {
    entered.hear(Word::Unshared)?;
    namespace::map(entered.pid, ids).map_err(Error::process(MAP))?;
    entered.say(Word::Mapped)?;
    let device = entered.hear(Word::Mounted)?.fd.ok_or_else(|| protocol("no session was handed over"))?;
    let mut daemon = start_daemon(&device, words)?;
    drop(device);
    let served = entered.say(Word::Served).and_then(|()| entered.settle());
    if served.is_err() {
        // Without its mount it ends by itself, and then the upper is free.
        end(entered.pid);
        daemon.wait().map_err(Error::process("wait"))?;
    }
    served.map(|()| daemon)
}

fn start_daemon(device: &OwnedFd, words: Vec<OsString>) -> Result<Child> {
    rustix::io::fcntl_setfd(device, FdFlags::empty()).map_err(Error::process("fcntl"))?;
    let session = format!("/dev/fd/{}", device.as_raw_fd());
    let words = words.into_iter().chain(["plyfs".into(), session.into()]);
    mount::start_daemon(words)?.ok_or(Error::NoDaemon)
}

/// A process in the namespaces of another.
pub(super) fn join(pid: i32, net: bool, program: &Program) -> Result<Entered> {
    let gone = |_| Error::Between(program.run.clone());
    let process = Pid::from_raw(pid).ok_or(Errno::SRCH);
    let process =
        process.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty())).map_err(gone)?;
    let mut entered = fork(|channel| inside::join(&process, net, program, channel))?;
    entered.settle().inspect_err(|_| end(entered.pid))?;
    Ok(entered)
}

/// A new process, and the channel to it.
fn fork(child: impl FnOnce(Channel) -> u8) -> Result<Entered> {
    let (ours, theirs) = Channel::pair().map_err(Error::process("socketpair"))?;
    let mut ends = Some((ours, theirs));
    let pid = namespace::fork(|| match ends.take() {
        Some((ours, theirs)) => {
            drop(ours);
            child(theirs)
        }
        None => 1,
    });
    let (channel, _) = ends.ok_or_else(|| protocol("fork"))?;
    Ok(Entered { pid: pid.map_err(Error::process("fork"))?, spaces: Spaces::default(), channel })
}

fn protocol(what: &'static str) -> Error {
    Error::Process { what, error: io::ErrorKind::UnexpectedEof.into() }
}

/// Ends a process that has not become the command.
fn end(pid: Pid) {
    let ended = rustix::process::kill_process(pid, Signal::KILL)
        .and_then(|()| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
    if let Err(errno) = ended {
        log::debug!("process {pid:?}: {errno}");
    }
}

impl Entered {
    fn say(&self, word: Word) -> Result<()> {
        self.channel.say(word, b"", None).map_err(Error::process("cannot speak to the run"))
    }

    fn hear(&self, word: Word) -> Result<Message> {
        match self.channel.hear().map_err(Error::process("cannot hear the run"))? {
            Some(heard) if heard.word == word => Ok(heard),
            Some(Message { word: Word::Failed, text, .. }) => Err(failed(&text)),
            Some(_) | None => Err(protocol("the process that was to be the command has ended")),
        }
    }

    /// Waits until the way into the run is behind it.
    fn settle(&mut self) -> Result<()> {
        let ready = self.hear(Word::Ready)?;
        self.spaces = Spaces::parse(&String::from_utf8_lossy(&ready.text));
        Ok(())
    }

    /// Waits until it is the command.
    pub(super) fn becomes(&self, command: &OsString) -> Result<()> {
        match self.channel.hear().map_err(Error::process("cannot hear the run"))? {
            None => Ok(()),
            Some(Message { word: Word::Failed, text, .. }) => Err(match failed(&text) {
                Error::Enter { what, errno } if what.is_empty() => {
                    Error::Command { command: command.to_string_lossy().into_owned(), error: errno.into() }
                }
                error => error,
            }),
            Some(_) => Err(protocol("an answer to no question")),
        }
    }
}

/// What inside says of a step that failed.
fn failed(text: &[u8]) -> Error {
    let (errno, step) = text.split_first_chunk::<4>().unwrap_or((&[0; 4], b""));
    let errno = Errno::from_raw_os_error(i32::from_le_bytes(*errno));
    match String::from_utf8_lossy(step).into_owned() {
        step if step == "unshare" => Error::NoNamespace { errno, way_out: way_out(errno) },
        step if step == "mount" || step == "open /dev/fuse" => Error::NoMount { errno },
        what => Error::Enter { what, errno },
    }
}

/// What to do about a system that gives no user namespace.
fn way_out(errno: Errno) -> String {
    let setting =
        |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default().trim().to_owned();
    if setting("kernel/unprivileged_userns_clone") == "0" {
        "root allows it with `sysctl kernel.unprivileged_userns_clone=1`".to_owned()
    } else if errno == Errno::NOSPC || setting("user/max_user_namespaces") == "0" {
        "root allows more of them with `sysctl user.max_user_namespaces=10000`".to_owned()
    } else if setting("kernel/apparmor_restrict_unprivileged_userns") == "1" {
        "root allows it with `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or a profile for plyfs"
            .to_owned()
    } else {
        "in a container, start that with `--security-opt seccomp=unconfined` or `--privileged`; without any, `plyfs mount` \
         and a look at the mount do the same for a tree that is not the whole system"
            .to_owned()
    }
}
