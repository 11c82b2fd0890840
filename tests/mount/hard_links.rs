//! Hard links in a lower: several names, one file, before and after the first write.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use rustix::process::Signal;

use crate::common::{Branch, Union, exists, mode, names, overwrite, sh, stat, text};

fn three_names(b: Branch) -> Branch {
    b.file("a", "lower").link("a", "b").link("a", "d/c")
}

const NAMES: [&str; 3] = ["a", "b", "d/c"];

#[test]
fn the_names_are_one_inode_with_the_right_link_count() {
    let union = Union::over(three_names);
    let number = stat(union.at("a")).ino();
    for name in NAMES {
        assert_eq!(stat(union.at(name)).ino(), number, "{name}");
        assert_eq!(stat(union.at(name)).nlink(), 3, "{name}");
    }
}

#[test]
fn a_write_by_any_name_is_seen_by_all() {
    for writer in NAMES {
        let mut union = Union::over(three_names);
        let number = stat(union.at(writer)).ino();
        overwrite(union.at(writer), 0, "UP");
        for round in ["at once", "after a remount"] {
            for name in NAMES {
                assert_eq!(text(union.at(name)), "UPwer", "{writer} seen by {name} {round}");
                assert_eq!(stat(union.at(name)).ino(), number, "{writer}, {name} {round}");
                assert_eq!(stat(union.at(name)).nlink(), 3, "{writer}, {name} {round}");
            }
            union.remount();
        }
        assert_eq!(text(union.upper(writer)), "UPwer", "the name that was written to");
    }
}

/// A crash may take the notes in the workdir along, but not what was written.
#[test]
fn what_was_written_outlives_the_notes() {
    let mut union = Union::over(three_names);
    overwrite(union.at("a"), 0, "UP");
    fs::remove_file(union.at("a")).unwrap();
    union.end_by(Signal::TERM);
    fs::remove_file(union.kept("index")).unwrap();
    union.mount();
    for name in ["b", "d/c"] {
        assert_eq!(text(union.at(name)), "UPwer", "{name}");
    }
}

#[test]
fn each_name_can_be_written_in_turn() {
    let mut union = Union::over(three_names);
    for (at, name) in NAMES.into_iter().enumerate() {
        overwrite(union.at(name), at as u64, "X");
        if at == 1 {
            union.remount();
        }
    }
    for name in NAMES {
        assert_eq!(text(union.at(name)), "XXXer", "{name}");
    }
}

#[test]
fn handles_by_different_names_share_the_file() {
    let union = Union::over(three_names);
    let reading = File::open(union.at("a")).unwrap();
    let mut writing = File::options().append(true).open(union.at("d/c")).unwrap();
    writing.write_all(b" upper").unwrap();
    assert_eq!(std::io::read_to_string(reading).unwrap(), "lower upper");
    let mut other = File::options().append(true).open(union.at("b")).unwrap();
    other.write_all(b" again").unwrap();
    assert_eq!(text(union.at("a")), "lower upper again");
}

#[test]
fn removing_one_name_leaves_the_others() {
    let mut union = Union::over(three_names);
    fs::remove_file(union.at("a")).unwrap();
    for round in ["at once", "after a remount"] {
        for name in ["b", "d/c"] {
            assert_eq!(text(union.at(name)), "lower", "{name} {round}");
            assert_eq!(stat(union.at(name)).nlink(), 2, "{name} {round}");
        }
        assert!(!exists(union.at("a")));
        union.remount();
    }
    overwrite(union.at("b"), 0, "UP");
    assert_eq!(text(union.at("d/c")), "UPwer");
}

#[test]
fn removing_the_name_that_was_written_leaves_its_data_to_the_others() {
    let mut union = Union::over(three_names);
    overwrite(union.at("a"), 0, "UP");
    fs::remove_file(union.at("a")).unwrap();
    for round in ["at once", "after a remount"] {
        assert!(!exists(union.at("a")), "{round}");
        for name in ["b", "d/c"] {
            assert_eq!(text(union.at(name)), "UPwer", "{name} {round}");
            assert_eq!(stat(union.at(name)).nlink(), 2, "{name} {round}");
        }
        union.remount();
    }
}

#[test]
fn renaming_a_name_keeps_it_one_file_with_the_others() {
    let mut union = Union::over(three_names);
    let number = stat(union.at("a")).ino();
    fs::rename(union.at("a"), union.at("d/moved")).unwrap();
    overwrite(union.at("b"), 0, "UP");
    for round in ["at once", "after a remount"] {
        for name in ["d/moved", "b", "d/c"] {
            assert_eq!(text(union.at(name)), "UPwer", "{name} {round}");
            assert_eq!(stat(union.at(name)).ino(), number, "{name} {round}");
            assert_eq!(stat(union.at(name)).nlink(), 3, "{name} {round}");
        }
        assert_eq!(names(union.root()), ["b", "d"], "{round}");
        union.remount();
    }
}

#[test]
fn renaming_over_a_name_cuts_only_that_name_off() {
    let mut union = Union::over(|b| three_names(b).file("other", "other"));
    overwrite(union.at("a"), 0, "UP");
    fs::rename(union.at("other"), union.at("b")).unwrap();
    for _ in 0..2 {
        assert_eq!(text(union.at("b")), "other");
        assert_eq!(text(union.at("a")), "UPwer");
        assert_eq!(text(union.at("d/c")), "UPwer");
        assert_eq!(stat(union.at("a")).nlink(), 2);
        union.remount();
    }
}

