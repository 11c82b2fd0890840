//! The deciding part: pure functions over what the branches say. No I/O, no locks.
//!
//! Everything here can be tested without a mount, and `tests/plan_exhaustive.rs` does.

pub mod acl;
pub mod ids;
pub mod kill_priv;
pub mod merge;
pub mod name;
pub mod override_stat;
pub mod plan;
pub mod resolve;
mod short_bytes;

use std::fmt;

/// A branch, for as long as the mount lives: it says nothing of where the branch stands in the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BranchId(pub u16);

impl BranchId {
    /// The one branch that is written. A union without an upper has none of this id.
    pub const UPPER: Self = Self(0);
    /// The workdir beside it, which is no branch.
    pub const WORK: Self = Self(u16::MAX);
    /// Below all snapshots of the upper, which are lowers now.
    pub const BEFORE_SNAPSHOTS: Self = Self(1 << 15);

    /// The one that comes after it, if there can be one.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        let next = Self(self.0.checked_add(1)?);
        (next != Self::WORK && next != Self::BEFORE_SNAPSHOTS).then_some(next)
    }

    /// Whether this was the writable branch once.
    #[must_use]
    pub fn is_snapshot(self) -> bool {
        self > Self::BEFORE_SNAPSHOTS && self != Self::WORK
    }

    /// Whether this is the writable branch.
    #[must_use]
    pub fn is_upper(self) -> bool {
        self == Self::UPPER
    }
}

impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UPPER => f.write_str("the upper"),
            Self::WORK => f.write_str("the workdir"),
            snapshot if snapshot.is_snapshot() => {
                write!(f, "snapshot {}", snapshot.0 - Self::BEFORE_SNAPSHOTS.0)
            }
            Self(lower) => write!(f, "lower {lower}"),
        }
    }
}
