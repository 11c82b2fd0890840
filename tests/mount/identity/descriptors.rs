//! Files by their descriptors: a file without a name is the one that was opened, however few descriptors the daemon has.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Branch, Snapshot, Union, exists, names, stat, text};

/// What the daemon may have open.
const FEW_DESCRIPTORS: &str = "ulimit -n 256";

fn read_write(union: &Union, name: &str) -> File {
    File::options().read(true).write(true).open(union.at(name)).unwrap()
}

fn read_all(file: &File) -> String {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// So many files in directories of their own that the daemon keeps no other file or directory open.
const OTHERS: usize = 300;

fn others(b: Branch) -> Branch {
    (0..OTHERS).fold(b, |b, index| b.file(&format!("others/{index}/f"), index.to_string()))
}

fn read_others(union: &Union) {
    (0..OTHERS).for_each(|index| assert_eq!(text(union.at(format!("others/{index}/f"))), index.to_string()));
}

/// Row 7: where a lower's file lies does not change with what directories of the union are called.
#[test]
fn an_unlinked_lower_file_is_read_though_another_directory_has_its_directorys_name() {
    for (named, content) in [("d/f", "its own"), ("e/f", "another's")] {
        let union = Union::builder()
            .setup(FEW_DESCRIPTORS)
            .lower(|b| others(b).file("d/f", "its own").file("e/f", "another's"))
            .mount();
        let (file, number) = (File::open(union.at(named)).unwrap(), stat(union.at(named)).ino());
        fs::remove_file(union.at(named)).unwrap();
        for (old, new) in [("e", "g"), ("d", "e"), ("g", "d")] {
            fs::rename(union.at(old), union.at(new)).unwrap();
        }
        read_others(&union);
        let seen = file.metadata().unwrap();
        assert_eq!((seen.ino(), seen.nlink(), seen.len()), (number, 0, content.len() as u64), "{named}");
        assert_eq!(read_all(&file), content, "{named}");
    }
}

/// The same of a file that is written only then.
#[test]
fn an_unlinked_lower_file_is_written_though_another_directory_has_its_directorys_name() {
    let union = Union::builder()
        .setup(FEW_DESCRIPTORS)
        .lower(|b| others(b).file("d/f", "its own").file("e/f", "another's"))
        .mount();
    let file = read_write(&union, "d/f");
    fs::remove_file(union.at("d/f")).unwrap();
    for (old, new) in [("e", "g"), ("d", "e")] {
        fs::rename(union.at(old), union.at(new)).unwrap();
    }
    read_others(&union);
    file.write_all_at(b"ITS", 0).unwrap();
    assert_eq!(read_all(&file), "ITS own");
    assert_eq!(text(union.at("g/f")), "another's");
    assert!(!exists(union.at("e/f")));
}

/// The same of a directory, by the entries that it had.
#[test]
fn a_handle_on_a_moved_lower_directory_shows_that_directory() {
    let union = Union::builder()
        .setup(FEW_DESCRIPTORS)
        .lower(|b| others(b).file("top/d/its_own", "").file("top/e/anothers", ""))
        .mount();
    let dir = File::open(union.at("top/d")).unwrap();
    for (old, new) in [("top/e", "top/g"), ("top/d", "top/e"), ("top/g", "top/d"), ("top", "moved")] {
        fs::rename(union.at(old), union.at(new)).unwrap();
    }
    read_others(&union);
    let listing = rustix::fs::Dir::read_from(&dir).unwrap();
    let names: Vec<_> =
        listing.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert!(names.contains(&"its_own".to_owned()) && names.len() == 3, "{names:?}");
}

const UNLINKED: usize = 300;

fn mine(index: usize) -> String {
    format!("content of {index}")
}

/// Row 18: new files, and files of the upper and of a lower that were written.
fn unlinked_files(union: &Union) -> Vec<File> {
    let open = |index: usize| {
        let name = format!("d/{index}");
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(union.at(&name)).unwrap();
        file.write_all_at(mine(index).as_bytes(), 0).unwrap();
        fs::remove_file(union.at(&name)).unwrap_or_else(|e| panic!("rm of file {index}: {e}"));
        file
    };
    (0..UNLINKED).map(open).collect()
}

fn union_of_all_kinds() -> Union {
    Union::builder()
        .setup(FEW_DESCRIPTORS)
        .upper(|b| (0..50).fold(b, |b, index| b.file(&format!("d/{index}"), "upper")))
        .lower(|b| (50..150).fold(others(b), |b, index| b.file(&format!("d/{index}"), "lower")))
        .mount()
}

#[test]
fn more_unlinked_files_than_descriptors_are_written_and_read() {
    let union = union_of_all_kinds();
    let files = unlinked_files(&union);
    // Others work on meanwhile.
    read_others(&union);
    fs::write(union.at("new"), "new").unwrap();
    fs::rename(union.at("others/1"), union.at("moved")).unwrap();
    assert_eq!(text(union.at("new")), "new");
    assert!(names(union.at("d")).is_empty());
    for (index, file) in files.iter().enumerate() {
        assert_eq!(file.metadata().unwrap().nlink(), 0, "{index}");
        assert_eq!(read_all(file), mine(index), "{index}");
        file.write_all_at(b"CONTENT", 0).unwrap();
    }
    for (index, file) in files.iter().enumerate() {
        assert_eq!(read_all(file), mine(index).replace("content", "CONTENT"), "{index}");
        file.set_len(3).unwrap();
        file.sync_all().unwrap();
    }
    assert!(union.in_upper().iter().all(|path| !path.starts_with("d/") || path.contains(".wh.")));
}

/// How much is kept in the workdir of what users wrote.
#[track_caller]
fn copies_in_workdir(union: &Union) -> usize {
    let work = Snapshot::of(&union.work(""));
    let copies = work
        .paths()
        .filter(|path| work.field(path, "content").is_some_and(|text| text.contains("content of")));
    copies.count()
}

#[test]
fn of_unlinked_files_nothing_is_left_once_they_are_closed() {
    let mut union = union_of_all_kinds();
    drop(unlinked_files(&union));
    let deadline = Instant::now() + Duration::from_secs(10);
    // The kernel forgets an inode some time after its last handle was closed.
    let kept = || names(union.kept("unlinked")).len();
    while kept() > 0 {
        assert!(Instant::now() < deadline, "{} files stay in the workdir", kept());
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(copies_in_workdir(&union), 0);
    union.unmount();
    assert_eq!(copies_in_workdir(&union), 0);
    union.mount();
    assert!(names(union.at("d")).is_empty());
}

#[test]
fn of_unlinked_files_nothing_is_left_by_the_mount_after_a_crash() {
    let mut union = union_of_all_kinds();
    let files = unlinked_files(&union);
    union.kill();
    drop(files);
    union.crash_and_remount();
    assert_eq!(copies_in_workdir(&union), 0);
    assert!(names(union.at("d")).is_empty());
}
