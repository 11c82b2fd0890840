//! syncfs: when is everything on disk?
//!
//! The kernel sends no SYNCFS to a FUSE daemon like us: sync(1) and syncfs(2) on the mount write its own pages back, and
//! end there. So whoever wants more has to ask us.

use super::Union;
use crate::error::Result;

impl Union {
    /// Waits until everything that was changed is on disk, with its names: all that is on the upper's filesystem. Also
    /// for a volatile union: somebody asks for it.
    ///
    /// # Errors
    /// Those of syncfs(2).
    pub fn sync_all(&self) -> Result<()> {
        match self.writable() {
            Err(_) => Ok(()),
            Ok(upper) => upper.root.sync_filesystem(),
        }
    }
}
