//! The command lines of those who call plyfs in another's place, as they write them.

use std::fs;

use crate::common::{
    Playground, Union, eventually, is_root, needs_root, open_dev_fuse_to_everybody, sh_as, sh_refused, text,
};

/// The folders of a store as containers/storage has them, seen from its home.
fn store() -> Playground {
    let play = Playground::new();
    play.sh(
        "chmod 700 .; mkdir -p overlay/l overlay/C/diff overlay/C/work overlay/C/merged; cd overlay
         for id in A B; do mkdir -p $id/diff; echo $id >$id/diff/which; echo $id >$id/diff/$id; ln -s ../$id/diff l/L$id; done",
    );
    play
}

const LINE: &str = r#"lowerdir=overlay/l/LA:overlay/l/LB,upperdir=overlay/C/diff,workdir=overlay/C/work,,context="system_u:object_r:container_file_t:s0:c1,c2""#;

#[test]
fn containers_storage_mounts_and_removes_at_once() {
    let play = store();
    for _ in 0..100 {
        let seen = play.sh(&format!(
            r#"mkdir -p overlay/C/diff overlay/C/work overlay/C/merged
             said=$(plyfs -o '{LINE}' overlay/C/merged 2>&1); [ -z "$said" ]
             cd overlay/C; cat merged/which merged/B; echo new >merged/new; rm merged/A
             fusermount3 -u merged; rm -rf diff work merged; [ ! -e work ]"#
        ));
        assert_eq!(seen, "A\nB\n");
    }
}

#[test]
fn containers_storage_mounts_a_read_only_image() {
    let play = store();
    let seen = play.sh(
        "plyfs -o lowerdir=overlay/C/diff:overlay/l/LA:overlay/l/LB overlay/C/merged; cat overlay/C/merged/which
         ! touch overlay/C/merged/new 2>/dev/null; plyfs umount overlay/C/merged",
    );
    assert_eq!(seen, "A\n");
}

