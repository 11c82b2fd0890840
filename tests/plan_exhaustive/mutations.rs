//! Which mistakes in a plan must be noticed?
//!
//! Each row breaks a list of steps in one way that a union filesystem has been, or might be, wrong.

use plyfs::rules::plan::{Side, Step};

/// A mistake.
#[derive(Clone, Copy)]
pub struct Mutation {
    pub name: &'static str,
    /// What the checks must say of it, on one stack at least.
    pub noticed: &'static str,
    /// Makes it. Lists that it does not apply to stay as they are.
    pub make: fn(&mut Vec<Step>),
}

const fn row(name: &'static str, noticed: &'static str, make: fn(&mut Vec<Step>)) -> Mutation {
    Mutation { name, noticed, make }
}

pub const MUTATIONS: &[Mutation] = &[
    row("no whiteout for what is removed", "the end shows", |steps| {
        drop_step(steps, Step::Whiteout(Side::Target))
    }),
    row("no whiteout for what is moved", "a third thing shows", |steps| {
        drop_step(steps, Step::Whiteout(Side::Source))
    }),
    row("unlink before the whiteout", "a third thing shows", |steps| {
        swap(steps, Step::Whiteout(Side::Target), Step::Unlink(Side::Target))
    }),
    row("rmdir before the whiteout", "a third thing shows", |steps| {
        move_behind(steps, Step::Whiteout(Side::Target), Step::RemoveDir(Side::Target));
    }),
    row("markers cleared before the whiteout", "a third thing shows", |steps| {
        swap(steps, Step::Whiteout(Side::Target), Step::ClearMarkers(Side::Target))
    }),
    row("markers not cleared before rmdir", "rmdir of", |steps| {
        drop_step(steps, Step::ClearMarkers(Side::Target))
    }),
    row("markers not cleared before rename", "rename over", |steps| {
        drop_step(steps, Step::ClearMarkers(Side::Target))
    }),
    row("file left in the upper", "the end shows", |steps| drop_step(steps, Step::Unlink(Side::Target))),
    row("directory left in the upper", "the end shows", |steps| {
        drop_step(steps, Step::RemoveDir(Side::Target))
    }),
    row("whiteout where no lower shows", "hides nothing", needless_whiteout),
    row("whiteout cleared before the new entry", "a third thing shows", |steps| {
        swap(steps, Step::Create(Side::Target), Step::ClearWhiteout(Side::Target))
    }),
    row("whiteout cleared before the directory is opaque", "a third thing shows", |steps| {
        swap(steps, Step::MarkOpaque(Side::Target), Step::ClearWhiteout(Side::Target))
    }),
    row("whiteout cleared before the link", "a third thing shows", |steps| {
        swap(steps, Step::Link, Step::ClearWhiteout(Side::Target))
    }),
    row("whiteout cleared before the rename", "a third thing shows", |steps| {
        swap(steps, Step::Rename, Step::ClearWhiteout(Side::Target))
    }),
    row("whiteout left", "has a whiteout beside it", |steps| {
        drop_step(steps, Step::ClearWhiteout(Side::Target))
    }),
    row("new directory not opaque over entries", "a third thing shows", |steps| {
        drop_step(steps, Step::MarkOpaque(Side::Target))
    }),
    row("new directory not opaque over an empty one", "merges with lowers", |steps| {
        drop_step(steps, Step::MarkOpaque(Side::Target))
    }),
    row("moved directory not opaque over entries", "a third thing shows", |steps| {
        drop_step(steps, Step::MarkOpaque(Side::Source))
    }),
    row("moved directory not opaque over an empty one", "merges with lowers", |steps| {
        drop_step(steps, Step::MarkOpaque(Side::Source))
    }),
    row("exchanged directory not opaque", "a third thing shows", |steps| {
        drop_step(steps, Step::MarkOpaque(Side::Target))
    }),
    row("moved directory opaque over nothing", "is opaque over nothing", needless_marker),
    row("copy-up forgotten", "in the upper", |steps| drop_step(steps, Step::CopyUp(Side::Source))),
    row("rename before the copy-up", "in the upper", |steps| {
        swap(steps, Step::CopyUp(Side::Source), Step::Rename)
    }),
    row("link before the copy-up", "link of", |steps| swap(steps, Step::CopyUp(Side::Source), Step::Link)),
    row("rename before the directory is complete", "in the upper", |steps| {
        swap(steps, Step::Complete(Side::Source), Step::Rename)
    }),
    row("directory moved without its lower parts", "a third thing shows", |steps| {
        drop_step(steps, Step::Complete(Side::Source))
    }),
    row("directory moved without its entries", "a third thing shows", |steps| {
        replace(steps, Step::Complete(Side::Source), Step::CopyUp(Side::Source))
    }),
    row("whiteout of the source before its copy-up", "a third thing shows", |steps| {
        swap(steps, Step::CopyUp(Side::Source), Step::Whiteout(Side::Source))
    }),
    row("whiteout of the source before it is complete", "a third thing shows", |steps| {
        swap(steps, Step::Complete(Side::Source), Step::Whiteout(Side::Source))
    }),
    row("whiteout of the source after the rename", "a third thing shows", |steps| {
        swap(steps, Step::Whiteout(Side::Source), Step::Rename)
    }),
    row("exchange without the target's copy-up", "in the upper", |steps| {
        drop_step(steps, Step::CopyUp(Side::Target))
    }),
    row("exchange without the target's lower parts", "in the upper", |steps| {
        drop_step(steps, Step::Complete(Side::Target))
    }),
    row("exchange in two renames", "a third thing shows", |steps| {
        split(steps, Step::Exchange, [Step::Unlink(Side::Target), Step::Rename])
    }),
    row("rename by link and unlink", "a third thing shows", |steps| {
        split(steps, Step::Rename, [Step::Link, Step::Unlink(Side::Source)])
    }),
    row("whiteout inode removed before the whiteout", "a third thing shows", |steps| {
        over_whiteout_inode(steps, |steps, _| {
            swap(steps, Step::Whiteout(Side::Target), Step::Unlink(Side::Target))
        })
    }),
    row("whiteout inode removed without a whiteout", "a third thing shows", |steps| {
        over_whiteout_inode(steps, |steps, _| {
            drop_step(steps, Step::Whiteout(Side::Target));
            drop_step(steps, Step::ClearWhiteout(Side::Target));
        })
    }),
    row("whiteout inode left where an entry is made", "is there already", |steps| {
        over_whiteout_inode(steps, |steps, _| drop_step(steps, Step::Unlink(Side::Target)))
    }),
    row("whiteout inode left where a directory is moved to", "rename over", |steps| {
        over_whiteout_inode(steps, |steps, _| drop_step(steps, Step::Unlink(Side::Target)))
    }),
    row("whiteout inode removed after the rename that replaced it", "a third thing shows", |steps| {
        over_whiteout_inode(steps, |steps, _| move_behind(steps, Step::Unlink(Side::Target), Step::Rename))
    }),
    row("whiteout cleared with the whiteout inode", "a third thing shows", |steps| {
        over_whiteout_inode(steps, |steps, made| move_behind(steps, made, Step::ClearWhiteout(Side::Target)))
    }),
    row("whiteout cleared in place of the whiteout inode", "is there already", |steps| {
        over_whiteout_inode(steps, |steps, _| {
            swap(steps, Step::Unlink(Side::Target), Step::ClearWhiteout(Side::Target))
        })
    }),
    row("whiteout left that took over from a whiteout inode", "has a whiteout beside it", |steps| {
        over_whiteout_inode(steps, |steps, _| drop_step(steps, Step::ClearWhiteout(Side::Target)))
    }),
    row("new directory not opaque in place of a whiteout inode", "a third thing shows", |steps| {
        over_whiteout_inode(steps, |steps, _| drop_step(steps, Step::MarkOpaque(Side::Target)))
    }),
    row("moved directory not opaque in place of a whiteout inode", "a third thing shows", |steps| {
        over_whiteout_inode(steps, |steps, _| drop_step(steps, Step::MarkOpaque(Side::Source)))
    }),
    row("nothing done", "the end shows", Vec::clear),
];

