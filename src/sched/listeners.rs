//! How many event loops wait for the next request, and which?
//!
//! As few as do. The kernel wakes the loop that has waited longest, so with many waiting, each request is
//! answered by a thread that was asleep, while the one that has just answered goes to sleep: two switches more a
//! request, and nothing in a cache. Here a loop that has answered while another waits steps back, so that
//! a single client is served by a single loop, which is mostly still awake when the next request comes.
//!
//! Loops that have stepped back are called for two reasons: requests are waiting whenever one is looked for, so
//! there are several clients; or the loops that are left have not answered for a while, since a copy-up, a
//! branch or a lock holds them up. The second is noticed by a watch that looks every few milliseconds, while
//! there are requests at all.
//!
//! While one caller asks again and again ([`Follow`] says when), a loop that gives way to all other threads, the follower,
//! answers from that caller's CPU, and it alone listens. The watch ends that where others keep the CPU busy.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::follow::{Follow, Step};
use super::placement::{Placement, Whereabouts, is_machine_busy, times_slept};

/// How long requests may wait for loops that are held up.
const TICK: Duration = Duration::from_millis(2);
/// The same while there is one caller, who waits for nobody else. Each look wakes a CPU, which draws the caller to it.
const TICK_OF_ONE: Duration = Duration::from_millis(4);
/// After so many ticks without a request the watch sleeps until there is one.
const IDLE_TICKS: u32 = 50;
/// So many requests may have left something to do at leisure.
const MANY: u64 = 1024;
/// A request that comes sooner than this after the last answer was there already.
const AT_ONCE: Duration = Duration::from_micros(6);
/// So many of those in a row call another loop.
const CROWD: u32 = 16;
/// So many requests a loop that was called answers before it may step back.
const STAY: u32 = 256;
/// Which threads are ours when following begins: the loop that asks. And later: the watch, the caller, the follower.
const THREADS_THAT_ENTER: usize = 1;
const THREADS_THAT_FOLLOW: usize = 3;
/// So many ticks the follower may be held up.
const STUCK_TICKS: u32 = 2;

/// The event loops of a session.
#[derive(Debug)]
pub struct Listeners {
    state: Mutex<State>,
    /// For those that have stepped back.
    called: Condvar,
    /// For the follower.
    summoned: Condvar,
    /// For the watch.
    active: Condvar,
    /// The follower's, once there is one. Apart from the state, since moving takes until the CPU has time.
    placement: Mutex<Option<Placement>>,
    /// Whether callers are followed at all.
    follows: bool,
    /// How many loops there are.
    loops: usize,
    /// Whether others than so many threads of ours want to run, and cannot.
    is_busy: fn(usize) -> bool,
}

#[derive(Debug, Default)]
struct State {
    /// Loops that wait for a request, as far as they have had one before.
    listening: usize,
    /// Loops that have stepped back; the follower is not counted.
    resting: usize,
    /// How many of those have been called and are not awake yet.
    calls: usize,
    /// Loops that have had a request.
    seated: usize,
    /// How much long work is under way.
    long: usize,
    /// Requests so far.
    requests: u64,
    follow: Follow,
    follower: Follower,
    watch_sleeps: bool,
    /// The session has ended: nobody rests any more.
    over: bool,
}

#[derive(Debug, Default)]
enum Follower {
    /// No loop has become one yet.
    #[default]
    Nobody,
    /// Listening or answering.
    Awake,
    /// Until there is somebody to follow.
    Resting,
    /// It is to follow this caller, and not awake yet.
    Summoned(u32),
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
    /// What the follower needs.
    follower: Option<Seeker>,
}

/// How the follower finds its caller.
#[derive(Debug)]
struct Seeker {
    whereabouts: Whereabouts,
    /// How often it had slept when it was last asked.
    slept: i64,
}

impl Seeker {
    fn new() -> Self {
        Self { whereabouts: Whereabouts::default(), slept: times_slept() }
    }

    /// Whether it has since this was last asked.
    fn has_slept(&mut self) -> bool {
        let now = times_slept();
        now != std::mem::replace(&mut self.slept, now)
    }
}

/// See [`Listeners::long_work`].
#[derive(Debug)]
pub struct LongWork(Arc<Listeners>);

impl Drop for LongWork {
    fn drop(&mut self) {
        self.0.state.lock().long -= 1;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.listeners.end_all();
    }
}

impl Listeners {
    /// So many loops, of which one may follow a caller who asks alone; else all are left to the kernel's scheduler.
    #[must_use]
    pub fn new(loops: usize, follows: bool) -> Self {
        Self {
            state: Mutex::default(),
            called: Condvar::new(),
            summoned: Condvar::new(),
            active: Condvar::new(),
            placement: Mutex::default(),
            follows,
            loops,
            is_busy: is_machine_busy,
        }
    }

