//! uidmapping, gidmapping, squash: users see other ids than the disk holds.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use crate::common::{ALICE, BOB, Union, needs_root, overwrite, stat, text};

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
