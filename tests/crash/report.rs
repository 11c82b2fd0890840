//! What was played, and what was found?

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use plyfs::branch::{Caller, act_as};

use super::operation::{self, Operation};
use super::stacks::Stack;

/// Counts, and keeps what was found.
#[derive(Default)]
pub struct Report {
    cases: AtomicUsize,
    lost_notes: AtomicUsize,
    findings: Mutex<BTreeMap<String, Vec<String>>>,
}

impl Report {
    pub fn count(&self) {
        self.cases.fetch_add(1, Ordering::Relaxed);
    }

    /// A number or a link count is another one after the next mount: the workdir misses a note.
    pub fn count_lost_note(&self) {
        self.lost_notes.fetch_add(1, Ordering::Relaxed);
    }

    /// Something is wrong. What begins alike is put together.
    pub fn find(&self, case: &str, kind: &str, what: String) {
        let mut findings = self.findings.lock().expect("a lock");
        findings.entry(kind.to_owned()).or_default().push(format!("{case}: {what}"));
    }

    /// Says what was played. Panics if something was found.
    pub fn end(self, what: &str, begun: Instant) {
        let (cases, notes) = (self.cases.into_inner(), self.lost_notes.into_inner());
        let seconds = begun.elapsed().as_secs_f32();
        println!(
            "{what}: {cases} cases in {seconds:.1} s, in {notes} of them a number or link count was lost"
        );
        let findings = self.findings.into_inner().expect("a lock");
        let mut said = String::new();
        let most = super::number("PLYFS_CRASH_SHOWN").unwrap_or(3) as usize;
        for (kind, cases) in &findings {
            writeln!(said, "\n{kind} ({} cases):", cases.len()).expect("a string");
            for case in cases.iter().take(most) {
                writeln!(said, "  {case}").expect("a string");
            }
        }
        assert!(findings.is_empty(), "{said}");
        assert!(cases > 0, "nothing was played");
    }
}

/// Plays every operation on every stack, on as many threads as there are processors.
pub fn on_every_stack(report: &Report, stacks: &[Stack], play: impl Fn(&Stack, Operation) + Sync) {
    let wanted = std::env::var("PLYFS_CRASH_ONLY").unwrap_or_default();
    let operations = operation::all();
    let all: Vec<_> = stacks
        .iter()
        .flat_map(|stack| operations.iter().map(move |operation| (stack, *operation)))
        .filter(|(stack, operation)| format!("{}: {operation}", stack.name).contains(&wanted))
        .collect();
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let (all, next, play) = (&all, &next, &play);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (begun, begins) = mpsc::channel();
            scope.spawn(move || watch(&begins));
            scope.spawn(move || {
                behave_as_a_mount();
                while let Some((stack, operation)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // Nobody hears of it if the watch has ended, which it does not before this.
                    begun.send(format!("{}: {operation}", stack.name)).expect("a watch");
                    let played =
                        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(stack, *operation)));
                    if played.is_err() {
                        report.find(&format!("{}: {operation}", stack.name), "a panic", String::new());
                    }
                }
            });
        }
    });
}

/// A test that hangs says where.
fn watch(begins: &mpsc::Receiver<String>) {
    let mut at = String::new();
    loop {
        match begins.recv_timeout(LONG) {
            Ok(next) => at = next,
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                eprintln!("`{at}` hangs");
                std::process::abort();
            }
        }
    }
}

/// All cases of one operation on one stack take a second or two, on a busy disk a minute.
const LONG: Duration = Duration::from_secs(300);

/// The umask is nobody's but the callers'.
pub fn behave_as_a_mount() {
    let ours = Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        umask: 0,
    };
    act_as(ours, || Ok(())).expect("an umask of its own");
}
