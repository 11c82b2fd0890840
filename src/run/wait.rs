//! What does whoever has started a command in a run do until it ends?
//!
//! It waits beside the command, in the same process group: the terminal's signals reach both, those that are sent to it
//! alone it hands on. What has become of the command becomes of it. When the daemon goes, everything in the run goes, since
//! all that is left there are errors.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Rlimit, Signal, WaitOptions, WaitStatus};
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use super::error::{Error, Result};
use super::namespace::Spaces;

/// How long a daemon may take to finish with the upper.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long processes that were killed may take to go.
const GRACE: Duration = Duration::from_secs(5);

/// Signals that are handed on.
#[derive(Debug)]
pub(super) struct Signals(Vec<(Signal, UnixStream)>);

/// How a command has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Code(u8),
    Signal(i32),
    /// The daemon was gone first.
    WithDaemon,
}

impl Signals {
    /// From now on.
    pub(super) fn catch() -> Result<Self> {
        let failed = Error::process::<io::Error>("signal");
        // The terminal's reach the command as well: it decides.
        for number in [SIGINT, SIGQUIT] {
            signal_hook::flag::register(number, Arc::new(AtomicBool::new(false))).map_err(&failed)?;
        }
        let caught = [SIGHUP, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM].into_iter().map(|number| {
            let (here, there) = UnixStream::pair().map_err(&failed)?;
            here.set_nonblocking(true).map_err(&failed)?;
            signal_hook::low_level::pipe::register(number, there).map_err(&failed)?;
            Ok(Signal::from_named_raw(number).map(|signal| (signal, here)))
        });
        Ok(Self(caught.filter_map(Result::transpose).collect::<Result<_>>()?))
    }
}

/// Waits for a command. `daemon` is watched if there is one to be watched.
pub(super) fn wait(
    pid: Pid,
    spaces: &Spaces,
    mut daemon: Option<&OwnedFd>,
    signals: &mut Signals,
) -> Result<Ended> {
    let command = pidfd(pid)?;
    loop {
        let mut fds = vec![PollFd::new(&command, PollFlags::IN)];
        fds.extend(daemon.map(|daemon| PollFd::new(daemon, PollFlags::IN)));
        fds.extend(signals.0.iter().map(|(_, pipe)| PollFd::new(pipe, PollFlags::IN)));
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::process("poll")(errno)),
        }
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let (has_ended, is_alone) = (is_ready(0), daemon.is_some() && is_ready(1));
        drop(fds);
        if has_ended {
            let status = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            let status = status.map_err(Error::process("wait"))?;
            return Ok(status.map_or(Ended::Code(0), |(_, status)| ended(status)));
        }
        if is_alone {
            if !spaces.processes().is_empty() {
                return Ok(Ended::WithDaemon);
            }
            // The namespace has ended first, and the command is on its way out.
            daemon = None;
        }
        for (signal, pipe) in &mut signals.0 {
            let mut some = [0; 64];
            if pipe.read(&mut some).is_ok_and(|length| length > 0)
                && let Err(errno) = rustix::process::pidfd_send_signal(&command, *signal)
            {
                log::debug!("signal {signal:?}: {errno}");
            }
        }
    }
}

fn ended(status: WaitStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Code(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, signal) => Ended::Signal(signal.unwrap_or(0)),
    }
}

impl Ended {
    /// Ends this process in the same way, if a signal has ended the command.
    pub(super) fn exit(self) -> ExitCode {
        match self {
            Self::Code(code) => code.into(),
            Self::Signal(signal) => {
                // Its own core would say nothing.
                let core = rustix::process::Resource::Core;
                let none = Rlimit { current: Some(0), ..rustix::process::getrlimit(core) };
                if let Err(errno) = rustix::process::setrlimit(core, none) {
                    log::debug!("setrlimit: {errno}");
                }
                if let Err(error) = signal_hook::low_level::emulate_default_handler(signal) {
                    log::debug!("signal {signal}: {error}");
                }
                u8::try_from(128 + signal).unwrap_or(u8::MAX).into()
            }
            Self::WithDaemon => ExitCode::from(super::FAILED),
        }
    }
}

/// Ends every process that is in a run.
pub(super) fn kill_all(spaces: &Spaces) {
    let deadline = Instant::now() + GRACE;
    loop {
        let pids = spaces.processes();
        if pids.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in pids.into_iter().filter_map(Pid::from_raw) {
            if let Err(errno) = rustix::process::kill_process(pid, Signal::KILL) {
                log::debug!("kill {pid:?}: {errno}");
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a process has ended, or for as long as it may take.
pub(super) fn wait_for_end(process: impl AsFd) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        match rustix::event::poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Ok(count) => return count > 0,
            Err(Errno::INTR) => {}
            Err(errno) => {
                log::debug!("poll: {errno}");
                return false;
            }
        }
    }
}

/// A descriptor of a process of ours.
pub(super) fn pidfd(pid: Pid) -> Result<OwnedFd> {
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(Error::process("pidfd_open"))
}
