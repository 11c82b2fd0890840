//! The upper is a layer: how does it become an archive or an image, and how do those become directories again?
//!
//! In reading order: an [`item`] is an entry of a layer; [`tree`] reads items from directories, `archive` from tar
//! archives; `archive` writes them, and [`unpack`] makes a directory of them. `layer` has the commands on layers. The
//! `store` keeps images, `image` has the commands on them.
//!
//! Neither a union nor a mount is needed for any of it; what plyfs' workdir notes of hard links is asked of `union`.

pub mod archive;
mod check;
mod diff;
pub mod digest;
mod error;
mod image;
pub mod item;
mod layer;
pub mod owners;
mod place;
pub mod progress;
mod registry;
mod store;
pub mod tree;
pub mod unpack;

pub use error::Error;
pub use image::{Branches, Mounts, run as image};
pub use layer::run as layer;
