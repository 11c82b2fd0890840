//! Which lines mount, and what does the mount table say?

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use crate::stage::{PLYFS, Stage, say};

#[test]
fn everybodys_lines_mount() {
    let all = ["one", "three", "two"];
    for (line, source, names) in [
        ("-o lowerdir=l1:l2,upperdir=u,workdir=w m", "plyfs", &all[..]),
        ("none m -o lowerdir=l1:l2 -o upperdir=u -oworkdir=w", "none", &all),
        ("-o lowerdir=l1 src -oupperdir=u,workdir=w,rw,dev,suid m", "src", &["one", "three"]),
        ("-o dirs=./u:./l2:./l1 none ./m", "none", &all),
        ("-o br:u=rw:l2=ro:l1=rr none m", "none", &all),
        ("-o dirs=l2=ro:l1 m", "plyfs", &["one", "two"]),
        ("mount --lower l1 --lower l2 --upper u --work w m", "plyfs", &all),
        ("mount -o lowerdir=l1,fsname=x -v m", "x", &["one"]),
        ("-s m -o lowerdir+=l1,lowerdir+=l2", "plyfs", &["one", "two"]),
        ("-o lowerdir=m/../l1:@/l2 m", "plyfs", &["one", "two"]),
    ] {
        let stage = Stage::new();
        let said = stage.plyfs(line).succeeds();
        assert_eq!(said.out, "", "{line}");
        assert_eq!(stage.names_in("m").expect(line), names, "{line}");
        let mounts = stage.mounts();
        let start = format!("{source} {} fuse.plyfs ", stage.path("m").display());
        assert!(mounts.len() == 1 && mounts[0].starts_with(&start), "{line}: {mounts:?}");
        stage.plyfs("umount m").succeeds();
        assert!(stage.mounts().is_empty(), "{line}");
    }
}

#[test]
fn mount_finds_us_as_a_helper() {
    let stage = Stage::new();
    let bin = Path::new(PLYFS).parent().expect("a directory");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
    let script = "mount.fuse3 none m -t plyfs -o lowerdir=l1,upperdir=u,workdir=w,rw,noatime";
    say(stage.command("sh").args(["-euc", script]).env("PATH", path)).succeeds();
    assert_eq!(stage.names_in("m").expect("a mount"), ["one", "three"]);
    assert!(stage.mounts()[0].contains(" fuse.plyfs rw,noatime,"), "{:?}", stage.mounts());
    stage.shell("umount m").succeeds();
}

#[test]
fn the_mount_table_says_what_was_asked_for() {
    for (options, flags) in [
        ("upperdir=u", "rw,relatime,user_id=0,group_id=0,default_permissions,allow_other 0 0"),
        ("ro,upperdir=u", "ro,relatime,user_id=0,"),
        ("rw", "ro,relatime,"),
        ("upperdir=u,nosuid,nodev,noexec,noatime", "rw,nosuid,nodev,noexec,noatime,"),
    ] {
        let stage = Stage::new();
        stage.plyfs(&format!("m -o lowerdir=l1,{options}")).succeeds();
        let mounts = stage.mounts();
        let options = mounts[0].splitn(4, ' ').nth(3).expect("options");
        assert!(options.starts_with(flags), "{options}");
    }
}

#[test]
fn a_workdir_is_made_where_none_is_given() {
    let stage = Stage::new();
    for _ in ["made", "found again"] {
        stage.plyfs("-o dirs=u:l1 none m").succeeds();
        let work = fs::metadata(stage.path(".u.plyfs-work")).expect("a default workdir");
        assert_eq!(work.mode() & 0o7777, 0o700);
        stage.plyfs("umount m").succeeds();
    }
    assert_eq!(stage.names_in("u").expect("the upper"), ["three"]);
}

#[test]
fn a_mount_may_cover_its_own_branch() {
    for (line, names) in [
        ("l1 -o lowerdir=l1:l2", &["one", "two"][..]),
        ("u -o lowerdir=l1,upperdir=u,workdir=w", &["one", "three"]),
    ] {
        let stage = Stage::new();
        stage.plyfs(line).succeeds();
        let at = line.split(' ').next().expect("a mountpoint");
        assert_eq!(stage.names_in(at).expect("a mount"), names, "{line}");
        stage.plyfs(&format!("umount {at}")).succeeds();
    }
}

#[test]
fn names_that_need_escapes() {
    let stage = Stage::new();
    for (from, to) in [("l1", "l:1"), ("l2", "l,2"), ("u", r"u\x"), ("m", "m p\\")] {
        fs::rename(stage.path(from), stage.path(to)).expect("rename");
    }
    let options = r"lowerdir=l\:1:l\,2,upperdir=u\\x,workdir=w,fsname=a b\,c";
    say(stage.command(PLYFS).args(["-o", options, "m p\\"])).succeeds();
    assert_eq!(stage.names_in("m p\\").expect("a mount"), ["one", "three", "two"]);
    assert!(stage.mounts()[0].starts_with("a\\040b,c "), "{:?}", stage.mounts());
    say(stage.command(PLYFS).args(["umount", "m p\\"])).succeeds();
    assert!(stage.mounts().is_empty());
}

#[test]
fn paths_are_the_kernels() {
    let stage = Stage::new();
    fs::create_dir_all(stage.path("far/away")).expect("mkdir");
    symlink("far/away", stage.path("s")).expect("symlink");
    fs::rename(stage.path("l1"), stage.path("far/l1")).expect("rename");
    // As text, s/../l1 would be l1, which is not there.
    stage.plyfs("m -o lowerdir=s/../l1").succeeds();
    assert_eq!(stage.names_in("m").expect("a mount"), ["one"]);
    let list = stage.plyfs("branches m").succeeds().out;
    assert_eq!(list, format!("{}=ro\n", stage.path("far/l1").display()));
}

#[test]
fn six_hundred_lowers_under_a_low_limit() {
    let stage = Stage::new();
    let mut list = String::from("lowerdir=l1");
    for number in 0..600 {
        fs::create_dir(stage.path(&format!("n{number}"))).expect("mkdir");
        list += &format!(":n{number}");
    }
    let line = format!("prlimit --nofile=256:4096 $PLYFS m -o {list}");
    stage.shell(&line).succeeds();
    assert_eq!(stage.plyfs("branches m").succeeds().out.lines().count(), 601);
}
