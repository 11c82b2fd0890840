//! One branch, in every format in which union filesystems have left markers on disks.
//!
//! Nothing in here knows of other branches or of a mount: a layer can be read as it lies on the disk.

mod entry;
mod list;
mod markers;
mod walk;

pub use entry::{Ask, Word, ask};
pub use list::{Known, list};
pub use markers::{DirMarkers, Formats, is_private_xattr, opaque_xattrs};
pub use walk::walk;
