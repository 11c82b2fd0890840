//! `plyfs layer check` finds what should not be in a layer, and mends it without changing what shows.

use std::fs::File;
use std::process::Command;

use crate::needs_root;
use crate::stand::{PATIENCE, Stand, run, say};
use crate::tree::{Detail, difference, tree};

/// What a layer shows over the lower, through a real mount.
fn shown(stand: &Stand, layer: &str) -> std::collections::BTreeMap<Vec<u8>, String> {
    stand.sh(&format!("mkdir -p mnt; $PLYFS -o lowerdir={layer}:lower mnt"));
    let seen = tree(&stand.path("mnt"), Detail::Shape);
    stand.sh("$PLYFS umount mnt");
    seen
}

#[test]
fn findings_are_mended_without_changing_what_shows() {
    needs_root!("overlayfs' markers");
    // What is made in `u`, what is said of it, and whether it can be mended.
    let rows: &[(&str, &str, bool)] = &[
        ("touch u/.wh.none", "for what is not there", true),
        ("mknod u/f c 0 0", "as overlayfs spells it", true),
        ("mknod u/none c 0 0", "as overlayfs spells it", true),
        ("mknod u/f c 0 0; touch u/.wh.f", "as overlayfs spells it", true),
        ("touch u/.wh.f; echo x >u/f", "beside what it would hide", true),
        ("touch u/.wh.d; mkdir u/d; echo x >u/d/new", "to be opaque", true),
        ("touch u/.wh.d; mkdir u/d; echo x >u/d/new; touch u/d/.wh..wh..opq", "to be opaque", true),
        ("mkdir u/d; setfattr -n trusted.overlay.opaque -v y u/d; echo x >u/d/new", "by an attribute", true),
        ("mkdir u/d; setfattr -n user.overlay.opaque -v y u/d", "by an attribute", true),
        (
            "mkdir u/d; setfattr -n user.fuseoverlayfs.opaque -v y u/d; touch u/d/.wh..wh..opq",
            "by an attribute",
            true,
        ),
        (
            "mkdir u/d; setfattr -n trusted.overlay.opaque -v x u/d; touch u/d/g; setfattr -n trusted.overlay.whiteout -v y u/d/g",
            "as overlayfs spells it",
            true,
        ),
        ("mkdir u/none; touch u/none/.wh..wh..opq", "no such directory below", true),
        ("mkdir u/f; touch u/f/.wh..wh..opq", "no such directory below", true),
        ("mkdir -p u/d/e; touch u/d/e/.wh.none", "for what is not there", true),
        ("mkdir u/.wh..wh.plnk; touch u/.wh..wh.plnk/x", "leftover", true),
        ("touch u/.wh..wh.orph", "leftover", true),
        ("mkdir u/.wh.g", "directory with a marker's name", false),
        ("echo content >u/.wh.f", "with something in it", false),
        (
            "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"u/s\")' 2>/dev/null || perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local=>\"u/s\",Listen=>1)'",
            "socket",
            false,
        ),
    ];
    let mut failures = Vec::new();
    for (make, says, mendable) in rows {
        let stand = Stand::new();
        stand.sh("mkdir -p u lower/d/e; echo f >lower/f; echo g >lower/d/g; echo h >lower/d/e/h");
        stand.sh(make);
        let before = shown(&stand, "u");
        let mut fails = |why: String| failures.push(format!("- {make}: {why}"));
        let found = stand.layer("check u --lower lower");
        if found.code != Some(1) || !found.out.contains(says) {
            fails(format!("is not found: {found:?}"));
        }
        let mended = stand.layer("check u --lower lower --repair");
        if mended.code != Some(i32::from(!mendable)) || mended.out.contains("(repaired)") != *mendable {
            fails(format!("is not mended: {mended:?}"));
        }
        let again = stand.layer("check u --lower lower");
        if *mendable && (again.code, &again.out[..]) != (Some(0), "") {
            fails(format!("is not clean after a repair: {again:?}"));
        }
        let differs = difference(&before, &shown(&stand, "u"));
        if !differs.is_empty() {
            fails(format!("a repair changed what shows: {differs:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Without the lowers no marker is known to be in vain.
#[test]
fn markers_stay_where_the_lowers_are_not_known() {
    let stand = Stand::new();
    stand.sh("mkdir -p u/d; touch u/.wh.none u/d/.wh..wh..opq");
    let before = tree(&stand.path("u"), Detail::All);
    stand.layer("check u").succeeds();
    stand.layer("check u --repair").succeeds();
    assert_eq!(difference(&before, &tree(&stand.path("u"), Detail::All)), Vec::<String>::new());
}

#[test]
fn looking_changes_nothing() {
    needs_root!("overlayfs' markers");
    let stand = Stand::new();
    stand.sh("mkdir -p u/d lower; mknod u/f c 0 0; touch u/.wh.x u/d/.wh..wh.y; setfattr -n trusted.overlay.opaque -v y u/d");
    let before = tree(&stand.path("u"), Detail::All);
    stand.layer("check u --lower lower").fails(1, &[]);
    assert_eq!(difference(&before, &tree(&stand.path("u"), Detail::All)), Vec::<String>::new());
}

#[test]
fn a_mounted_upper_is_not_repaired() {
    needs_root!("mounts");
    let stand = Stand::new();
    stand.sh("mkdir u lower mnt; touch u/.wh.none; $PLYFS -o lowerdir=lower,upperdir=u mnt");
    let said = stand.layer("check u --lower lower --repair");
    let read_only = stand.layer("check u --lower lower");
    stand.sh("$PLYFS umount mnt");
    said.fails(4, &["in use"]);
    read_only.fails(1, &[]);
    stand.layer("check u --lower lower --repair").succeeds();
}

/// While it is repaired, it cannot be mounted either: the lock is a mount's.
#[test]
fn a_locked_upper_is_not_repaired() {
    let stand = Stand::new();
    stand.sh("mkdir u");
    let dir = File::open(stand.path("u")).unwrap();
    rustix::fs::flock(&dir, rustix::fs::FlockOperation::LockExclusive).unwrap();
    stand.layer("check u --repair").fails(4, &["in use"]);
    stand.layer("check u").succeeds();
}

#[test]
fn what_an_ordinary_user_cannot_read_is_found() {
    needs_root!("becomes an ordinary user");
    let stand = Stand::new();
    stand.sh("mkdir -p u/closed; touch u/secret; chmod 0 u/closed u/secret");
    let said = stand.layer_as(crate::stand::As::Nobody, "check u");
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.out.contains("/closed") && said.out.contains("/secret"), "{said:#?}");
    let mut json = Command::new(crate::stand::plyfs());
    json.args(["layer", "check", "u", "--json"]).current_dir(stand.path(""));
    let said = run(json, PATIENCE).succeeds();
    if said.out.trim() != "[]" {
        say(&said.out);
    }
    serde_json::from_str::<serde_json::Value>(&said.out).expect("JSON");
}
