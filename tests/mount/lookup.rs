//! lookup: which branch's entry a name shows.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, statat, unlinkat};
use rustix::io::Errno;

use crate::common::{Union, exists, names, overwrite, refused, stat, temp_dir, text};

#[test]
fn the_topmost_branch_that_holds_a_name_decides() {
    let union = Union::builder()
        .upper(|b| b.file("in_all", "upper"))
        .lower(|b| b.file("in_all", "first").file("in_lowers", "first"))
        .lower(|b| b.file("in_all", "second").file("in_lowers", "second").file("deep", "second"))
        .mount();
    assert_eq!(text(union.at("in_all")), "upper");
    assert_eq!(text(union.at("in_lowers")), "first");
    assert_eq!(text(union.at("deep")), "second");
}

#[test]
fn directories_merge_at_every_depth() {
    let union = Union::builder()
        .upper(|b| b.file("a/b/c/upper", "0"))
        .lower(|b| b.file("a/b/c/first", "1").file("a/b/first", "1"))
        .lower(|b| b.file("a/b/c/second", "2").file("a/second", "2"))
        .mount();
    assert_eq!(names(union.at("a/b/c")), ["first", "second", "upper"]);
    assert_eq!(names(union.at("a/b")), ["c", "first"]);
    assert_eq!(names(union.at("a")), ["b", "second"]);
}

#[test]
fn a_file_hides_a_directory_and_a_directory_hides_a_file() {
    let union = Union::builder()
        .lower(|b| b.file("file_over_dir", "file").file("dir_over_file/child", "child"))
        .lower(|b| b.file("file_over_dir/hidden", "").file("dir_over_file", "file"))
        .mount();
    assert_eq!(text(union.at("file_over_dir")), "file");
    refused(fs::read(union.at("file_over_dir/hidden")), Errno::NOTDIR);
    assert_eq!(names(union.at("dir_over_file")), ["child"]);
}

#[test]
fn a_file_between_two_directories_ends_the_merge() {
    let union = Union::builder()
        .lower(|b| b.file("d/top", ""))
        .lower(|b| b.file("d", "a file"))
        .lower(|b| b.file("d/bottom", ""))
        .mount();
    assert_eq!(names(union.at("d")), ["top"]);
    assert!(!exists(union.at("d/bottom")));
}

#[test]
fn a_merged_directory_takes_its_attributes_from_its_topmost_branch() {
    let union = Union::builder()
        .lower(|b| b.dir("d").mode("d", 0o1750).mtime("d", 1_000_000, 1))
        .lower(|b| b.dir("d").mode("d", 0o777).mtime("d", 2_000_000, 2))
        .mount();
    let seen = stat(union.at("d"));
    assert_eq!(seen.mode() & 0o7777, 0o1750);
    assert_eq!((seen.mtime(), seen.mtime_nsec()), (1_000_000, 1));
}

#[test]
fn a_missing_name_is_found_once_it_is_made_and_lost_once_it_is_removed() {
    let union = Union::over(|b| b.dir("d"));
    for round in 0..3 {
        for path in ["new", "d/new"] {
            assert!(!exists(union.at(path)), "round {round}");
            fs::write(union.at(path), "x").unwrap();
            assert!(exists(union.at(path)), "round {round}");
            fs::remove_file(union.at(path)).unwrap();
        }
    }
}

#[test]
fn names_are_bytes() {
    let names = [b"\xff\xfe not utf-8".as_slice(), b"new\nline", b"a b:c,d\\e", "日本語".as_bytes()];
    let union = Union::over(|b| b);
    for name in names.map(OsStr::from_bytes) {
        fs::write(union.at(name), name.as_bytes()).unwrap();
    }
    for name in names.map(OsStr::from_bytes) {
        assert_eq!(fs::read(union.at(name)).unwrap(), name.as_bytes());
        assert_eq!(fs::read(union.upper(name)).unwrap(), name.as_bytes());
    }
}

#[test]
fn a_name_may_have_255_bytes_and_no_more() {
    let longest = "n".repeat(255);
    let union = Union::over(|b| b.file(&longest, "lower"));
    assert_eq!(text(union.at(&longest)), "lower");
    refused(fs::metadata(union.at("n".repeat(256))), Errno::NAMETOOLONG);
}

#[test]
fn dot_dot_leads_to_the_parent() {
    let union = Union::over(|b| b.file("f", "root's").file("a/b/c/leaf", ""));
    assert_eq!(text(union.at("a/b/c/../../../f")), "root's");
    let parent = stat(union.at("a/b/c/..")).ino();
    assert_eq!(parent, stat(union.at("a/b")).ino());
}

#[test]
fn everything_is_on_one_device() {
    let union = Union::builder()
        .upper(|b| b.file("in_upper", ""))
        .lower(|b| b.file("in_lower", "").dir("merged"))
        .lower(|b| b.dir("merged"))
        .mount();
    let device = stat(union.root()).dev();
    for path in ["in_upper", "in_lower", "merged"] {
        assert_eq!(stat(union.at(path)).dev(), device, "{path}");
    }
    assert_ne!(device, stat(union.upper("")).dev());
}

/// Beyond PATH_MAX no path names the place: only descriptors lead there.
mod deeper_than_any_path {
    use super::*;

