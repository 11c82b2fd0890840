//! readdir: the merged listing, whole, once, and while it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags, RawDir, SeekFrom, open, seek};
use rustix::io::Errno;

use crate::common::{FaultyFs, Union, names, needs_root, refused, stat};

fn open_dir(path: impl AsRef<Path>) -> OwnedFd {
    open(path.as_ref(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap()
}

fn listing(dir: &mut Dir) -> Vec<String> {
    dir.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned()).collect()
}

#[test]
fn each_name_is_listed_once_and_in_no_branch_forgotten() {
    let union = Union::builder()
        .upper(|b| b.file("d/both", "").file("d/upper", ""))
        .lower(|b| b.file("d/both", "").file("d/first", "").dir("d/sub"))
        .lower(|b| b.file("d/both", "").file("d/second", "").dir("d/sub"))
        .mount();
    assert_eq!(names(union.at("d")), ["both", "first", "second", "sub", "upper"]);
}

#[test]
fn dot_and_dot_dot_are_listed() {
    let union = Union::over(|b| b.file("d/f", ""));
    for (dir, parent) in [("d", "."), (".", "..")] {
        let entries: BTreeMap<_, _> = Dir::new(open_dir(union.at(dir)))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().to_owned(), (entry.ino(), entry.file_type())))
            .collect();
        assert_eq!(entries[c"."], (stat(union.at(dir)).ino(), FileType::Directory));
        assert_eq!(entries[c".."].1, FileType::Directory);
        if parent == "." {
            assert_eq!(entries[c".."].0, stat(union.at(parent)).ino());
        }
    }
}

#[test]
fn the_listing_tells_type_and_inode_number_as_stat_does() {
    needs_root!("mknod");
    let union = Union::builder()
        .upper(|b| b.file("upper_file", "").dir("merged"))
        .lower(|b| b.file("file", "").dir("dir").symlink("symlink", "file").fifo("fifo").dir("merged"))
        .lower(|b| b.char_device("device", 1, 3).file("name", "").link("name", "other_name"))
        .mount();
    let mut seen = 0;
    for entry in Dir::new(open_dir(union.root())).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_str().unwrap();
        if name != ".." {
            let stat = stat(union.at(name));
            assert_eq!(entry.ino(), stat.ino(), "{name}");
            assert_eq!(entry.file_type(), FileType::from_raw_mode(stat.mode()), "{name}");
            seen += 1;
        }
    }
    assert_eq!(seen, 10, "nine names and the dot");
}

#[test]
fn a_directorys_link_count_fits_what_find_makes_of_it() {
    let union = Union::builder()
        .lower(|b| b.dir("d/one").dir("d/two").file("d/f", ""))
        .lower(|b| b.dir("d/two").dir("d/three"))
        .mount();
    fs::create_dir(union.at("d/four")).unwrap();
    // Either exact, or 1: "don't count subdirectories by me".
    let links = stat(union.at("d")).nlink();
    assert!(links == 1 || links == 2 + 4, "{links}");
}

#[test]
fn a_rewound_listing_shows_what_came_since() {
    let union = Union::over(|b| b.file("d/old", ""));
    let mut dir = Dir::new(open_dir(union.at("d"))).unwrap();
    assert_eq!(listing(&mut dir).len(), 3);
    fs::write(union.at("d/new"), "").unwrap();
    fs::remove_file(union.at("d/old")).unwrap();
    dir.rewind();
    let mut again = listing(&mut dir);
    again.sort();
    assert_eq!(again, [".", "..", "new"]);
}

#[test]
fn a_remembered_position_leads_back_to_the_same_entry() {
    let union = Union::over(|mut b| {
        for index in 0..500 {
            b = b.file(&format!("d/{index}"), "");
        }
        b
    });
    let dir = open_dir(union.at("d"));
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut all = Vec::new();
    let mut raw = RawDir::new(&dir, &mut buffer);
    while let Some(entry) = raw.next() {
        let entry = entry.unwrap();
        all.push((entry.file_name().to_owned(), entry.next_entry_cookie()));
    }
    assert_eq!(all.len(), 502);
    for at in (0..500).step_by(37) {
        seek(&dir, SeekFrom::Start(all[at].1)).unwrap();
        let mut raw = RawDir::new(&dir, &mut buffer);
        let entry = raw.next().unwrap().unwrap();
        assert_eq!(entry.file_name(), all[at + 1].0.as_c_str());
    }
}

/// Read in pieces, with neighbours of the reading position removed and added in between.
#[test]
fn untouched_entries_are_listed_exactly_once_while_others_come_and_go() {
    let union = Union::over(|mut b| {
        for index in 0..600 {
            b = b.file(&format!("d/keep{index}"), "").file(&format!("d/drop{index}"), "");
        }
        b
    });
    let dir = open_dir(union.at("d"));
    // The least that getdents takes: a few entries at a time.
    let mut buffer = [MaybeUninit::uninit(); 160];
    let mut raw = RawDir::new(&dir, &mut buffer);
    let mut kept = BTreeMap::new();
    let mut step = 0;
    while let Some(entry) = raw.next() {
        let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
        if name.starts_with("keep") {
            *kept.entry(name).or_insert(0) += 1;
        }
        if raw.is_buffer_empty() && step < 600 {
            fs::remove_file(union.at(format!("d/drop{step}"))).unwrap();
            fs::write(union.at(format!("d/new{step}")), "").unwrap();
            step += 1;
        }
    }
    assert!(step > 100, "the listing was read in {step} pieces only");
    assert_eq!(kept.len(), 600);
    assert!(kept.values().all(|times| *times == 1), "{kept:?}");
}

