//! Is there one caller that waits for each of its answers, and is the loop that answers it where it is?
//!
//! A caller sleeps while it waits. On another CPU than its own, each request wakes an idle CPU for the answer, and each
//! answer wakes an idle CPU for the caller: tens of microseconds, several times what most answers take. On its own CPU
//! there are two context switches and nothing else. So while one caller asks and nobody else does, one loop, the
//! *follower*, answers it from the CPU that it is on.
//!
//! Only decided here, from what is cheap to know: who asks, and whether the follower has slept for the request or in
//! the answer. On its caller's CPU it never sleeps for a request: the caller has run on, and slept again, before the
//! follower comes back from giving the last answer.

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Stay,
    /// From the next request on the follower answers, on the CPU of this caller.
    Enter(u32),
    /// The follower may be on another CPU than this caller.
    Look(u32),
    /// From the next request on any loop answers.
    Leave,
}

/// So many requests in a row of one caller make it worth following, at first.
const RUN: u32 = 32;
/// At most so many, however often following has been given up.
const LONGEST_RUN: u32 = 1 << 14;
/// After so many requests it was right to follow.
const WORTH_IT: u32 = 1 << 12;
/// So many requests in a row of another caller, and the follower goes to that one.
const NEXT_RUN: u32 = 8;
/// What a change of callers counts, against each request of the same caller, which counts one.
const CHANGE: u32 = 8;
/// So much of it, and there are several callers at once.
const CROWD: u32 = 4 * CHANGE;
/// What an answer counts that the follower has slept in, against each other one, which counts one.
const BLOCKED: u32 = 8;
/// So much of it, and it is the disk that the caller waits for.
const DISK: u32 = 8 * BLOCKED;

/// The requests so far, as far as they say something about the next one.
#[derive(Debug)]
pub(super) struct Follow {
    /// Who is followed.
    followed: Option<u32>,
    /// How many requests since.
    since: u32,
    /// Who asked last, and how often in a row.
    last: u32,
    run: u32,
    /// How much the callers change.
    changes: u32,
    /// How much of the answers is waiting.
    blocked: u32,
    /// How many in a row it takes.
    needed: u32,
    /// Whether it has been seen that others take the CPU from a follower: they share its scheduling group, or it has
    /// none of its own.
    starves: bool,
}

impl Default for Follow {
    fn default() -> Self {
        Self {
            followed: None,
            since: 0,
            last: 0,
            run: 0,
            changes: 0,
            blocked: 0,
            needed: RUN,
            starves: false,
        }
    }
}

impl Follow {
    pub(super) fn is_following(&self) -> bool {
        self.followed.is_some()
    }

    /// Who is followed.
    pub(super) fn followed(&self) -> Option<u32> {
        self.followed
    }

    /// A request of the thread of that number (0: nobody waits, or it has none here), and whether the loop that has
    /// taken it has slept since the last one.
    pub(super) fn step(&mut self, caller: u32, slept: bool) -> Step {
        if caller == 0 {
            return Step::Stay;
        }
        let changed = caller != self.last;
        self.last = caller;
        self.run = if changed { 1 } else { self.run.saturating_add(1) };
        self.changes = if changed { self.changes + CHANGE } else { self.changes.saturating_sub(1) };
        self.changes = self.changes.min(2 * CROWD);
        match self.followed {
            None => {
                if self.run < self.needed || self.needed == u32::MAX || self.changes >= CROWD {
                    return Step::Stay;
                }
                (self.followed, self.since) = (Some(caller), 0);
                Step::Enter(caller)
            }
            Some(followed) => {
                self.since = self.since.saturating_add(1);
                if self.since == WORTH_IT {
                    self.needed = RUN;
                }
                if self.changes >= CROWD {
                    self.give_up(2);
                    return Step::Leave;
                }
                if caller == followed {
                    return if slept { Step::Look(caller) } else { Step::Stay };
                }
                if self.run >= NEXT_RUN {
                    self.followed = Some(caller);
                    return Step::Look(caller);
                }
                Step::Stay
            }
        }
    }

    /// The follower has answered, and says whether it has slept meanwhile. Whoever waits for the disk is woken by others, and
    /// has no use for a CPU of its own to be quick on, nor for a thread that gives way to those others.
    pub(super) fn answered(&mut self, slept: bool) {
        self.blocked = if slept { self.blocked + BLOCKED } else { self.blocked.saturating_sub(1) };
        if self.is_following() && self.blocked >= DISK {
            self.blocked = 0;
            self.give_up(2);
        }
    }

    /// No loop can become a follower here.
    pub(super) fn never(&mut self) {
        *self = Self { needed: u32::MAX, ..Self::default() };
    }

    /// The follower cannot follow: there is no telling where the caller is, or we may not go there.
    pub(super) fn cannot(&mut self) {
        self.give_up(4);
    }

    /// Whether following is to wait for others to be done.
    pub(super) fn starves(&self) -> bool {
        self.starves
    }

    /// More want to run than can, so whoever gives way would wait. That may be over soon.
    pub(super) fn machine_is_busy(&mut self) {
        (self.followed, self.run) = (None, 0);
    }

    /// The follower did not come to answer, because others keep its CPU busy.
    pub(super) fn starved(&mut self) {
        self.starves = true;
        self.give_up(4);
    }

