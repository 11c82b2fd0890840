//! The workdir: what is not plyfs' own stays as it is, what is of another upper is not used, and what the last version
//! kept is taken over.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::common::{Branch, Union, exists, mode, names, overwrite, stat, temp_dir, text};

fn two_names(b: Branch) -> Branch {
    b.file("a", "lower").link("a", "b")
}

/// S4: somebody's, though they are called as plyfs' own once were.
#[test]
fn foreign_files_and_directories_are_left_alone() {
    type Fill = fn(Branch) -> Branch;
    let foreign: [(&str, Fill); 7] = [
        ("files", |b| {
            b.file("index", "of a book\n").file("links", "to pages\n").file("stage", "of a play\n")
        }),
        ("directories", |b| b.file("index/a", "A").file("links/a", "A").file("stage/a", "A")),
        ("empty directories", |b| b.dir("index").dir("links").dir("stage")),
        ("symlinks", |b| b.symlink("index", "/etc").symlink("links", "/etc").symlink("stage", "/etc")),
        ("an empty file", |b| b.file("index", "")),
        ("lines that only resemble notes", |b| b.file("index", "O 1 2\nTo be, or not to be\n").dir("links")),
        ("others", |b| b.file("work/inside", "of overlayfs").file("lock", "").file("format", "")),
    ];
    for (what, fill) in foreign {
        let mut union = Union::builder().work(fill).lower(two_names).mount();
        overwrite(union.at("a"), 0, "UP");
        for round in ["at once", "after a remount"] {
            assert_eq!(["a", "b"].map(|name| text(union.at(name))), ["UPwer"; 2], "{what}, {round}");
            union.remount();
        }
        // That they are as they were is what the ending looks at.
    }
}

#[test]
fn what_is_kept_is_in_one_directory_for_its_owner_only() {
    let mut union = Union::over(|b| two_names(b).file("f", "lower"));
    overwrite(union.at("a"), 0, "UP");
    overwrite(union.at("f"), 0, "UP");
    for round in ["while it is mounted", "after a clean end", "after a crash"] {
        assert_eq!(names(union.work("")), ["plyfs"], "{round}");
        assert_eq!(mode(union.work("plyfs")), 0o700, "{round}");
        assert_eq!(stat(union.work("plyfs")).uid(), rustix::process::geteuid().as_raw(), "{round}");
        match round {
            "while it is mounted" => union.remount(),
            _ => union.crash_and_remount(),
        }
    }
}

/// Somebody else's directory of that name is not taken for our own.
#[test]
fn a_directory_of_others_is_not_used_as_our_own() {
    crate::common::needs_root!("another user");
    let upper = temp_dir();
    let (dirs, lower) = (["upper", "work", "mnt", "lower"], upper.path().join("lower"));
    dirs.iter().for_each(|dir| fs::create_dir(upper.path().join(dir)).unwrap());
    Branch::at(&lower).file("f", "lower");
    Branch::at(upper.path().join("work")).dir("plyfs").owner(
        "plyfs",
        crate::common::ALICE,
        crate::common::ALICE,
    );
    let error = crate::common::sh_refused(
        upper.path(),
        "plyfs -o lowerdir=lower,upperdir=upper,workdir=work mnt && umount mnt",
    );
    assert!(error.contains("plyfs"), "{error}");
    assert!(names(upper.path().join("work/plyfs")).is_empty());
}

