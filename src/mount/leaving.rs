//! For how long is a branch kept that is in the stack no more?
//!
//! For as long as a file or a directory in it is in use, which only the kernel knows: it is asked to drop what nobody
//! uses, and what it does not drop is in use. The upper that a rewind has taken away is removed then.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::snapshots::{self, Removed};
use crate::fuse::Kernel;
use crate::rules::BranchId;
use crate::union::{LiveUnion, NodeId, RootRole};

/// For how long somebody who asks waits for the kernel to drop what nobody uses.
const DROPS_WITHIN: Duration = Duration::from_millis(500);
/// How often it is looked whether it has.
const LOOKS_EVERY: Duration = Duration::from_millis(2);
/// How often it is looked whether what was open has been closed.
const LOOKS_AGAIN: Duration = Duration::from_millis(200);

/// The branches that have gone.
#[derive(Debug)]
pub(super) struct Leaving {
    union: Arc<LiveUnion>,
    kernel: Arc<Kernel>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Each with the inodes in it that the kernel knew when it went.
    branches: Vec<(BranchId, Vec<NodeId>)>,
    /// Whether a thread looks after them.
    is_watched: bool,
}

impl Leaving {
    pub(super) fn new(union: Arc<LiveUnion>, kernel: Arc<Kernel>) -> Self {
        Self { union, kernel, state: Mutex::default() }
    }

    /// How many of these inodes, which are in these branches alone, are in use.
    pub(super) fn in_use(&self, branches: &[BranchId], known: &[NodeId]) -> usize {
        let end = Instant::now() + DROPS_WITHIN;
        loop {
            let inodes = self.union.get().only_in(branches, known);
            if inodes.is_empty() || Instant::now() > end {
                return inodes.len();
            }
            // Directories go once nothing in them is known any more.
            self.kernel.drop_unused(&inodes);
            thread::sleep(LOOKS_EVERY);
        }
    }

    /// Lets go of branches that have gone, now or when nothing in them is in use any more. How much is in use.
    pub(super) fn leave(self: &Arc<Self>, gone: &[BranchId], known: &[NodeId]) -> usize {
        if gone.is_empty() {
            return 0;
        }
        let branches = gone.iter().map(|branch| (*branch, known.to_vec()));
        self.state.lock().branches.extend(branches);
        let count = self.in_use(gone, known);
        if count > 0 || !self.let_go_of_unused() {
            self.watch();
        }
        count
    }

    /// Removes what rewinds have taken away, now or when nothing in it is in use any more.
    pub(super) fn tidy(self: &Arc<Self>) {
        if self.removed().is_some() {
            self.watch();
        }
    }

    /// Lets go of the branches in which nothing is in use. Whether none is left.
    fn let_go_of_unused(&self) -> bool {
        let branches = self.state.lock().branches.clone();
        let is_used = |branch: BranchId, known: &[NodeId]| {
            let inodes = self.union.get().only_in(&[branch], known);
            self.kernel.drop_unused(&inodes);
            !inodes.is_empty()
        };
        let unused: Vec<BranchId> = branches
            .into_iter()
            .filter(|(branch, known)| !is_used(*branch, known))
            .map(|(branch, _)| branch)
            .collect();
        if !unused.is_empty() {
            match self.union.alone() {
                Ok(mut union) => union.let_go(&unused),
                Err(_) => return false,
            }
        }
        let branches = &mut self.state.lock().branches;
        branches.retain(|(branch, _)| !unused.contains(branch));
        branches.is_empty()
    }

    /// What rewinds have taken away.
    fn removed(&self) -> Option<Removed> {
        let (upper, path) = {
            let union = self.union.get();
            let (_, upper, path) = union.roots().find(|(role, ..)| *role == RootRole::Upper)?;
            (upper.clone(), path.to_owned())
        };
        snapshots::removed(&upper, &path)
    }

    fn watch(self: &Arc<Self>) {
        let state = &mut *self.state.lock();
        if state.is_watched {
            return;
        }
        let leaving = Arc::downgrade(self);
        let wait = move || {
            while let Some(leaving) = leaving.upgrade() {
                // What comes after this look waits for the next one.
                let removed = leaving.removed();
                if leaving.let_go_of_unused() {
                    if removed.is_some_and(Removed::remove) {
                        continue;
                    }
                    let state = &mut *leaving.state.lock();
                    if state.branches.is_empty() {
                        state.is_watched = false;
                        return;
                    }
                }
                drop(leaving);
                thread::sleep(LOOKS_AGAIN);
            }
        };
        match thread::Builder::new().name("plyfs-leaving".to_owned()).spawn(wait) {
            Ok(_) => state.is_watched = true,
            Err(error) => log::warn!("a branch that has gone is kept until the unmount: {error}"),
        }
    }
}
