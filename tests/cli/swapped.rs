//! Is what is mounted on, and what is unmounted, what was meant, if somebody swaps directories meanwhile?

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::stage::{Stage, as_nobody, until};

/// Long enough for a program that was started to have opened its mountpoint.
const A_MOMENT: Duration = Duration::from_millis(500);

fn mountpoints(stage: &Stage) -> Vec<String> {
    let own = stage.path("").display().to_string();
    let mounts = stage.mounts();
    let at = mounts.iter().map(|line| line.split(' ').nth(1).expect("a mountpoint"));
    at.map(|at| at.strip_prefix(&own).expect("on the stage").to_owned()).collect()
}

/// A mount waits for the lock of an earlier one. Meanwhile its mountpoint's name leads elsewhere.
#[test]
fn a_mount_goes_on_the_directory_that_was_opened() {
    let stage = Stage::new();
    for name in ["m2", "victim"] {
        fs::create_dir(stage.path(name)).expect("mkdir");
    }
    stage.plyfs("m -o lowerdir=l1,upperdir=u,workdir=w").succeeds();
    let mut command = stage.command(crate::stage::PLYFS);
    command.args(["m2", "-o", "lowerdir=l2,upperdir=u,workdir=w"]).stderr(Stdio::piped());
    let waiting = command.spawn().expect("plyfs starts");
    thread::sleep(A_MOMENT);
    fs::rename(stage.path("m2"), stage.path("m2.real")).expect("rename");
    symlink("victim", stage.path("m2")).expect("symlink");
    stage.shell("umount m").succeeds();
    let said = waiting.wait_with_output().expect("plyfs ends");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(mountpoints(&stage), ["m2.real"]);
    stage.plyfs("umount m2.real").succeeds();
}

/// fusermount3 takes only a path. Here it is swapped right before the real one is started.
#[test]
fn a_mount_that_fusermount3_led_elsewhere_is_taken_away() {
    let script = r#"
        mkdir -p bin d/at victim/at
        printf '#!/bin/sh\nif [ ! -e d.real ]; then mv d d.real; ln -s victim d; fi\nexec /usr/bin/fusermount3 "$@"\n' >bin/fusermount3
        chmod +x bin/fusermount3
        PATH=$PWD/bin:$PATH $PLYFS d/at -o lowerdir=l1,upperdir=u,workdir=w
    "#;
    let (stage, said) = as_nobody(script);
    said.fails(1, &["the mount does not appear at"]);
    assert_eq!(mountpoints(&stage), Vec::<String>::new());
    until("the daemon ends", || stage.daemons().is_empty());
}

/// The daemon is asked for its upper before the unmount. While it does not answer, the path comes to lead to a foreign
/// mount.
#[test]
fn an_unmount_takes_away_what_was_there_when_it_began() {
    let stage = Stage::new();
    fs::create_dir_all(stage.path("ours/at")).expect("mkdir");
    fs::create_dir_all(stage.path("theirs/at")).expect("mkdir");
    stage.shell("mount -t tmpfs foreign theirs/at").succeeds();
    let mut command = stage.command(crate::stage::PLYFS);
    command.args(["-f", "ours/at", "-o", "lowerdir=l1,upperdir=u,workdir=w"]);
    let daemon = crate::stage::Daemon { child: Some(command.spawn().expect("plyfs starts")) };
    until("the mount appears", || stage.mounts().len() == 2);
    assert!(stage.names_in("ours/at").is_some());
    daemon.signal(Signal::STOP);
    let mut command = stage.command(crate::stage::PLYFS);
    command.args(["umount", "ours/at"]).stderr(Stdio::piped());
    let umount = command.spawn().expect("plyfs starts");
    thread::sleep(A_MOMENT);
    fs::rename(stage.path("ours"), stage.path("moved")).expect("rename");
    fs::rename(stage.path("theirs"), stage.path("ours")).expect("rename");
    daemon.signal(Signal::CONT);
    let said = umount.wait_with_output().expect("plyfs ends");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(mountpoints(&stage), ["ours/at"], "the foreign mount stays");
    assert_eq!(daemon.ends().code(), Some(0));
}

/// The same for the daemon's own unmount: its mount has been moved with the directory around it.
#[test]
fn a_signal_ends_the_daemons_own_mount_wherever_it_is() {
    let stage = Stage::new();
    fs::create_dir_all(stage.path("ours/at")).expect("mkdir");
    fs::create_dir_all(stage.path("theirs/at")).expect("mkdir");
    stage.shell("mount -t tmpfs foreign theirs/at").succeeds();
    let mut command = stage.command(crate::stage::PLYFS);
    command.args(["-f", "ours/at", "-o", "lowerdir=l1,upperdir=u,workdir=w"]);
    let daemon = crate::stage::Daemon { child: Some(command.spawn().expect("plyfs starts")) };
    until("the mount appears", || stage.mounts().len() == 2);
    assert!(stage.names_in("ours/at").is_some());
    fs::rename(stage.path("ours"), stage.path("moved")).expect("rename");
    fs::rename(stage.path("theirs"), stage.path("ours")).expect("rename");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ends().code(), Some(0));
    assert_eq!(mountpoints(&stage), ["ours/at"], "the foreign mount stays, ours is gone");
}
