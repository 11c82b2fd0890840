//! rename: whatever moves, from whichever branch, moves as on one disk.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::common::{Branch, Union, exists, mode, mtime, names, needs_root, overwrite, refused, stat, text};

fn rename_with(union: &Union, old: &str, new: &str, flags: RenameFlags) -> Result<(), Errno> {
    renameat_with(CWD, union.at(old), CWD, union.at(new), flags)
}

fn rename(union: &Union, old: &str, new: &str) {
    fs::rename(union.at(old), union.at(new)).unwrap_or_else(|e| panic!("mv {old} {new}: {e}"));
}

/// Which branches hold a name, to play a case in all of them.
const PLACES: [(&str, bool, bool); 3] =
    [("upper", true, false), ("lower", false, true), ("both", true, true)];

/// Two branches, each filled or not.
fn in_branches(upper: bool, lower: bool, fill: impl Fn(Branch) -> Branch) -> Union {
    let keep = |wanted: bool, b: Branch| if wanted { fill(b) } else { b };
    Union::builder().upper(|b| keep(upper, b)).lower(|b| keep(lower, b.dir("elsewhere"))).mount()
}

mod of_files {
    use super::*;

    #[test]
    fn a_file_of_any_branch_moves_to_a_free_name() {
        for (place, upper, lower) in PLACES {
            for target in ["new", "elsewhere/new"] {
                let mut union = in_branches(upper, lower, |b| b.file("f", "text"));
                rename(&union, "f", target);
                for round in ["at once", "after a remount"] {
                    assert!(!exists(union.at("f")), "{place} {target} {round}");
                    assert_eq!(text(union.at(target)), "text", "{place} {target} {round}");
                    union.remount();
                }
                assert_eq!(exists(union.upper(".wh.f")), lower, "{place}");
            }
        }
    }

    #[test]
    fn a_file_of_any_branch_replaces_a_file_of_any_branch() {
        for (from, from_upper, from_lower) in PLACES {
            for (onto, onto_upper, onto_lower) in PLACES {
                let fill = |source, target| {
                    move |b: Branch| {
                        let b = if source { b.file("f", "moved") } else { b };
                        if target { b.file("elsewhere/g", "replaced") } else { b }
                    }
                };
                let mut union = Union::builder()
                    .upper(fill(from_upper, onto_upper))
                    .lower(fill(from_lower, onto_lower))
                    .mount();
                rename(&union, "f", "elsewhere/g");
                for round in ["at once", "after a remount"] {
                    assert!(!exists(union.at("f")), "{from} onto {onto} {round}");
                    assert_eq!(text(union.at("elsewhere/g")), "moved", "{from} onto {onto} {round}");
                    union.remount();
                }
                fs::remove_file(union.at("elsewhere/g")).unwrap();
                assert!(!exists(union.at("elsewhere/g")), "{from} onto {onto}");
            }
        }
    }

    #[test]
    fn a_file_moved_away_and_back_is_there() {
        let mut union = Union::over(|b| b.file("f", "text"));
        rename(&union, "f", "g");
        rename(&union, "g", "f");
        assert_eq!(union.in_upper(), ["f"]);
        union.remount();
        assert_eq!(names(union.root()), ["f"]);
        assert_eq!(text(union.at("f")), "text");
    }

    #[test]
    fn a_moved_file_keeps_its_number_and_all_its_attributes() {
        let union = Union::over(|b| {
            b.file("f", "text")
                .mode("f", 0o2751)
                .xattr("f", "user.note", "kept")
                .mtime("f", 1_000_000_000, 123_456_789)
                .dir("elsewhere")
        });
        let before = stat(union.at("f"));
        rename(&union, "f", "elsewhere/g");
        let after = stat(union.at("elsewhere/g"));
        assert_eq!(before.ino(), after.ino());
        assert_eq!(mode(union.at("elsewhere/g")), 0o2751);
        assert_eq!(mtime(union.at("elsewhere/g")), (1_000_000_000, 123_456_789));
        let mut value = [0; 16];
        let len = rustix::fs::getxattr(union.at("elsewhere/g"), "user.note", &mut value).unwrap();
        assert_eq!(&value[..len], b"kept");
    }

    #[test]
    fn an_open_handle_follows_the_file() {
        let union = Union::over(|b| b.file("f", "lower"));
        let mut handle = File::options().append(true).open(union.at("f")).unwrap();
        rename(&union, "f", "g");
        handle.write_all(b" and more").unwrap();
        assert_eq!(text(union.at("g")), "lower and more");
        assert!(!exists(union.at("f")));
        assert_eq!(union.in_upper(), [".wh.f", "g"]);
    }

