//! What is refused, with which words and which exit code?

use std::fs;
use std::os::unix::fs::symlink;

use crate::stage::Stage;

#[test]
fn wrong_lines() {
    let stage = Stage::new();
    let before = stage.snapshot();
    for (line, code, parts) in [
        ("", 2, &["Usage:"][..]),
        ("mount", 2, &["Usage:"]),
        ("m", 2, &["no branches", "lowerdir=", "if `m` was to be a command", "plyfs --help"]),
        ("m -o", 2, &["-o"]),
        ("a b m -o lowerdir=l1", 2, &["m"]),
        ("--bogus m", 2, &["--bogus"]),
        ("m -o lowerdir=l1,allow_root", 2, &["allow_root", "use allow_other"]),
        ("m -o dirs=u:l1=rw", 2, &["l1=rw is not the first branch"]),
        ("m -o dirs=u=wo", 2, &["unknown permission `wo` of branch u"]),
        ("m -o lowerdir=l1,threads=0", 2, &["threads=0"]),
        ("m -o lowerdir=l1,uidmapping=1:2", 2, &["uidmapping", "on-disk:shown:length"]),
        ("umount", 2, &["MOUNTPOINT"]),
    ] {
        let said = stage.plyfs(line).fails(code, parts);
        assert_eq!(said.out, "", "{line}");
    }
    assert_eq!(stage.snapshot(), before);
    assert!(stage.mounts().is_empty());
    for line in ["--help", "-h", "--version", "help", "mount --help", "umount -h"] {
        let said = stage.plyfs(line).succeeds();
        assert!(said.out.contains("plyfs") && said.err.is_empty(), "{line}: {said:?}");
    }
    assert!(stage.plyfs("--help").out.contains("Exit codes:"));
}

#[test]
fn directories_that_make_no_union() {
    let stage = Stage::new();
    for name in ["l1/in", "u/in", "w/in", "m/in"] {
        fs::create_dir(stage.path(name)).expect("mkdir");
    }
    symlink("l1", stage.path("link")).expect("symlink");
    symlink("u/in", stage.path("deep")).expect("symlink");
    let before = stage.snapshot();
    for (line, parts) in [
        ("m -o lowerdir=no", &["lower no does not exist", "mkdir"][..]),
        ("m -o lowerdir=l1,upperdir=no", &["upper no does not exist"]),
        ("m -o lowerdir=l1,upperdir=u,workdir=no", &["workdir no does not exist", "a colon or comma"]),
        ("m -o lowerdir=l1/one", &["lower l1/one is not a directory"]),
        ("m -o lowerdir=l1,upperdir=u/three", &["upper u/three is not a directory"]),
        ("m -o lowerdir=l1:l2:l1", &["lower @/l1 and lower @/l1 are the same"]),
        ("m -o lowerdir=l1:link", &["@/l1 are the same directory"]),
        ("m -o lowerdir=l1,upperdir=link,workdir=w", &["upper @/l1 and lower @/l1 are the same"]),
        ("m -o lowerdir=l1,upperdir=u,workdir=u", &["upper @/u and workdir @/u are the same"]),
        ("m -o lowerdir=l1,upperdir=u,workdir=l1", &["workdir @/l1 and lower @/l1 are the same"]),
        ("m -o lowerdir=l1:l1/in", &["lower @/l1/in is inside lower @/l1"]),
        ("m -o lowerdir=l1/in:l2:l1", &["lower @/l1/in is inside lower @/l1"]),
        ("m -o lowerdir=deep,upperdir=u,workdir=w", &["lower @/u/in is inside upper @/u"]),
        ("m -o lowerdir=l1,upperdir=u,workdir=u/in", &["workdir @/u/in is inside upper @/u"]),
        ("m -o lowerdir=l1,upperdir=w/in,workdir=w", &["upper @/w/in is inside workdir @/w"]),
        ("m -o lowerdir=w/in,upperdir=u,workdir=w", &["lower @/w/in is inside workdir @/w"]),
        ("m -o lowerdir=.:l1", &["lower @/l1 is inside lower @"]),
        ("u/in -o lowerdir=l1,upperdir=u", &["mountpoint @/u/in is inside upper @/u", "somewhere else"]),
        ("w/in -o lowerdir=l1,upperdir=u,workdir=w", &["@/w/in is inside workdir @/w"]),
        ("no -o lowerdir=l1", &["mountpoint no does not exist"]),
        ("l2/two -o lowerdir=l1", &["mountpoint l2/two is not a directory"]),
    ] {
        let parts = parts.iter().flat_map(|part| stage.words(&part.replace(' ', "\u{a0}")));
        let parts: Vec<String> = parts.map(|part| part.replace('\u{a0}', " ")).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let said = stage.plyfs(line).fails(3, &parts);
        assert!(said.err.starts_with("plyfs: "), "{line}: {said:?}");
        assert_eq!(said.err.lines().count(), 1, "{line}: {said:?}");
        assert_eq!(stage.snapshot(), before, "{line}");
        assert!(stage.mounts().is_empty(), "{line}");
    }
}

