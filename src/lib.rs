//! plyfs: a union filesystem in userspace.
//!
//! The crate in reading order, which is also the way of a request:
//!
//! 1. [`cli`] and [`options`] say what the user asked for, [`mount`] puts it on the tree.
//! 2. [`fuse`] decodes a kernel request, makes one call, replies. It decides nothing.
//!    [`sched`] says on which thread.
//! 3. [`union`] asks every branch about a name, decides by the rules, does what was decided.
//! 4. [`rules`] is the deciding part: pure, no I/O, no locks.
//! 5. [`branch`] is the disk side: one directory tree each, system calls on directory descriptors.
//!
//! [`mod@bench`] stands beside them: it measures mounts from the outside, as a user would.
//!
//! Dependencies run one way: `main → cli, mount → fuse → {sched, union → {rules, branch}}`.

pub mod bench;
pub mod branch;
pub mod cli;
pub mod error;
pub mod fuse;
pub mod layer;
pub mod mount;
pub mod options;
pub mod rules;
pub mod sched;
pub mod union;