    #[test]
    fn a_file_moves_over_a_deleted_name_and_its_marker_goes() {
        let mut union = Union::over(|b| b.file("f", "f").file("g", "g").file("d/child", ""));
        fs::remove_file(union.at("g")).unwrap();
        rename(&union, "f", "g");
        fs::remove_dir_all(union.at("d")).unwrap();
        rename(&union, "g", "d");
        assert_eq!(union.in_upper(), [".wh.f", ".wh.g", "d"]);
        union.remount();
        assert_eq!(text(union.at("d")), "f");
    }

    #[test]
    fn every_kind_of_lower_entry_moves() {
        let mut union = Union::over(|b| b.symlink("s", "target").fifo("p").mtime("s", 1_000_000_000, 7));
        rename(&union, "s", "s2");
        rename(&union, "p", "p2");
        union.remount();
        assert_eq!(names(union.root()), ["p2", "s2"]);
        assert_eq!(fs::read_link(union.at("s2")).unwrap(), Path::new("target"));
        assert_eq!(mtime(union.at("s2")), (1_000_000_000, 7));
    }

    #[test]
    fn two_names_of_one_file_renamed_onto_each_other_both_stay() {
        let union = Union::over(|b| b.file("a", "text").link("a", "b"));
        rename(&union, "a", "b");
        assert_eq!(names(union.root()), ["a", "b"]);
        rename(&union, "a", "a");
        assert_eq!(names(union.root()), ["a", "b"]);
    }

    #[test]
    fn a_lower_name_too_long_for_a_marker_stays_where_it_is() {
        let name = "f".repeat(252);
        let union = Union::over(|b| b.file(&name, "x"));
        refused(fs::rename(union.at(&name), union.at("short")), Errno::NAMETOOLONG);
        assert_eq!(names(union.root()), [name.as_str()]);
        // To such a name is another matter: nothing there needs a marker.
        fs::write(union.at("short"), "mine").unwrap();
        let long = "g".repeat(255);
        rename(&union, "short", &long);
        rename(&union, &long, &name);
        assert_eq!(text(union.at(&name)), "mine");
    }

    /// As a writer that keeps its last version does it.
    #[test]
    fn a_chain_of_backups_keeps_each_version() {
        let mut union = Union::over(|b| b.file("f", "0").file("f.1", "-1"));
        for round in 1..4 {
            rename(&union, "f.1", "f.2");
            rename(&union, "f", "f.1");
            fs::write(union.at("f"), round.to_string()).unwrap();
        }
        union.remount();
        let versions = ["f", "f.1", "f.2"].map(|name| text(union.at(name)));
        assert_eq!(versions, ["3", "2", "1"]);
    }
}

mod of_directories {
    use super::*;

    fn tree(b: Branch) -> Branch {
        b.file("d/f", "text")
            .file("d/sub/deep/g", "deep")
            .symlink("d/s", "f")
            .dir("d/empty")
            .mode("d/empty", 0o700)
            .mtime("d/sub/deep", 1_000_000_000, 9)
    }

    #[test]
    fn a_directory_of_any_branch_moves_with_all_that_is_in_it() {
        for (place, upper, lower) in PLACES {
            for target in ["new", "elsewhere/new"] {
                let mut union = in_branches(upper, lower, tree);
                rename(&union, "d", target);
                for round in ["at once", "after a remount"] {
                    let case = format!("{place} {target} {round}");
                    let new = union.at(target);
                    assert!(!exists(union.at("d")), "{case}");
                    assert_eq!(names(&new), ["empty", "f", "s", "sub"], "{case}");
                    assert_eq!(text(new.join("sub/deep/g")), "deep", "{case}");
                    assert_eq!(text(new.join("s")), "text", "{case}");
                    assert_eq!(mode(new.join("empty")), 0o700, "{case}");
                    assert_eq!(mtime(new.join("sub/deep")), (1_000_000_000, 9), "{case}");
                    union.remount();
                }
                assert_eq!(exists(union.upper(".wh.d")), lower, "{place}");
                let opaque = union.upper(target).join(".wh..wh..opq");
                assert_eq!(exists(opaque), lower, "{place}");
            }
        }
    }

    #[test]
    fn a_merged_directory_moves_as_users_see_it() {
        let mut union = Union::builder()
            .upper(|b| b.file("d/both", "upper").file("d/upper", "").whiteout("d/deleted"))
            .lower(|b| b.file("d/both", "lower").file("d/deleted", "").file("d/sub/one", "1"))
            .lower(|b| b.file("d/sub/two", "2").file("d/bottom", "").file("d/deleted", ""))
            .mount();
        rename(&union, "d", "e");
        for _ in 0..2 {
            assert_eq!(names(union.at("e")), ["both", "bottom", "sub", "upper"]);
            assert_eq!(names(union.at("e/sub")), ["one", "two"]);
            assert_eq!(text(union.at("e/both")), "upper");
            assert!(!exists(union.at("d")));
            union.remount();
        }
    }

