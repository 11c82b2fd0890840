//! The command line, run for real: what it says, what it mounts, how that ends. One file a subject.
//!
//! Needs root, /dev/fuse (0666, as udev sets it) and the package fuse3, and says so if one is
//! missing. Nothing here asks more of the union than a listing of its root.

mod asking;
#[cfg(feature = "bench")]
mod bench;
mod daemon;
mod hung;
mod locks;
mod mounting;
mod options;
mod refusals;
mod stage;
mod swapped;
mod unmounting;
mod users;