/// Makes a mistake in a list of steps by which a name comes to be in place of a whiteout that has it.
/// The mistake is told the step in which it does.
fn over_whiteout_inode(steps: &mut Vec<Step>, mistake: fn(&mut Vec<Step>, Step)) {
    let shows = [Step::Create(Side::Target), Step::Link, Step::Rename];
    let made = steps.iter().copied().find(|step| shows.contains(step));
    if let Some(made) = made.filter(|_| steps.contains(&Step::Unlink(Side::Target))) {
        mistake(steps, made);
    }
}

fn drop_step(steps: &mut Vec<Step>, step: Step) {
    steps.retain(|s| *s != step);
}

fn replace(steps: &mut [Step], step: Step, by: Step) {
    for s in steps.iter_mut().filter(|s| **s == step) {
        *s = by;
    }
}

fn split(steps: &mut Vec<Step>, step: Step, by: [Step; 2]) {
    if let Some(at) = steps.iter().position(|s| *s == step) {
        steps.splice(at..=at, by);
    }
}

fn needless_whiteout(steps: &mut Vec<Step>) {
    if !steps.contains(&Step::Whiteout(Side::Target)) && steps.contains(&Step::Unlink(Side::Target)) {
        steps.insert(0, Step::Whiteout(Side::Target));
    }
}

fn needless_marker(steps: &mut Vec<Step>) {
    let marks = [Step::MarkOpaque(Side::Source), Step::Complete(Side::Source)];
    if steps.contains(&Step::Rename) && !marks.iter().any(|m| steps.contains(m)) {
        steps.insert(0, Step::MarkOpaque(Side::Source));
    }
}

fn move_behind(steps: &mut Vec<Step>, late: Step, early: Step) {
    if steps.contains(&late) && steps.contains(&early) {
        steps.retain(|s| *s != late);
        let at = steps.iter().position(|s| *s == early).unwrap();
        steps.insert(at + 1, late);
    }
}

fn swap(steps: &mut [Step], one: Step, other: Step) {
    let place = |step| steps.iter().position(|s| *s == step);
    if let (Some(one), Some(other)) = (place(one), place(other)) {
        steps.swap(one, other);
    }
}
