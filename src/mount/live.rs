//! How does a daemon change the stack that it serves?
//!
//! A request names all changes at once. The new stack is worked out, its directories are opened and checked as for a
//! mount, and only then requests are held up for as long as it takes to take it on. After that the kernel is told what to
//! look up again; when the answer goes out, it has been told.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::mount::MountFlags;

use super::branches::{self, Around};
use super::error::{Dir, MountError, Role};
use super::leaving::Leaving;
use super::lock::{self, Hold};
use super::snapshots::{Next, SnapshotError, Store};
use super::watch::Queue;
use crate::branch::Dir as Root;
use crate::control::{self, Change, Position};
use crate::error::Error;
use crate::fuse::{Control, Kernel};
use crate::rules::BranchId;
use crate::shown::shown;
use crate::union::{LiveUnion, NewLower, NextUpper, NodeId, OldUpper, Prepared, RootRole, Union};

/// What it takes to change the stack of a live mount.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) union: Arc<LiveUnion>,
    pub(super) kernel: Arc<Kernel>,
    /// What the kernel is still to be told.
    pub(super) queue: Arc<Queue>,
    /// What the mount forbids.
    flags: MountFlags,
    /// What the user has decided on.
    decided: MountFlags,
    /// Where the mountpoint is.
    around: Around,
    /// One change at a time.
    changing: Mutex<()>,
    /// What has gone.
    leaving: Arc<Leaving>,
}

/// Why the stack stays as it is.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Union(#[from] Error),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the mount is read-only: there is nothing to take a snapshot of, and nothing to go back from")]
    ReadOnly,
    #[error("a snapshot or a rewind is a request by itself")]
    NotAlone,
    #[error("the request is of another version of plyfs: use the program that has mounted")]
    Unknown,
    #[error("{} is no lower of this mount: `plyfs branch list` shows them", shown(.0))]
    NoLower(PathBuf),
    #[error("{} is the upper: only lowers come, go and move in a live mount", shown(.0))]
    Upper(PathBuf),
    #[error(
        "{} would be above the upper or a snapshot of it: the first place for a lower is {first}",
        shown(dir)
    )]
    AboveUpper { dir: PathBuf, first: usize },
    #[error("{} is a snapshot of the upper: `plyfs rewind` goes back to one", shown(.0))]
    IsSnapshot(PathBuf),
    #[error("there is no place {index}: the stack ends with place {last}")]
    NoPlace { index: usize, last: usize },
    #[error("nothing would be left in the stack")]
    Empty,
    #[error("{} changed while it was looked at, or the daemon sees another directory there (another mount namespace, chroot or container?)", shown(.0))]
    Another(PathBuf),
    #[error(
        "{} is mounted with {forbidden}, and the union is not: what that forbids would be allowed through the union. Mount \
         the union anew with -o {forbidden}",
        shown(dir)
    )]
    ForbidsMore { dir: PathBuf, forbidden: Words },
    #[error("in use: {count} files or directories of {}", shown(dir))]
    InUse { dir: PathBuf, count: usize },
}

/// Mount flags as they are written with `-o`.
#[derive(Debug)]
struct Words(MountFlags);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words =
            [(MountFlags::NOSUID, "nosuid"), (MountFlags::NODEV, "nodev"), (MountFlags::NOEXEC, "noexec")];
        let words: Vec<_> =
            words.into_iter().filter(|(flag, _)| self.0.contains(*flag)).map(|(_, word)| word).collect();
        f.write_str(&words.join(","))
    }
}

/// A place in the stack that is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    path: PathBuf,
    /// The branch, if it is in the stack already; else the directory that is meant.
    is: Result<BranchId, (u64, u64)>,
}

impl Live {
    pub(super) fn new(
        union: Arc<LiveUnion>,
        kernel: Kernel,
        around: Around,
        (flags, decided): (MountFlags, MountFlags),
    ) -> Self {
        let kernel = Arc::new(kernel);
        let leaving = Arc::new(Leaving::new(Arc::clone(&union), Arc::clone(&kernel)));
        let queue = Arc::default();
        Self { union, kernel, queue, flags, decided, around, changing: Mutex::new(()), leaving }
    }

