//! O_DIRECT: past the page cache, and never past what others read through it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::thread;

use crate::common::{LoopDisk, Page, Union, needs_root, requests, say_not_played, write_by_aio};

/// The upper's disk is frozen, so that the write is under way for as long as it takes to read the old page into
/// the cache.
#[test]
fn what_was_written_asynchronously_is_what_is_read_next() {
    needs_root!("freezing a disk");
    let Some(disk) = LoopDisk::of("mkfs.ext4 -q", 64) else {
        return say_not_played("this machine mounts no ext4");
    };
    let union = Union::builder().writable_in(disk.path()).lower(|b| b).mount();
    fs::write(union.at("f"), [b'o'; 4096]).unwrap();
    let reader = File::open(union.at("f")).unwrap();
    let writer = File::options().write(true).custom_flags(libc::O_DIRECT).open(union.at("f")).unwrap();
    let read = || {
        let mut page = [0; 4096];
        reader.read_exact_at(&mut page, 0).unwrap();
        page
    };

    thread::scope(|scope| {
        let frozen = disk.freeze();
        let writes = requests(&union, "WRITE");
        let writing = scope.spawn(|| write_by_aio(&writer, 0, &Page([b'n'; 4096])));
        while requests(&union, "WRITE") == writes {}
        assert!(read() == [b'o'; 4096]);
        drop(frozen);
        assert_eq!(writing.join().unwrap().unwrap(), 4096);
    });
    assert!(read() == [b'n'; 4096], "old data after the write has ended");
}
