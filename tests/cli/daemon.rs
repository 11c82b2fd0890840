//! How does a daemon live, and how does it end?

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;

use crate::stage::{PLYFS, Stage, until};

#[test]
fn the_daemon_keeps_nothing_of_its_caller() {
    let stage = Stage::new();
    // The command substitution ends only when nobody holds its pipe.
    let said = stage.shell("x=$($PLYFS $PWD/m -o lowerdir=l1 2>&1); echo \"[$x]\"").succeeds();
    assert_eq!(said.out, "[]\n");
    let daemon = stage.daemon().expect("a daemon");
    let proc = PathBuf::from(format!("/proc/{}", daemon.as_raw_nonzero()));
    for fd in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(fs::read_link(proc.join(fd)).expect(fd), Path::new("/dev/null"));
    }
    assert_eq!(fs::read_link(proc.join("cwd")).expect("cwd"), Path::new("/"));
    assert_eq!(fs::read_to_string(proc.join("comm")).expect("comm"), "plyfs\n");
    let stat = fs::read_to_string(proc.join("stat")).expect("stat");
    let session = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(3));
    assert_eq!(session, Some(daemon.as_raw_nonzero().to_string().as_str()));
    stage.plyfs("umount m").succeeds();
    until("the daemon ends", || stage.daemon().is_none());
}

#[test]
fn signals_unmount_cleanly() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let stage = Stage::new();
        let daemon = stage.foreground("-o lowerdir=l1,upperdir=u,workdir=w");
        daemon.signal(signal);
        assert_eq!(daemon.ends().code(), Some(0), "{signal:?}");
        assert!(stage.mounts().is_empty(), "{signal:?}");
        assert!(stage.names_in("m").expect("an ordinary directory").is_empty());
    }
    let stage = Stage::new();
    stage.plyfs("@/m -o lowerdir=l1").succeeds();
    rustix::process::kill_process(stage.daemon().expect("a daemon"), Signal::TERM).expect("kill");
    until("the daemon ends", || stage.daemon().is_none());
    assert!(stage.mounts().is_empty());
}

#[test]
fn a_signal_waits_for_the_last_user() {
    let stage = Stage::new();
    let mut daemon = stage.foreground("-o lowerdir=l1,upperdir=u,workdir=w");
    let user = rustix::fs::open(
        stage.path("m"),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .expect("open");
    daemon.signal(Signal::TERM);
    until("the mount vanishes", || stage.mounts().is_empty());
    assert!(daemon.is_running());
    assert!(rustix::fs::Dir::read_from(&user).expect("a listing").count() > 0);
    assert!(daemon.is_running());
    drop(user);
    assert_eq!(daemon.ends().code(), Some(0));
}

#[test]
fn a_second_signal_waits_for_nobody() {
    let stage = Stage::new();
    let daemon = stage.foreground("-o lowerdir=l1,upperdir=u,workdir=w");
    let user = fs::File::open(stage.path("m")).expect("open");
    daemon.signal(Signal::TERM);
    until("the mount vanishes", || stage.mounts().is_empty());
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ends().code(), Some(0));
    drop(user);
}

#[test]
fn the_daemon_ends_with_its_mount() {
    for script in ["umount m", "umount -l m", "fusermount3 -u m", "$PLYFS umount m"] {
        let stage = Stage::new();
        let daemon = stage.foreground("-o lowerdir=l1,upperdir=u,workdir=w");
        stage.shell(script).succeeds();
        assert_eq!(daemon.ends().code(), Some(0), "{script}");
        assert!(stage.mounts().is_empty(), "{script}");
    }
}

/// A daemon that unmounts its path when it ends takes its successor's mount away.
#[test]
fn a_successors_mount_survives() {
    // With an upper, its lock lets one daemon wait for the other; without, they race.
    for options in ["lowerdir=l1:l2", "lowerdir=l1:l2,upperdir=u,workdir=w"] {
        let stage = Stage::new();
        let line = format!("@/m -o {options}");
        for cycle in 0..120 {
            stage.plyfs(&line).succeeds();
            assert_eq!(stage.mounts().len(), 1, "cycle {cycle}");
            let flags = rustix::mount::UnmountFlags::empty();
            rustix::mount::unmount(stage.path("m"), flags)
                .unwrap_or_else(|errno| panic!("cycle {cycle}: {errno}"));
        }
        stage.plyfs(&line).succeeds();
        until("the last daemon is alone", || stage.daemons().len() == 1);
        let names = stage.names_in("m").expect("the last mount");
        assert!(names.contains(&"two".to_owned()), "{names:?}");
    }
}

#[test]
fn a_signal_does_not_take_a_successors_mount_away() {
    let stage = Stage::new();
    let daemon = stage.foreground("-o lowerdir=l1");
    let user = fs::File::open(stage.path("m")).expect("open");
    stage.shell("umount -l m").succeeds();
    stage.plyfs("m -o lowerdir=l2").succeeds();
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::INT);
    assert_eq!(daemon.ends().code(), Some(0));
    drop(user);
    assert_eq!(stage.names_in("m").expect("the successor"), ["two"]);
}

/// `umount -f` cuts the connection even if it then finds the mount in use.
#[test]
fn a_cut_connection_leaves_no_dead_mount() {
    let stage = Stage::new();
    let daemon = stage.foreground("-o lowerdir=l1,upperdir=u,workdir=w");
    let user = fs::File::open(stage.path("m")).expect("open");
    let force = rustix::mount::UnmountFlags::FORCE;
    // Busy, or gone already, if the daemon was faster.
    rustix::mount::unmount(stage.path("m"), force).expect_err("the mount is in use");
    assert_eq!(daemon.ends().code(), Some(0));
    assert!(stage.mounts().is_empty());
    drop(user);
}

#[test]
fn a_caller_that_cannot_be_told_has_no_mount() {
    let stage = Stage::new();
    let full = fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let mut child = stage
        .command(PLYFS)
        .args(["m", "-o", "lowerdir=l1"])
        .env("PLYFS_BACKGROUND_PARENT", std::process::id().to_string())
        .stdout(full)
        .stderr(Stdio::null())
        .spawn()
        .expect("plyfs starts");
    assert_eq!(child.wait().expect("wait").code(), Some(1));
    assert!(stage.mounts().is_empty());
}

#[test]
fn an_inherited_variable_makes_nobody_the_daemon() {
    let stage = Stage::new();
    stage.shell("PLYFS_BACKGROUND_PARENT=1 $PLYFS m -o lowerdir=l1").succeeds();
    stage.plyfs("umount m").succeeds();
}

#[test]
fn two_signals_at_once_end_cleanly() {
    let stage = Stage::new();
    let daemon = stage.foreground("-o lowerdir=l1,upperdir=u,workdir=w");
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::HUP);
    assert_eq!(daemon.ends().code(), Some(0));
    assert!(stage.mounts().is_empty());
}
