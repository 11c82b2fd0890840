//! uidmapping, gidmapping, squash: users see other ids than the disk holds.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use crate::common::{ALICE, BOB, Union, needs_root, overwrite, sh, sh_refused, stat, text};

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let seen = stat(path);
    (seen.uid(), seen.gid())
}

#[test]
fn mapped_ids_are_shown_and_stored_back() {
    needs_root!("chown");
    let union = Union::builder()
        .option("uidmapping=0:0:1:54321:1000:1")
        .option("gidmapping=0:0:1:54321:2000:1")
        .lower(|b| b.file("f", "text").owner("f", ALICE, ALICE).file("roots", ""))
        .mount();
    assert_eq!(owner(union.at("f")), (1000, 2000));
    assert_eq!(owner(union.at("roots")), (0, 0));
    overwrite(union.at("f"), 0, "T");
    assert_eq!(owner(union.at("f")), (1000, 2000));
    assert_eq!(owner(union.upper("f")), (ALICE, ALICE));
    chown(union.at("roots"), Some(1000), Some(2000)).unwrap();
    assert_eq!(owner(union.at("roots")), (1000, 2000));
    assert_eq!(owner(union.upper("roots")), (ALICE, ALICE));
}

/// podman makes /etc/mtab as an id that the container has not, and then gives it away.
#[test]
fn who_is_in_no_range_makes_what_is_nobodys_and_gives_it_away() {
    needs_root!("chown");
    let union = Union::builder()
        .option("uidmapping=0:54321:10:1000:100000:10,gidmapping=0:54321:10:1000:100000:10")
        .lower(|b| b.dir("etc"))
        .mount();
    fs::write(union.at("etc/mtab"), "").unwrap();
    fs::create_dir(union.at("etc/d")).unwrap();
    for name in ["etc/mtab", "etc/d"] {
        assert_eq!(owner(union.at(name)), (65534, 65534));
        assert_eq!(owner(union.upper(name)), (65534, 65534));
        chown(union.at(name), Some(100_003), Some(54_321)).unwrap();
        assert_eq!(owner(union.at(name)), (100_003, 54_321));
        assert_eq!(owner(union.upper(name)), (1003, 0));
    }
}

#[test]
fn an_empty_leading_field_is_tolerated() {
    needs_root!("chown");
    let union = Union::builder()
        .option("uidmapping=:54321:1000:1,gidmapping=:54321:2000:1")
        .lower(|b| b.file("f", "").owner("f", ALICE, ALICE))
        .mount();
    assert_eq!(owner(union.at("f")), (1000, 2000));
}

#[test]
fn squashed_everything_belongs_to_one() {
    needs_root!("chown");
    let union = Union::builder()
        .option("squash_to_root")
        .lower(|b| b.file("f", "text").owner("f", ALICE, BOB))
        .mount();
    assert_eq!(owner(union.at("f")), (0, 0));

    let union = Union::builder()
        .option(&format!("squash_to_uid={ALICE},squash_to_gid={BOB}"))
        .lower(|b| b.file("f", "text"))
        .mount();
    assert_eq!(owner(union.at("f")), (ALICE, BOB));
    fs::write(union.at("new"), "").unwrap();
    assert_eq!(owner(union.at("new")), (ALICE, BOB));
    overwrite(union.at("f"), 0, "T");
    assert_eq!(text(union.at("f")), "Text");
}

/// The entries of named users and groups, default ones too.
fn named_in_acl(path: impl AsRef<Path>) -> Vec<String> {
    let path = path.as_ref();
    let listed = sh(path.parent().unwrap(), &format!("getfacl -cnp {}", path.file_name().unwrap().display()));
    let is_named = |line: &&str| {
        let line = line.trim_start_matches("default:");
        (line.starts_with("user:") || line.starts_with("group:")) && !line.contains("::")
    };
    listed.lines().filter(is_named).map(str::to_owned).collect()
}

#[test]
fn ids_in_acls_are_mapped_both_ways() {
    needs_root!("other users' ACL entries");
    let mut union = Union::builder()
        .option(&format!("uidmapping=0:0:1:{ALICE}:7:1,gidmapping=0:0:1:{BOB}:8:1"))
        .lower(|b| {
            let b = b.file("f", "text").dir("d").file("g", "");
            let root = b.root().to_owned();
            sh(&root, &format!("setfacl -m u:{ALICE}:r,u:{BOB}:r g"));
            b
        })
        .mount();
    sh(union.root(), "setfacl -m u:7:r,g:8:rw f; setfacl -m u:7:r,d:u:7:rx,d:g:8:x d; touch d/new");
    for _ in 0..2 {
        assert_eq!(named_in_acl(union.at("f")), ["user:7:r--", "group:8:rw-"]);
        assert_eq!(named_in_acl(union.upper("f")), [format!("user:{ALICE}:r--"), format!("group:{BOB}:rw-")]);
        let default = ["user:7:r--", "default:user:7:r-x", "default:group:8:--x"];
        assert_eq!(named_in_acl(union.at("d")), default);
        // Inherited on the disk, where the ids are the disk's.
        let inherited = named_in_acl(union.upper("d/new"));
        assert!(inherited[0].starts_with(&format!("user:{ALICE}:")), "{inherited:?}");
        // Whom no range covers is nobody.
        assert_eq!(named_in_acl(union.at("g")), ["user:7:r--", "user:65534:r--"]);
        union.remount();
    }
    let said = sh_refused(union.root(), &format!("setfacl -m u:{ALICE}:r f"));
    assert!(said.contains("Value too large"), "{said}");
    assert_eq!(named_in_acl(union.at("f")), ["user:7:r--", "group:8:rw-"]);
}

#[test]
fn squashed_owners_leave_the_ids_in_acls_alone() {
    needs_root!("other users' ACL entries");
    let union = Union::builder().option("squash_to_root").lower(|b| b.file("f", "")).mount();
    sh(union.root(), "setfacl -m u:7:r,g:8:r f");
    for path in [union.at("f"), union.upper("f")] {
        assert_eq!(named_in_acl(path), ["user:7:r--", "group:8:r--"]);
    }
}
