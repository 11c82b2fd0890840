//! Names: bytes of any value but `/` and NUL, from 1 to 255 of them.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::io::Errno;

use crate::common::{Branch, Union, exists, overwrite, refused};

/// Every name of one byte but `.`, and for every length one with a byte that is no UTF-8.
fn all() -> impl Iterator<Item = OsString> {
    let single = (1..=u8::MAX).filter(|byte| !b"./".contains(byte)).map(|byte| vec![byte]);
    let long = (2..=255).map(|len| {
        let mut name = vec![b'n'; len];
        name[len / 2] = 0xfe;
        name
    });
    single.chain(long).map(OsString::from_vec)
}

fn fill(b: Branch, names: impl Iterator<Item = OsString>) -> Branch {
    let dir = b.root().join("d");
    fs::create_dir(&dir).unwrap();
    names.for_each(|name| fs::write(dir.join(&name), name.as_bytes()).unwrap());
    b
}

#[track_caller]
fn shows(dir: &Path, expected: &BTreeSet<OsString>) {
    let listed = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(&listed.collect::<BTreeSet<_>>(), expected);
    for name in expected {
        let content = fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name:?}: {e}"));
        assert_eq!(content, name.as_bytes());
    }
}

/// A name that is as long but another.
fn other(name: &OsStr) -> OsString {
    let mut bytes = name.as_bytes().to_vec();
    let last = bytes.len() - 1;
    bytes[last] = if bytes[last] == 0xff { 0x80 } else { 0xff };
    OsString::from_vec(bytes)
}

/// The longest of which a whiteout can be written.
const WHITEOUTS: usize = 251;

#[test]
fn of_all_bytes_and_lengths_work_in_every_branch() {
    let everything: BTreeSet<_> = all().collect();
    let of_two = |name: &OsString| name.len().is_multiple_of(2);
    let mut union = Union::builder()
        .upper(|b| fill(b, all().filter(of_two)))
        .lower(|b| fill(b, all().filter(|name| !of_two(name) || name.len() > 100)))
        .mount();
    shows(&union.at("d"), &everything);

    // Written, which copies up.
    for name in &everything {
        overwrite(union.at("d").join(name), 0, name.as_bytes());
    }
    union.remount();
    shows(&union.at("d"), &everything);

    // Made.
    fs::create_dir(union.at("new")).unwrap();
    for name in &everything {
        fs::write(union.at("new").join(name), name.as_bytes()).unwrap();
    }
    union.remount();
    shows(&union.at("new"), &everything);
    shows(&union.upper("new"), &everything);

    // Renamed, to and fro.
    for name in &everything {
        let other = other(name);
        if !everything.contains(&other) {
            fs::rename(union.at("new").join(name), union.at("new").join(&other)).unwrap();
            assert!(!exists(union.at("new").join(name)));
            fs::rename(union.at("new").join(&other), union.at("new").join(name)).unwrap();
        }
    }
    shows(&union.at("new"), &everything);

    // Removed, which leaves whiteouts where a lower has the name.
    let (short, long): (BTreeSet<_>, BTreeSet<_>) =
        everything.into_iter().partition(|name| name.len() <= WHITEOUTS);
    for name in &short {
        fs::remove_file(union.at("new").join(name)).unwrap();
        fs::remove_file(union.at("d").join(name)).unwrap();
    }
    for name in &long {
        fs::remove_file(union.at("new").join(name)).unwrap();
        refused(fs::remove_file(union.at("d").join(name)), Errno::NAMETOOLONG);
        refused(fs::rename(union.at("d").join(name), union.at("moved")), Errno::NAMETOOLONG);
    }
    union.remount();
    shows(&union.at("d"), &long);
    shows(&union.at("new"), &BTreeSet::new());
    for name in &short {
        let whiteout = [b".wh.", name.as_bytes()].concat();
        let hides = !of_two(name) || name.len() > 100;
        assert_eq!(exists(union.upper("d").join(OsStr::from_bytes(&whiteout))), hides, "{name:?}");
        // And made once more.
        fs::write(union.at("d").join(name), name.as_bytes()).unwrap();
    }
    shows(&union.at("d"), &all().collect());
}

/// A directory that is renamed is copied up with all that is in it.
#[test]
fn of_all_bytes_and_lengths_move_along_with_their_directory() {
    let mut union = Union::over(|b| fill(b, all()));
    fs::rename(union.at("d"), union.at("e")).unwrap();
    for _ in 0..2 {
        shows(&union.at("e"), &all().collect());
        union.remount();
    }
}