/// Row 2.
#[test]
fn the_notes_of_another_upper_are_not_used() {
    let mut union = Union::over(|b| two_names(b).file("f", "lower"));
    let number = stat(union.at("f")).ino();
    overwrite(union.at("a"), 0, "SECRET");
    overwrite(union.at("f"), 0, "SECRET");
    union.unmount();
    let first = union.upper("").with_file_name("first_upper");
    fs::rename(union.upper(""), &first).unwrap();
    fs::create_dir(union.upper("")).unwrap();
    union.mount();
    for round in ["at once", "after a remount"] {
        assert_eq!(["a", "b", "f"].map(|name| text(union.at(name))), ["lower"; 3], "{round}");
        assert_eq!(["a", "b"].map(|name| stat(union.at(name)).nlink()), [2; 2], "{round}");
        assert_eq!(stat(union.at("f")).ino(), number, "{round}");
        union.remount();
    }
    overwrite(union.at("b"), 0, "OTHER");
    for round in ["at once", "after a remount"] {
        assert_eq!(["a", "b"].map(|name| text(union.at(name))), ["OTHER"; 2], "{round}");
        union.remount();
    }
    assert_eq!(text(first.join("a")), "SECRET", "the first upper is as it was");
}

/// The upper is the same directory, but somebody has removed files from it and made others.
#[test]
fn an_upper_that_lost_files_between_two_mounts_takes_no_new_file_for_an_old_one() {
    let mut union = Union::over(|b| two_names(b).file("f", "lower"));
    overwrite(union.at("a"), 0, "SECRET");
    overwrite(union.at("f"), 0, "SECRET");
    union.unmount();
    for name in ["a", "f"] {
        fs::remove_file(union.upper(name)).unwrap();
    }
    // The next file may well get the number that one of them had.
    fs::write(union.upper("new"), "new").unwrap();
    union.mount_as_changed();
    for round in ["at once", "after a remount"] {
        assert_eq!(text(union.at("f")) + &text(union.at("new")), "lowernew", "{round}");
        let numbers: Vec<_> = ["a", "f", "new"].iter().map(|name| stat(union.at(name)).ino()).collect();
        assert!(numbers[1] != numbers[2] && numbers[0] != numbers[2], "{round}: {numbers:?}");
        assert_eq!(text(union.at("a")), text(union.at("b")), "one file, {round}");
        union.remount();
    }
}

/// A workdir as version 0.1 left it: `index`, lines of text, and `links`, hard links to copies.
struct OldWorkdir<'a> {
    upper: &'a Path,
    work: &'a Path,
    index: String,
}

impl<'a> OldWorkdir<'a> {
    fn of(upper: &'a Path, work: &'a Path) -> Self {
        fs::create_dir(work.join("links")).unwrap();
        Self { upper, work, index: String::new() }
    }

    /// A copy in the upper that shows the number of its original.
    fn copied(mut self, name: &str, lower: &Path) -> Self {
        let (copy, original) = (stat(self.upper.join(name)).ino(), stat(lower).ino());
        self.index += &format!("O {copy} {original}\n");
        self
    }

    /// The copy of a file with several lower names, so many of which the upper does not hold.
    fn linked(mut self, name: &str, lower: &Path, remaining: u32) -> Self {
        let original = stat(lower);
        let (number, seconds, nanos) = (original.ino(), original.ctime(), original.ctime_nsec());
        let link = self.work.join(format!("links/{number}.{seconds}.{nanos}"));
        fs::hard_link(self.upper.join(name), link).unwrap();
        self.index += &format!("L {number} {remaining} {seconds} {nanos}\n");
        self.copied(name, lower)
    }

    fn write(self) {
        fs::write(self.work.join("index"), self.index).unwrap();
    }
}

