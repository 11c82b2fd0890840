//! Do options mean here what they mean elsewhere?

use crate::stage::{PLYFS, Stage, as_nobody, say};

/// The flags of the stage's mount, in the mount table's words.
fn flags(stage: &Stage) -> Vec<String> {
    let mounts = stage.mounts();
    let line = mounts.last().expect("a mount");
    line.split(' ').nth(3).expect("flags").split(',').map(str::to_owned).collect()
}

/// A union must be no way around what the mount of a branch forbids.
#[test]
fn a_branch_on_nosuid_nodev_noexec_makes_the_union_so() {
    let has = |said: &crate::stage::Said, flag: &str| said.out.trim().split(',').any(|word| word == flag);
    let look = "grep fuse.plyfs /proc/self/mounts | grep \"$PWD/m \" | cut -d' ' -f4; umount m";
    for (mount, options, expected) in [
        ("mount -t tmpfs -o nosuid,nodev none l1", "lowerdir=l1:l2", &["nosuid", "nodev"][..]),
        ("mount -t tmpfs -o noexec none l2", "lowerdir=l1:l2,upperdir=u,workdir=w", &["noexec"]),
        (
            "mount -t tmpfs -o nosuid none u; mkdir u/u u/w",
            "lowerdir=l1,upperdir=u/u,workdir=u/w",
            &["nosuid"],
        ),
        ("mount -t tmpfs -o nosuid,nodev,noexec none l1", "lowerdir=l1,suid,exec,noatime", &["nodev"]),
        ("mount -t tmpfs -o nosuid,nodev,noexec none l1", "suid,dev,exec,lowerdir=l1", &[]),
        // As mount(8) ends root's lines.
        ("mount -t tmpfs -o nosuid,nodev none l1", "lowerdir=l1,rw,dev,suid", &["nosuid", "nodev"]),
        ("true", "lowerdir=l1:l2,upperdir=u,workdir=w", &[]),
        // fstab(5): they imply it.
        ("true", "lowerdir=l1,users", &["nosuid", "nodev", "noexec"]),
        ("true", "lowerdir=l1,nosymfollow", &["nosymfollow"]),
    ] {
        let stage = Stage::new();
        let said = stage.shell_in_namespace(&format!("{mount}; $PLYFS m -o {options}; {look}")).succeeds();
        for flag in ["nosuid", "nodev", "noexec", "nosymfollow"] {
            assert_eq!(has(&said, flag), expected.contains(&flag), "{flag}: {mount}; {options}: {said:?}");
        }
    }
}

/// What it means: no link is followed.
#[test]
fn nosymfollow_is_honoured_or_refused() {
    let stage = Stage::new();
    stage.shell("ln -s one l1/link").succeeds();
    stage.plyfs("m -o lowerdir=l1,nosymfollow").succeeds();
    stage.shell("readlink m/link; ! cat m/link").succeeds();
    stage.plyfs("umount m").succeeds();

    let (stage, said) = as_nobody("$PLYFS m -o lowerdir=l1,nosymfollow || code=$?; exit ${code-0}");
    if said.code == Some(0) {
        assert!(flags(&stage).contains(&"nosymfollow".to_owned()), "{:?}", stage.mounts());
    } else {
        said.fails(5, &["nosymfollow is not available here", "mount as root"]);
        assert!(stage.mounts().is_empty());
    }
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let stage = Stage::new();
    for (option, part) in [
        ("umask=077", "chmod"),
        ("uid=1000", "squash_to_uid=N"),
        ("gid=1000", "squash_to_gid=N"),
        ("chroot=/srv", "as they are seen from here"),
        ("remount", "unmount it"),
        ("direct_io", "use watch or timeout=0"),
        ("udba=maybe", "udba=none, udba=reval or udba=notify"),
        ("plugins=a.so", "no plugins"),
        ("noacl", "ACLs always hold"),
        ("noxattrs=1", "always shown"),
        ("redirect_dir=on", "redirect_dir=off"),
        ("metacopy=on", "metacopy=off"),
        ("datadir+=l2", "no data-only lowers"),
        ("lowerdir+=l2", "both by lowerdir and by lowerdir+"),
    ] {
        let said = stage.plyfs(&format!("none m -o lowerdir=l1,{option}"));
        said.fails(2, &[option.split('=').next().expect("a name"), part]);
        assert!(stage.mounts().is_empty(), "{option}");
    }
}

/// As podman, buildah, Docker, containerd, fstab and live systems write them.
#[test]
fn lines_of_others_go_on_working() {
    for options in [
        "lowerdir=@/l1:@/l2,upperdir=@/u,workdir=@/w,volatile,userxattr,index=off",
        "lowerdir=@/l1:@/l2,upperdir=@/u,workdir=@/w,nodev,fsync=0",
        "lowerdir=@/l1,upperdir=@/u,workdir=@/w,context=\"system_u:object_r:container_file_t:s0:c1,c2\"",
        "lowerdir=@/l1,upperdir=@/u,workdir=@/w,uidmapping=0:0:65536,gidmapping=0:0:65536,metacopy=off,redirect_dir=off",
        "defaults,noauto,nofail,_netdev,x-systemd.automount,x-mount.mkdir,lowerdir=@/l1,upperdir=@/u,workdir=@/w",
        "auto_unmount,lowerdir=@/l1,xino=off,uuid=on,nfs_export=off",
        "cow,hide_meta_files,max_files=32768,allow_other,use_ino,suid,dev,nonempty,dirs=@/u:@/l1",
        "noatime,xino=/dev/shm/aufs.xino,udba=none,br:@/u=rw:@/l1=ro+wh",
        "udba=reval,br:@/u=rw:@/l1=ro",
        "udba=notify,br:@/u=rw:@/l1=ro",
        "lowerdir=@/l1,watch",
    ] {
        let stage = Stage::new();
        let said = stage.plyfs(&format!("none m -o {options}")).succeeds();
        assert_eq!(said.err, "", "{options}");
        assert!(stage.names_in("m").expect(options).contains(&"one".to_owned()), "{options}");
        stage.plyfs("umount m").succeeds();
    }
}

/// The kernel takes the value of `lowerdir+` as it is.
#[test]
fn a_colon_in_a_name_needs_no_escape_in_lowerdir_plus() {
    let stage = Stage::new();
    stage.shell(r"mv l1 l:1; mv l2 'l\:2'").succeeds();
    say(stage.command(PLYFS).args(["m", "-o", r"lowerdir+=l:1,lowerdir+=l\:2"])).succeeds();
    assert_eq!(stage.names_in("m").expect("a mount"), ["one", "two"]);
}
