//! The deciding part: pure functions over what the branches say. No I/O, no locks.
//!
//! Everything here can be tested without a mount, and `tests/plan_exhaustive.rs` does.

pub mod acl;
pub mod ids;
pub mod kill_priv;
pub mod merge;
pub mod name;
pub mod plan;
pub mod resolve;

/// Where a branch stands in the stack: 0 is the upper, 1 the topmost lower.
///
/// A union without an upper has no branch 0; its lowers still start at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BranchIndex(pub u16);

impl BranchIndex {
    /// The one branch that is written.
    pub const UPPER: Self = Self(0);

    /// Whether this is the writable branch.
    #[must_use]
    pub fn is_upper(self) -> bool {
        self == Self::UPPER
    }
}
