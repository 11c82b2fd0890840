//! What does a live mount say of itself?

use std::ffi::{OsStr, OsString};
use std::fs;

use crate::stage::{PLYFS, Stage, as_nobody, say};

#[test]
fn the_mount_can_say_which_messages_it_has_had() {
    let stage = Stage::new();
    stage.plyfs("-o lowerdir=l1,upperdir=u,workdir=w m").succeeds();
    let said = || stage.plyfs("stats m").succeeds().out;
    let count = |kind: &str| -> u64 {
        let text = said();
        let found = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
        found.map_or(0, |count| count.parse().expect("a number"))
    };
    assert_eq!(count("MKDIR"), 0);
    std::fs::create_dir(stage.path("m/new")).unwrap();
    assert_eq!(count("MKDIR"), 1);
    let lookups = count("LOOKUP");
    assert!(stage.path("m/new").is_dir());
    assert_eq!(count("LOOKUP"), lookups, "what the kernel knows it does not ask for");
    let text = said();
    assert!(text.lines().all(|line| line.split(' ').count() == 2), "{text}");
    stage.plyfs("umount m").succeeds();
    stage.plyfs("stats m").fails(3, &["m is not the mountpoint of a plyfs"]);
}

#[test]
fn the_mount_can_say_its_branches() {
    let list = |stage: &Stage, names: &[&str]| -> String {
        names
            .iter()
            .map(|name| format!("{}/{name}\n", stage.path("").display().to_string().trim_end_matches('/')))
            .collect()
    };
    for (line, names) in [
        ("-o dirs=./u:./l2:./l1 none ./m", &["u=rw", "l2=ro", "l1=ro"][..]),
        ("-o lowerdir=l1:l2,upperdir=u,ro m", &["u=ro", "l1=ro", "l2=ro"]),
        ("-o lowerdir=l1 m", &["l1=ro"]),
    ] {
        let stage = Stage::new();
        let verbose = stage.plyfs(&format!("-v {line}")).succeeds();
        assert_eq!(stage.plyfs("branches m").succeeds().out, list(&stage, names), "{line}");
        for name in names {
            assert!(verbose.err.contains(&format!("/{name}\n")), "{verbose:?}");
        }
    }
    let stage = Stage::new();
    stage.plyfs("branches m").fails(3, &["m is not the mountpoint of a plyfs"]);
    stage.plyfs("branches /proc").fails(3, &["/proc is not the mountpoint"]);
    stage.plyfs("branches nowhere").fails(3, &["nowhere is not the mountpoint"]);
}

/// A name with an escape sequence, a newline and a bell.
const LOUD: &str = "l\u{1b}[31m\n\u{7}";

#[test]
fn names_do_not_speak_to_the_terminal() {
    let stage = Stage::new();
    fs::rename(stage.path("l1"), stage.path(LOUD)).expect("rename");
    let loud = OsStr::new(LOUD);
    let mut options = OsString::from("lowerdir=");
    options.push(loud);
    say(stage.command(PLYFS).arg("-o").arg(&options).arg("m")).succeeds();
    // A program gets the bytes: one branch is one line.
    let said = stage.plyfs("branches m").succeeds();
    assert!(said.out.ends_with("/l\u{1b}[31m\\012\u{7}=ro\n"), "{said:?}");
    // People get them escaped.
    let said = stage.shell("script -qec \"$PLYFS branches m\" /dev/null").succeeds();
    assert!(said.out.contains("/l\\x1b[31m\\012\\x07=ro"), "{said:?}");
    assert!(!said.out.contains('\u{1b}'), "{said:?}");
    stage.plyfs("umount m").succeeds();

    for (arguments, part) in [
        (["m", "-o", "lowerdir=nol\u{1b}[31m"], "lower nol\\x1b[31m does not exist"),
        (["m", "-o", "lowerdir=l2,bo\u{7}gus"], "unknown option bo\\x07gus ignored"),
        (["m\u{1b}", "-o", "lowerdir=l2"], "mountpoint m\\x1b does not exist"),
        (["m", "-o", "lowerdir=l2,threads=\u{1b}"], "threads=\\x1b is not a number"),
        (["m", "-o", "lowerdir=l2,umask=\u{1b}"], "umask=\\x1b is not possible"),
        (["umount", "-z", "m\n"], "m\\n is not the mountpoint"),
    ] {
        let said = say(stage.command(PLYFS).args(arguments));
        assert!(said.err.contains(part), "{said:?}");
        assert!(said.err.chars().all(|c| c == '\n' || !c.is_control()), "{said:?}");
    }
}

/// Root's upper where others get at it is a hole that no check in the union can close.
#[test]
fn an_upper_that_others_can_reach_is_warned_of() {
    let warning = "can be reached by other users, past the mount: move it into a directory of mode 0700";
    for (script, warns) in [
        ("true", false),
        ("chmod 755 .", true),
        ("chmod 711 .", true),
        ("chmod 755 .; chmod 700 u w", false),
        ("chmod 755 .; chmod 700 u", true),
        ("chmod 755 .; mkdir -m 700 p; mv u w p; ln -s p/u u; ln -s p/w w", false),
    ] {
        let stage = Stage::new();
        let said = stage.shell(&format!("{script}; $PLYFS m -o lowerdir=l1,upperdir=u,workdir=w")).succeeds();
        assert_eq!(said.err.contains(warning), warns, "{script}: {said:?}");
        stage.plyfs("umount m").succeeds();
    }
    // Nobody but root writes with others' rights.
    let (_stage, said) =
        as_nobody("chmod 755 .; $PLYFS m -o lowerdir=l1,upperdir=u,workdir=w; $PLYFS umount m");
    assert_eq!(said.succeeds().err, "");
}

/// Whether or not the daemon knows the request: nothing of it ever gets into the upper.
#[test]
fn sync_asks_the_daemon_and_leaves_nothing() {
    let stage = Stage::new();
    stage.plyfs("m -o lowerdir=l1,upperdir=u,workdir=w").succeeds();
    let said = stage.plyfs("sync m");
    if said.code != Some(0) {
        said.fails(1, &["does not know how to sync: use `sync -f` on its upper"]);
    }
    let said = stage.shell("getfattr -d -m - u m 2>/dev/null || true").succeeds();
    assert!(!said.out.contains("plyfs"), "{said:?}");
    stage.plyfs("umount m").succeeds();
    // Nothing can have been written.
    stage.plyfs("m -o lowerdir=l1").succeeds();
    stage.plyfs("sync m").succeeds();
    stage.plyfs("umount m").succeeds();
    stage.plyfs("sync m").fails(3, &["m is not the mountpoint of a plyfs"]);
}
