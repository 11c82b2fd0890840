//! POSIX ACLs: enforced, inherited and copied up, as on ext4.

use std::fs::{self, File};

use rustix::fs::{XattrFlags, setxattr};
use rustix::io::Errno;

use crate::common::{
    ALICE, BOB, Union, as_member, as_user, mode, needs_root, overwrite, refused, sh, sh_as, text,
};

/// `u::rwx,g::r-x,o::r-x`, as setxattr(2) takes it.
fn plain_acl() -> Vec<u8> {
    let entry = |tag: u16, permissions: u16| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &u32::MAX.to_le_bytes()].concat()
    };
    [2_u32.to_le_bytes().to_vec(), entry(0x01, 7), entry(0x04, 5), entry(0x20, 5)].concat()
}

fn acl(union: &Union, path: &str) -> Vec<String> {
    let listed = sh(union.root(), &format!("getfacl -cnp {path}"));
    listed.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn an_acl_is_set_shown_and_kept() {
    needs_root!("other users' ACL entries");
    let mut union = Union::over(|b| b.file("f", "text").mode("f", 0o640));
    sh(union.root(), &format!("setfacl -m u:{ALICE}:rw f"));
    for _ in 0..2 {
        let alice = format!("user:{ALICE}:rw-");
        assert_eq!(acl(&union, "f"), ["user::rw-", &alice, "group::r--", "mask::rw-", "other::---"]);
        assert_eq!(mode(union.at("f")), 0o660, "the mask shows in the mode");
        union.remount();
    }
    sh(union.root(), "setfacl -b f");
    assert_eq!(acl(&union, "f"), ["user::rw-", "group::r--", "other::---"]);
}

#[test]
fn an_acl_lets_in_and_keeps_out() {
    needs_root!("other users");
    let union = Union::builder()
        .option("allow_other")
        .lower(|b| b.file("f", "text").mode("f", 0o640).file("open", "").mode("open", 0o644))
        .mount();
    sh(union.root(), &format!("setfacl -m u:{ALICE}:rw f; setfacl -m u:{BOB}:- open"));
    as_user(ALICE, || {
        assert_eq!(text(union.at("f")), "text");
        overwrite(union.at("f"), 0, "T");
    });
    as_user(BOB, || {
        refused(fs::read(union.at("f")), Errno::ACCESS);
        refused(fs::read(union.at("open")), Errno::ACCESS);
    });
    assert_eq!(text(union.at("f")), "Text");
}

#[test]
fn a_lowers_acl_counts_and_is_copied_up() {
    needs_root!("other users");
    let mut union = Union::builder()
        .option("allow_other")
        .lower(|b| {
            let b = b.file("f", "text").mode("f", 0o600).dir("d");
            let root = b.root().to_owned();
            sh(&root, &format!("setfacl -m u:{ALICE}:rw f; setfacl -m d:u:{ALICE}:rwx d"));
            b
        })
        .mount();
    let before = (acl(&union, "f"), acl(&union, "d"));
    as_user(ALICE, || overwrite(union.at("f"), 0, "T"));
    fs::write(union.at("d/new"), "").unwrap();
    for _ in 0..2 {
        assert_eq!((acl(&union, "f"), acl(&union, "d")), before);
        union.remount();
    }
    assert_eq!(text(union.upper("f")), "Text");
}

#[test]
fn a_default_acl_is_handed_on_and_overrides_the_umask() {
    needs_root!("other users' ACL entries");
    let union = Union::over(|b| b.dir("d"));
    sh(
        union.root(),
        &format!(
            "setfacl -m d:u:{ALICE}:rwx,d:g::rwx,d:o::- d
             umask 077
             touch d/f
             mkdir d/sub
             mkfifo d/fifo
             touch d/sub/g"
        ),
    );
    let alice = format!("user:{ALICE}:rwx");
    for path in ["d/f", "d/sub/g", "d/fifo"] {
        let inherited = acl(&union, path);
        assert!(inherited.iter().any(|line| line.starts_with(&alice)), "{path}: {inherited:?}");
        assert_eq!(mode(union.at(path)), 0o660, "{path}");
    }
    assert_eq!(mode(union.at("d/sub")), 0o770);
    assert!(acl(&union, "d/sub").contains(&format!("default:user:{ALICE}:rwx")));
}

#[test]
fn chmod_changes_the_mask() {
    needs_root!("other users' ACL entries");
    let union = Union::over(|b| b.file("f", "").mode("f", 0o640));
    sh(union.root(), &format!("setfacl -m u:{ALICE}:rw f; chmod 604 f"));
    assert!(acl(&union, "f").contains(&"mask::---".to_owned()));
    assert!(acl(&union, "f").contains(&"other::r--".to_owned()));
}

#[test]
fn setting_an_acl_that_equals_the_mode_only_changes_the_mode() {
    let union = Union::over(|b| b.file("f", "text").mode("f", 0o600));
    sh(union.root(), "setfacl -m u::rw,g::r,o::r f");
    assert_eq!(mode(union.at("f")), 0o644);
    assert_eq!(mode(union.upper("f")), 0o644);
    File::open(union.at("f")).unwrap();
}

/// By one of his other groups: the daemon has none of them.
#[test]
fn an_owner_in_the_group_keeps_sgid_when_he_sets_an_acl() {
    needs_root!("several users");
    let union = Union::builder()
        .option("allow_other")
        .lower(|b| {
            b.file("f", "")
                .owner("f", ALICE, BOB)
                .mode("f", 0o2755)
                .file("g", "")
                .owner("g", ALICE, 0)
                .mode("g", 0o2755)
        })
        .mount();
    as_member(ALICE, &[BOB], || {
        for file in ["f", "g"] {
            setxattr(union.at(file), "system.posix_acl_access", &plain_acl(), XattrFlags::empty()).unwrap();
        }
    });
    assert_eq!(mode(union.at("f")), 0o2755);
    assert_eq!(mode(union.at("g")), 0o755, "the daemon's group is not his");
}

#[test]
fn an_owner_outside_the_group_cannot_keep_sgid_by_setting_an_acl() {
    needs_root!("several users");
    for (group, expected) in [(BOB, 0o755), (ALICE, 0o2755)] {
        let union = Union::over(|b| b.file("f", "").owner("f", ALICE, group).mode("f", 0o2755));
        sh_as(ALICE, union.root(), &format!("setfacl -m u:{BOB}:rx f"));
        assert_eq!(mode(union.at("f")), expected, "group {group}");
    }
}