#[test]
fn entries_can_be_removed_while_they_are_listed() {
    let union = Union::builder()
        .upper(|mut b| {
            for index in 0..1000 {
                b = b.file(&format!("d/upper{index}"), "");
            }
            b
        })
        .lower(|mut b| {
            for index in 0..1000 {
                b = b.file(&format!("d/lower{index}"), "").file(&format!("d/upper{index}"), "");
            }
            b
        })
        .mount();
    for entry in fs::read_dir(union.at("d")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert!(names(union.at("d")).is_empty());
    fs::remove_dir(union.at("d")).unwrap();
}

#[test]
fn twenty_thousand_entries_are_all_listed() {
    let union = Union::builder()
        .lower(|mut b| {
            for index in (0..20_000).step_by(2) {
                b = b.file(&format!("d/{index}"), "");
            }
            b
        })
        .lower(|mut b| {
            for index in (0..20_000).step_by(3) {
                b = b.file(&format!("d/{index}"), "");
            }
            b
        })
        .mount();
    let expected: BTreeSet<_> =
        (0..20_000).filter(|i| i % 2 == 0 || i % 3 == 0).map(|i| i.to_string()).collect();
    let listed = names(union.at("d"));
    assert_eq!(listed.len(), expected.len());
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn a_removed_directory_that_is_still_open_lists_nothing() {
    let union = Union::over(|b| b.dir("lower"));
    fs::create_dir(union.at("upper")).unwrap();
    for name in ["lower", "upper"] {
        let mut dir = Dir::new(open_dir(union.at(name))).unwrap();
        fs::remove_dir(union.at(name)).unwrap();
        let left: Vec<_> = dir.by_ref().flatten().map(|e| e.file_name().to_owned()).collect();
        assert!(left.iter().all(|n| [c".", c".."].contains(&n.as_c_str())), "{left:?}");
    }
}

#[test]
fn a_listing_follows_every_kind_of_change() {
    let union = Union::over(|b| b.file("d/a", "").file("d/b", "").file("d/c/x", ""));
    let dir = union.at("d");
    assert_eq!(names(&dir), ["a", "b", "c"]);
    fs::rename(union.at("d/a"), union.at("d/A")).unwrap();
    assert_eq!(names(&dir), ["A", "b", "c"]);
    fs::rename(union.at("d/b"), union.at("b")).unwrap();
    assert_eq!(names(&dir), ["A", "c"]);
    std::os::unix::fs::symlink("A", union.at("d/s")).unwrap();
    assert_eq!(names(&dir), ["A", "c", "s"]);
    fs::hard_link(union.at("b"), union.at("d/h")).unwrap();
    assert_eq!(names(&dir), ["A", "c", "h", "s"]);
    fs::rename(union.at("d/c"), union.at("d/C")).unwrap();
    assert_eq!(names(&dir), ["A", "C", "h", "s"]);
    fs::remove_dir_all(union.at("d/C")).unwrap();
    assert_eq!(names(&dir), ["A", "h", "s"]);
}

/// Taken as the end, and worse, remembered as the whole, half a listing would let a directory be
/// removed or moved without what is in the other half.
#[test]
fn a_listing_that_breaks_off_is_an_error_and_not_an_end() {
    let disk = FaultyFs::with_files();
    let mut union = Union::builder().lower_at(disk.path().to_owned()).mount();
    for index in 0..FaultyFs::FILES / 2 {
        fs::remove_file(union.at(format!("d/{index}"))).unwrap();
    }
    union.remount();
    disk.fail_second_halves();
    let listed: Result<Vec<_>, _> = fs::read_dir(union.at("d")).and_then(Iterator::collect);
    refused(listed, Errno::IO);
    refused(fs::remove_dir(union.at("d")), Errno::IO);
    refused(fs::rename(union.at("d"), union.at("e")), Errno::IO);
    disk.recover();
    assert_eq!(names(union.at("d")).len(), FaultyFs::FILES / 2);
    refused(fs::remove_dir(union.at("d")), Errno::NOTEMPTY);
    fs::rename(union.at("d"), union.at("e")).unwrap();
    assert_eq!(names(union.at("e")).len(), FaultyFs::FILES / 2);
}

/// Who lists a directory looks at every file in it, and may have begun before the directory was copied up.
#[test]
fn a_listing_during_the_first_write_takes_no_file_for_another() {
    const DIRS: usize = 150;
    let union = Union::over(|b| (0..DIRS).fold(b, |b, i| b.file(&format!("{i}/f"), "lower")));
    for i in 0..DIRS {
        let dir = union.at(i.to_string());
        let file = File::options().read(true).write(true).open(dir.join("f")).unwrap();
        let number = file.metadata().unwrap().ino();
        std::thread::scope(|scope| {
            scope.spawn(|| fs::read_dir(&dir).unwrap().for_each(|entry| drop(entry.unwrap().metadata())));
            scope.spawn(|| file.write_all_at(b"upper", 0).unwrap());
        });
        assert_eq!(fs::metadata(dir.join("f")).unwrap().ino(), number, "{i}");
        assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "upper", "{i}");
    }
}
