//! How many requests of which kind has the kernel sent?
//!
//! A message to the daemon and back costs more than most of what is asked for: the first question about a
//! slow workload is which opcodes it sends.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// A kind of request, by the protocol's name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Opcode {
    Lookup,
    /// Counted by node: the kernel sends them in batches.
    Forget,
    Getattr,
    Setattr,
    Readlink,
    Mknod,
    Mkdir,
    Unlink,
    Rmdir,
    Symlink,
    Rename,
    Link,
    Open,
    Opendir,
    Create,
    Flush,
    Read,
    Write,
    Fsync,
    Fsyncdir,
    Readdir,
    Readdirplus,
    Statfs,
    Setxattr,
    Getxattr,
    Listxattr,
    Removexattr,
    Fallocate,
    Lseek,
    CopyFileRange,
    Ioctl,
}

const NAMES: [&str; Opcode::Ioctl as usize + 1] = [
    "LOOKUP",
    "FORGET",
    "GETATTR",
    "SETATTR",
    "READLINK",
    "MKNOD",
    "MKDIR",
    "UNLINK",
    "RMDIR",
    "SYMLINK",
    "RENAME2",
    "LINK",
    "OPEN",
    "OPENDIR",
    "CREATE",
    "FLUSH",
    "READ",
    "WRITE",
    "FSYNC",
    "FSYNCDIR",
    "READDIR",
    "READDIRPLUS",
    "STATFS",
    "SETXATTR",
    "GETXATTR",
    "LISTXATTR",
    "REMOVEXATTR",
    "FALLOCATE",
    "LSEEK",
    "COPY_FILE_RANGE",
    "IOCTL",
];

/// A counter for each kind.
#[derive(Debug, Default)]
pub struct Opcodes([AtomicU64; NAMES.len()]);

impl Opcodes {
    /// One more has come.
    pub fn count(&self, opcode: Opcode) {
        self.0[opcode as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// One `NAME COUNT` a line for the kinds that have come, most frequent first.
    #[must_use]
    pub fn text(&self) -> String {
        let counts = NAMES.iter().zip(&self.0).map(|(name, count)| (count.load(Ordering::Relaxed), name));
        let mut counts: Vec<_> = counts.filter(|(count, _)| *count > 0).collect();
        counts.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        counts.iter().fold(String::new(), |mut text, (count, name)| {
            // Writing to a String cannot fail.
            writeln!(text, "{name} {count}").unwrap_or_default();
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_is_told_most_frequent_first() {
        let opcodes = Opcodes::default();
        assert_eq!(opcodes.text(), "");
        for opcode in [Opcode::Read, Opcode::CopyFileRange, Opcode::Lookup, Opcode::Read] {
            opcodes.count(opcode);
        }
        assert_eq!(opcodes.text(), "READ 2\nLOOKUP 1\nCOPY_FILE_RANGE 1\n");
    }
}
