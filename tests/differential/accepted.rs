//! Where may a mount answer otherwise than a plain directory?
//!
//! Here, and nowhere else; docs/SEMANTICS.md says why.

use rustix::io::Errno;

use super::name::LONG;
use super::op::Op;
use super::play::Outcome;

/// Where the name lies that leaves no room for its whiteout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Long {
    pub(crate) in_lowers: bool,
    /// As a whiteout that has the name itself.
    pub(crate) gone_in_upper: bool,
}

/// Whether the answer of the mount stands by itself: the plain directory is not asked.
pub(crate) fn stands_alone(op: &Op, answer: &Outcome, long: Long) -> Option<Result<(), String>> {
    if op.paths().iter().any(|path| path.has_reserved()) {
        return Some(reserved(op, answer));
    }
    // A name that leaves no room for its whiteout stays, and so does a whiteout that has it.
    let needs_whiteout = match op {
        Op::Create { .. } | Op::Mkdir { .. } | Op::Symlink { .. } | Op::Mknod { .. } | Op::Link { .. } => {
            long.gone_in_upper && op.names().last().is_some_and(|path| path.ends_long())
        }
        Op::FdCreate { name, .. } => long.gone_in_upper && *name == LONG,
        Op::Unlink(_) | Op::Rmdir(_) | Op::Rename { .. } => op.names().iter().any(|path| path.ends_long()),
        Op::FdUnlink { name, .. } => *name == LONG,
        _ => false,
    };
    (needs_whiteout && long.in_lowers && *answer == Err(Errno::NAMETOOLONG)).then_some(Ok(()))
}

/// A name that begins with `.wh.` does not exist, and none can be made.
fn reserved(op: &Op, answer: &Outcome) -> Result<(), String> {
    // What the kernel finds wrong with the rest of the call before it asks.
    let early = [Errno::NOENT, Errno::NOTDIR, Errno::ACCESS, Errno::LOOP];
    let made = match op {
        Op::Create { .. } | Op::Mkdir { .. } | Op::Symlink { .. } | Op::Mknod { .. } => true,
        Op::Link { to, .. } | Op::Rename { to, .. } => to.has_reserved(),
        _ => false,
    };
    match answer {
        Err(e) if early.contains(e) => Ok(()),
        Err(Errno::INVAL) if made => Ok(()),
        Err(Errno::INVAL) if matches!(op, Op::Rename { flags, .. } if flags.bits().count_ones() > 1) => {
            Ok(())
        }
        // Whoever may not make any device, or link this file.
        Err(Errno::PERM) if made => Ok(()),
        Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST)
            if matches!(op, Op::Rename { .. } | Op::Link { .. }) =>
        {
            Ok(())
        }
        _ => Err(format!("a reserved name was answered with {answer:?}")),
    }
}

/// The names of extended attributes in any order; and the kernel lets a FUSE filesystem list `trusted.` to
/// everybody, as it cannot know whether the caller has the capability for them.
pub(crate) fn listed_to(user: u32, mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| user == 0 || !name.starts_with("trusted."));
    names.sort();
    names
}
