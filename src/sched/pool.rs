//! Where does long work go?
//!
//! To a thread of its own, which ends when it has had nothing to do for a while. There is an upper limit: beyond it work
//! waits for a thread, so that no event loop is ever taken by it. One thread is always there to spare, up to the
//! limit, and it makes the next one before it goes to work: no loop makes threads, which would be
//! where the loop is kept, and give way as the loop does.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::guarded;

/// So many long requests are under way at once.
const LIMIT: usize = 64;
/// How long a worker waits for more.
const REST: Duration = Duration::from_secs(10);

/// A request with everything that answering it needs.
pub type Job = Box<dyn FnOnce() + Send>;

/// Threads for long work.
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    limit: usize,
    rest: Duration,
    /// What a new thread does first.
    prepare: fn(),
    state: Mutex<State>,
    /// For workers that rest.
    work: Condvar,
    /// For whoever waits for the end.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    workers: usize,
    resting: usize,
    /// No worker rests any more.
    over: bool,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("workers", &self.shared.state.lock().workers).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool with one thread. Each that it makes calls `prepare` first.
    #[must_use]
    pub fn new(prepare: fn()) -> Self {
        Self::of(LIMIT, REST, prepare)
    }

    fn of(limit: usize, rest: Duration, prepare: fn()) -> Self {
        let shared = Arc::new(Shared {
            limit,
            rest,
            prepare,
            state: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
        });
        shared.make_worker(&mut shared.state.lock());
        Self { shared }
    }

    /// Has the job done by a worker, or gives it back.
    #[must_use]
    pub fn take(&self, job: Job) -> Option<Job> {
        let mut state = self.shared.state.lock();
        if state.over || state.workers == 0 {
            return Some(job);
        }
        state.waiting.push_back(job);
        self.shared.work.notify_one();
        None
    }

    /// Waits until all jobs are done and all workers have ended; no job is taken from now on.
    pub fn finish(&self) {
        let mut state = self.shared.state.lock();
        state.over = true;
        self.shared.work.notify_all();
        while state.workers > 0 {
            self.shared.ended.wait(&mut state);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Shared {
    fn make_worker(self: &Arc<Self>, state: &mut State) {
        let shared = Arc::clone(self);
        let started = thread::Builder::new().name("plyfs-long".to_owned()).spawn(move || {
            guarded(shared.prepare);
            shared.work();
        });
        match started {
            Ok(_) => state.workers += 1,
            Err(e) => log::warn!("no thread for long work: {e}"),
        }
    }

    /// A worker's life.
    fn work(self: &Arc<Self>) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.waiting.pop_front() {
                if state.resting == 0 && state.workers < self.limit && !state.over {
                    self.make_worker(&mut state);
                }
                parking_lot::MutexGuard::unlocked(&mut state, || guarded(job));
                continue;
            }
            if state.over {
                break;
            }
            state.resting += 1;
            let waited = self.work.wait_for(&mut state, self.rest);
            state.resting -= 1;
            if waited.timed_out() && state.waiting.is_empty() && state.resting > 0 {
                break;
            }
        }
        state.workers -= 1;
        self.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn pool(limit: usize, rest: Duration) -> Pool {
        Pool::of(limit, rest, || ())
    }

    /// Each job waits until its sender is dropped.
    fn stalled(pool: &Pool, jobs: usize) -> Vec<mpsc::Sender<()>> {
        let (begun, has_begun) = mpsc::channel();
        let senders = (0..jobs).map(|_| {
            let (let_go, held) = mpsc::channel();
            let begun = begun.clone();
            let job = move || {
                begun.send(()).unwrap();
                held.recv().unwrap_err();
            };
            assert!(pool.take(Box::new(job)).is_none());
            let_go
        });
        let senders: Vec<_> = senders.collect();
        (0..jobs).for_each(|_| has_begun.recv().unwrap());
        senders
    }

    #[test]
    fn it_grows_to_its_limit_and_what_is_beyond_waits() {
        let pool = pool(3, REST);
        let mut locks = stalled(&pool, 3);
        let (done, is_done) = mpsc::channel();
        assert!(pool.take(Box::new(move || done.send("by a worker").unwrap())).is_none());
        assert!(is_done.try_recv().is_err(), "all workers are busy");
        drop(locks.pop());
        // The worker that is free by now is the one that takes it, and no fourth.
        assert_eq!(is_done.recv(), Ok("by a worker"));
        assert_eq!(pool.shared.state.lock().workers, 3);
    }

    #[test]
    fn workers_but_one_end_when_there_is_nothing_to_do() {
        let pool = pool(3, Duration::from_millis(1));
        drop(stalled(&pool, 2));
        let mut state = pool.shared.state.lock();
        while state.workers > 1 {
            pool.shared.ended.wait(&mut state);
        }
        drop(state);
        drop(stalled(&pool, 3));
    }

    #[test]
    fn threads_are_made_by_workers_alone() {
        let pool = pool(3, REST);
        let before = thread::scope(|scope| {
            // What a thread makes inherits where it may run.
            let taker = scope.spawn(|| {
                let mut one = rustix::thread::CpuSet::new();
                let all = rustix::thread::sched_getaffinity(None).unwrap();
                one.set((0..rustix::thread::CpuSet::MAX_CPU).find(|&cpu| all.is_set(cpu)).unwrap());
                rustix::thread::sched_setaffinity(None, &one).unwrap();
                drop(stalled(&pool, 3));
                all
            });
            taker.join().unwrap()
        });
        let (done, is_done) = mpsc::channel();
        for _ in 0..3 {
            let done = done.clone();
            let job = move || done.send(rustix::thread::sched_getaffinity(None).unwrap()).unwrap();
            assert!(pool.take(Box::new(job)).is_none());
            assert_eq!(is_done.recv().unwrap(), before);
        }
    }

    #[test]
    fn a_panic_ends_neither_the_worker_nor_the_pool() {
        let pool = pool(1, REST);
        assert!(pool.take(Box::new(|| panic!("a defect, made by a test"))).is_none());
        let (done, is_done) = mpsc::channel();
        let mut job: Option<Job> = Some(Box::new(move || done.send(()).unwrap()));
        while let Some(again) = job.take() {
            job = pool.take(again);
        }
        is_done.recv().unwrap();
    }

    #[test]
    fn the_end_waits_for_what_is_under_way_and_then_nothing_is_taken() {
        let pool = pool(2, REST);
        let locks = stalled(&pool, 2);
        let (done, is_done) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                pool.finish();
                done.send(()).unwrap();
            });
            while !pool.shared.state.lock().over {}
            assert_eq!(is_done.try_recv(), Err(mpsc::TryRecvError::Empty));
            drop(locks);
            is_done.recv().unwrap();
        });
        assert!(pool.take(Box::new(|| ())).is_some());
        assert_eq!(pool.shared.state.lock().workers, 0);
    }

    #[test]
    fn every_worker_prepares_itself_before_its_first_job() {
        std::thread_local! {
            static PREPARED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
        }
        let pool = Pool::new(|| PREPARED.set(true));
        let (done, is_done) = mpsc::channel();
        assert!(pool.take(Box::new(move || done.send(PREPARED.get()).unwrap())).is_none());
        assert_eq!(is_done.recv(), Ok(true));
    }
}