#[test]
fn a_workdir_of_the_last_version_is_taken_over() {
    let mut union = Union::over(|b| {
        b.file("a", "lower")
            .link("a", "b")
            .link("a", "d/c")
            .file("f", "lower")
            .file("x", "gone")
            .link("x", "y")
    });
    let numbers = |union: &Union| ["a", "b", "d/c", "f", "y"].map(|name| stat(union.at(name)).ino());
    let before = numbers(&union);
    union.start_over();
    union.unmount();
    let (upper, work, lower) = (union.upper(""), union.work(""), union.lower_path(0));
    // An empty mount may have left its own there.
    names(&work).iter().for_each(|name| fs::remove_dir_all(work.join(name)).unwrap());
    for (name, content) in [("a", "WRITTEN"), ("f", "UPPER"), ("x", "LAST")] {
        fs::write(upper.join(name), content).unwrap();
    }
    OldWorkdir::of(&upper, &work)
        .linked("a", &lower.join("a"), 2)
        .copied("f", &lower.join("f"))
        .linked("x", &lower.join("x"), 1)
        .write();
    // The last name in the upper is gone: what is in `links` is all that is left of it.
    fs::remove_file(upper.join("x")).unwrap();
    fs::write(upper.join(".wh.x"), "").unwrap();
    let upper_before = names(&upper);
    union.mount();
    for round in ["at once", "after a remount", "after another"] {
        for name in ["a", "b", "d/c"] {
            assert_eq!(text(union.at(name)), "WRITTEN", "{name} {round}");
            assert_eq!(stat(union.at(name)).nlink(), 3, "{name} {round}");
        }
        assert_eq!(text(union.at("y")), "LAST", "{round}");
        assert!(!exists(union.at("x")), "{round}");
        assert_eq!(text(union.at("f")), "UPPER", "{round}");
        assert_eq!(numbers(&union), before, "{round}");
        assert_eq!(names(&upper), upper_before, "{round}");
        assert_eq!(names(&work), ["plyfs"], "{round}");
        union.remount();
    }
    overwrite(union.at("d/c"), 0, "AGAIN");
    assert_eq!(text(union.at("a")), "AGAINEN");
    union.remount_as_changed();
}

/// The same where the last daemon was killed: what it staged is nobody's, and the end of its notes is torn.
#[test]
fn what_a_killed_daemon_of_the_last_version_left_is_taken_over() {
    let mut union = Union::over(|b| two_names(b).file("f", "lower"));
    let number = stat(union.at("f")).ino();
    union.start_over();
    union.unmount();
    let (upper, work, lower) = (union.upper(""), union.work(""), union.lower_path(0));
    names(&work).iter().for_each(|name| fs::remove_dir_all(work.join(name)).unwrap());
    for (name, content) in [("a", "WRITTEN"), ("f", "UPPER")] {
        fs::write(upper.join(name), content).unwrap();
    }
    OldWorkdir::of(&upper, &work).linked("a", &lower.join("a"), 1).copied("f", &lower.join("f")).write();
    let mut index = fs::read(work.join("index")).unwrap();
    index.extend(b"O 77");
    fs::write(work.join("index"), index).unwrap();
    fs::create_dir(work.join("stage")).unwrap();
    File::create(work.join("stage/0")).unwrap();
    union.mount();
    for round in ["at once", "after a remount"] {
        assert_eq!(["a", "b"].map(|name| text(union.at(name))), ["WRITTEN"; 2], "{round}");
        assert_eq!(stat(union.at("f")).ino(), number, "{round}");
        union.remount();
    }
    union.remount_as_changed();
}

/// By the mount that begins, and not by the one that ends: after an unmount the workdir may be removed at once.
#[test]
fn a_log_that_says_little_is_written_anew_by_the_next_mount() {
    let many = |mut b: Branch| {
        for i in 0..300 {
            b = b.file(&i.to_string(), "text");
        }
        b.file("kept", "text")
    };
    let mut union = Union::over(many);
    let number = stat(union.at("kept")).ino();
    overwrite(union.at("kept"), 0, "TEXT");
    for i in 0..300 {
        overwrite(union.at(i.to_string()), 0, "TEXT");
        fs::remove_file(union.at(i.to_string())).unwrap();
    }
    let lines = |union: &Union| text(union.kept("index")).lines().count();
    union.unmount();
    assert!(lines(&union) > 600, "{}", lines(&union));
    for _ in 0..2 {
        union.mount();
        assert_eq!(lines(&union), 1);
        assert_eq!(stat(union.at("kept")).ino(), number);
        union.unmount();
    }
    union.mount();
}
