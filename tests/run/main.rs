//! `plyfs run`, `runs`, `apply` and `discard`, on the real system: as an ordinary user, and as root.
//!
//! A test has a home of its own and plays in it by a script. Played by root, it is played twice.

mod apply;
mod apply_killed;
mod escapes;
mod ids;
mod running;
mod snapshots;
mod stage;