    /// Next time it takes more to try again.
    fn give_up(&mut self, harder: u32) {
        if self.since < WORTH_IT {
            self.needed = (self.needed * harder).min(LONGEST_RUN);
        }
        (self.followed, self.run) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A recorded sequence: who asked, a letter each, in capitals where the loop had slept, `-` for nobody. What was
    /// decided, a character each: `.` stay, `>` enter, `?` look, `<` leave.
    fn decided(follow: &mut Follow, requests: &str) -> String {
        let mut steps = String::new();
        for letter in requests.chars() {
            let caller = if letter == '-' { 0 } else { u32::from(letter.to_ascii_lowercase()) };
            let step = follow.step(caller, letter.is_ascii_uppercase());
            steps.push(match step {
                Step::Stay => '.',
                Step::Enter(who) => {
                    assert_eq!(who, caller);
                    '>'
                }
                Step::Look(who) => {
                    assert_eq!(who, caller);
                    '?'
                }
                Step::Leave => '<',
            });
        }
        steps
    }

    fn following(caller: &str) -> Follow {
        let mut follow = Follow::default();
        decided(&mut follow, &caller.repeat(RUN as usize + 8));
        assert!(follow.is_following());
        follow
    }

    #[test]
    fn one_caller_that_asks_again_and_again_is_followed() {
        let mut follow = Follow::default();
        let steps = decided(&mut follow, &"a".repeat(40));
        // The first request of all is a change too.
        assert_eq!(steps, format!("{}>{}", ".".repeat(31), ".".repeat(8)));
        assert!(follow.is_following());
    }

    #[test]
    fn a_caller_that_leaves_after_a_few_requests_is_not() {
        let mut follow = Follow::default();
        let many_short_processes: String = ('a'..='z').map(|who| who.to_string().repeat(20)).collect();
        assert!(decided(&mut follow, &many_short_processes).bytes().all(|step| step == b'.'));
    }

    #[test]
    fn two_at_once_are_not_and_a_second_one_ends_it() {
        let mut follow = Follow::default();
        assert!(decided(&mut follow, &"ab".repeat(500)).bytes().all(|step| step == b'.'));
        assert!(decided(&mut follow, &"aabbb".repeat(500)).bytes().all(|step| step == b'.'));
        let mut follow = following("a");
        let steps = decided(&mut follow, &"ab".repeat(10));
        assert_eq!(steps.find('<'), Some(4), "{steps}");
        assert!(!follow.is_following());
    }

    #[test]
    fn a_stranger_now_and_then_does_not_end_it() {
        let mut follow = following("a");
        let steps = decided(&mut follow, &format!("{}b", "a".repeat(20)).repeat(20));
        assert!(steps.bytes().all(|step| step == b'.'), "{steps}");
    }

    #[test]
    fn the_next_caller_is_followed_sooner_than_the_first() {
        let mut follow = following("a");
        assert_eq!(decided(&mut follow, "bbbbbbbbbb"), ".......?..");
        // What the last one still asks goes unnoticed.
        assert_eq!(decided(&mut follow, "abbb"), "....");
    }

    #[test]
    fn whoever_slept_looks_where_its_caller_is() {
        let mut follow = following("a");
        assert_eq!(decided(&mut follow, "aaAaaAA"), "..?..??");
        // Of others it is no sign.
        assert_eq!(decided(&mut follow, "Baa"), "...");
        assert_eq!(decided(&mut Follow::default(), "AAAA"), "....");
    }

    #[test]
    fn requests_that_nobody_waits_for_change_nothing() {
        let mut follow = Follow::default();
        let steps = decided(&mut follow, &"a-".repeat(40));
        assert_eq!(steps.find('>'), Some(62));
        assert!(decided(&mut follow, &"-".repeat(1000)).bytes().all(|step| step == b'.'));
        assert!(follow.is_following());
    }

    #[test]
    fn what_was_given_up_takes_more_to_be_tried_again_until_it_was_worth_it() {
        let mut follow = following("a");
        let mut tried = Vec::new();
        for _ in 0..7 {
            follow.starved();
            assert!(follow.starves());
            tried.push((1..).find(|_| decided(&mut follow, "a") == ">").unwrap());
        }
        assert_eq!(tried, [128, 512, 2048, 8192, 16384, 16384, 16384]);
        decided(&mut follow, &"a".repeat(WORTH_IT as usize));
        follow.starved();
        assert_eq!(decided(&mut follow, &"a".repeat(100)).find('>'), Some(31));
    }

    #[test]
    fn a_busy_machine_is_looked_at_again_soon() {
        let mut follow = following("a");
        assert!(!follow.starves());
        for _ in 0..3 {
            follow.machine_is_busy();
            assert_eq!(decided(&mut follow, &"a".repeat(40)).find('>'), Some(RUN as usize - 1));
        }
    }

    #[test]
    fn a_caller_who_waits_for_the_disk_is_not_followed() {
        let mut follow = following("a");
        let answers = |follow: &mut Follow, pattern: &str| {
            pattern.chars().position(|slept| {
                follow.answered(slept == 'S');
                !follow.is_following()
            })
        };
        assert_eq!(answers(&mut follow, &"........S".repeat(100)), None, "now and then");
        assert_eq!(answers(&mut follow, &"...S".repeat(100)), Some(47));
        assert_eq!(decided(&mut follow, &"a".repeat(100)).find('>'), Some(63));
    }

    #[test]
    fn where_nobody_can_follow_nobody_tries() {
        let mut follow = following("a");
        follow.never();
        assert!((0..100_000).all(|_| follow.step(7, true) == Step::Stay));
    }

    #[test]
    fn whoever_cannot_be_followed_is_seldom_tried() {
        let mut follow = Follow::default();
        let mut tries = 0;
        for _ in 0..100_000 {
            if let Step::Enter(_) = follow.step(7, true) {
                tries += 1;
                follow.cannot();
            }
        }
        assert!((5..20).contains(&tries), "{tries}");
    }
}
