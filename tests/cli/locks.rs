//! Who else may use the upper and the workdir of a live mount?

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::stage::Stage;

#[test]
fn a_live_upper_or_workdir_serves_one_mount_only() {
    let stage = Stage::new();
    for name in ["m2", "u2", "w2"] {
        fs::create_dir(stage.path(name)).expect("mkdir");
    }
    stage.plyfs("m -o lowerdir=l1,upperdir=u,workdir=w").succeeds();
    let in_use = |dir: &str| format!("{} is in use by another mount", stage.path(dir).display());
    for (line, part) in [
        ("m2 -o lowerdir=l1,upperdir=u,workdir=w2", in_use("u")),
        ("m2 -o lowerdir=l1,upperdir=u2,workdir=w", in_use("w")),
        ("m2 -o lowerdir=l1,upperdir=u", in_use("u")),
        ("m2 -o lowerdir=l1,upperdir=u,ro", in_use("u")),
    ] {
        stage.plyfs(line).fails(4, &[&part]);
    }
    assert!(!stage.path(".u.plyfs-work").exists(), "a failed mount makes no workdir");
    stage.plyfs("m2 -o lowerdir=l1,upperdir=u2,workdir=w2").succeeds();
    for at in ["m", "m2"] {
        stage.plyfs(&format!("umount {at}")).succeeds();
    }
    stage.plyfs("m2 -o lowerdir=l1,upperdir=u,workdir=w").succeeds();
}

/// The command as nobody, who owns nothing here.
fn as_nobody(command: &str) -> String {
    format!("setpriv --reuid=65534 --regid=65534 --clear-groups {command}")
}

/// Anybody who may read a directory can lock it. That keeps nobody from mounting.
#[test]
fn a_user_cannot_keep_root_from_mounting() {
    let writable = "lowerdir=l1,upperdir=u,workdir=w";
    for (lock, options) in [
        ("flock -s", writable),
        ("flock -x", writable),
        ("flock -x", "lowerdir=l1,upperdir=u,workdir=w,ro"),
        // Not even by the right name.
        ("./plyfs -x", writable),
    ] {
        let stage = Stage::new();
        stage.shell("cp /usr/bin/flock plyfs").succeeds();
        let hold = as_nobody(&format!("{lock} u sleep 5"));
        let script = format!(
            "chmod 755 . u; {hold} >/dev/null 2>&1 & sleep 0.3; start=$(date +%s%N); code=0; $PLYFS m -o {options} || code=$?; \
             echo $((($(date +%s%N) - start) / 1000000)); exit $code"
        );
        let said = stage.shell(&script);
        assert_eq!(said.code, Some(0), "{lock} {options}: {said:?}");
        assert!(said.err.contains("is locked by a program that is no plyfs (process "), "{lock}: {said:?}");
        let took: u64 = said.out.trim().parse().expect("milliseconds");
        assert!(took < 1500, "it waited {took} ms for a lock that is no mount's");
        stage.plyfs("umount m").succeeds();
    }
}

#[test]
fn the_workdirs_lock_is_plyfs_own() {
    let stage = Stage::new();
    stage.plyfs("@/m -o lowerdir=l1,upperdir=u,workdir=w").succeeds();
    for (name, mode) in [("w/plyfs", 0o40700), ("w/plyfs/lock", 0o100_600)] {
        assert_eq!(fs::symlink_metadata(stage.path(name)).expect(name).mode(), mode, "{name}");
    }
    // The holder is named.
    fs::create_dir(stage.path("m2")).expect("mkdir");
    let pid = format!("(process {})", stage.daemon().expect("a daemon").as_raw_nonzero());
    stage.plyfs("m2 -o lowerdir=l1,upperdir=u,workdir=w").fails(4, &["is in use by another mount", &pid]);
    stage.plyfs("umount m").succeeds();

    for (script, part) in [
        ("ln -s ../l2 w/plyfs", "w/plyfs is not a directory: remove it"),
        ("touch w/plyfs", "w/plyfs is not a directory: remove it"),
        ("mkdir w/plyfs; chown 65534 w/plyfs", "w/plyfs belongs to user 65534"),
        ("mkdir w/plyfs; ln -s ../../l1/one w/plyfs/lock", "w/plyfs/lock is not a file"),
        ("mkdir -p w/plyfs/lock", "w/plyfs/lock is not a file"),
        ("mkdir w/plyfs; touch w/plyfs/lock; chown 65534 w/plyfs/lock", "lock belongs to user 65534"),
    ] {
        let stage = Stage::new();
        stage.shell(script).succeeds();
        stage.plyfs("m -o lowerdir=l1,upperdir=u,workdir=w").fails(3, &[part, "or take another workdir"]);
        assert!(stage.mounts().is_empty() && !stage.path("l2/lock").exists(), "{script}");
    }
}

/// Deletions make room, so a full upper must be mounted somehow.
#[test]
fn a_full_disk_is_no_reason_to_refuse() {
    // No workdir can be made: read-only.
    let script = "mount -t tmpfs -o nr_inodes=3 none l2; mkdir -m 700 l2/u; touch l2/last; \
        $PLYFS m -o lowerdir=l1,upperdir=l2/u; ls m; ! touch m/new; $PLYFS umount m; umount l2";
    let said = Stage::new().shell_in_namespace(script).succeeds();
    assert_eq!(said.out, "one\n");
    said.fails(0, &["warning: mounted read-only: there is no room for a workdir", "No space left"]);
    // No lock can be made: without it.
    let script = "mount -t tmpfs -o nr_inodes=4 none l2; mkdir -m 700 l2/u l2/w; touch l2/last; \
        $PLYFS m -o lowerdir=l1,upperdir=l2/u,workdir=l2/w || true; $PLYFS umount m || true; umount l2";
    let said = Stage::new().shell_in_namespace(script).succeeds();
    said.fails(0, &["l2/w has no room for a lock", "take care"]);
}
