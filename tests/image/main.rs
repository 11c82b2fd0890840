//! `plyfs image`, run for real: what comes in, what is kept, what goes out. One file a subject.
//!
//! Needs root and /dev/fuse (0666, as udev sets it), and says so if one is missing.

mod changes;
mod damaged;
mod keeping;
mod many_at_once;
mod registry;
mod stage;