    fn change(&self, lines: &[u8]) -> Result<String, Refusal> {
        let changes = control::parse_changes(lines).ok_or(Refusal::Unknown)?;
        let _alone = self.changing.lock();
        match &changes[..] {
            [Change::Snapshot(name)] => self.snapshot(name.clone()),
            [Change::Rewind(name)] => self.rewind(name),
            _ => self.restack(&changes),
        }
    }

    /// The upper, open, and where it is.
    fn upper(&self) -> Result<(Root, PathBuf), Refusal> {
        let union = self.union.get();
        if !union.is_writable() {
            return Err(Refusal::ReadOnly);
        }
        let upper = union.roots().find(|(role, ..)| *role == RootRole::Upper);
        upper.map(|(_, root, path)| (root.clone(), path.to_owned())).ok_or(Refusal::ReadOnly)
    }

    /// Makes a snapshot of the upper. Its name.
    fn snapshot(&self, name: Option<String>) -> Result<String, Refusal> {
        let (upper, path) = self.upper()?;
        let mut store = Store::make(&upper, &path)?;
        let name = name.unwrap_or_else(|| store.free_name());
        let layer = store.layer_path(&name);
        let next = store.prepare_snapshot(&name, &upper)?;
        let prepare = || {
            let root = take(&next, &path)?;
            let notes = next.notes.as_ref().ok_or(Error::Bug("a snapshot without notes"))?;
            let union = self.union.get();
            let saved = union.save_notes(duplicate(notes)?)?;
            Ok::<_, Refusal>((union.prepare_upper(root)?, union.prepare_snapshot(&layer)?, saved))
        };
        let swap = || {
            let (root, lowers, saved) = prepare()?;
            self.swap(&next, root, lowers, OldUpper::Snapshot(saved), &upper, &path)
        };
        match swap() {
            Ok((changed, _)) => {
                finish(next);
                self.union.get().note_change_of_stack("snapshot", &name);
                // Nothing has changed for users. Where files with several names are not known again, each copy gets the
                // name that was looked up last.
                if !self.union.get().remembers_links() {
                    let changed: Vec<_> = changed.into_iter().chain([upper]).collect();
                    let outdated = self.union.get().outdated(&changed);
                    self.kernel.look_again(&outdated);
                }
                Ok(name)
            }
            Err(e) => {
                next.abandon();
                Err(e)
            }
        }
    }

    /// Goes back to a snapshot: what was changed since is gone.
    fn rewind(&self, name: &str) -> Result<String, Refusal> {
        let (upper, path) = self.upper()?;
        let unknown = || SnapshotError::Unknown(name.to_owned());
        let mut store = Store::find(&upper, &path)?.ok_or_else(unknown)?;
        let below: Vec<_> = store
            .chain(name)?
            .into_iter()
            .map(|snapshot| store.root(&snapshot.name))
            .collect::<Result<_, _>>()?;
        let notes = store.root(name)?.notes;
        let next = store.prepare_rewind(name, &upper)?;
        let swap = || {
            let root = take(&next, &path)?;
            let (root, lowers) = {
                let union = self.union.get();
                let now: Vec<(BranchId, PathBuf)> =
                    union.lowers().map(|(id, path)| (id, path.to_owned())).collect();
                let known = |path: &Path| {
                    now.iter().find(|(id, known)| id.is_snapshot() && known == path).map(|(id, _)| *id)
                };
                let snapshots = below.into_iter().map(|root| match known(&root.path) {
                    Some(id) => NewLower::Kept(id),
                    None => NewLower::Snapshot(root),
                });
                let others = now.iter().filter(|(id, _)| !id.is_snapshot());
                let others = others.map(|(id, _)| NewLower::Kept(*id));
                let lowers = union.prepare_stack(snapshots.chain(others).collect())?;
                (union.prepare_upper(root)?, lowers)
            };
            self.swap(&next, root, lowers, OldUpper::Discarded(notes), &upper, &path)
        };
        match swap() {
            Ok((changed, gone)) => {
                finish(next);
                self.union.get().note_change_of_stack("rewind", name);
                let (outdated, noted) = {
                    let union = self.union.get();
                    let mut outdated = union.outdated(&changed);
                    let noted = union.noted_files();
                    outdated.names.extend(noted.iter().flat_map(|inode| inode.names.clone()));
                    (outdated, noted)
                };
                drop(changed);
                self.kernel.look_again(&outdated);
                self.kernel.drop_unused(&noted);
                // What is back gets the number that it had, unless what has gone is in use.
                self.leaving.leave(&gone, &outdated.known);
                self.leaving.tidy();
                Ok(String::new())
            }
            Err(e) => {
                next.abandon();
                Err(e)
            }
        }
    }