/// The soft limit is 1,024 nearly everywhere, and a daemon may raise it. Where it may not, all but moving a directory that all
/// lowers share works, which takes a descriptor for each of them once more.
#[test]
fn five_hundred_lowers_work_with_a_thousand_descriptors() {
    for (limit, and_then) in [("-S -n", "mv mnt/d mnt/e; cat mnt/e/f"), ("-n", "cat mnt/d/f")] {
        let play = Playground::new();
        let seen = play.sh(&format!(
            "chmod 700 .; mkdir l up work mnt; lowers=; i=0
             while [ $i -lt 500 ]; do
                 mkdir -p $i/d; echo $i >$i/d/f; echo $i >$i/own$i; ln -s ../$i l/$i; lowers=$lowers:l/$i; i=$((i+1))
             done
             ulimit {limit} 1024; plyfs -o lowerdir=${{lowers#:}},upperdir=up,workdir=work mnt
             cat mnt/d/f mnt/own499; ls mnt | wc -l; echo changed >mnt/d/f
             for i in $(seq 0 499); do cat mnt/own$i; done | sort -u | wc -l; {and_then}; plyfs umount mnt"
        ));
        assert_eq!(seen, "0\n499\n501\n500\nchanged\n", "ulimit {limit}");
    }
}

#[test]
fn under_the_name_of_fuse_overlayfs_it_has_its_type() {
    let play = store();
    let seen = play.sh(&format!(
        r#"mkdir bin; ln -s $(command -v plyfs) bin/fuse-overlayfs; bin/fuse-overlayfs -o '{LINE}' overlay/C/merged
         findmnt -no FSTYPE overlay/C/merged; plyfs branches overlay/C/merged | wc -l; cat overlay/C/merged/which
         plyfs umount overlay/C/merged; ! findmnt overlay/C/merged; bin/fuse-overlayfs --version | wc -l"#
    ));
    assert_eq!(seen, "fuse.fuse-overlayfs\n3\nA\n1\n");
}

/// What is mounted with that type need not be a plyfs.
#[test]
fn another_programs_mount_of_that_type_is_left_alone() {
    needs_root!("mount(2)");
    let play = Playground::new();
    // Nobody answers for it.
    let said = sh_refused(
        play.path(""),
        "mkdir m; exec 5<>/dev/fuse; mount -i -t fuse.fuse-overlayfs -o fd=5,rootmode=40000,user_id=0,group_id=0 none m
         trap 'exec 5<&-; umount -l m' EXIT; timeout 20 plyfs umount m",
    );
    assert!(said.contains("is not the mountpoint of a plyfs"), "{said}");
}

/// Whoever has no /dev/fuse where plyfs runs, or drops his rights first, mounts by himself and hands the device over.
#[test]
fn a_session_that_the_caller_has_mounted_is_served() {
    needs_root!("mount(2)");
    let mount = "mount -i -t fuse.plyfs none overlay/C/merged -o fd=5,rootmode=40000,user_id=0,group_id=0,allow_other";
    let branches = "lowerdir=overlay/A/diff:overlay/B/diff,upperdir=overlay/C/diff,workdir=overlay/C/work";
    let play = store();
    let seen = play.sh(&format!(
        "exec 5<>/dev/fuse; {mount},default_permissions; plyfs -o {branches} /dev/fd/5; exec 5<&-
         cd overlay/C; cat merged/which; echo new >merged/new; plyfs branches merged | wc -l; plyfs umount merged; ls diff"
    ));
    assert_eq!(seen, "A\n3\nnew\n");
    let seen = play.sh(&format!(
        "mount.fuse3 'plyfs#it' $PWD/overlay/C/merged -o {},drop_privileges
         cat overlay/C/merged/new; findmnt -no FSTYPE overlay/C/merged; umount overlay/C/merged",
        branches.replace("overlay/", &format!("{}/overlay/", play.path("").display()))
    ));
    assert_eq!(seen, "new\nfuse.plyfs\n");

    let refused = |script: &str| sh_refused(play.path(""), script);
    let said = refused(&format!(
        "exec 5<>/dev/fuse; {mount}; trap 'exec 5<&-; umount -l overlay/C/merged' EXIT
                                 plyfs -o {branches} /dev/fd/5"
    ));
    assert!(said.contains("mount with -o default_permissions"), "{said}");
    for (number, what) in [(5, "exec 5</dev/null;"), (9, "")] {
        let said = refused(&format!("{what} plyfs -o {branches} /dev/fd/{number}"));
        assert!(said.contains(&format!("/dev/fd/{number} is not an open /dev/fuse")), "{said}");
    }
    // A directory is one by whatever name.
    let seen = play.sh(&format!(
        "exec 7<overlay/C/merged; plyfs -o {branches} /dev/fd/7; exec 7<&-
        cat overlay/C/merged/new; plyfs umount overlay/C/merged"
    ));
    assert_eq!(seen, "new\n");
}

#[test]
fn containerd_mounts_through_mount_fuse3() {
    needs_root!("mount.fuse3");
    let play = store();
    let seen = play.sh(&format!(
        "plyfs overlay overlay/C/merged -o {LINE} -o writeback=0 -o rw,dev,suid; cat overlay/C/merged/which
         findmnt -no SOURCE,OPTIONS overlay/C/merged | tr , '\\n' | grep -cE 'nosuid|nodev' || true
         plyfs umount overlay/C/merged"
    ));
    assert_eq!(seen, "A\n0\n");
}

/// mount(8) looks for its helpers, and for plyfs, where a package puts them. A script in a mount namespace of its own finds plyfs
/// there.
fn installed(play: &Playground, script: &str) -> String {
    fs::write(play.path("script"), script).unwrap();
    play.sh(
        "export PLYFS=$(command -v plyfs)
         unshare -m sh -euc 'mount -t tmpfs none /usr/local/bin; cp \"$PLYFS\" /usr/local/bin/plyfs; . ./script'",
    )
}

#[test]
fn fstab_is_followed_by_mount_8() {
    needs_root!("mount(8)");
    let play = store();
    let dir = play.path("").display().to_string();
    let line = |at: &str, more: &str| {
        format!("none {dir}/{at} fuse.plyfs {more},x-systemd.requires=local-fs.target 0 0\n")
    };
    let stack = format!(
        "lowerdir={dir}/overlay/A/diff:{dir}/overlay/B/diff,upperdir={dir}/overlay/C/diff,workdir={dir}/overlay/C/work"
    );
    let table = line("overlay/C/merged", &format!("{stack},_netdev,nofail,noatime"))
        + &line("ro", &format!("lowerdir={dir}/overlay/A/diff,defaults,user,exec,auto"))
        + &line("later", &format!("lowerdir={dir}/overlay/A/diff,noauto"))
        + &line("made", &format!("lowerdir={dir}/overlay/B/diff,x-mount.mkdir=0711,comment=ours"))
        + &line("nowhere", &format!("lowerdir={dir}/overlay/A/diff,nofail"));
    fs::write(play.path("fstab"), table).unwrap();
    let seen = installed(
        &play,
        "mkdir ro later; mount -a -T fstab 2>said || true; cat overlay/C/merged/which ro/which made/which; grep -c nowhere said
         findmnt -no OPTIONS overlay/C/merged | tr , '\\n' | grep noatime; findmnt -no OPTIONS ro | tr , '\\n' | grep -E 'nosuid|noexec'
         mount -a -T fstab 2>/dev/null || true; [ $(grep -c \"$PWD/ro \" /proc/self/mounts) = 1 ]; ls later | wc -l
         mount -T fstab later; cat later/which; echo new >overlay/C/merged/new; umount later made ro overlay/C/merged; ls overlay/C/diff",
    );
    assert_eq!(seen, "A\nA\nB\n1\nnoatime\nnosuid\n0\nA\nnew\n");
}

#[test]
fn a_remount_through_the_helper_names_the_way() {
    needs_root!("mount(8)");
    let play = store();
    play.sh(&format!("plyfs -o {LINE} overlay/C/merged"));
    let said = installed(&play, "mount -o remount,ro overlay/C/merged 2>&1 || true");
    assert!(said.contains("mount -i -o remount,ro MOUNTPOINT"), "{said}");
    play.sh("m=overlay/C/merged; mount -i -o remount,ro $m; ! touch $m/new 2>/dev/null
         mount -i -o remount,rw $m; touch $m/new; plyfs umount $m");
}

#[test]
fn a_dev_fuse_that_is_none_is_named() {
    needs_root!("mount(2)");
    let play = store();
    let said = play.sh(
        "unshare -m sh -c 'mount --bind /dev/null /dev/fuse; plyfs -o lowerdir=overlay/A/diff overlay/C/merged 2>&1; echo $?'",
    );
    assert!(said.contains("/dev/fuse is not the FUSE device") && said.ends_with("\n5\n"), "{said}");
}

/// Apptainer stays in the foreground, unmounts, and kills half a second later. Its real user may be another one.
#[test]
fn apptainer_kills_soon_after_the_unmount() {
    let users = if is_root() { &["", "setpriv --ruid 65534 --euid 0 --keep-groups"][..] } else { &[""] };
    for user in users {
        let play = store();
        play.sh("chmod 755 .");
        let seen = play.sh(&format!(
            "{user} plyfs -f -o lowerdir=overlay/A/diff:overlay/B/diff,upperdir=overlay/C/diff,workdir=overlay/C/work overlay/C/merged &
             pid=$!; while ! findmnt overlay/C/merged >/dev/null; do sleep 0.01; done
             echo new >overlay/C/merged/new; rm overlay/C/merged/B; fusermount3 -u overlay/C/merged; sleep 0.5
             kill -9 $pid 2>/dev/null || true; wait $pid || true; ls -A overlay/C/diff overlay/C/work/plyfs"
        ));
        assert_eq!(seen, "overlay/C/diff:\n.wh.B\nnew\n\noverlay/C/work/plyfs:\nformat\nlock\n", "{user}");
    }
}

#[test]
fn fsync_0_is_volatile() {
    let union = Union::builder().option("fsync=0").lower(|b| b.file("f", "")).mount();
    assert!(union.kept("volatile").exists());
    let union = Union::builder().option("fsync=1").lower(|b| b.file("f", "")).mount();
    assert!(!union.kept("volatile").exists());
}

#[test]
fn directories_have_one_link_if_they_are_to() {
    let union =
        Union::builder().option("static_nlink").lower(|b| b.dir("d/e").dir("d/f").file("d/g", "")).mount();
    let links = |path| std::os::unix::fs::MetadataExt::nlink(&fs::metadata(union.at(path)).unwrap());
    assert_eq!((links(""), links("d"), links("d/g")), (1, 1, 1));
    fs::hard_link(union.at("d/g"), union.at("h")).unwrap();
    assert_eq!(links("h"), 2);
}

/// Lowers that somebody edits behind the mount.
#[test]
fn with_a_timeout_of_zero_a_change_behind_the_mount_shows_at_the_next_look() {
    let play = Playground::new();
    let seen = play.sh(
        "chmod 700 .; mkdir -p low/d up mnt; echo old >low/f; ln -s old low/s; touch low/d/gone
         plyfs -o timeout=0,lowerdir=low,upperdir=up mnt
         look() { cat mnt/f; readlink mnt/s; ls mnt/d; stat -c %a mnt/f; ls mnt; }
         look; ! cat mnt/new 2>/dev/null
         echo longer than before >low/f; ln -sfn new low/s; rm low/d/gone; touch low/d/come; chmod 600 low/f; echo new >low/new
         look; cat mnt/new
         echo replaced >low/g; mv low/g low/f; mkdir low/other; touch low/other/1; mv low/d low/e; mv low/other low/d; look
         plyfs umount mnt",
    );
    assert_eq!(
        seen,
        "old\nold\ngone\n644\nd\nf\ns\n\
         longer than before\nnew\ncome\n600\nd\nf\nnew\ns\nnew\n\
         replaced\nnew\n1\n644\nd\ne\nf\nnew\ns\n"
    );
}

/// A mapping, and a handle that was open before, see what is there by now or an error, and no mixture.
#[test]
fn with_a_timeout_of_zero_open_files_are_read_as_they_are() {
    use std::os::unix::fs::FileExt;
    let play = Playground::new();
    play.sh(
        "chmod 700 .; mkdir low up mnt; echo first >low/f; plyfs -o timeout=0,lowerdir=low,upperdir=up mnt",
    );
    let file = fs::File::open(play.path("mnt/f")).unwrap();
    let read = || {
        let mut buffer = [0; 64];
        file.read_at(&mut buffer, 0).map(|length| String::from_utf8(buffer[..length].to_vec()).unwrap())
    };
    assert_eq!(read().unwrap(), "first\n");
    fs::write(play.path("low/f"), "second, and longer\n").unwrap();
    eventually(|| read().is_ok_and(|text| text == "second, and longer\n"));
    fs::write(play.path("low/g"), "another file\n").unwrap();
    fs::rename(play.path("low/g"), play.path("low/f")).unwrap();
    assert_eq!(text(play.path("mnt/f")), "another file\n");
    match read() {
        Ok(text) => assert_eq!(text, "second, and longer\n"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::STALE.raw_os_error())),
    }
    drop(file);
    play.sh("plyfs umount mnt");
}

#[test]
fn a_home_owner_mounts_with_podmans_words() {
    needs_root!("to become an ordinary user");
    open_dev_fuse_to_everybody();
    let play = store();
    play.sh("chmod 755 .; chown -R 65534:65534 .");
    let line = LINE.replace(",,context", ",volatile,,context");
    let seen = sh_as(
        65534,
        play.path(""),
        &format!(
            "plyfs -o '{line}' overlay/C/merged; cat overlay/C/merged/which; fusermount3 -u overlay/C/merged"
        ),
    );
    assert_eq!(seen, "A\n");
}
