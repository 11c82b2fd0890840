//! Is a plan safe after every prefix, and right at its end?
//!
//! The checks work on lists of steps, so that wrong lists can be tried on them too.

use std::rc::Rc;

use plyfs::rules::BranchId;
use plyfs::rules::plan::{Refusal, Step};
use plyfs::rules::resolve::Resolution;

use crate::disk::{self, Dir, FileName, Node, OPAQUE, Path};
use crate::execute;
use crate::flatten::{Kind, Seen, UPPER};
use crate::request::{Operation, Request, Stack};

/// How much was checked.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests that got a plan.
    pub plans: usize,
    /// Requests that were refused.
    pub refusals: usize,
    /// Those among them for which no whiteout is short enough.
    pub too_long: usize,
    /// States of the upper in which a crash was imagined.
    pub prefixes: usize,
}

/// Checks the rules' answer to one request. Returns the upper as the plan leaves it, or None if the
/// request is rightly refused.
pub fn check_request(
    request: &Request,
    stack: &Stack<'_>,
    before: &Seen,
    tally: &mut Tally,
) -> Result<Option<Dir>, String> {
    check_resolution(request, stack, before)?;
    let (plan, after) = match (request.plan(stack, before), request.outcome(before)) {
        (Ok(plan), Ok(after)) => (plan, after),
        (Err(given), Err(expected)) if given == expected => {
            tally.refusals += 1;
            return Ok(None);
        }
        (Err(Refusal::WhiteoutTooLong), Ok(_)) if lacks_a_whiteout(request, stack, before) => {
            tally.refusals += 1;
            tally.too_long += 1;
            return Ok(None);
        }
        (plan, outcome) => return Err(format!("answer {plan:?}, expected {outcome:?}")),
    };
    tally.plans += 1;
    let steps = plan.steps();
    let about = |what: String| format!("{what}\nin {steps:?}");
    let end = check_steps(request, stack, before, &after, steps, tally).map_err(about)?;
    check_preparations(request, stack, steps).map_err(about)?;
    Ok(Some(end))
}

/// Checks that `steps` lead from what shows now to `after` and nowhere else on the way, and that
/// they leave no marker behind that is not needed. Returns the upper as they leave it.
pub fn check_steps(
    request: &Request,
    start: &Stack<'_>,
    before: &Seen,
    after: &Seen,
    steps: &[Step],
    tally: &mut Tally,
) -> Result<Dir, String> {
    let mut now = Run { stack: start.clone(), view: Rc::new(before.clone()), is_after: before == after };
    for step in steps {
        let mut done: Option<Run> = None;
        for order in execute::orders(*step, request, &now.stack, &now.view)? {
            let mut run = now.clone();
            for change in order {
                change.apply(&mut run.stack.upper)?;
                tally.prefixes += 1;
                run.observe(before, after).map_err(|what| format!("{what}\nafter {change:?} of {step:?}"))?;
            }
            if done.as_ref().is_some_and(|d| d.stack != run.stack) {
                return Err(format!("{step:?} depends on the order of its calls"));
            }
            done = Some(run);
        }
        now = done.expect("every step has at least one order");
    }
    if !now.is_after {
        return Err(format!("the end shows {:?}", now.view));
    }
    check_resolution(request, &now.stack, &now.view)?;
    check_markers(request, (start, before), (&now.stack, &now.view), &mut Path::new())?;
    check_merges(request, before, &now.view, &mut Path::new())?;
    Ok(now.stack.upper)
}

/// A stack on its way through the steps.
#[derive(Clone)]
struct Run<'a> {
    stack: Stack<'a>,
    view: Rc<Seen>,
    is_after: bool,
}

impl Run<'_> {
    /// Users see what was before or what is after, and never go back.
    fn observe(&mut self, before: &Seen, after: &Seen) -> Result<(), String> {
        self.view = Rc::new(self.stack.view());
        self.is_after = match (self.is_after, *self.view == *after) {
            (_, true) => true,
            (false, false) if *self.view == *before => false,
            (_, _) => return Err(format!("a third thing shows: {:?}", self.view)),
        };
        Ok(())
    }
}

/// Preparations come first, and what is planned anew after them is the rest of the plan.
fn check_preparations(request: &Request, stack: &Stack<'_>, steps: &[Step]) -> Result<(), String> {
    let prepare = steps.iter().take_while(|s| s.is_preparation()).count();
    let (preparations, rest) = steps.split_at(prepare);
    if rest.iter().any(|s| s.is_preparation()) {
        return Err("a preparation comes late".into());
    }
    if preparations.is_empty() {
        return Ok(());
    }
    let mut stack = stack.clone();
    for step in preparations {
        let orders = execute::orders(*step, request, &stack, &stack.view())?;
        for change in &orders[0] {
            change.apply(&mut stack.upper)?;
        }
    }
    match request.plan(&stack, &stack.view()) {
        Ok(anew) if anew.steps() == rest => Ok(()),
        anew => Err(format!("planned anew after its preparations: {anew:?}")),
    }
}