#[test]
fn the_words_of_a_message_survive_the_background() {
    let stage = Stage::new();
    let line = "m -o lowerdir=no,bogus=1";
    let background = stage.plyfs(line).fails(3, &["warning: unknown option bogus=1 ignored\n"]);
    let foreground = stage.plyfs(&format!("-f {line}")).fails(3, &[]);
    assert_eq!(background.err, foreground.err);
}

#[test]
fn an_unknown_option_is_only_a_warning() {
    let stage = Stage::new();
    let said = stage.plyfs("m -o lowerdir=l1,bogus").succeeds();
    assert_eq!(said.err, "plyfs: warning: unknown option bogus ignored\n");
    let stage = Stage::new();
    let known = "xino=off,index=off,metacopy=off,cow,udba=none,auto_unmount,x-systemd.automount";
    let said = stage.plyfs(&format!("none m -o lowerdir=l1,{known}")).succeeds();
    assert_eq!(said.err, "");
}

#[test]
fn disks_that_do_not_fit() {
    for (script, code, part) in [
        (
            "mount --bind -o ro u u; $PLYFS m -o lowerdir=l1,upperdir=u,workdir=w",
            3,
            "u is on a read-only filesystem: mount with -o ro",
        ),
        ("mount --bind -o ro u u; $PLYFS m -o lowerdir=l1,upperdir=u,ro; umount m", 0, ""),
        (
            "mount -t tmpfs none w; $PLYFS m -o lowerdir=l1,upperdir=u,workdir=w",
            3,
            "are not on the same mounted filesystem",
        ),
        (
            "mount --bind w w; $PLYFS m -o lowerdir=l1,upperdir=u,workdir=w",
            3,
            "are not on the same mounted filesystem",
        ),
        (
            "mount -t tmpfs none u; $PLYFS m -o lowerdir=l1,upperdir=u",
            3,
            "it is the root of a mounted filesystem): give workdir=DIR",
        ),
        (
            "mkdir -m 0777 .u.plyfs-work; $PLYFS m -o lowerdir=l1,upperdir=u",
            3,
            "others can write to .u.plyfs-work): give workdir=DIR",
        ),
        ("mount -t tmpfs none /dev; $PLYFS -f m -o lowerdir=l1", 5, "modprobe fuse"),
        ("mount --bind l1 m; $PLYFS l2 -o lowerdir=l1:m", 3, "are the same directory"),
    ] {
        let said = Stage::new().shell_in_namespace(script);
        assert_eq!(said.code, Some(code), "{script}: {said:?}");
        assert!(said.err.contains(part), "{script}: {said:?}");
    }
}

/// A union keeps the names of whiteouts to itself, so another one in it could delete nothing.
#[test]
fn an_upper_inside_a_union_is_refused_before_anything_is_written() {
    let stage = Stage::new();
    fs::create_dir(stage.path("m2")).expect("mkdir");
    stage.plyfs("m -o lowerdir=l2,upperdir=u,workdir=w").succeeds();
    for name in ["m/up", "m/work"] {
        fs::create_dir(stage.path(name)).expect("mkdir");
    }
    stage.plyfs("m2 -o lowerdir=l1,upperdir=m/up,workdir=m/work").fails(3, &["a union itself"]);
    for name in ["m/up", "m/work"] {
        assert_eq!(stage.names_in(name), Some(Vec::new()), "{name}");
    }
    stage.plyfs("umount m").succeeds();
}
