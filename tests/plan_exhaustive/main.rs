//! Does a user ever see a third thing?
//!
//! For every small stack of branches, every operation and every prefix of its plan, what users see
//! is what was before or what is after. The plans come from `plyfs::rules::plan`. Everything that
//! judges them is a model of its own: a disk, an OCI-like flattening of layers, a plain filesystem
//! that says what should come of the operation, and an executor of steps.
//!
//! Read in this order: `disk`, `flatten`, `request`, `execute`, `check`, `shapes`, `mutations`.

mod check;
mod disk;
mod execute;
mod flatten;
mod mutations;
mod request;
mod shapes;

use check::{Tally, check_request, check_steps};
use disk::{Dir, FileName, Node};
use flatten::{Seen, flatten};
use mutations::MUTATIONS;
use request::{ON_ONE_NAME, ON_TWO_NAMES, Operation, Request, Stack};
use shapes::{Held, Inside, Lowers, Shape, branch_of};

/// One name, at every depth: `a` in the root, `a/x` in a directory that is merged, opaque, beside a
/// whiteout or only in lowers, and `a/x/y` below that. One, two and three lowers.
#[test]
fn one_name() {
    let mut count = Count::default();
    for lowers in (1..=3).flat_map(|lowers| Lowers::all(lowers, "a")) {
        for shape in Shape::all("a") {
            let stack = Stack { upper: branch_of(&[("a", shape)], 0), lowers: &lowers.seen };
            let view = count.stack(&stack, lowers.stands_for);
            for target in [&["a"][..], &["a", "x"], &["a", "x", "y"]] {
                for operation in ON_ONE_NAME {
                    let request = request(operation, target, target);
                    let end = count.request(&request, &stack, &view);
                    if let Some(upper) = end {
                        let after = request.outcome(&view);
                        assert_eq!(Ok(remounted(upper, &lowers)), after, "{request:?}");
                    }
                }
            }
        }
    }
    count.report("one name");
    assert!(count.tally.plans > 5_000 && count.tally.prefixes > 8_000);
}

/// What users see if the upper has become the topmost lower, under a new upper.
fn remounted(upper: Dir, lowers: &Lowers) -> Seen {
    let mut branches = vec![Dir::new(), upper];
    for shape in &lowers.shapes {
        let branch = branches.len() - 1;
        branches.push(branch_of(&[("a", *shape)], branch));
    }
    flatten(&branches)
}

#[test]
fn two_names_in_one_directory() {
    let mut count = Count::default();
    let all = Shape::all("a");
    two_names((&["a"], &all), (&["b"], &all), &mut count);
    count.report("two names in one directory");
    assert!(count.tally.plans > 100_000 && count.tally.prefixes > 300_000);
}

/// Directories that are merged, opaque, beside a whiteout, only in the upper or only in lowers.
#[test]
fn two_names_in_two_directories() {
    let mut count = Count::default();
    let all = Shape::all("a");
    two_names((&["a", "x"], &all), (&["b", "x"], &all), &mut count);
    count.report("two names in two directories");
    assert!(count.tally.plans > 50_000 && count.tally.prefixes > 100_000);
}

#[test]
fn two_names_one_deeper_than_the_other() {
    let mut count = Count::default();
    let (all, few) = (Shape::all("a"), few_shapes("a"));
    two_names((&["a", "x"], &all), (&["b"], &few), &mut count);
    two_names((&["a"], &few), (&["b", "x"], &all), &mut count);
    count.report("two names, one deeper than the other");
    assert!(count.tally.plans > 50_000 && count.tally.prefixes > 100_000);
}

/// Source and target with the upper's shapes under the first name of each.
fn two_names(
    (source, of_source): (&[FileName], &[Shape]),
    (target, of_target): (&[FileName], &[Shape]),
    count: &mut Count,
) {
    each_pair(2, [source[0], target[0]], [of_source, of_target], |stack, stands_for| {
        let view = count.stack(stack, stands_for);
        for operation in ON_TWO_NAMES {
            count.request(&request(operation, source, target), stack, &view);
        }
    });
}