/// The rules see under both names what users see.
fn check_resolution(request: &Request, stack: &Stack<'_>, view: &Seen) -> Result<(), String> {
    for path in [&request.source, &request.target] {
        let branches = |from: u8| (0..8).filter(move |b| from & (1 << b) != 0).map(BranchId);
        let expected = match view.find(path) {
            None => Resolution::Absent,
            Some(seen) => match seen.kind {
                Kind::File(_) => Resolution::Leaf(branches(seen.from).next().unwrap()),
                Kind::Dir(_) => Resolution::Merged(branches(seen.from).collect()),
            },
        };
        let given = stack.probe(view, path).visible();
        if given != expected {
            return Err(format!("{path:?} resolves to {given:?}, not {expected:?}"));
        }
    }
    Ok(())
}

/// Whether the request cannot be done without a whiteout for a name that is too long for one: a
/// name must vanish over lowers that show it, an empty directory in the upper must be cleared of its
/// markers over a lower directory, or a whiteout that has the name itself must go over lowers.
fn lacks_a_whiteout(request: &Request, stack: &Stack<'_>, view: &Seen) -> bool {
    let lacks = |path: &[FileName], is_over: fn(&Seen) -> bool| {
        let (_, name) = disk::split(path);
        disk::whiteout_of(name).is_none() && stack.below(view, path).is_some_and(is_over)
    };
    let (source, target) = (&request.source, &request.target);
    let held = disk::find(&stack.upper, target);
    let frees = || held == Some(&Node::Whiteout) && lacks(target, |_| true);
    match request.operation {
        Operation::Create(_) | Operation::Link => frees(),
        Operation::Unlink | Operation::Rmdir => lacks(target, |_| true),
        Operation::Rename(_) => {
            let clears = matches!(held, Some(Node::Dir(_)));
            lacks(source, |_| true) || clears && lacks(target, Seen::is_dir) || frees()
        }
        Operation::Exchange => false,
    }
}

/// Each marker in the upper, at the end, hides something or stood there before.
fn check_markers(
    request: &Request,
    (start, before): (&Stack<'_>, &Seen),
    (end, after): (&Stack<'_>, &Seen),
    path: &mut Path,
) -> Result<(), String> {
    let dir = disk::find_dir(&end.upper, path).expect("a directory of the upper");
    let origin = request.origin(path);
    let earlier = origin.as_ref().and_then(|o| disk::find_dir(&start.upper, o));
    let stood = |name: FileName| earlier.is_some_and(|dir| dir.contains_key(name));
    for (name, node) in dir {
        if *node == Node::Whiteout {
            if earlier.and_then(|dir| dir.get(name)) != Some(node) {
                return Err(format!("{name:?} in {path:?} has become a whiteout"));
            }
        } else if let Some(hidden) = disk::hidden_by(name, node) {
            let stood = stood(name);
            if dir.contains_key(hidden) && !(stood && earlier.unwrap().contains_key(hidden)) {
                return Err(format!("{hidden:?} in {path:?} has a whiteout beside it"));
            }
            if !stood && end.below(after, &disk::join(path, hidden)).is_none() {
                return Err(format!("{name:?} in {path:?} hides nothing"));
            }
        } else if *name == OPAQUE {
            let hides = |stack: &Stack<'_>, view: &Seen, path: &Path| {
                !path.is_empty() && stack.below(view, path).is_some_and(Seen::is_dir)
            };
            let hid = origin.as_ref().is_some_and(|o| hides(start, before, o));
            if !stood(name) && !hid && !hides(end, after, path) {
                return Err(format!("{path:?} is opaque over nothing"));
            }
        } else if let Node::Dir(_) = node {
            path.push(name);
            check_markers(request, (start, before), (end, after), path)?;
            path.pop();
        }
    }
    Ok(())
}

/// At the end a directory merges with lower ones only where it did before: a new one never does,
/// and none that was moved, even if they are empty now.
fn check_merges(request: &Request, before: &Seen, seen: &Seen, path: &mut Path) -> Result<(), String> {
    if seen.is_dir() && seen.is_from_lowers() {
        let stayed = request.origin(path).as_ref() == Some(path);
        let earlier = before.find(path).filter(|e| e.is_dir() && stayed);
        let earlier = earlier.map_or(0, |e| e.from);
        if seen.from & !UPPER & !earlier != 0 {
            return Err(format!("{path:?} merges with lowers"));
        }
    }
    for (name, entry) in seen.entries() {
        path.push(name);
        check_merges(request, before, entry, path)?;
        path.pop();
    }
    Ok(())
}
