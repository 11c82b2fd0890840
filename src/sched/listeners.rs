//! How many event loops wait for the next request?
//!
//! As few as do. The kernel wakes the loop that has waited longest, so with many waiting, each request is
//! answered by a thread that was asleep, while the one that has just answered goes to sleep: two switches more a
//! request, and nothing in a cache. Here a loop that has answered while another waits steps back, so that
//! a single client is served by a single loop, which is mostly still awake when the next request comes.
//!
//! Loops that have stepped back are called for two reasons: requests are waiting whenever one is looked for, so
//! there are several clients; or the loops that are left have not answered for a while, since a copy-up, a
//! branch or a lock holds them up. The second is noticed by a watch that looks every [`TICK`], while
//! there are requests at all.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How long requests may wait for loops that are held up.
const TICK: Duration = Duration::from_millis(2);
/// After so many ticks without a request the watch sleeps until there is one.
const IDLE_TICKS: u32 = 50;
/// A request that comes sooner than this after the last answer was there already.
const AT_ONCE: Duration = Duration::from_micros(6);
/// So many of those in a row call another loop.
const CROWD: u32 = 16;
/// So many requests a loop that was called answers before it may step back.
const STAY: u32 = 256;

/// The event loops of a session.
#[derive(Debug, Default)]
pub struct Listeners {
    state: Mutex<State>,
    /// For those that have stepped back.
    called: Condvar,
    /// For the watch.
    active: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Loops that wait for a request, as far as they have had one before.
    listening: usize,
    /// Loops that have stepped back.
    resting: usize,
    /// How many of those have been called and are not awake yet.
    calls: usize,
    /// Requests so far.
    requests: u64,
    watch_sleeps: bool,
    /// The session has ended: nobody rests any more.
    over: bool,
}

impl State {
    fn call(&mut self, called: &Condvar) {
        if self.resting > self.calls {
            self.calls += 1;
            self.listening += 1;
            called.notify_one();
        }
    }
}

thread_local! {
    static SEAT: RefCell<Option<Seat>> = const { RefCell::new(None) };
}

/// A loop's own part. It goes with the thread, which ends when the session does: that ends the rest of all
/// others. One that has a seat is always awake, since a loop steps back only while one with a seat listens.
#[derive(Debug)]
struct Seat {
    listeners: Arc<Listeners>,
    answered: Instant,
    /// How many requests in a row were there at once.
    at_once: u32,
    stays: u32,
    /// Whether it is not counted as listening, though it may be by now.
    is_away: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.listeners.state.lock().over = true;
        self.listeners.called.notify_all();
        self.listeners.active.notify_all();
    }
}

impl Listeners {
    /// Answers a request on one of the loops.
    pub fn answer(self: &Arc<Self>, answer: impl FnOnce()) {
        SEAT.with_borrow_mut(|seat| {
            let (mut was_listening, mut is_crowded) = (false, false);
            if let Some(seat) = seat {
                was_listening = !std::mem::take(&mut seat.is_away);
                seat.at_once = if seat.answered.elapsed() < AT_ONCE { seat.at_once + 1 } else { 0 };
                is_crowded = seat.at_once >= CROWD;
                if is_crowded {
                    seat.at_once = 0;
                }
            }
            self.begin(was_listening, is_crowded);
        });
        answer();
        SEAT.with_borrow_mut(|seat| {
            let seat = seat.get_or_insert_with(|| Seat {
                listeners: Arc::clone(self),
                answered: Instant::now(),
                at_once: 0,
                stays: 0,
                is_away: false,
            });
            if self.end(seat.stays > 0) {
                seat.stays = STAY;
            }
            seat.stays = seat.stays.saturating_sub(1);
            seat.answered = Instant::now();
        });
    }

    /// Takes one of the many that come as one request, after which the loop does not come back here. So long as
    /// it is not known to listen again, others stand in for it.
    pub fn take_one_of_many(&self, take: impl FnOnce()) {
        SEAT.with_borrow_mut(|seat| {
            if let Some(seat) = seat
                && !std::mem::replace(&mut seat.is_away, true)
            {
                self.begin(true, false);
            }
        });
        take();
    }