    fn swap(
        &self,
        next: &Next<'_>,
        root: NextUpper,
        lowers: Prepared,
        old: OldUpper,
        upper: &Root,
        path: &Path,
    ) -> Result<(Vec<Root>, Vec<BranchId>), Refusal> {
        let mut refused = None;
        let exchange = || {
            next.exchange(upper, path).map_err(|e| {
                refused = Some(e);
                Error::NotSupported
            })
        };
        let swapped = self.union.alone()?.swap_upper(root, lowers, old, exchange);
        swapped.map_err(|e| refused.map_or(Refusal::Union(e), Refusal::Snapshot))
    }

    fn restack(&self, changes: &[Change]) -> Result<String, Refusal> {
        let prepared = {
            let union = self.union.get();
            let upper = union.upper_path().map(Path::to_owned);
            let before: Vec<Slot> =
                union.lowers().map(|(id, path)| Slot { path: path.to_owned(), is: Ok(id) }).collect();
            let after = arrange(before.clone(), upper.as_deref(), changes)?;
            let strict = changes.iter().filter_map(|change| match change {
                Change::Remove { strict: true, dir } => Some(dir),
                _ => None,
            });
            let gone = |dir: &Path| before.iter().find(|slot| slot.path == dir).and_then(|slot| slot.is.ok());
            let strict: Vec<_> = strict.filter_map(|dir| Some((dir.clone(), gone(dir)?))).collect();
            let kept: Vec<BranchId> = after.iter().filter_map(|slot| slot.is.ok()).collect();
            let lowers = after.into_iter().map(|slot| match slot.is {
                Ok(id) => Ok(NewLower::Kept(id)),
                Err(identity) => self.open(&slot.path, identity, &union, &kept),
            });
            let lowers = branches::distinct_lowers(lowers.collect::<Result<Vec<_>, _>>()?)?;
            let prepared = union.prepare_stack(lowers)?;
            drop(union);
            for (dir, id) in strict {
                let known = {
                    let union = self.union.get();
                    let root = union.roots().map(|(_, root, _)| root).find(|root| root.branch() == id);
                    union.outdated(root.map(std::slice::from_ref).unwrap_or_default()).known
                };
                let count = self.leaving.in_use(&[id], &known);
                if count > 0 {
                    return Err(Refusal::InUse { dir, count });
                }
            }
            prepared
        };
        let (changed, gone) = self.union.alone()?.restack(prepared);
        let outdated = self.union.get().outdated(&changed);
        self.kernel.look_again(&outdated);
        drop(changed);
        Ok(match self.leaving.leave(&gone, &outdated.known) {
            0 => String::new(),
            count => format!(
                "in use: {count} files or directories of what was taken away; it is let go of with the last of them"
            ),
        })
    }