    #[test]
    fn a_moved_directory_is_free_of_its_old_place() {
        let mut union = Union::over(|b| b.file("d/f", "old").file("e/g", "hidden"));
        rename(&union, "d", "moved");
        fs::create_dir(union.at("d")).unwrap();
        fs::write(union.at("d/new"), "").unwrap();
        union.remount();
        assert_eq!(names(union.at("d")), ["new"]);
        assert_eq!(names(union.at("moved")), ["f"]);
        rename(&union, "d", "again");
        rename(&union, "moved", "d");
        union.remount();
        assert_eq!(names(union.at("d")), ["f"]);
        assert_eq!(names(union.at("again")), ["new"]);
    }

    #[test]
    fn moved_there_and_back_it_is_as_before() {
        let mut union = in_branches(false, true, tree);
        rename(&union, "d", "e");
        rename(&union, "e", "d");
        for _ in 0..2 {
            assert_eq!(names(union.at("d")), ["empty", "f", "s", "sub"]);
            assert_eq!(text(union.at("d/sub/deep/g")), "deep");
            assert!(!exists(union.upper(".wh.d")));
            union.remount();
        }
    }

    #[test]
    fn being_moved_is_no_modification() {
        let union = in_branches(false, true, |b| b.file("d/old", "lower"));
        fs::remove_dir_all(union.at("d")).unwrap();
        fs::create_dir(union.at("new")).unwrap();
        let time = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 7 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, union.at("new"), &times, rustix::fs::AtFlags::empty()).unwrap();
        rename(&union, "new", "d");
        assert_eq!(mtime(union.at("d")), (1_000_000_000, 7));
    }

    #[test]
    fn moved_onto_the_place_of_a_deleted_one_it_does_not_merge() {
        let mut union = Union::over(|b| b.file("d/old", "").file("lower/f", ""));
        fs::remove_dir_all(union.at("d")).unwrap();
        fs::create_dir(union.at("fresh")).unwrap();
        fs::write(union.at("fresh/new"), "").unwrap();
        rename(&union, "fresh", "d");
        for _ in 0..2 {
            assert_eq!(names(union.at("d")), ["new"]);
            union.remount();
        }
        fs::remove_dir_all(union.at("d")).unwrap();
        rename(&union, "lower", "d");
        for _ in 0..2 {
            assert_eq!(names(union.at("d")), ["f"]);
            union.remount();
        }
    }

    #[test]
    fn it_replaces_an_empty_directory_and_no_other() {
        for (place, upper, lower) in PLACES {
            let mut union = in_branches(upper, lower, |b| b.dir("empty").file("full/f", ""));
            fs::create_dir(union.at("d")).unwrap();
            fs::write(union.at("d/f"), "moved").unwrap();
            refused(fs::rename(union.at("d"), union.at("full")), Errno::NOTEMPTY);
            rename(&union, "d", "empty");
            for _ in 0..2 {
                assert_eq!(names(union.at("empty")), ["f"], "{place}");
                assert!(!exists(union.at("d")), "{place}");
                union.remount();
            }
            rename(&union, "empty", "elsewhere/d");
            assert!(!exists(union.at("empty")), "{place}");
        }
    }

    #[test]
    fn it_replaces_a_directory_that_was_emptied() {
        let mut union = Union::builder()
            .upper(|b| b.file("target/upper", ""))
            .lower(|b| b.file("target/lower", "").file("d/f", ""))
            .mount();
        fs::remove_file(union.at("target/upper")).unwrap();
        fs::remove_file(union.at("target/lower")).unwrap();
        rename(&union, "d", "target");
        for _ in 0..2 {
            assert_eq!(names(union.at("target")), ["f"]);
            union.remount();
        }
        assert!(!exists(union.upper("target/.wh.lower")));
    }

    #[test]
    fn what_rename_refuses_on_a_disk_it_refuses_here() {
        let union = Union::over(|b| b.file("f", "").file("d/child", "").dir("e"));
        let refuse = |old: &str, new: &str, errno| {
            refused(fs::rename(union.at(old), union.at(new)), errno);
        };
        refuse("d", "f", Errno::NOTDIR);
        refuse("f", "e", Errno::ISDIR);
        refuse("e", "d", Errno::NOTEMPTY);
        refuse("d", "d/sub", Errno::INVAL);
        refuse("missing", "new", Errno::NOENT);
        refuse("f", "missing/new", Errno::NOENT);
        assert!(union.in_upper().is_empty(), "a refusal has no side effect");
    }

    #[test]
    fn a_deleted_child_stays_deleted_in_the_moved_directory() {
        let mut union = Union::over(|b| b.file("d/a", "").file("d/sub/b", "").file("d/sub/c", ""));
        fs::remove_file(union.at("d/a")).unwrap();
        fs::remove_file(union.at("d/sub/b")).unwrap();
        rename(&union, "d", "e");
        for _ in 0..2 {
            assert_eq!(names(union.at("e")), ["sub"]);
            assert_eq!(names(union.at("e/sub")), ["c"]);
            union.remount();
        }
    }

    #[test]
    fn files_stay_usable_by_handles_from_before() {
        let union = Union::over(|b| b.file("d/sub/f", "lower"));
        let reading = File::open(union.at("d/sub/f")).unwrap();
        let mut writing = File::options().append(true).open(union.at("d/sub/f")).unwrap();
        rename(&union, "d", "e");
        writing.write_all(b" and more").unwrap();
        assert_eq!(text(union.at("e/sub/f")), "lower and more");
        assert_eq!(std::io::read_to_string(reading).unwrap(), "lower and more");
    }

    #[test]
    fn numbers_and_links_within_it_are_kept() {
        let mut union = Union::over(|b| b.file("d/a", "text").link("d/a", "d/b").dir("d/sub"));
        let before = ["d", "d/a", "d/b", "d/sub"].map(|path| stat(union.at(path)).ino());
        rename(&union, "d", "e");
        for _ in 0..2 {
            let after = ["e", "e/a", "e/b", "e/sub"].map(|path| stat(union.at(path)).ino());
            assert_eq!(before, after);
            union.remount();
        }
        overwrite(union.at("e/a"), 0, "T");
        assert_eq!(text(union.at("e/b")), "Text");
    }

    #[test]
    fn a_directory_of_thousands_moves_whole() {
        let union = Union::over(|mut b| {
            for index in 0..2000 {
                b = b.file(&format!("d/{}/{index}", index % 7), index.to_string());
            }
            b
        });
        rename(&union, "d", "e");
        let found: usize = (0..7).map(|i| names(union.at(format!("e/{i}"))).len()).sum();
        assert_eq!(found, 2000);
        assert_eq!(text(union.at("e/0/1400")), "1400");
    }

    #[test]
    fn a_lower_name_too_long_for_a_marker_stays_where_it_is() {
        let name = "d".repeat(255);
        let union = Union::over(|b| b.file(&format!("{name}/f"), "x"));
        refused(fs::rename(union.at(&name), union.at("e")), Errno::NAMETOOLONG);
        assert_eq!(names(union.root()), [name.as_str()]);
        assert_eq!(names(union.at(&name)), ["f"]);
    }
}