    fn begin(&self, was_listening: bool, is_crowded: bool) {
        let mut state = self.state.lock();
        state.requests += 1;
        state.listening -= usize::from(was_listening);
        if is_crowded {
            state.call(&self.called);
        }
        if std::mem::take(&mut state.watch_sleeps) {
            self.active.notify_one();
        }
    }

    /// Says whether the loop has stepped back meanwhile and was called.
    fn end(&self, stays: bool) -> bool {
        let mut state = self.state.lock();
        if state.listening == 0 || stays || state.over {
            state.listening += 1;
            return false;
        }
        state.resting += 1;
        while state.calls == 0 && !state.over {
            self.called.wait(&mut state);
        }
        // Whoever called has counted it as listening.
        state.calls = state.calls.saturating_sub(1);
        state.resting -= 1;
        true
    }

    /// Calls loops in place of those that are held up, until the session ends.
    pub fn watch(&self) {
        let mut seen = 0;
        let mut idle = 0;
        let mut state = self.state.lock();
        while !state.over {
            if state.requests != seen {
                idle = 0;
            } else if state.listening == 0 {
                state.call(&self.called);
            } else {
                idle += 1;
            }
            seen = state.requests;
            if idle < IDLE_TICKS {
                self.active.wait_for(&mut state, TICK);
            } else {
                state.watch_sleeps = true;
                self.active.wait(&mut state);
                idle = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    type Request = Box<dyn FnOnce() + Send>;

    /// A session of `loops` threads that answer what is sent to them, one request a message.
    fn session(loops: usize) -> (Arc<Listeners>, mpsc::Sender<Request>, Vec<thread::JoinHandle<()>>) {
        let listeners = Arc::<Listeners>::default();
        let (sender, receiver) = mpsc::channel::<Request>();
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads: Vec<_> = (0..loops)
            .map(|_| {
                let (listeners, receiver) = (listeners.clone(), receiver.clone());
                thread::spawn(move || {
                    loop {
                        let next = receiver.lock().recv();
                        let Ok(request) = next else { return };
                        listeners.answer(request);
                    }
                })
            })
            .collect();
        let watched = listeners.clone();
        threads.push(thread::spawn(move || watched.watch()));
        (listeners, sender, threads)
    }

    #[test]
    fn a_single_client_is_served_by_a_single_loop_in_the_end() {
        let (listeners, sender, threads) = session(4);
        let (done, answered) = mpsc::channel();
        let mut last = Vec::new();
        for _ in 0..2000 {
            let done = done.clone();
            sender.send(Box::new(move || done.send(thread::current().id()).unwrap())).unwrap();
            last.push(answered.recv().unwrap());
            // As a client does between two requests.
            thread::sleep(Duration::from_micros(20));
        }
        assert!(last[1990..].iter().all(|id| *id == last[1999]), "{:?}", &last[1990..]);
        assert!(listeners.state.lock().resting >= 2);
        drop(sender);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn those_that_are_held_up_are_stood_in_for_and_all_end_with_the_session() {
        let (listeners, sender, threads) = session(4);
        let (done, answered) = mpsc::channel();
        for _ in 0..100 {
            let done = done.clone();
            sender.send(Box::new(move || done.send(()).unwrap())).unwrap();
            answered.recv().unwrap();
        }
        let mut locks = Vec::new();
        for _ in 0..3 {
            let (let_go, held) = mpsc::channel::<()>();
            locks.push(let_go);
            sender
                .send(Box::new(move || {
                    held.recv().unwrap_err();
                }))
                .unwrap();
        }
        let done_too = done.clone();
        sender.send(Box::new(move || done_too.send(()).unwrap())).unwrap();
        answered.recv().unwrap();
        assert!(listeners.state.lock().requests >= 104);
        drop(locks);
        drop(sender);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