    const DEPTH: usize = 30;

    fn name(depth: usize) -> String {
        format!("{depth:02}{}", "d".repeat(248))
    }

    fn open(parent: impl AsFd, name: impl AsRef<Path>) -> OwnedFd {
        openat(parent, name.as_ref(), OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    fn bottom(top: &Path) -> OwnedFd {
        (0..DEPTH).fold(open(CWD, top), |dir, depth| open(dir, name(depth)))
    }

    fn dig(top: &Path) -> OwnedFd {
        fs::create_dir_all(top).unwrap();
        (0..DEPTH).fold(open(CWD, top), |dir, depth| {
            mkdirat(&dir, name(depth), Mode::RWXU).unwrap();
            open(dir, name(depth))
        })
    }

    fn write(dir: impl AsFd, text: &str) {
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = openat(dir, "f", flags, Mode::RUSR | Mode::WUSR).unwrap();
        File::from(file).write_all(text.as_bytes()).unwrap();
    }

    fn read(dir: impl AsFd) -> String {
        let file = openat(dir, "f", OFlags::RDONLY, Mode::empty()).unwrap();
        std::io::read_to_string(File::from(file)).unwrap()
    }

    #[test]
    fn a_new_tree_is_made() {
        let union = Union::over(|b| b);
        write(dig(&union.at("new")), "text");
        assert_eq!(read(bottom(&union.at("new"))), "text");
        assert_eq!(read(bottom(&union.upper("new"))), "text");
    }

    #[test]
    fn a_lower_file_is_read_and_copied_up() {
        let place = temp_dir();
        let lower = place.path().join("lower");
        write(dig(&lower.join("old")), "lower");
        let union = Union::builder().lower_at(lower).mount();
        assert_eq!(read(bottom(&union.at("old"))), "lower");
        write(bottom(&union.at("old")), "UP");
        assert_eq!(read(bottom(&union.at("old"))), "UPwer");
        assert_eq!(read(bottom(&union.upper("old"))), "UPwer", "copied up whole");
        fs::remove_dir_all(union.at("old")).unwrap();
        assert_eq!(union.in_upper(), [".wh.old"]);
    }

    #[test]
    fn a_lower_file_is_removed_and_a_whole_lower_tree_moves() {
        let place = temp_dir();
        let lower = place.path().join("lower");
        for top in ["old", "gone"] {
            write(dig(&lower.join(top)), "lower");
        }
        let mut union = Union::builder().lower_at(lower).mount();
        unlinkat(bottom(&union.at("gone")), "f", AtFlags::empty()).unwrap();
        fs::rename(union.at("old"), union.at("new")).unwrap();
        for _ in 0..2 {
            assert_eq!(read(bottom(&union.at("new"))), "lower");
            let gone = openat(bottom(&union.at("gone")), "f", OFlags::RDONLY, Mode::empty());
            refused(gone, Errno::NOENT);
            statat(bottom(&union.upper("gone")), ".wh.f", AtFlags::empty()).unwrap();
            union.remount();
        }
    }
}

/// The daemon must forget an inode when the kernel does.
#[test]
fn removed_files_take_no_memory() {
    let union = Union::over(|b| b.dir("d"));
    let churn = |rounds: u32| {
        for round in 0..rounds {
            let path = union.at(format!("d/{round}"));
            fs::write(&path, "x").unwrap();
            fs::remove_file(&path).unwrap();
        }
    };
    let kib_in_use = || -> u64 {
        let status = text(format!("/proc/{}/status", union.pid()));
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    churn(2000);
    let before = kib_in_use();
    churn(10_000);
    let grown = kib_in_use().saturating_sub(before);
    assert!(grown < 1024, "{grown} KiB more");
}

#[test]
fn five_hundred_lowers_work() {
    let mut builder = Union::builder();
    for index in 0..500 {
        builder = builder.lower(|b| {
            b.file(&format!("only{index}"), index.to_string())
                .file("in_all", index.to_string())
                .file(&format!("d/{index}"), "")
        });
    }
    let union = builder.mount();
    assert_eq!(text(union.at("in_all")), "0");
    assert_eq!(text(union.at("only0")), "0");
    assert_eq!(text(union.at("only499")), "499");
    assert_eq!(names(union.at("d")).len(), 500);
    overwrite(union.at("only499"), 0, "now");
    assert_eq!(text(union.upper("only499")), "now");
    fs::remove_file(union.at("d/250")).unwrap();
    assert_eq!(names(union.at("d")).len(), 499);
}

/// Open files may be limited to far less than there are inodes.
#[test]
fn more_files_than_descriptors_can_be_used() {
    let union = Union::builder()
        .setup("ulimit -n 4096")
        .lower(|mut b| {
            for index in 0..5000 {
                b = b.file(&format!("d{}/{index}", index % 50), index.to_string());
            }
            b
        })
        .mount();
    for index in 0..5000 {
        let path = union.at(format!("d{}/{index}", index % 50));
        assert_eq!(text(&path), index.to_string());
        if index % 10 == 0 {
            overwrite(&path, 0, "W");
        }
    }
    assert!(text(union.at("d0/0")).starts_with('W'));
}
