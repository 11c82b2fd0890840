//! How is a node locked, in two bytes?
//!
//! Nearly always nobody waits, and there may be a million nodes: who has to wait does so in a room that it shares
//! with those who wait for other nodes.

use std::sync::atomic::{AtomicU16, Ordering};

use parking_lot::{Condvar, Mutex};

/// A lock that one holds exclusively, or many share.
#[derive(Debug, Default)]
pub(super) struct NodeLock(AtomicU16);

/// How it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

/// One holds the lock exclusively; somebody waits for that; somebody waits; else so many hold it shared. There are far
/// fewer threads.
const EXCLUSIVE: u16 = 1 << 15;
const WANTED: u16 = 1 << 14;
const AWAITED: u16 = 1 << 13;
const SHARED: u16 = AWAITED - 1;

/// Where those wait who cannot have a lock yet.
struct Room {
    door: Mutex<()>,
    changed: Condvar,
}

static ROOMS: [Room; 64] = [const { Room { door: Mutex::new(()), changed: Condvar::new() } }; 64];

impl NodeLock {
    /// Waits until it can be held that way. `key` tells nodes apart, so that they do not all share one room.
    pub(super) fn lock(&self, mode: Mode, key: u64) {
        if self.take(mode) {
            return;
        }
        let room = room(key);
        let mut door = room.door.lock();
        let waiting = match mode {
            Mode::Shared => AWAITED,
            Mode::Exclusive => AWAITED | WANTED,
        };
        loop {
            // Said before it is looked at once more: whoever gives it back after that knocks at the door.
            self.0.fetch_or(waiting, Ordering::Relaxed);
            if self.take(mode) {
                return;
            }
            room.changed.wait(&mut door);
        }
    }

    /// Takes it if nobody is in the way. Those who want it exclusively come before those who share it.
    fn take(&self, mode: Mode) -> bool {
        let taken = |word: u16| match mode {
            Mode::Shared => (word & (EXCLUSIVE | WANTED) == 0).then_some(word + 1),
            // Whoever else wants it says so again when it wakes up.
            Mode::Exclusive => (word & (EXCLUSIVE | SHARED) == 0).then_some(word & AWAITED | EXCLUSIVE),
        };
        self.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, taken).is_ok()
    }

    /// Gives it back, as it was taken.
    pub(super) fn unlock(&self, mode: Mode, key: u64) {
        let before = match mode {
            Mode::Shared => self.0.fetch_sub(1, Ordering::Release),
            Mode::Exclusive => self.0.fetch_and(!EXCLUSIVE, Ordering::Release),
        };
        let is_free = mode == Mode::Exclusive || before & SHARED == 1;
        if is_free && before & AWAITED != 0 {
            let room = room(key);
            let _door = room.door.lock();
            self.0.fetch_and(!(AWAITED | WANTED), Ordering::Relaxed);
            room.changed.notify_all();
        }
    }

    /// Whether somebody holds it exclusively.
    pub(super) fn is_exclusive(&self) -> bool {
        self.0.load(Ordering::Relaxed) & EXCLUSIVE != 0
    }
}

fn room(key: u64) -> &'static Room {
    &ROOMS[key as usize % ROOMS.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    fn locked<T>(lock: &NodeLock, mode: Mode, then: impl FnOnce() -> T) -> T {
        lock.lock(mode, 7);
        let result = then();
        lock.unlock(mode, 7);
        result
    }

    #[test]
    fn many_share_or_one_has_it() {
        let lock = NodeLock::default();
        lock.lock(Mode::Shared, 7);
        lock.lock(Mode::Shared, 7);
        let (done, changed) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| locked(&lock, Mode::Exclusive, || done.send(()).unwrap()));
            while lock.0.load(Ordering::Relaxed) & WANTED == 0 {
                thread::yield_now();
            }
            assert!(!lock.take(Mode::Shared), "whoever wants it exclusively comes first");
            lock.unlock(Mode::Shared, 7);
            assert!(changed.try_recv().is_err() && !lock.is_exclusive());
            lock.unlock(Mode::Shared, 7);
            changed.recv().unwrap();
        });
        locked(&lock, Mode::Shared, || ());
        assert_eq!(lock.0.into_inner(), 0);
    }

    #[test]
    fn nobody_is_forgotten_and_no_two_are_in_at_once() {
        const ROUNDS: usize = 20_000;
        let lock = NodeLock::default();
        let inside = std::sync::atomic::AtomicI64::new(0);
        let visit = |mode: Mode, weight: i64| {
            for _ in 0..ROUNDS {
                locked(&lock, mode, || {
                    let before = inside.fetch_add(weight, Ordering::Relaxed);
                    assert!(before >= 0 && (mode == Mode::Shared || before == 0), "{before}");
                    inside.fetch_sub(weight, Ordering::Relaxed);
                });
            }
        };
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| visit(Mode::Shared, 1));
                scope.spawn(|| visit(Mode::Exclusive, -1_000_000));
            }
        });
        assert_eq!(lock.0.into_inner(), 0);
    }
}
