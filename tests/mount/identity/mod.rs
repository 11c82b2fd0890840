//! What is acted on is what was meant: the inode that was shown, the file that was written, the upper that the notes
//! are of. Each test here plays a sequence that once gave a wrong result, as docs/CONFORMANCE.md lists them.

mod descriptors;
mod directories;
mod full_upper;
mod links;
mod numbers;
mod overlay_layers;
mod security;
mod slow_disks;
mod swapped;
mod times;
mod workdir;
