//! What does `plyfs umount` take away, and when does it return?

use std::fs;

use rustix::process::Signal;

use crate::stage::Stage;

#[test]
fn unmounting_what_is_in_use() {
    let stage = Stage::new();
    let daemon = stage.foreground("-o lowerdir=l1,upperdir=u,workdir=w");
    let user = fs::File::open(stage.path("m")).expect("open");
    stage.plyfs("umount m").fails(4, &["m is in use", "--lazy"]);
    assert_eq!(stage.mounts().len(), 1);
    stage.plyfs("umount --lazy m").succeeds();
    assert!(stage.mounts().is_empty());
    drop(user);
    assert_eq!(daemon.ends().code(), Some(0));
    stage.plyfs("umount m").fails(3, &["m is not the mountpoint of a plyfs"]);
    stage.plyfs("umount /proc").fails(3, &["/proc is not the mountpoint of a plyfs"]);
}

#[test]
fn unmounting_waits_for_the_daemon() {
    let stage = Stage::new();
    for _ in 0..20 {
        stage.plyfs("m -o lowerdir=l1,upperdir=u,workdir=w").succeeds();
        stage.plyfs("umount m").succeeds();
        let upper = fs::File::open(stage.path("u")).expect("open");
        rustix::fs::flock(&upper, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .expect("the upper is free");
    }
}

#[test]
fn a_dead_mount_can_be_removed() {
    let stage = Stage::new();
    let daemon = stage.foreground("-o lowerdir=l1");
    daemon.signal(Signal::KILL);
    assert_eq!(daemon.ends().code(), None);
    let path = stage.path("m");
    let advice = format!("plyfs umount {}", path.display());
    stage.plyfs("@/m -o lowerdir=l1").fails(3, &["dead mount", &advice]);
    stage.plyfs("umount m").succeeds();
    stage.plyfs("m -o lowerdir=l1").succeeds();
}