    /// Answers a request of the thread of that number (0: it has none here, or nobody waits) on one of the loops.
    pub fn answer(self: &Arc<Self>, caller: u32, answer: impl FnOnce()) {
        SEAT.with_borrow_mut(|seat| self.begin(seat.as_mut(), caller));
        answer();
        SEAT.with_borrow_mut(|seat| {
            let seat = seat.get_or_insert_with(|| {
                self.state.lock().seated += 1;
                Seat {
                    listeners: Arc::clone(self),
                    answered: Instant::now(),
                    at_once: 0,
                    stays: 0,
                    is_away: false,
                    follower: None,
                }
            });
            if seat.follower.is_some() {
                self.end_of_follower(seat);
            } else {
                self.end(seat);
            }
            seat.answered = Instant::now();
        });
    }

    /// While that is kept, workers are busy, to which a follower would have to give way: nobody is followed.
    #[must_use]
    pub fn long_work(self: &Arc<Self>) -> LongWork {
        let mut state = self.state.lock();
        state.long += 1;
        state.follow.machine_is_busy();
        LongWork(Arc::clone(self))
    }

    /// Takes one of the many that come as one request, after which the loop does not come back here. So long as
    /// it is not known to listen again, others stand in for it.
    pub fn take_one_of_many(&self, take: impl FnOnce()) {
        SEAT.with_borrow_mut(|seat| {
            let was_listening = seat.as_mut().is_some_and(|seat| !std::mem::replace(&mut seat.is_away, true));
            self.taken(was_listening, false, |_| ());
        });
        take();
    }

    fn begin(&self, seat: Option<&mut Seat>, caller: u32) {
        let Some(seat) = seat else {
            self.taken(false, false, |state| self.step(state, caller, false));
            return;
        };
        let was_listening = !std::mem::take(&mut seat.is_away);
        let Some(seeker) = &mut seat.follower else {
            seat.at_once = if seat.answered.elapsed() < AT_ONCE { seat.at_once + 1 } else { 0 };
            let is_crowded = seat.at_once >= CROWD;
            if is_crowded {
                seat.at_once = 0;
            }
            self.taken(was_listening, is_crowded, |state| self.step(state, caller, false));
            return;
        };
        let slept = seeker.has_slept();
        let step = self.taken(was_listening, false, |state| self.step(state, caller, slept));
        if let Step::Look(caller) | Step::Enter(caller) = step {
            self.go_to(caller, &mut seeker.whereabouts);
        }
    }

    fn taken<T>(&self, was_listening: bool, is_crowded: bool, then: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        state.requests += 1;
        // At the end of a session loops come back that nobody has counted.
        state.listening = state.listening.saturating_sub(usize::from(was_listening));
        if is_crowded {
            state.call(&self.called);
        }
        if std::mem::take(&mut state.watch_sleeps) {
            self.active.notify_one();
        }
        then(&mut state)
    }

    fn step(&self, state: &mut State, caller: u32, slept: bool) -> Step {
        // Whoever has had no request yet is woken before the follower is.
        if !self.follows || state.seated < self.loops || state.long > 0 {
            return Step::Stay;
        }
        let step = state.follow.step(caller, slept);
        if matches!(step, Step::Enter(_)) {
            if state.resting == state.calls {
                // Nobody would be there for others.
                state.follow.cannot();
                return Step::Stay;
            }
            if state.follow.starves() && (self.is_busy)(THREADS_THAT_ENTER) {
                state.follow.machine_is_busy();
                return Step::Stay;
            }
        }
        step
    }

    /// Steps back if another loop listens, until called.
    fn end(&self, seat: &mut Seat) {
        let mut state = self.state.lock();
        if let Some(caller) = state.follow.followed() {
            match state.follower {
                Follower::Nobody => {
                    state.follower = Follower::Awake;
                    state.listening += 1;
                    drop(state);
                    return self.become_follower(seat, caller);
                }
                // If it has not come to rest since the last time, it finds out by itself.
                Follower::Awake | Follower::Summoned(_) => {}
                Follower::Resting => {
                    state.follower = Follower::Summoned(caller);
                    state.listening += 1;
                    self.summoned.notify_one();
                }
            }
            seat.stays = 0;
        }
        seat.stays = seat.stays.saturating_sub(1);
        if state.listening == 0 || seat.stays > 0 || state.over {
            state.listening += 1;
            return;
        }
        state.resting += 1;
        while state.calls == 0 && !state.over {
            self.called.wait(&mut state);
        }
        // Whoever called has counted it as listening.
        state.calls = state.calls.saturating_sub(1);
        state.resting -= 1;
        seat.stays = STAY;
    }

