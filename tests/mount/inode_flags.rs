//! lsattr, chattr: the flags of an inode on the disk.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use crate::common::{Union, needs_root, overwrite, refused, sh};

fn flags(union: &Union, path: &str) -> IFlags {
    ioctl_getflags(File::open(union.at(path)).unwrap()).unwrap()
}

fn set(union: &Union, path: &str, flags: IFlags) -> Result<(), Errno> {
    ioctl_setflags(File::open(union.at(path)).unwrap(), flags)
}

#[test]
fn flags_are_those_of_the_disk() {
    let union = Union::over(|b| b.file("f", "text").dir("d"));
    let on_disk = ioctl_getflags(File::open(union.lower_path(0).join("f")).unwrap()).unwrap();
    assert_eq!(flags(&union, "f"), on_disk);
    sh(union.root(), "lsattr f >/dev/null; lsattr -d d >/dev/null");
    assert!(union.in_upper().is_empty(), "looking copies nothing up");
    set(&union, "f", on_disk).unwrap();
    assert!(union.in_upper().is_empty(), "nor does what changes nothing");
    set(&union, "f", on_disk | IFlags::NODUMP).unwrap();
    assert_eq!(union.in_upper(), ["f"]);
    let after = flags(&union, "f");
    assert!(after.contains(IFlags::NODUMP));
    assert_eq!(after, ioctl_getflags(File::open(union.upper("f")).unwrap()).unwrap());
    set(&union, "d", flags(&union, "d") | IFlags::NODUMP).unwrap();
    assert!(flags(&union, "d").contains(IFlags::NODUMP));
}

/// The daemon gives that right up, and nobody needs it in a union.
#[test]
fn nothing_becomes_immutable() {
    needs_root!("chattr +i");
    let union = Union::over(|b| b.file("f", "text").file("d/f", "text"));
    for flag in [IFlags::IMMUTABLE, IFlags::APPEND] {
        refused(set(&union, "f", flags(&union, "f") | flag), Errno::PERM);
        refused(set(&union, "d", flags(&union, "d") | flag), Errno::OPNOTSUPP);
    }
    assert!(union.in_upper().is_empty());
    overwrite(union.at("d/f"), 0, "TEXT");
    // Everything else is unknown, as to most filesystems.
    let file = File::open(union.at("f")).unwrap();
    refused(rustix::fs::ioctl_blksszget(&file), Errno::NOTTY);
    assert_eq!(file.read_at(&mut [0; 9], 0).unwrap(), 4);
}
