//! As a service: plyfs says when the mount answers and when it ends; the units in docs/systemd are as systemd wants them.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::{Playground, mounted_type, plyfs, say_not_played, text};

fn next(socket: &UnixDatagram) -> String {
    let mut message = [0; 1024];
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let length = socket.recv(&mut message).expect("plyfs says something");
    String::from_utf8(message[..length].to_vec()).unwrap()
}

#[test]
fn a_service_manager_is_told_when_the_mount_answers_and_when_it_ends() {
    let play = Playground::new();
    play.sh("mkdir low up work mnt; echo text >low/f; chmod 700 .");
    let mount = |more: &[&str], socket: &Path| {
        let mut command = Command::new(plyfs());
        command.args(["-o", "lowerdir=low,upperdir=up,workdir=work", "mnt"]).args(more);
        command.current_dir(play.path("")).env("NOTIFY_SOCKET", socket);
        command
    };
    let path = play.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut child = mount(&["-f"], &path).spawn().unwrap();
    let ready = next(&socket);
    assert!(ready.starts_with("READY=1\n"), "{ready}");
    // It answers by now.
    assert_eq!(text(play.path("mnt/f")), "text\n");
    fs::write(play.path("mnt/new"), "new").unwrap();
    play.sh(&format!("kill -TERM {}", child.id()));
    let stopping = next(&socket);
    assert!(stopping.starts_with("STOPPING=1\n"), "{stopping}");
    assert!(child.wait().unwrap().success());
    assert_eq!(mounted_type(&play.path("mnt")), None);
    assert_eq!(text(play.path("up/new")), "new");
    // Whoever was started by the service, and not as the service, has nothing to say for it.
    assert!(mount(&[], &path).status().unwrap().success());
    play.sh("plyfs umount mnt");
    let mut child = mount(&["-f"], &path).env("SYSTEMD_EXEC_PID", "1").spawn().unwrap();
    crate::common::eventually(|| mounted_type(&play.path("mnt")).is_some());
    play.sh("plyfs umount mnt");
    assert!(child.wait().unwrap().success());
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 64]).is_err());
    // Nobody listens: that is no reason not to mount.
    let mut child = mount(&["-f"], &play.path("nobody")).spawn().unwrap();
    crate::common::eventually(|| mounted_type(&play.path("mnt")).is_some());
    play.sh("plyfs umount mnt");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_mount_that_fails_is_never_ready() {
    let play = Playground::new();
    play.sh("mkdir mnt");
    let path = play.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = Command::new(plyfs());
    command
        .args(["-f", "-o", "lowerdir=missing", "mnt"])
        .current_dir(play.path(""))
        .env("NOTIFY_SOCKET", &path);
    assert_eq!(command.status().unwrap().code(), Some(3));
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 64]).is_err());
}

#[test]
fn the_units_are_as_systemd_wants_them() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return say_not_played("there is no systemd-analyze here");
    }
    let play = Playground::new();
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/systemd");
    // What a unit starts must be there.
    let plyfs = plyfs();
    let said = play.sh(&format!(
        "cp {units}/* .; mv plyfs@.service plyfs@example.service; sed -i 's|=plyfs |={plyfs} |' plyfs@example.service
         mkdir run; export XDG_RUNTIME_DIR=$PWD/run SYSTEMD_LOG_LEVEL=warning
         systemd-analyze verify ./srv-merged.mount ./srv-merged.automount 2>&1
         systemd-analyze verify --user ./plyfs@example.service 2>&1",
        plyfs = plyfs.display()
    ));
    let about_ours: Vec<_> =
        said.lines().filter(|line| line.contains("merged") || line.contains("plyfs")).collect();
    assert!(about_ours.is_empty(), "{said}");
}