    fn become_follower(&self, seat: &mut Seat, caller: u32) {
        match Placement::of_follower() {
            Ok(placement) => {
                *self.placement.lock() = Some(placement);
                let mut seeker = Seeker::new();
                self.go_to(caller, &mut seeker.whereabouts);
                seat.follower = Some(seeker);
            }
            Err(e) => {
                log::info!("no event loop follows its caller: {e}");
                let mut state = self.state.lock();
                state.follow.never();
                state.follower = Follower::Nobody;
            }
        }
    }

    /// Moves the follower, which calls this itself, to where its caller is.
    fn go_to(&self, caller: u32, whereabouts: &mut Whereabouts) {
        let went = whereabouts.cpu_of(caller).is_some_and(|cpu| {
            self.placement.lock().as_mut().is_some_and(|placement| placement.keep_to(cpu).is_ok())
        });
        if !went {
            self.state.lock().follow.cannot();
        }
    }

    /// Goes on following, or rests until there is somebody to follow. So also if somebody stands in for it by now: of
    /// two that listen the kernel wakes the other for each request. That one answers once more, and summons it.
    fn end_of_follower(&self, seat: &mut Seat) {
        let slept = seat.follower.as_mut().is_some_and(Seeker::has_slept);
        let mut state = self.state.lock();
        state.follow.answered(slept);
        while (!state.follow.is_following() || state.listening > 0) && !state.over {
            if state.listening == 0 {
                state.call(&self.called);
            }
            if state.listening == 0 {
                // Whoever rests must be sure that somebody who knows of it is awake when the session ends.
                break;
            }
            state.follower = Follower::Resting;
            drop(state);
            self.let_go();
            if let Some(seeker) = &mut seat.follower {
                // Whoever was followed is no business of ours any more, nor is the /proc that he was found in.
                seeker.whereabouts = Whereabouts::default();
            }
            state = self.state.lock();
            while matches!(state.follower, Follower::Resting) && !state.over {
                self.summoned.wait(&mut state);
            }
            let Follower::Summoned(caller) = std::mem::replace(&mut state.follower, Follower::Awake) else {
                break;
            };
            drop(state);
            if let Some(seeker) = &mut seat.follower {
                self.go_to(caller, &mut seeker.whereabouts);
            }
            state = self.state.lock();
            // Whoever summoned it has counted it as listening.
            state.listening -= 1;
        }
        state.listening += 1;
    }

    /// The session has ended: nobody rests or watches any more. A loop that ends says so itself.
    pub fn end_all(&self) {
        self.state.lock().over = true;
        self.called.notify_all();
        self.summoned.notify_all();
        self.active.notify_all();
        // The session waits for the follower too, which its CPU may be too busy for.
        self.let_go();
    }

    /// The follower may run anywhere again, unless it is just about to move.
    fn let_go(&self) {
        if let Some(mut placement) = self.placement.try_lock()
            && let Some(placement) = &mut *placement
        {
            placement.let_go();
        }
    }

    /// Calls loops in place of those that are held up, until the session ends. Does what there is to do `at_leisure`
    /// once there have been many requests, and none for a while.
    pub fn watch(&self, device: &impl AsFd, at_leisure: impl Fn()) {
        let (mut seen, mut seen_at_leisure) = (0, 0);
        let (mut idle, mut stuck, mut busy) = (0, 0, 0);
        let mut state = self.state.lock();
        while !state.over {
            if state.requests != seen {
                (idle, stuck) = (0, 0);
            } else if is_pending(device) {
                stuck += 1;
                let is_starved = stuck == STUCK_TICKS && state.listening > 0;
                if is_starved && state.follow.is_following() {
                    state.follow.starved();
                }
                if is_starved || state.listening == 0 {
                    state.call(&self.called);
                }
            } else if state.listening == 0 && state.resting > state.calls {
                // Nobody is missing yet. The watch must not sleep as long as somebody may be.
                (idle, stuck) = (idle + 1, stuck + 1);
                if idle == IDLE_TICKS {
                    state.call(&self.called);
                }
            } else {
                idle += 1;
            }
            busy =
                if state.follow.is_following() && (self.is_busy)(THREADS_THAT_FOLLOW) { busy + 1 } else { 0 };
            if busy == STUCK_TICKS {
                state.follow.machine_is_busy();
            }
            if stuck == STUCK_TICKS {
                self.let_go();
            }
            seen = state.requests;
            if idle < IDLE_TICKS {
                let tick = if state.follow.is_following() { TICK_OF_ONE } else { TICK };
                self.active.wait_for(&mut state, tick);
            } else if seen - seen_at_leisure >= MANY {
                seen_at_leisure = seen;
                MutexGuard::unlocked(&mut state, &at_leisure);
            } else {
                state.watch_sleeps = true;
                self.active.wait(&mut state);
                idle = 0;
            }
        }
    }
}

