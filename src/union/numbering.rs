//! Which `st_ino` does an inode on disk show?

use parking_lot::Mutex;

use super::node::{NodeId, RealId};
use crate::branch::Stat;

/// Tells inodes apart, and says which number they show.
///
/// The filesystem of the first branch keeps its inode numbers as they are; the others' get the
/// filesystem's ordinal in the upper 16 bits. So where all branches are on one filesystem, users see the
/// numbers of the disk.
#[derive(Debug, Default)]
pub struct Numbering {
    filesystems: Mutex<Vec<u64>>,
}

const INODE_BITS: u32 = 48;

impl Numbering {
    /// The inode that a `stat` speaks of.
    pub fn real(&self, stat: &Stat) -> RealId {
        self.real_of(stat.st_dev, stat.st_ino)
    }

    /// The inode `ino` of the device `dev`.
    pub fn real_of(&self, dev: u64, ino: u64) -> RealId {
        let mut filesystems = self.filesystems.lock();
        let ordinal = filesystems.iter().position(|d| *d == dev).unwrap_or_else(|| {
            filesystems.push(dev);
            filesystems.len() - 1
        });
        RealId { filesystem: u16::try_from(ordinal).unwrap_or(u16::MAX), ino }
    }

    /// The number that an inode shows unless the index or the inode table has a reason for another. Inode
    /// numbers beyond 48 bits mix with the ordinals: if two meet on one number, the table gives the second
    /// another.
    #[must_use]
    pub fn number(real: RealId) -> NodeId {
        NodeId(real.ino ^ (u64::from(real.filesystem) << INODE_BITS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_of_two_filesystems_are_never_one() {
        let numbering = Numbering::default();
        let outer = numbering.real_of(1, 77);
        // What a union shows that is itself a branch: an ordinal in the upper bits.
        let nested = numbering.real_of(2, 77 ^ (1 << INODE_BITS));
        assert_ne!(outer, nested);
        assert_eq!(Numbering::number(outer), NodeId(77));
        assert_eq!(Numbering::number(numbering.real_of(2, 77)), NodeId(77 ^ (1 << INODE_BITS)));
    }
}
