//! What was put in the place of something else past the mount is neither acted on with root's rights nor shown for what
//! it replaced.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::io::Errno;

use crate::common::{
    ALICE, BOB, Branch, Union, as_user, exists, mode, names, needs_root, refused, sh, stat, text,
};

fn home(b: Branch) -> Branch {
    b.dir("home").owner("home", ALICE, ALICE)
}

/// The directory's part in a lower stays the same, its part in the upper is another one.
#[test]
fn a_merged_directory_whose_part_in_the_upper_was_exchanged_is_another_directory() {
    needs_root!("another user");
    let fill = |b: Branch| home(b).dir("home/d").mode("home/d", 0o700);
    let mut union = Union::builder().option("allow_other").upper(home).lower(fill).mount();
    fs::write(union.at("home/d/secret"), "root's").unwrap();
    as_user(ALICE, || {
        assert!(File::open(union.at("home/d")).is_err());
        fs::rename(union.upper("home/d"), union.upper("home/aside")).unwrap();
        fs::create_dir(union.upper("home/d")).unwrap();
        names(union.at("home"));
        drop(fs::set_permissions(union.at("home/d"), Permissions::from_mode(0o2777)));
        drop(fs::write(union.at("home/d/evil"), "evil"));
        drop(fs::remove_file(union.at("home/d/secret")));
        assert!(fs::read(union.at("home/d/secret")).is_err());
    });
    assert_eq!(mode(union.upper("home/aside")), 0o700);
    assert_eq!(names(union.upper("home/aside")), ["secret"]);
    union.remount_as_changed();
}

/// The kernel has checked the entry that it knows, not the one that has the name by now.
#[test]
fn only_what_was_looked_up_is_moved_or_removed() {
    needs_root!("other users");
    let mut union = Union::builder()
        .option("allow_other")
        .upper(|b| {
            let b = home(b).dir("home2").owner("home2", ALICE, ALICE).dir("home/roots");
            b.dir("tmp").mode("tmp", 0o1777)
        })
        .lower(|b| b)
        .mount();
    as_user(ALICE, || {
        fs::create_dir(union.at("home/x")).unwrap();
        assert!(stat(union.at("home/x")).is_dir());
        fs::rename(union.upper("home/x"), union.upper("home/y")).unwrap();
        fs::rename(union.upper("home/roots"), union.upper("home/x")).unwrap();
        refused(fs::rename(union.at("home/x"), union.at("home2/x")), Errno::ACCESS);
        fs::write(union.at("tmp/f"), "hers").unwrap();
        fs::remove_file(union.upper("tmp/f")).unwrap();
    });
    as_user(BOB, || fs::write(union.upper("tmp/f"), "his").unwrap());
    as_user(ALICE, || {
        refused(fs::rename(union.at("tmp/f"), union.at("home/stolen")), Errno::PERM);
        refused(fs::remove_file(union.at("tmp/f")), Errno::PERM);
    });
    assert_eq!(text(union.upper("tmp/f")), "his");
    assert!(!exists(union.upper("home2/x")));
    union.remount_as_changed();
}

/// A name that begins as AUFS' own do hides what is in it, and is no permission to remove that.
#[test]
fn what_lies_in_a_reserved_directory_is_not_removed_with_the_directory_around_it() {
    needs_root!("another user");
    let fill = |b: Branch| {
        let b = home(b).dir("home/p").owner("home/p", ALICE, ALICE);
        b.file("home/p/roots/f", "root's").mode("home/p/roots", 0o700)
    };
    let mut union = Union::builder().option("allow_other").upper(fill).lower(|b| b).mount();
    as_user(ALICE, || {
        fs::rename(union.upper("home/p/roots"), union.upper("home/p/.wh..wh.x")).unwrap();
        refused(fs::remove_dir(union.at("home/p")), Errno::NOTEMPTY);
    });
    assert_eq!(text(union.upper("home/p/.wh..wh.x/f")), "root's");
    union.remount_as_changed();
}

/// Whoever is shown as a program's owner does not lend it his rights.
#[test]
fn owners_that_are_shown_as_others_give_no_program_their_rights() {
    needs_root!("another user");
    for options in ["squash_to_root", "uidmapping=54321:0:1"] {
        let fill = |b: Branch| {
            let b = home(b);
            fs::copy("/usr/bin/id", b.root().join("home/id")).unwrap();
            b.owner("home/id", ALICE, ALICE).mode("home/id", 0o4755)
        };
        let mut union = Union::builder().option("allow_other").option(options).lower(fill).mount();
        let id = Command::new("setpriv")
            .args(["--reuid", "12345", "--regid", "12345", "--clear-groups"])
            .arg(union.at("home/id"))
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&id.stdout).into_owned();
        assert!(id.status.success() && !told.contains("euid=0"), "{options}: {told}");
        sh(union.root(), "touch home/id");
        let copy = stat(union.upper("home/id"));
        let runs_as_root =
            std::os::unix::fs::MetadataExt::uid(&copy) == 0 && copy.permissions().mode() & 0o4000 != 0;
        assert!(!runs_as_root, "{options}");
        union.remount_as_changed();
    }
}

/// A file that is read for the first time is opened at once: neither what stands still nor what does something upon
/// being opened may be in its place.
#[test]
fn what_has_taken_a_files_place_is_not_opened_for_it() {
    let substitutes = [
        ("a FIFO", "mkfifo NAME"),
        ("a symbolic link", "ln -s other NAME"),
        (
            "a socket",
            "perl -MSocket -e 'socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un(\"NAME\")) or die'",
        ),
        ("a directory", "mkdir NAME"),
        ("another file", "cp other NAME"),
    ];
    for (what, make) in substitutes {
        let mut union = Union::builder().lower(|b| b.file("f", "text").file("other", "secret")).mount();
        let file = File::open(union.at("f")).unwrap();
        let branch = union.lower_path(0);
        // Kept, so that its number is nobody else's.
        fs::rename(branch.join("f"), branch.join("kept")).unwrap();
        sh(&branch, &make.replace("NAME", "f"));
        let mut buffer = [0; 8];
        let read = (&file).read(&mut buffer);
        assert_eq!(read.map_err(|e| e.raw_os_error()), Err(Some(Errno::STALE.raw_os_error())), "{what}");
        drop(file);
        union.remount_as_changed();
    }
}
