//! How is a mount served from its first request to its last?

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Session, SessionACL};
use log::{info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::error::MountError;
use super::helper::Detach;
use super::memory::give_back;
use super::unmount::Mounted;
use crate::fuse::Adapter;

/// How long a session that was unmounted may take to end when a second signal comes. Some
/// callers send two signals at once, and an idle mount's session ends in no time.
const GRACE: Duration = Duration::from_millis(200);

/// What the main thread waits for.
#[derive(Debug)]
enum Event {
    /// The kernel closed the connection, or the session broke.
    Ended(io::Result<()>),
    /// Somebody wants the mount to end.
    Signal(i32),
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// No request is or will be under way.
    Complete,
    /// A second signal cut it short; requests may still be under way.
    CutShort,
}

/// Everything that can end a session, in the order in which it happens.
#[derive(Debug)]
pub(super) struct Events {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

impl Events {
    /// Listens to the signals from now on, so that none between mounting and serving is lost.
    pub(super) fn listen() -> Result<Self, MountError> {
        let failed = |error| MountError::Process { what: "cannot listen to signals", error };
        let (sender, receiver) = mpsc::channel();
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(failed)?;
        let listener = sender.clone();
        thread::Builder::new()
            .name("plyfs-signals".to_owned())
            .spawn(move || {
                for signal in signals.forever() {
                    if listener.send(Event::Signal(signal)).is_err() {
                        return;
                    }
                }
            })
            .map_err(failed)?;
        Ok(Self { sender, receiver })
    }

    /// Answers the kernel's handshake on `device`, and serves on threads of their own.
    pub(super) fn start(&self, adapter: Adapter, device: OwnedFd, threads: usize) -> Result<(), MountError> {
        let mut config = fuser::Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(threads);
        // The kernel sends its part of the handshake with the mount, so this does not block.
        let notifier = adapter.notifier();
        let listeners = adapter.listeners();
        let control = adapter.control();
        let watched = device.try_clone().map_err(|error| MountError::Process { what: "/dev/fuse", error })?;
        let session =
            Session::from_fd(adapter, device, SessionACL::All, config).map_err(MountError::Session)?;
        notifier.get_or_init(|| session.notifier());
        let failed = |error| MountError::Process { what: "cannot start a thread", error };
        let watching = Arc::clone(&listeners);
        thread::Builder::new()
            .name("plyfs-watch".to_owned())
            .spawn(move || watching.watch(&watched, give_back))
            .map_err(failed)?;
        let ended = self.sender.clone();
        thread::Builder::new()
            .name("plyfs-session".to_owned())
            .spawn(move || {
                let result = session.run();
                // Whoever keeps the device open keeps the kernel waiting for answers.
                listeners.end_all();
                control.kernel().close();
                if ended.send(Event::Ended(result)).is_err() {
                    warn!("nobody waits for the session any more");
                }
            })
            .map_err(failed)?;
        Ok(())
    }

    /// Waits for the end. The first signal unmounts, and waits for the last user; the second
    /// waits for nobody. A mount that the caller has made is his to take away.
    pub(super) fn wait(&self, mounted: Option<&Mounted>) -> Result<End, MountError> {
        match self.receiver.recv() {
            Ok(Event::Ended(result)) => return complete(result),
            Ok(Event::Signal(signal)) => info!("signal {signal}: unmounting"),
            Err(RecvError) => unreachable!("we hold a sender ourselves"),
        }
        let Some(mounted) = mounted else { return Ok(End::CutShort) };
        unmount(mounted);
        match self.receiver.recv() {
            Ok(Event::Ended(result)) => return complete(result),
            Ok(Event::Signal(signal)) => warn!("signal {signal} while unmounting: ending"),
            Err(RecvError) => unreachable!("we hold a sender ourselves"),
        }
        let deadline = Instant::now() + GRACE;
        while let Ok(event) = self.receiver.recv_timeout(deadline.duration_since(Instant::now())) {
            if let Event::Ended(result) = event {
                return complete(result);
            }
        }
        Ok(End::CutShort)
    }
}

/// The kernel closes a connection with ENODEV, which fuser takes for the end, but a thread that
/// is just reading a request then gets ECONNABORTED: the last close of a detached mount does it.
fn complete(result: io::Result<()>) -> Result<End, MountError> {
    match result {
        Ok(()) => Ok(End::Complete),
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(End::Complete),
        Err(error) => Err(MountError::Session(error)),
    }
}

fn unmount(mounted: &Mounted) {
    let result = match mounted.unmount(Detach::IfUnused) {
        Err(MountError::Busy(_)) => {
            info!("in use: detached, serving until the last user is gone");
            mounted.unmount(Detach::Lazily)
        }
        result => result,
    };
    if let Err(error) = result {
        warn!("{error}; a second signal ends the daemon all the same");
    }
}
