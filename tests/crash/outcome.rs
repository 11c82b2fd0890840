//! What is after an operation? As it goes when nothing fails.

use plyfs::branch::faults;
use rustix::io::Errno;

use super::operation::Operation;
use super::stacks::Stack;
use super::stand::{Disk, Stand, forget};
use super::view::{Kernel, Lenience, View};

/// An operation on a stack.
pub struct Outcome {
    pub after: View,
    pub result: Result<(), Errno>,
    /// How many changes it takes.
    pub changes: usize,
    /// What comes of it if it is done once more.
    pub again: (Result<(), Errno>, View),
}

impl Outcome {
    /// Plays it. None if the kernel would not ask for it.
    pub fn of(stack: &Stack, operation: Operation, disk: Disk) -> Result<Option<Self>, String> {
        let stand = Stand::build(stack, disk);
        let union = stand.open().map_err(|e| format!("cannot be opened: {e}"))?;
        let mut known = Vec::new();
        let before = View::of(&union, Kernel::Remembers, &mut known)?;
        if !operation.is_asked_for(&before) {
            return Ok(None);
        }
        faults::arm(None);
        let result = operation.run(&union, &mut known).map_err(|e| e.errno());
        let changes = faults::disarm().len();
        let after = View::of(&union, Kernel::Forgets, &mut known)?;
        if result.is_err()
            && let Some(what) = after.differs(&before, Lenience::default())
        {
            return Err(format!("refused, and something has changed: {what}"));
        }
        let again = operation.run(&union, &mut known).map_err(|e| e.errno());
        let twice = View::of(&union, Kernel::Forgets, &mut known)?;
        forget(&union, known);
        union.close().map_err(|e| format!("cannot be closed: {e}"))?;
        drop(union);
        let wrong = stand.check(&twice);
        if !wrong.is_empty() {
            return Err(wrong.join("; "));
        }
        Ok(Some(Self { after, result, changes, again: (again, twice) }))
    }
}