mod with_noreplace {
    use super::*;

    #[test]
    fn a_name_that_shows_is_refused() {
        let union = Union::builder()
            .upper(|b| b.file("f", "f").file("upper", ""))
            .lower(|b| b.file("lower", "").dir("dir"))
            .mount();
        for target in ["upper", "lower", "dir"] {
            refused(rename_with(&union, "f", target, RenameFlags::NOREPLACE), Errno::EXIST);
        }
        assert_eq!(text(union.at("f")), "f");
    }

    #[test]
    fn a_name_that_is_free_or_deleted_is_taken() {
        let mut union = Union::over(|b| b.file("f", "f").file("g", "g").file("d/child", ""));
        rename_with(&union, "f", "new", RenameFlags::NOREPLACE).unwrap();
        fs::remove_file(union.at("g")).unwrap();
        rename_with(&union, "new", "g", RenameFlags::NOREPLACE).unwrap();
        fs::remove_dir_all(union.at("d")).unwrap();
        rename_with(&union, "g", "d", RenameFlags::NOREPLACE).unwrap();
        union.remount();
        assert_eq!(names(union.root()), ["d"]);
        assert_eq!(text(union.at("d")), "f");
    }
}

mod with_exchange {
    use super::*;

    #[test]
    fn files_of_any_branches_change_places() {
        for (one, one_upper, one_lower) in PLACES {
            for (other, other_upper, other_lower) in PLACES {
                let fill = |first, second| {
                    move |b: Branch| {
                        let b = if first { b.file("a", "one") } else { b };
                        if second { b.file("d/b", "other") } else { b }
                    }
                };
                let mut union = Union::builder()
                    .upper(fill(one_upper, other_upper))
                    .lower(fill(one_lower, other_lower))
                    .mount();
                rename_with(&union, "a", "d/b", RenameFlags::EXCHANGE).unwrap();
                for _ in 0..2 {
                    assert_eq!(text(union.at("a")), "other", "{one} with {other}");
                    assert_eq!(text(union.at("d/b")), "one", "{one} with {other}");
                    union.remount();
                }
                fs::remove_file(union.at("a")).unwrap();
                assert!(!exists(union.at("a")), "{one} with {other}");
            }
        }
    }