#[test]
fn a_name_that_was_deleted_and_made_anew_is_a_file_of_its_own() {
    let mut union = Union::over(three_names);
    fs::remove_file(union.at("b")).unwrap();
    fs::write(union.at("b"), "own").unwrap();
    overwrite(union.at("a"), 0, "UP");
    for _ in 0..2 {
        assert_eq!(text(union.at("b")), "own");
        assert_eq!(text(union.at("d/c")), "UPwer");
        assert_ne!(stat(union.at("a")).ino(), stat(union.at("b")).ino());
        assert_eq!(stat(union.at("a")).nlink(), 2);
        assert_eq!(stat(union.at("b")).nlink(), 1);
        union.remount();
    }
}

#[test]
fn a_fourth_name_joins_the_three() {
    let mut union = Union::over(three_names);
    fs::hard_link(union.at("b"), union.at("fourth")).unwrap();
    overwrite(union.at("d/c"), 0, "UP");
    for _ in 0..2 {
        for name in ["a", "b", "d/c", "fourth"] {
            assert_eq!(text(union.at(name)), "UPwer", "{name}");
            assert_eq!(stat(union.at(name)).nlink(), 4, "{name}");
        }
        union.remount();
    }
}

#[test]
fn attributes_belong_to_the_file_not_to_a_name() {
    let mut union = Union::over(three_names);
    fs::set_permissions(union.at("d/c"), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    for _ in 0..2 {
        for name in NAMES {
            assert_eq!(mode(union.at(name)), 0o640, "{name}");
        }
        union.remount();
    }
}

#[test]
fn truncation_by_one_name_empties_all() {
    let mut union = Union::over(three_names);
    fs::write(union.at("b"), "").unwrap();
    for _ in 0..2 {
        for name in NAMES {
            assert_eq!(text(union.at(name)), "", "{name}");
        }
        union.remount();
    }
}

#[test]
fn removing_all_names_removes_the_file() {
    let mut union = Union::over(three_names);
    overwrite(union.at("b"), 0, "UP");
    let held = File::open(union.at("a")).unwrap();
    for name in NAMES {
        fs::remove_file(union.at(name)).unwrap();
    }
    assert_eq!(held.metadata().unwrap().nlink(), 0);
    assert_eq!(std::io::read_to_string(&held).unwrap(), "UPwer");
    drop(held);
    assert_eq!(union.in_upper(), [".wh.a", ".wh.b", "d", "d/.wh.c"]);
    union.remount();
    assert_eq!(names(union.root()), ["d"]);
}

#[test]
fn links_of_different_files_in_different_lowers_are_kept_apart() {
    let mut union = Union::builder()
        .lower(|b| b.file("a", "top").link("a", "b"))
        .lower(|b| b.file("b", "bottom").link("b", "c"))
        .mount();
    overwrite(union.at("a"), 0, "T");
    overwrite(union.at("c"), 0, "B");
    for _ in 0..2 {
        let seen = ["a", "b", "c"].map(|name| text(union.at(name)));
        assert_eq!(seen, ["Top", "Top", "Bottom"]);
        union.remount();
    }
}

/// As tar and cp find them.
#[test]
fn tools_that_look_for_links_find_them() {
    let union = Union::over(three_names);
    overwrite(union.at("a"), 0, "UP");
    let out = crate::common::temp_dir();
    sh(union.root(), &format!("cp -a . {}", out.path().display()));
    let copies = NAMES.map(|name| stat(out.path().join(name)).ino());
    assert!(copies.iter().all(|number| *number == copies[0]));
}

#[test]
fn a_moved_directory_keeps_the_links_that_lead_out_of_it() {
    let mut union = Union::over(three_names);
    let number = stat(union.at("a")).ino();
    fs::rename(union.at("d"), union.at("e")).unwrap();
    overwrite(union.at("b"), 0, "UP");
    for _ in 0..2 {
        for name in ["a", "b", "e/c"] {
            assert_eq!(text(union.at(name)), "UPwer", "{name}");
            assert_eq!((stat(union.at(name)).ino(), stat(union.at(name)).nlink()), (number, 3), "{name}");
        }
        union.remount();
    }
}

#[test]
fn a_removed_directory_takes_only_its_own_name_along() {
    let mut union = Union::over(three_names);
    fs::remove_dir_all(union.at("d")).unwrap();
    overwrite(union.at("a"), 0, "UP");
    for _ in 0..2 {
        assert_eq!(text(union.at("b")), "UPwer");
        assert_eq!(stat(union.at("b")).nlink(), 2);
        union.remount();
    }
}

#[test]
fn a_handle_on_a_removed_name_writes_for_the_others() {
    let mut union = Union::over(three_names);
    let mut handle = File::options().append(true).open(union.at("a")).unwrap();
    fs::remove_file(union.at("a")).unwrap();
    handle.write_all(b" upper").unwrap();
    assert_eq!(handle.metadata().unwrap().nlink(), 2);
    drop(handle);
    for _ in 0..2 {
        assert_eq!(text(union.at("b")), "lower upper");
        assert_eq!(text(union.at("d/c")), "lower upper");
        assert_eq!(names(union.root()), ["b", "d"]);
        union.remount();
    }
}

/// Deduplicated layers: two branches that hold names of one inode.
#[test]
fn a_file_with_names_in_two_lowers_is_found_by_each_of_them() {
    let union =
        Union::builder().lower(|b| b.file("a", "one file")).lower(|b| b.link("../lower0/a", "b")).mount();
    let number = stat(union.at("a")).ino();
    assert_eq!(stat(union.at("b")).ino(), number);
    assert_eq!((text(union.at("a")), text(union.at("b"))), ("one file".to_owned(), "one file".to_owned()));
    let reading = File::open(union.at("a")).unwrap();
    fs::remove_file(union.at("b")).unwrap();
    assert_eq!(std::io::read_to_string(reading).unwrap(), "one file");
    overwrite(union.at("a"), 0, "ONE");
    assert_eq!(text(union.at("a")), "ONE file");
}
