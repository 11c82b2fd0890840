//! How does a daemon live, and how does it end?

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;

use crate::stage::{PLYFS, Stage, as_nobody, until};

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

#[test]
fn a_daemon_keeps_no_descriptor_that_it_inherited() {
    for foreground in ["", "-f"] {
        let stage = Stage::new();
        fs::write(stage.path("held"), "").expect("write");
        // A branch may be given by such a descriptor.
        let line = format!("$PLYFS {foreground} $PWD/m -o lowerdir=/proc/self/fd/9:l2 7<held 9<l1");
        let line = if foreground.is_empty() { line } else { format!("{line} >log 2>&1 &") };
        stage.shell(&line).succeeds();
        until("the mount appears", || stage.mounts().len() == 1);
        assert_eq!(stage.names_in("m").expect("a mount"), ["one", "two"]);
        let daemon = stage.daemon().expect("a daemon");
        let open = fs::read_dir(format!("/proc/{}/fd", daemon.as_raw_nonzero())).expect("descriptors");
        let open: Vec<PathBuf> =
            open.filter_map(|entry| fs::read_link(entry.expect("an entry").path()).ok()).collect();
        assert!(!open.contains(&stage.path("held")), "{open:?}");
        // Once as a branch.
        assert!(open.iter().filter(|path| **path == stage.path("l1")).count() <= 1, "{open:?}");
        stage.plyfs("umount m").succeeds();
    }
}

/// chown, dac_override, dac_read_search, fowner, fsetid, setgid, setuid, sys_admin, sys_resource, mknod, setfcap.
const KEPT: u64 =
    1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 21 | 1 << 24 | 1 << 27 | 1 << 31;

#[test]
fn a_daemon_keeps_only_the_capabilities_that_it_uses() {
    let stage = Stage::new();
    stage.plyfs("@/m -o lowerdir=l1,upperdir=u,workdir=w").succeeds();
    let daemon = stage.daemon().expect("a daemon").as_raw_nonzero();
    let set_in = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        u64::from_str_radix(line.trim(), 16).expect("a set")
    };
    // In a container root itself may have less.
    let kept = KEPT & set_in(&fs::read_to_string("/proc/self/status").expect("a status"), "CapPrm:");
    for thread in fs::read_dir(format!("/proc/{daemon}/task")).expect("threads") {
        let status = thread.expect("a thread").path().join("status");
        let status = fs::read_to_string(status).expect("a status");
        let set = |name| set_in(&status, name);
        for name in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(set(name) & !KEPT, 0, "{name} {:x}", set(name));
        }
        assert_eq!((set("CapPrm:"), set("CapInh:"), set("CapAmb:")), (kept, 0, 0));
    }
    // What they are kept for.
    let script = "chmod 711 .; chown 7:8 m/one; chmod 4755 m/one; mknod m/null c 1 3; setfattr -n trusted.x -v y m/one; \
        setpriv --reuid=7 --regid=8 --clear-groups cat m/one; stat -c '%u %g %a' m/one; \
        setcap cap_net_raw+ep m/one 2>/dev/null || true";
    assert_eq!(stage.shell(script).succeeds().out, "l1/one7 8 4755\n");
    stage.plyfs("umount m").succeeds();
}

/// Whatever fails once the mount is there: it does not stay. Here no further thread can be started, sooner or later.
#[test]
fn a_mount_that_fails_late_does_not_stay() {
    let script = r#"
        cat >try <<'X'
        for n in 1 2 3 4 5 6 7 8 9 10 12 14 16 18 20 22; do
            code=0
            prlimit --nproc=$n:$n $PLYFS m -o lowerdir=l1,upperdir=u,workdir=w 2>>log || code=$?
            if [ $code = 0 ]; then echo mounted; umount m || true; else echo failed; fi
            if grep -q " $PWD/m fuse.plyfs " /proc/self/mounts; then echo "left by $n: $code"; exit 1; fi
        done
X
        unshare -Urm sh -eu try
    "#;
    let (_stage, said) = as_nobody(script);
    let said = said.succeeds();
    assert!(said.out.contains("failed\n") && said.out.contains("mounted\n"), "{said:?}");
}
