//! statfs: the figures of the disk that takes the writes.

use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::common::{Tmpfs, Union, needs_root, sh};

#[test]
fn sizes_are_those_of_the_uppers_disk() {
    needs_root!("a tmpfs");
    let disk = Tmpfs::of_kib(2048);
    let union = Union::builder().writable_in(disk.path()).lower(|b| b.file("f", "")).mount();
    let (seen, real) = (statvfs(union.root()).unwrap(), statvfs(disk.path()).unwrap());
    assert_eq!(seen.f_frsize, real.f_frsize);
    assert_eq!(seen.f_blocks, real.f_blocks);
    assert_eq!(seen.f_files, real.f_files);
    std::fs::write(union.at("fill"), vec![1; 1024 * 1024]).unwrap();
    let after = statvfs(union.root()).unwrap();
    assert!(after.f_bavail * after.f_frsize <= 1024 * 1024);
    assert_eq!(after.f_bavail, statvfs(disk.path()).unwrap().f_bavail);
}

#[test]
fn a_name_may_have_255_bytes() {
    let union = Union::over(|b| b);
    assert_eq!(statvfs(union.root()).unwrap().f_namemax, 255);
}

#[test]
fn df_shows_a_row_for_the_mount() {
    let union = Union::over(|b| b.file("f", ""));
    let rows = sh(union.root(), "df --output=fstype,target .");
    let row = rows.lines().nth(1).unwrap();
    assert!(row.starts_with("fuse.plyfs"), "{row}");
    assert!(row.ends_with(union.root().to_str().unwrap()), "{row}");
}

#[test]
fn a_union_without_an_upper_says_that_it_is_read_only() {
    let union = Union::builder().read_only().lower(|b| b.file("f", "")).mount();
    let seen = statvfs(union.root()).unwrap();
    assert!(seen.f_flag.contains(StatVfsMountFlags::RDONLY));
    assert!(seen.f_blocks > 0, "the figures of the topmost branch's disk");
}
