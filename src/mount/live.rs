//! How does a daemon change the stack that it serves?
//!
//! A request names all changes at once. The new stack is worked out, its directories are opened and checked as for a
//! mount, and only then requests are held up for as long as it takes to take it on. After that the kernel is told what to
//! look up again; when the answer goes out, it has been told.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::mount::MountFlags;

use super::branches::{self, Around};
use super::error::MountError;
use super::watch::Queue;
use crate::control::{self, Change, Position};
use crate::fuse::{Control, Kernel};
use crate::rules::BranchId;
use crate::shown::shown;
use crate::union::{LiveUnion, NewLower, NodeId, Union};

/// For how long a change waits for the kernel to drop what nobody uses.
const DROPS_WITHIN: Duration = Duration::from_millis(500);

/// How often it is seen whether what was open in a branch that has gone has been closed.
const LOOKS_EVERY: Duration = Duration::from_millis(200);

/// What it takes to change the stack of a live mount.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) union: Arc<LiveUnion>,
    pub(super) kernel: Kernel,
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
    /// Whether somebody waits for files of branches that have gone to be closed.
    waiting: Mutex<bool>,
}

/// Why the stack stays as it is.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Union(#[from] crate::error::Error),
    #[error("the request is of another version of plyfs: use the program that has mounted")]
    Unknown,
    #[error("{} is no lower of this mount: `plyfs branch list` shows them", shown(.0))]
    NoLower(PathBuf),
    #[error("{} is the upper: only lowers come, go and move in a live mount", shown(.0))]
    Upper(PathBuf),
    #[error("{} would be above the upper: the first place for a lower is 1", shown(.0))]
    AboveUpper(PathBuf),
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
        let (changing, waiting) = (Mutex::new(()), Mutex::new(false));
        Self { union, kernel, queue: Arc::default(), flags, decided, around, changing, waiting }
    }

    fn change(self: &Arc<Self>, lines: &[u8]) -> Result<String, Refusal> {
        let changes = control::parse_changes(lines).ok_or(Refusal::Unknown)?;
        let _alone = self.changing.lock();
        let prepared = {
            let union = self.union.get();
            let upper = union.upper_path().map(Path::to_owned);
            let before: Vec<Slot> =
                union.lowers().map(|(id, path)| Slot { path: path.to_owned(), is: Ok(id) }).collect();
            let after = arrange(before.clone(), upper.as_deref(), &changes)?;
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
                let count = self.in_use(&[id]);
                if count > 0 {
                    return Err(Refusal::InUse { dir, count });
                }
            }
            prepared
        };
        let (changed, gone) = self.union.alone()?.restack(prepared)?;
        let outdated = self.union.get().outdated(&changed);
        self.kernel.look_again(&outdated);
        drop(changed);
        Ok(self.let_go(&gone)?)
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

    /// How many inodes of these branches alone the kernel does not let go of.
    fn in_use(&self, branches: &[BranchId]) -> usize {
        let end = Instant::now() + DROPS_WITHIN;
        loop {
            let inodes = self.union.get().only_in(branches);
            if inodes.is_empty() || Instant::now() > end {
                return inodes.len();
            }
            // Directories go once nothing in them is known any more.
            self.kernel.drop_unused(&inodes);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lets go of branches that have gone, now or when nothing in them is in use any more. Says which.
    fn let_go(self: &Arc<Self>, gone: &[BranchId]) -> Result<String, crate::error::Error> {
        if gone.is_empty() {
            return Ok(String::new());
        }
        let count = self.in_use(gone);
        if count == 0 {
            self.union.alone()?.let_go();
            return Ok(String::new());
        }
        self.wait_for_users();
        Ok(format!(
            "in use: {count} files or directories of what was taken away; it is let go of with the last of them"
        ))
    }

    /// Lets go of branches that have gone once nothing in them is in use.
    fn wait_for_users(self: &Arc<Self>) {
        let mut waiting = self.waiting.lock();
        if *waiting {
            return;
        }
        let live = Arc::downgrade(self);
        let wait = move || {
            while let Some(live) = live.upgrade() {
                let left: Vec<BranchId> = live.union.get().retired().map(|(id, _)| id).collect();
                let is_over = live.union.get().only_in(&left).is_empty()
                    && live.union.alone().map(|mut union| union.let_go()).is_ok();
                if is_over {
                    *live.waiting.lock() = false;
                    return;
                }
                drop(live);
                thread::sleep(LOOKS_EVERY);
            }
        };
        match thread::Builder::new().name("plyfs-let-go".to_owned()).spawn(wait) {
            Ok(_) => *waiting = true,
            Err(error) => log::warn!("a branch that has gone is kept until the unmount: {error}"),
        }
    }
}

impl Control for Arc<Live> {
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
    let first = usize::from(upper.is_some());
    let place = |position: Position, path: &Path, length: usize| match position {
        Position::Top => Ok(0),
        Position::Bottom => Ok(length),
        Position::Index(0) if upper.is_some() => Err(Refusal::AboveUpper(path.to_owned())),
        Position::Index(index) if index - first <= length => Ok(index - first),
        Position::Index(index) => Err(Refusal::NoPlace { index, last: length + first }),
    };
    let take = |stack: &mut Vec<Slot>, dir: &Path| match stack.iter().position(|slot| slot.path == dir) {
        Some(at) => Ok(stack.remove(at)),
        None if upper == Some(dir) => Err(Refusal::Upper(dir.to_owned())),
        None => Err(Refusal::NoLower(dir.to_owned())),
    };
    for change in changes {
        match change {
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
    fn what_cannot_be_is_refused_with_its_reason() {
        use Position::Index;
        let rows: &[(bool, &[Change], &str)] = &[
            (true, &[add(Index(0), "/x")], "/x would be above the upper"),
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
