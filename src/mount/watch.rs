//! How does the kernel learn what others change in lowers?
//!
//! One thread waits for inotify, has the union take in what was seen, and tells the kernel at once. Looking up a name
//! again takes its directory's lock in the kernel, which a request may hold for as long as a directory is copied; so
//! others do that, a directory at a time. All of it is said again after a while: an answer that was on its way, and
//! that the caller was slow to take, is older than what was said before it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

use super::live::Live;
use crate::branch::Watcher;
use crate::options::Watch;
use crate::rules::name::Name;
use crate::union::{NodeId, Outdated};

/// How long what comes is gathered after something was seen.
const GATHERS: Duration = Duration::from_millis(5);

/// When it is said again.
const AGAIN: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// How long the kernel may take until it has what it was shown.
const SHOWN_WITHIN: Duration = Duration::from_millis(2);

/// How many watches a user has who cannot find out.
const FEW: usize = 8192;

/// So many wait for directories' locks in the kernel at a time.
const TELLERS: usize = 4;

/// Half of the user's watches are left to others.
pub(super) fn most(watch: Watch) -> usize {
    match watch {
        Watch::Most(most) => most as usize,
        Watch::Share => {
            let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").ok();
            limit.and_then(|limit| limit.trim().parse::<usize>().ok()).unwrap_or(FEW) / 2
        }
    }
}

/// What is to be done.
#[derive(Debug)]
enum What {
    /// Tell it.
    Tell(Outdated),
    /// Have it drop what it was shown.
    Shown,
}

/// What the kernel is to be told, and when.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<VecDeque<(Instant, What)>>,
    /// Directories and symbolic links that have been read, and whose listings and targets are not to be kept.
    shown: Mutex<HashSet<NodeId>>,
    changed: Condvar,
}

impl Queue {
    fn put(&self, at: Instant, what: Outdated) {
        self.put_any(at, What::Tell(what));
    }

    fn put_any(&self, at: Instant, what: What) {
        let mut waiting = self.waiting.lock();
        let place = waiting.partition_point(|(other, _)| *other <= at);
        waiting.insert(place, (at, what));
        self.changed.notify_one();
    }

    fn take(&self) -> What {
        let mut waiting = self.waiting.lock();
        loop {
            let now = Instant::now();
            match waiting.front() {
                Some((at, _)) if *at <= now => {
                    if let Some((_, what)) = waiting.pop_front() {
                        return what;
                    }
                }
                Some((at, _)) => {
                    let at = *at;
                    self.changed.wait_until(&mut waiting, at);
                }
                None => self.changed.wait(&mut waiting),
            }
        }
    }

    /// What was seen by one look, a directory at a time.
    fn put_by_dir(&self, at: Instant, names: &HashMap<NodeId, Vec<Name>>) {
        for (dir, names) in names {
            let names = names.iter().map(|name| (*dir, name.clone())).collect();
            // The listing last: whoever was just reading it has let go of the directory by then.
            self.put(at, Outdated { names, dirs: vec![*dir], ..Outdated::default() });
        }
    }

    /// The kernel may keep what it is not to keep.
    pub(super) fn has_shown(&self, id: NodeId) {
        let mut shown = self.shown.lock();
        shown.insert(id);
        let is_first = shown.len() == 1;
        drop(shown);
        if is_first {
            self.put_any(Instant::now() + SHOWN_WITHIN, What::Shown);
        }
    }
}

/// Lets the kernel know from now on.
///
/// # Errors
/// Those of making threads.
pub(super) fn start(live: &Arc<Live>) -> io::Result<()> {
    for _ in 0..TELLERS {
        let (live, queue) = (Arc::downgrade(live), Arc::clone(&live.queue));
        thread::Builder::new().name("plyfs-tell".to_owned()).spawn(move || {
            loop {
                let what = queue.take();
                let Some(live) = live.upgrade() else { return };
                match what {
                    What::Tell(what) => live.kernel.look_again(&what),
                    What::Shown => {
                        let inodes = std::mem::take(&mut *queue.shown.lock()).into_iter().collect();
                        live.kernel.look_again(&Outdated { inodes, ..Outdated::default() });
                    }
                }
            }
        })?;
    }
    let Some(watcher) = live.union.get().watcher() else { return Ok(()) };
    let live = Arc::downgrade(live);
    thread::Builder::new().name("plyfs-lowers".to_owned()).spawn(move || listen(&watcher, &live))?;
    Ok(())
}

fn listen(watcher: &Watcher, live: &Weak<Live>) {
    loop {
        let seen = match watcher.wait() {
            Ok(seen) => seen,
            Err(Errno::AGAIN) => continue,
            Err(errno) => {
                log::error!("changes in lowers do not show any more: inotify: {errno}");
                return;
            }
        };
        let Some(live) = live.upgrade() else { return };
        let mut outdated = live.union.get().take_in(seen);
        if outdated.roots {
            match live.union.alone().and_then(|mut union| union.look_at_roots()) {
                Ok(more) => outdated.add(more),
                Err(e) => log::warn!("a lower's root is shown as it was: {e}"),
            }
        }
        tell(&live, outdated);
        drop(live);
        thread::sleep(GATHERS);
    }
}

fn tell(live: &Live, outdated: Outdated) {
    let Outdated { names, mut dirs, mut inodes, lost, .. } = outdated;
    dirs.sort_unstable();
    dirs.dedup();
    inodes.sort_unstable();
    inodes.dedup();
    let mut by_dir: HashMap<NodeId, Vec<_>> = HashMap::new();
    for (dir, name) in names.into_iter().collect::<HashSet<_>>() {
        by_dir.entry(dir).or_default().push(name);
    }
    let now = Instant::now();
    live.queue.put_by_dir(now, &by_dir);
    let at_once = Outdated { dirs, inodes, ..Outdated::default() };
    live.kernel.look_again(&at_once);
    live.queue.put(now + AGAIN[0], Outdated { lost, ..Outdated::default() });
    for later in AGAIN {
        live.queue.put_by_dir(now + later, &by_dir);
        let attributes = at_once.inodes.clone();
        live.queue
            .put(now + later, Outdated { dirs: at_once.dirs.clone(), attributes, ..Outdated::default() });
    }
}