    #[test]
    fn directories_change_places_and_merge_with_nothing() {
        let mut union = Union::builder()
            .upper(|b| b.file("a/upper", ""))
            .lower(|b| b.file("a/one", "").file("b/two", "").file("b/sub/x", ""))
            .mount();
        rename_with(&union, "a", "b", RenameFlags::EXCHANGE).unwrap();
        for _ in 0..2 {
            assert_eq!(names(union.at("a")), ["sub", "two"]);
            assert_eq!(names(union.at("b")), ["one", "upper"]);
            assert_eq!(names(union.at("a/sub")), ["x"]);
            union.remount();
        }
    }

    #[test]
    fn a_file_and_a_directory_change_places() {
        let mut union = Union::over(|b| b.file("f", "text").file("d/child", ""));
        rename_with(&union, "f", "d", RenameFlags::EXCHANGE).unwrap();
        for _ in 0..2 {
            assert_eq!(text(union.at("d")), "text");
            assert_eq!(names(union.at("f")), ["child"]);
            union.remount();
        }
        rename_with(&union, "f", "d", RenameFlags::EXCHANGE).unwrap();
        union.remount();
        assert_eq!(text(union.at("f")), "text");
        assert_eq!(names(union.at("d")), ["child"]);
    }

    #[test]
    fn both_must_exist() {
        let union = Union::over(|b| b.file("a", "").file("b", ""));
        refused(rename_with(&union, "a", "missing", RenameFlags::EXCHANGE), Errno::NOENT);
        refused(rename_with(&union, "missing", "a", RenameFlags::EXCHANGE), Errno::NOENT);
        fs::remove_file(union.at("b")).unwrap();
        refused(rename_with(&union, "a", "b", RenameFlags::EXCHANGE), Errno::NOENT);
    }

    #[test]
    fn numbers_change_places_with_the_entries() {
        let union = Union::over(|b| b.file("a", "").dir("b"));
        let before = (stat(union.at("a")).ino(), stat(union.at("b")).ino());
        rename_with(&union, "a", "b", RenameFlags::EXCHANGE).unwrap();
        assert_eq!((stat(union.at("b")).ino(), stat(union.at("a")).ino()), before);
    }
}

#[test]
fn leaving_a_whiteout_behind_is_refused() {
    let union = Union::over(|b| b.file("f", ""));
    refused(rename_with(&union, "f", "g", RenameFlags::WHITEOUT), Errno::INVAL);
    assert!(union.in_upper().is_empty());
}

#[test]
fn renames_that_cross_leave_one_of_the_two_outcomes() {
    let union = Union::over(|b| b.file("d/a", "").file("e/b", ""));
    for _ in 0..50 {
        std::thread::scope(|scope| {
            scope.spawn(|| fs::rename(union.at("d/a"), union.at("e/b")).ok());
            scope.spawn(|| fs::rename(union.at("e/b"), union.at("d/a")).ok());
        });
        let (a, b) = (exists(union.at("d/a")), exists(union.at("e/b")));
        assert!(a || b, "the file is lost");
        fs::write(union.at("d/a"), "").unwrap();
        fs::write(union.at("e/b"), "").unwrap();
    }
}

/// One directory in two places of a lower: only once in the upper, so it cannot be moved with both.
#[test]
fn a_directory_with_a_bind_mount_of_its_own_is_refused_and_nothing_hangs() {
    needs_root!("a bind mount");
    let union = Union::builder().lower(|b| b.file("d/x/f", "text").dir("d/y")).mount();
    let lower = union.lower_path(0);
    let (from, to) = (lower.join("d/x"), lower.join("d/y"));
    rustix::mount::mount_bind(&from, &to).unwrap();
    let renamed = fs::rename(union.at("d"), union.at("e"));
    rustix::mount::unmount(&to, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(renamed.unwrap_err().raw_os_error(), Some(Errno::BUSY.raw_os_error()));
    assert_eq!(text(union.at("d/x/f")), "text");
    assert!(union.in_upper().is_empty());
}