/// Two names in a directory below the root, one of them free.
#[test]
fn two_names_in_one_subdirectory() {
    let mut count = Count::default();
    for lowers in (1..=3).flat_map(|lowers| Lowers::all(lowers, "a")) {
        for shape in Shape::all("a") {
            let stack = Stack { upper: branch_of(&[("a", shape)], 0), lowers: &lowers.seen };
            let view = count.stack(&stack, lowers.stands_for);
            for operation in ON_TWO_NAMES {
                for (source, target) in [("x", "z"), ("z", "x")] {
                    let request = request(operation, &["a", source], &["a", target]);
                    count.request(&request, &stack, &view);
                }
                // Up and out of it.
                let request = request(operation, &["a", "x", "y"], &["b"]);
                count.request(&request, &stack, &view);
            }
        }
    }
    count.report("two names in one subdirectory");
    assert!(count.tally.plans > 2_000 && count.tally.prefixes > 5_000);
}

/// A lower directory of several entries may be brought up in any order.
#[test]
fn a_directory_is_completed_in_any_order() {
    let lower =
        dir([("x", Node::File(1)), ("y", dir([("x", Node::File(2)), ("y", Node::File(3))])), ("z", dir([]))]);
    let mut count = Count::default();
    for lowers in [vec![("a", lower.clone())], vec![("a", lower), ("b", dir([]))]] {
        let lowers = flatten(&[Dir::new(), lowers.into_iter().collect()]);
        for shape in Shape::all("a") {
            let upper = branch_of(&[("a", shape)], 0);
            let stack = Stack { upper, lowers: &lowers };
            let view = count.stack(&stack, 1);
            for operation in ON_TWO_NAMES {
                for (source, target) in [("a", "b"), ("b", "a")] {
                    count.request(&request(operation, &[source], &[target]), &stack, &view);
                }
            }
        }
    }
    count.report("a larger directory");
    assert!(count.tally.plans > 30 && count.tally.prefixes > 500);
}

/// Links stay links, wherever their names come from, and no name is lost with another.
#[test]
fn hard_links() {
    let mut count = Count::default();
    let links = || [("a", Node::File(1)), ("b", Node::File(1))];
    let whiteouts = || [(".wh.a", Node::File(0)), (".wh.b", Node::File(0))];
    let uppers: [Dir; 6] = [
        Dir::new(),
        links().into(),
        links().into_iter().take(1).collect(),
        links().into_iter().chain(whiteouts()).collect(),
        [("a", Node::File(1)), ("b", Node::Whiteout)].into(),
        [("b", Node::Whiteout)].into(),
    ];
    for lower in [Dir::from(links()), Dir::new()] {
        let lowers = flatten(&[Dir::new(), lower]);
        for upper in uppers.clone() {
            let stack = Stack { upper, lowers: &lowers };
            let view = count.stack(&stack, 1);
            for operation in ON_ONE_NAME {
                count.request(&request(operation, &["a"], &["a"]), &stack, &view);
            }
            for operation in ON_TWO_NAMES {
                for target in ["b", "x"] {
                    count.request(&request(operation, &["a"], &[target]), &stack, &view);
                }
            }
        }
    }
    count.report("hard links");
    assert!(count.tally.plans > 20);
}

/// No whiteout fits names of 252 bytes and more: what needs one is refused, and nothing else is.
#[test]
fn names_too_long_for_a_whiteout() {
    let long = |length| ["a", "b"].map(|letter| &*letter.repeat(length).leak());
    let ([a251, b251], [a252, b252], [a255, b255]) = (long(251), long(252), long(255));
    let cases: [(usize, &[[FileName; 2]]); 3] =
        [(251, &[[a251, b251]]), (252, &[[a252, b252], [a252, "b"], ["a", b252]]), (255, &[[a255, b255]])];
    for (length, pairs) in cases {
        let mut count = Count::default();
        for names in pairs.iter().copied() {
            let shapes = names.map(few_shapes);
            each_pair(1, names, [&shapes[0], &shapes[1]], |stack, stands_for| {
                let view = count.stack(stack, stands_for);
                let (source, target) = (&[names[0]], &[names[1]]);
                for operation in ON_ONE_NAME {
                    count.request(&request(operation, target, target), stack, &view);
                }
                for operation in ON_TWO_NAMES {
                    count.request(&request(operation, source, target), stack, &view);
                }
            });
        }
        count.report(&format!("names of {length} bytes"));
        assert_eq!(count.tally.too_long == 0, length <= 251, "at {length} bytes");
        assert!(count.tally.plans > 2_000);
    }
}

