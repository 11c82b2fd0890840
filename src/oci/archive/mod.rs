//! How is a layer written as a tar archive, and read from one?
//!
//! Source: OCI image-spec, `layer.md`; POSIX.1-2017, pax; GNU tar's manual, "Sparse Formats". Headers are parsed and
//! built by `tar-core`; what an entry may be is decided here.

mod compress;
mod read;
mod write;

pub use compress::{Encoder, Written, decoder, media_type};
pub use read::{Ending, read};
pub use write::ArchiveWriter;
