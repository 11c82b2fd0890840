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

    /// The one that comes after it, if there can be one.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self).filter(|next| *next != Self::WORK)
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
            Self(lower) => write!(f, "lower {lower}"),
        }
    }
}
