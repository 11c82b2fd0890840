//! Tests on real mounts, through the real binary: one module an operation.

mod common;

mod acl;
mod copy_file_range;
mod copy_up;
mod create;
mod fallocate;
mod fsync;
mod hard_links;
mod id_mapping;
mod inode_numbers;
mod link;
mod lookup;
mod lseek;
mod markers;
mod mkdir;
mod mknod;
mod mmap;
mod open_handles;
mod permissions;
mod read;
mod readdir;
mod readonly;
mod real_programs;
mod remount;
mod rename;
mod rmdir;
mod setattr;
mod statfs;
mod symlink;
mod unlink;
mod walkthroughs;
mod ways_to_mount;
mod write;
mod xattr;
