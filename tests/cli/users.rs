//! What can others than root do?

use std::fs;

use rustix::process::Signal;

use crate::stage::{PLYFS, Stage, as_nobody, say, until};

#[test]
fn root_of_a_user_namespace() {
    let stage = Stage::new();
    let script = "$PLYFS m -o lowerdir=l1,upperdir=u,workdir=w; ls m; grep fuse.plyfs /proc/self/mounts; $PLYFS umount m";
    let mut command = stage.command("unshare");
    let said = say(command.args(["-Urm", "sh", "-euc", script]).env("PLYFS", PLYFS)).succeeds();
    assert!(said.out.starts_with("one\nthree\n"), "{said:?}");
    assert!(said.out.contains("user_id=0,group_id=0,default_permissions,allow_other"), "{said:?}");
}

#[test]
fn an_ordinary_user() {
    let (stage, said) = as_nobody("$PLYFS none m -o lowerdir=l1,upperdir=u,workdir=w,noatime; ls m");
    assert_eq!(said.succeeds().out, "one\nthree\n");
    let mounts = stage.mounts();
    assert!(mounts[0].starts_with("none "), "{mounts:?}");
    assert!(mounts[0].contains(" fuse.plyfs rw,nosuid,nodev,noatime,user_id=65534,"), "{mounts:?}");
    assert!(mounts[0].contains(",default_permissions") && !mounts[0].contains("allow_other"));
    // Root may not look in, but it may unmount.
    stage.plyfs("umount m").succeeds();
    assert!(stage.mounts().is_empty());
}

#[test]
fn an_ordinary_user_unmounts() {
    let mount = "$PLYFS $PWD/m -o lowerdir=l1,upperdir=u,workdir=w";
    let (stage, said) = as_nobody(&format!("{mount}; $PLYFS umount m"));
    said.succeeds();
    assert!(stage.mounts().is_empty());

    let (stage, said) = as_nobody(&format!("{mount}; cd m; ! $PLYFS umount ../m; $PLYFS umount -z ../m"));
    said.succeeds().fails(0, &["is in use", "--lazy"]);
    assert!(stage.mounts().is_empty());

    let (stage, said) = as_nobody(mount);
    said.succeeds();
    rustix::process::kill_process(stage.daemon().expect("a daemon"), Signal::TERM).expect("kill");
    until("the daemon ends", || stage.daemon().is_none());
    assert!(stage.mounts().is_empty());
}

#[test]
fn what_an_ordinary_user_may_not() {
    for (script, code, parts) in [
        ("chmod 0 l1; $PLYFS m -o lowerdir=l1", 3, &["l1 cannot be read", "permission"][..]),
        ("chmod 0500 u; $PLYFS m -o lowerdir=l1,upperdir=u,workdir=w", 3, &["u cannot be written"]),
        ("chmod 0500 .; $PLYFS m -o lowerdir=l1,upperdir=u", 3, &["give workdir=DIR"]),
        ("chmod 0500 m; $PLYFS m -o lowerdir=l1", 5, &["fusermount3 refuses", "write access"]),
        ("PATH=/nowhere; $PLYFS m -o lowerdir=l1", 5, &["install the package fuse3"]),
    ] {
        let (stage, said) = as_nobody(script);
        said.fails(code, parts);
        assert!(stage.mounts().is_empty(), "{script}");
    }
    let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if !conf.lines().any(|line| line.trim() == "user_allow_other") {
        let (_stage, said) = as_nobody("$PLYFS m -o lowerdir=l1,allow_other");
        said.fails(5, &["user_allow_other", "/etc/fuse.conf"]);
    }
}