/// The checks can fail: they notice every mistake in the list, and for the reason given there.
#[test]
fn every_mistake_is_noticed() {
    let mut unnoticed = MUTATIONS.to_vec();
    let requests: Vec<_> = [["a", "b"], ["b", "a"]]
        .into_iter()
        .flat_map(|[source, target]| {
            let one = ON_ONE_NAME.map(|operation| request(operation, &[target], &[target]));
            let two = ON_TWO_NAMES.map(|operation| request(operation, &[source], &[target]));
            let deep = ON_TWO_NAMES.map(|operation| request(operation, &[source, "x"], &[target, "x"]));
            [&one[..], &two, &deep].concat()
        })
        .collect();
    let shapes = few_shapes("a");
    each_pair(2, ["a", "b"], [&shapes, &shapes], |stack, _| {
        let view = stack.view();
        for request in requests.iter().filter(|r| r.is_possible(&view)) {
            if unnoticed.is_empty() {
                return;
            }
            let answer = (request.plan(stack, &view), request.outcome(&view));
            if let (Ok(plan), Ok(after)) = answer {
                unnoticed.retain(|mistake| {
                    let mut steps = plan.steps().to_vec();
                    (mistake.make)(&mut steps);
                    let mut tally = Tally::default();
                    let checked = check_steps(request, stack, &view, &after, &steps, &mut tally);
                    let noticed = matches!(checked, Err(what) if what.contains(mistake.noticed));
                    !(noticed && steps != plan.steps())
                });
            }
        }
    });
    let unnoticed: Vec<_> = unnoticed.iter().map(|mistake| mistake.name).collect();
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
    println!("{} mistakes noticed", MUTATIONS.len());
}

/// Counts what is checked, and stops at the first thing that is wrong.
#[derive(Default)]
struct Count {
    tally: Tally,
    stacks: usize,
    /// With those that flatten to the same.
    all_stacks: usize,
}

impl Count {
    fn stack(&mut self, stack: &Stack<'_>, stands_for: usize) -> Seen {
        self.stacks += 1;
        self.all_stacks += stands_for;
        stack.view()
    }

    /// Checks a request; returns the upper at its end if it is possible and not refused.
    fn request(&mut self, request: &Request, stack: &Stack<'_>, view: &Seen) -> Option<Dir> {
        if !request.is_possible(view) {
            return None;
        }
        check_request(request, stack, view, &mut self.tally)
            .unwrap_or_else(|what| panic!("{request:?}\non {stack:?}:\n{what}"))
    }

    fn report(&self, space: &str) {
        let Self { tally, stacks, all_stacks } = self;
        println!(
            "{space}: {stacks} stacks (which stand for {all_stacks}), {} plans, {} refusals, \
             {} prefixes",
            tally.plans, tally.refusals, tally.prefixes
        );
    }
}

fn request(operation: Operation, source: &[FileName], target: &[FileName]) -> Request {
    Request { operation, source: source.to_vec(), target: target.to_vec() }
}

fn dir<const N: usize>(entries: [(FileName, Node); N]) -> Node {
    Node::Dir(entries.into())
}

/// Calls `visit` with every stack of `count` lowers that hold anything and an upper that holds one of
/// the given shapes under each of two names, and with how many stacks it stands for.
fn each_pair(
    count: usize,
    names: [FileName; 2],
    shapes: [&[Shape]; 2],
    mut visit: impl FnMut(&Stack<'_>, usize),
) {
    let [first, second] = names.map(|name| Lowers::kinds(count, name));
    for first in first.values() {
        for second in second.values() {
            let lowers = first.with(second);
            for a in shapes[0] {
                for b in shapes[1] {
                    let stack =
                        Stack { upper: branch_of(&[(names[0], *a), (names[1], *b)], 0), lowers: &lowers };
                    visit(&stack, first.stands_for * second.stands_for);
                }
            }
        }
    }
}

/// Those that differ in more than what is two levels down.
fn few_shapes(name: FileName) -> Vec<Shape> {
    let mut shapes = Shape::all(name);
    shapes.retain(|shape| match shape.held {
        Held::Nothing | Held::File | Held::WhiteoutInode => true,
        Held::Dir { inside, .. } => {
            let few = [Inside::Nothing, Inside::File, Inside::Whiteout, Inside::WhiteoutInode];
            few.contains(&inside)
        }
    });
    shapes
}
