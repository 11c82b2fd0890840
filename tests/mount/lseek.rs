//! lseek: holes are where they are on disk, before a copy-up and after.

use std::fs::File;
use std::io::{Seek, SeekFrom as StdSeekFrom};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::common::{Union, overwrite, refused};

const MIB: u64 = 1024 * 1024;

#[test]
fn holes_and_data_are_found_before_and_after_a_copy_up() {
    let union = Union::over(|b| b.sparse("f", 8 * MIB, &[(4 * MIB, &[b'x'; 4096])]));
    let reading = File::open(union.at("f")).unwrap();
    for place in ["in the lower", "in the upper"] {
        assert_eq!(seek(&reading, SeekFrom::Data(0)), Ok(4 * MIB), "{place}");
        assert_eq!(seek(&reading, SeekFrom::Hole(0)), Ok(0), "{place}");
        assert_eq!(seek(&reading, SeekFrom::Hole(4 * MIB)), Ok(4 * MIB + 4096), "{place}");
        refused(seek(&reading, SeekFrom::Data(4 * MIB + 4096)), Errno::NXIO);
        refused(seek(&reading, SeekFrom::Data(8 * MIB)), Errno::NXIO);
        overwrite(union.at("f"), 4 * MIB, "y");
    }
}

#[test]
fn the_end_is_where_the_last_write_put_it() {
    let union = Union::over(|b| b.file("f", "12345"));
    let mut reading = File::open(union.at("f")).unwrap();
    assert_eq!(reading.seek(StdSeekFrom::End(0)).unwrap(), 5);
    overwrite(union.at("f"), 100, "x");
    assert_eq!(reading.seek(StdSeekFrom::End(0)).unwrap(), 101);
    assert_eq!(reading.seek(StdSeekFrom::End(-1)).unwrap(), 100);
    refused(reading.seek(StdSeekFrom::End(-102)), Errno::INVAL);
}

#[test]
fn there_is_nothing_before_the_beginning() {
    let union = Union::over(|b| b.file("f", "12345"));
    let reading = File::open(union.at("f")).unwrap();
    for place in ["in the lower", "in the upper"] {
        for offset in [-1, i64::MIN] {
            // The library's type for offsets has no negative ones; the kernel's has.
            let offset = offset.cast_unsigned();
            refused(seek(&reading, SeekFrom::Data(offset)), Errno::NXIO);
            refused(seek(&reading, SeekFrom::Hole(offset)), Errno::NXIO);
        }
        overwrite(union.at("f"), 0, place);
    }
}
