//! Which `st_ino` does an inode on disk show?

use parking_lot::Mutex;

use super::node::{NodeId, RealId, real_id};
use crate::branch::Stat;

/// Tells inodes apart, and says which number they show.
///
/// The filesystem of the first branch keeps its inode numbers as they are; the others' get the
/// filesystem's ordinal in the upper 16 bits (as overlayfs' `xino` does). So where all branches are on one
/// filesystem, users see the numbers of the disk.
#[derive(Debug, Default)]
pub struct Xino {
    filesystems: Mutex<Vec<u64>>,
}

const INODE_BITS: u32 = 48;

impl Xino {
    /// The inode that a `stat` speaks of.
    pub fn real(&self, stat: &Stat) -> RealId {
        real_id(self.filesystem(stat.st_dev), stat)
    }

    fn filesystem(&self, dev: u64) -> u16 {
        let mut filesystems = self.filesystems.lock();
        let ordinal = filesystems.iter().position(|d| *d == dev).unwrap_or_else(|| {
            filesystems.push(dev);
            filesystems.len() - 1
        });
        u16::try_from(ordinal).unwrap_or(u16::MAX)
    }

    /// The number that an inode shows unless the index or the inode table has a reason for another. Inode
    /// numbers beyond 48 bits mix with the ordinals: if two meet on one number, the table gives the second
    /// another.
    #[must_use]
    pub fn number(filesystem: u16, ino: u64) -> NodeId {
        NodeId(ino ^ (u64::from(filesystem) << INODE_BITS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_of_two_filesystems_are_never_one() {
        let xino = Xino::default();
        assert_eq!((xino.filesystem(1), xino.filesystem(2), xino.filesystem(1)), (0, 1, 0));
        // What a union shows that is itself a branch: an ordinal in the upper bits.
        let nested = 77 ^ (1 << INODE_BITS);
        assert_eq!(Xino::number(0, 77), NodeId(77));
        assert_eq!(Xino::number(1, 77), NodeId(nested));
        assert_ne!(
            RealId { filesystem: 0, ino: nested, birth: 0 },
            RealId { filesystem: 1, ino: 77, birth: 0 }
        );
    }
}
