//! Which system calls does a step stand for?
//!
//! Most steps are one call. A step of many calls may make some of them in any order; every order is
//! returned, and every prefix of every order must be safe.

use plyfs::rules::plan::{NewEntry, Side, Step};

use crate::disk::{self, Change, Dir, FileName, Node, OPAQUE, Path};
use crate::flatten::{Kind, Seen, UPPER};
use crate::request::{NEW, Operation, Request, Stack};

/// Every order of system calls by which `step` may be executed, or why it cannot be.
pub fn orders(
    step: Step,
    request: &Request,
    stack: &Stack<'_>,
    view: &Seen,
) -> Result<Vec<Vec<Change>>, String> {
    let path = |side| match side {
        Side::Source => &request.source,
        Side::Target => &request.target,
    };
    let one = |place: &[FileName], change| {
        let mut changes = missing_parents(stack, place);
        changes.push(change);
        Ok(vec![changes])
    };
    match step {
        Step::CopyUp(side) => one(path(side), copy_up(view, path(side))?),
        Step::Complete(side) => complete(stack, view, path(side)),
        Step::Whiteout(side) => {
            let whiteout = Change::make_marker(whiteout(path(side))?);
            one(path(side), whiteout)
        }
        Step::ClearWhiteout(side) => Ok(vec![vec![Change::Unlink(whiteout(path(side))?)]]),
        Step::Create(side) => {
            let node = match request.operation {
                Operation::Create(NewEntry::Dir) => Node::Dir(Dir::new()),
                _ => Node::File(NEW),
            };
            one(path(side), Change::Make(path(side).clone(), node))
        }
        Step::MarkOpaque(side) => {
            let marker = Change::make_marker(disk::join(path(side), OPAQUE));
            Ok(vec![vec![marker]])
        }
        Step::ClearMarkers(side) => clear_markers(stack, path(side)),
        Step::Unlink(side) => Ok(vec![vec![Change::Unlink(path(side).clone())]]),
        Step::RemoveDir(side) => Ok(vec![vec![Change::RemoveDir(path(side).clone())]]),
        Step::Link | Step::Rename | Step::Exchange => {
            let (source, target) = (request.source.clone(), request.target.clone());
            let change = match step {
                Step::Link => Change::Link(source, target),
                Step::Rename => Change::Rename(source, target),
                _ => Change::Exchange(source, target),
            };
            one(&request.target, change)
        }
    }
}

/// The directories that must be made in the upper before anything can be put at `path`.
fn missing_parents(stack: &Stack<'_>, path: &[FileName]) -> Vec<Change> {
    (1..path.len())
        .map(|depth| &path[..depth])
        .filter(|dir| disk::find(&stack.upper, dir).is_none())
        .map(|dir| Change::Make(dir.to_vec(), Node::Dir(Dir::new())))
        .collect()
}

/// Puts what shows at `path` into the upper, a directory without its entries.
fn copy_up(view: &Seen, path: &[FileName]) -> Result<Change, String> {
    let node = match view.find(path).map(|seen| &seen.kind) {
        None => return Err(format!("copy-up of {path:?}, which does not show")),
        Some(Kind::File(inode)) => Node::File(*inode),
        Some(Kind::Dir(_)) => Node::Dir(Dir::new()),
    };
    Ok(Change::Make(path.to_vec(), node))
}

/// Copies up whatever the lowers supply at and beneath `path`, then marks the directories.
fn complete(stack: &Stack<'_>, view: &Seen, path: &[FileName]) -> Result<Vec<Vec<Change>>, String> {
    let seen = view.find(path).filter(|seen| seen.is_dir());
    let seen = seen.ok_or_else(|| format!("{path:?} is no directory to complete"))?;
    let (mut missing, mut markers) = (Vec::new(), Vec::new());
    survey(seen, path, &mut missing, &mut markers);
    let parents = missing_parents(stack, path);
    orders_of(&missing)
        .into_iter()
        .map(|order| {
            let mut changes = parents.clone();
            for path in order {
                changes.push(copy_up(view, path)?);
            }
            changes.extend(markers.iter().cloned().map(Change::make_marker));
            Ok(changes)
        })
        .collect()
}

/// Lists what the upper lacks, and where opaque markers are wanted, from the bottom up.
fn survey(seen: &Seen, path: &[FileName], missing: &mut Vec<Path>, markers: &mut Vec<Path>) {
    if seen.from & UPPER == 0 {
        missing.push(path.to_vec());
    }
    for (name, entry) in seen.entries() {
        survey(entry, &disk::join(path, name), missing, markers);
    }
    if seen.is_dir() && seen.is_from_lowers() {
        markers.push(disk::join(path, OPAQUE));
    }
}

fn clear_markers(stack: &Stack<'_>, path: &[FileName]) -> Result<Vec<Vec<Change>>, String> {
    let dir = disk::find_dir(&stack.upper, path);
    let dir = dir.ok_or_else(|| format!("no directory {path:?} in the upper"))?;
    let mut markers = Vec::new();
    for (name, node) in dir {
        if !disk::is_marker(name, node) {
            return Err(format!("{path:?} holds more than markers: {dir:?}"));
        }
        markers.push(disk::join(path, name));
    }
    let unlink = |order: Vec<&Path>| order.into_iter().cloned().map(Change::Unlink).collect();
    Ok(orders_of(&markers).into_iter().map(unlink).collect())
}

fn whiteout(path: &[FileName]) -> Result<Path, String> {
    let (dir, name) = disk::split(path);
    let whiteout = disk::whiteout_of(name);
    let whiteout = whiteout.ok_or_else(|| format!("no whiteout fits {path:?}"))?;
    Ok(disk::join(dir, whiteout))
}

/// Every order of `paths` in which directories come before what is in them.
fn orders_of(paths: &[Path]) -> Vec<Vec<&Path>> {
    let mut orders = vec![Vec::new()];
    // Paths come parents first. Each is put into every place that is behind its parent's.
    for path in paths {
        orders = orders
            .iter()
            .flat_map(|order: &Vec<&Path>| {
                let parent = order.iter().rposition(|p| path.starts_with(p));
                let first = parent.map_or(0, |place| place + 1);
                (first..=order.len()).map(move |place| {
                    let mut longer = order.clone();
                    longer.insert(place, path);
                    longer
                })
            })
            .collect();
    }
    orders
}