/// Whether a request waits for a loop.
fn is_pending(device: &impl AsFd) -> bool {
    let mut device = [PollFd::new(device, PollFlags::IN)];
    matches!(poll(&mut device, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    type Request = Box<dyn FnOnce() + Send>;

    /// A device without requests, while both are kept.
    fn never_ready() -> (std::io::PipeReader, std::io::PipeWriter) {
        std::io::pipe().unwrap()
    }

    /// A session of `loops` threads that answer what is sent to them, one request a message.
    fn session(loops: usize) -> (Arc<Listeners>, mpsc::Sender<Request>, Vec<thread::JoinHandle<()>>) {
        session_of(Listeners::new(loops, false), loops, 0)
    }

    fn session_of(
        listeners: Listeners,
        loops: usize,
        caller: u32,
    ) -> (Arc<Listeners>, mpsc::Sender<Request>, Vec<thread::JoinHandle<()>>) {
        let listeners = Arc::new(listeners);
        let (sender, receiver) = mpsc::channel::<Request>();
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads: Vec<_> = (0..loops)
            .map(|_| {
                let (listeners, receiver) = (listeners.clone(), receiver.clone());
                thread::spawn(move || {
                    loop {
                        let next = receiver.lock().recv();
                        let Ok(request) = next else { return };
                        listeners.answer(caller, request);
                    }
                })
            })
            .collect();
        let watched = listeners.clone();
        threads.push(thread::spawn(move || watched.watch(&never_ready().0, || ())));
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

    /// Requests that are sent one by one, each when the last one was answered.
    fn ask(sender: &mpsc::Sender<Request>, times: usize) {
        let (done, answered) = mpsc::channel();
        for _ in 0..times {
            let done = done.clone();
            sender.send(Box::new(move || done.send(()).unwrap())).unwrap();
            answered.recv().unwrap();
        }
    }

    #[test]
    fn the_follower_never_rests_while_nobody_else_is_awake() {
        let (listeners, sender, threads) =
            session_of(Listeners { is_busy: |_| false, ..Listeners::new(3, true) }, 3, std::process::id());
        while !matches!(listeners.state.lock().follower, Follower::Awake) {
            ask(&sender, 100);
        }
        // First it is held up itself, and then those who stand in for it.
        let mut locks = std::collections::VecDeque::new();
        for _ in 0..3 {
            let (let_go, held) = mpsc::channel::<()>();
            let (begun, has_begun) = mpsc::channel();
            let stall = move || {
                begun.send(()).unwrap();
                held.recv().unwrap_err();
            };
            sender.send(Box::new(stall)).unwrap();
            has_begun.recv().unwrap();
            locks.push_back(let_go);
        }
        listeners.state.lock().follow.cannot();
        locks.pop_front();
        ask(&sender, 3);
        drop(locks);
        drop(sender);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn nobody_is_followed_while_there_is_long_work() {
        let listeners = Listeners { is_busy: |_| false, ..Listeners::new(3, true) };
        let (listeners, sender, threads) = session_of(listeners, 3, std::process::id());
        while !listeners.state.lock().follow.is_following() {
            ask(&sender, 100);
        }
        let work = listeners.long_work();
        ask(&sender, 1000);
        assert!(!listeners.state.lock().follow.is_following());
        drop(work);
        while !listeners.state.lock().follow.is_following() {
            ask(&sender, 100);
        }
        drop(sender);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn at_leisure_is_after_many_requests_and_not_before() {
        let listeners = Arc::new(Listeners::new(1, false));
        let (done, has_been) = mpsc::channel();
        let watch = thread::spawn({
            let listeners = listeners.clone();
            move || listeners.watch(&never_ready().0, || done.send(()).unwrap())
        });
        // The session's only loop: the session ends with it.
        let serve = thread::spawn(move || {
            let answer = || listeners.answer(0, || ());
            (2..MANY).for_each(|_| answer());
            listeners.take_one_of_many(|| ());
            while !listeners.state.lock().watch_sleeps {
                thread::yield_now();
            }
            assert_eq!(has_been.try_recv(), Err(mpsc::TryRecvError::Empty));
            answer();
            assert_eq!(has_been.recv(), Ok(()));
        });
        serve.join().unwrap();
        watch.join().unwrap();
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