    /// Opens and checks a directory that is to come into the stack.
    fn open(
        &self,
        path: &Path,
        identity: (u64, u64),
        union: &Union,
        kept: &[BranchId],
    ) -> Result<NewLower, Refusal> {
        let added = branches::open_added(path, union, kept, &self.around)?;
        if added.identity != identity {
            return Err(Refusal::Another(path.to_owned()));
        }
        let forbidden = added.forbidden.difference(self.decided).difference(self.flags);
        if !forbidden.is_empty() {
            return Err(Refusal::ForbidsMore { dir: path.to_owned(), forbidden: Words(forbidden) });
        }
        Ok(NewLower::Added(added.root, added.hidden))
    }

    /// Removes what earlier rewinds have taken away.
    pub(super) fn tidy(&self) {
        self.leaving.tidy();
    }
}

/// Sees to it that no other mount uses the directory that is to be the upper.
fn take(next: &Next<'_>, path: &Path) -> Result<OwnedFd, Refusal> {
    let dir = Dir { role: Role::Upper, path: path.to_owned() };
    lock::take_upper(&next.layer, Hold::Exclusive, &dir)?;
    duplicate(&next.layer)
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd, Refusal> {
    let failed = |error| MountError::Process { what: "dup", error };
    Ok(fd.try_clone().map_err(failed)?)
}

/// What has happened is not an error: the next mount reads the record again.
fn finish(next: Next<'_>) {
    if let Err(e) = next.finish() {
        log::warn!("{e}");
    }
}

impl Control for Live {
    fn change_stack(&self, changes: &[u8]) -> Result<String, String> {
        self.change(changes).map_err(|refusal| refusal.to_string())
    }

    fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    fn has_shown(&self, id: NodeId) {
        self.queue.has_shown(id);
    }
}

/// The lowers, from the top down, once all changes are done.
fn arrange(mut stack: Vec<Slot>, upper: Option<&Path>, changes: &[Change]) -> Result<Vec<Slot>, Refusal> {
    let is_snapshot = |slot: &Slot| slot.is.is_ok_and(BranchId::is_snapshot);
    // What belongs to the upper stays on top.
    let snapshots = stack.iter().filter(|slot| is_snapshot(slot)).count();
    let upper_count = usize::from(upper.is_some());
    let first = upper_count + snapshots;
    let place = |position: Position, dir: &Path, length: usize| match position {
        Position::Top => Ok(snapshots),
        Position::Bottom => Ok(length),
        Position::Index(index) if index < first => Err(Refusal::AboveUpper { dir: dir.to_owned(), first }),
        Position::Index(index) if index - upper_count <= length => Ok(index - upper_count),
        Position::Index(index) => Err(Refusal::NoPlace { index, last: length + upper_count }),
    };
    let take = |stack: &mut Vec<Slot>, dir: &Path| match stack.iter().position(|slot| slot.path == dir) {
        Some(at) if is_snapshot(&stack[at]) => Err(Refusal::IsSnapshot(dir.to_owned())),
        Some(at) => Ok(stack.remove(at)),
        None if upper == Some(dir) => Err(Refusal::Upper(dir.to_owned())),
        None => Err(Refusal::NoLower(dir.to_owned())),
    };
    for change in changes {
        match change {
            Change::Snapshot(_) | Change::Rewind(_) => return Err(Refusal::NotAlone),
            Change::Add { at, identity, dir } => {
                let at = place(*at, dir, stack.len())?;
                stack.insert(at, Slot { path: dir.clone(), is: Err(*identity) });
            }
            Change::Remove { dir, .. } => drop(take(&mut stack, dir)?),
            Change::Move { to, dir } => {
                let slot = take(&mut stack, dir)?;
                let at = place(*to, dir, stack.len())?;
                stack.insert(at, slot);
            }
        }
    }
    if stack.is_empty() && upper.is_none() { Err(Refusal::Empty) } else { Ok(stack) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arranged(upper: bool, changes: &[Change]) -> Result<String, String> {
        let slot = |path: &str, id| Slot { path: path.into(), is: Ok(BranchId(id)) };
        let stack = vec![slot("/a", 1), slot("/b", 2), slot("/c", 3)];
        let stack = arrange(stack, upper.then_some(Path::new("/u")), changes).map_err(|e| e.to_string())?;
        Ok(stack.iter().map(|slot| slot.path.to_str().unwrap()).collect::<Vec<_>>().concat())
    }

    fn add(at: Position, dir: &str) -> Change {
        Change::Add { at, identity: (0, 0), dir: dir.into() }
    }

    fn remove(dir: &str) -> Change {
        Change::Remove { strict: false, dir: dir.into() }
    }

    fn moved(dir: &str, to: Position) -> Change {
        Change::Move { to, dir: dir.into() }
    }

    #[test]
    fn changes_follow_each_other() {
        use Position::{Bottom, Index, Top};
        let rows: &[(bool, &[Change], &str)] = &[
            (true, &[], "/a/b/c"),
            (true, &[add(Top, "/x")], "/x/a/b/c"),
            (true, &[add(Index(1), "/x")], "/x/a/b/c"),
            (true, &[add(Index(4), "/x")], "/a/b/c/x"),
            (false, &[add(Index(0), "/x")], "/x/a/b/c"),
            (true, &[add(Bottom, "/x"), remove("/b")], "/a/c/x"),
            (true, &[moved("/c", Top)], "/c/a/b"),
            (true, &[moved("/a", Index(2))], "/b/a/c"),
            (true, &[moved("/a", Index(3))], "/b/c/a"),
            (true, &[remove("/a"), remove("/b"), remove("/c")], ""),
            (true, &[remove("/a"), add(Top, "/a")], "/a/b/c"),
        ];
        for (upper, changes, expected) in rows {
            assert_eq!(arranged(*upper, changes).as_deref(), Ok(*expected), "{changes:?}");
        }
    }

    #[test]
    fn snapshots_stay_on_top() {
        let slot = |path: &str, id| Slot { path: path.into(), is: Ok(BranchId(id)) };
        let snapshot = BranchId::BEFORE_SNAPSHOTS.0 + 1;
        let stack = || vec![slot("/s", snapshot), slot("/a", 1)];
        let arranged = |changes: &[Change]| {
            let stack = arrange(stack(), Some(Path::new("/u")), changes).map_err(|e| e.to_string())?;
            Ok::<_, String>(stack.iter().map(|slot| slot.path.to_str().unwrap()).collect::<Vec<_>>().concat())
        };
        assert_eq!(arranged(&[add(Position::Top, "/x")]).as_deref(), Ok("/s/x/a"));
        assert_eq!(arranged(&[add(Position::Index(2), "/x")]).as_deref(), Ok("/s/x/a"));
        let refused = arranged(&[add(Position::Index(1), "/x")]).expect_err("above a snapshot");
        assert!(refused.ends_with("the first place for a lower is 2"), "{refused}");
        assert!(arranged(&[remove("/s")]).is_err_and(|e| e.starts_with("/s is a snapshot")));
        assert!(arranged(&[moved("/s", Position::Bottom)]).is_err());
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_reason() {
        use Position::Index;
        let rows: &[(bool, &[Change], &str)] = &[
            (
                true,
                &[add(Index(0), "/x")],
                "/x would be above the upper or a snapshot of it: the first place for a lower is 1",
            ),
            (true, &[add(Index(5), "/x")], "there is no place 5: the stack ends with place 4"),
            (false, &[add(Index(4), "/x")], "there is no place 4: the stack ends with place 3"),
            (true, &[moved("/a", Index(4))], "there is no place 4: the stack ends with place 3"),
            (true, &[remove("/x")], "/x is no lower of this mount"),
            (true, &[remove("/u")], "/u is the upper"),
            (false, &[remove("/a"), remove("/b"), remove("/c")], "nothing would be left"),
        ];
        for (upper, changes, expected) in rows {
            let refused = arranged(*upper, changes).expect_err("refused");
            assert!(refused.starts_with(expected), "{refused}");
        }
    }
}
