//! `plyfs layer` from the outside: the built binary, archives that anybody may have made, and disks as they are.

mod archive;
mod check;
mod failures;
mod hostile;
mod markers;
mod round_trip;
mod stand;
mod tree;

/// Leaves a test that only root can play, with a word on stderr.
macro_rules! needs_root {
    ($why:literal) => {
        if !crate::stand::is_root() {
            crate::stand::say_not_played(concat!("needs root (", $why, ")"));
            return;
        }
    };
}
pub(crate) use needs_root;
