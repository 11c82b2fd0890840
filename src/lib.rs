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
//! `bench` stands beside them: it measures mounts from the outside, as a user would. It and the
//! libraries that only it needs are in the feature `bench`, on by default.
//!
//! `oci` makes archives and images of layers, and directories of those, without a mount. It is in the feature `oci`,
//! with its libraries, on by default.
//!
//! `look` shows mounts, branches and changes to people and programs; in the feature `look`, on by default.
//!
//! Dependencies run one way: `main → {cli, options, mount, bench, look, oci}`, `look → mount`, `mount → fuse → {sched, union}`,
//! `oci → union → layer → branch`; `rules` below all.
//! Small rooms that many may enter: [`exit`] (exit codes), [`units`] (sizes), [`control`] (how tools talk to a
//! live mount), [`shown`] (how a name is shown to people).

#[cfg(feature = "run")]
pub mod apply;
pub mod bases;
#[cfg(feature = "bench")]
pub mod bench;
pub mod branch;
pub mod cli;
pub mod control;
pub mod error;
pub mod exit;
pub mod fuse;
pub mod layer;
#[cfg(feature = "look")]
pub mod look;
#[cfg(feature = "manual")]
pub mod manual;
pub mod mount;
#[cfg(feature = "oci")]
pub mod oci;
pub mod options;
pub mod rules;
#[cfg(feature = "run")]
pub mod run;
#[cfg(any(feature = "look", feature = "oci"))]
pub mod say;
pub mod sched;
pub mod shown;
pub mod union;
pub mod units;
