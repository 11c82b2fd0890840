//! Branches on filesystems of every kind: each works, or is refused at mount time with the reason. Where an
//! upper's filesystem lacks something, what needs it fails as it would there, and leaves nothing half-done.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, RenameFlags, Timespec, Timestamps, UTIME_NOW, XattrFlags,
    fallocate, mknodat, renameat_with, setxattr, utimensat,
};
use rustix::io::Errno;

use crate::common::{
    ALICE, BOB, Branch, FaultyFs, LoopDisk, MissingFeature, Playground, Tmpfs, Union, as_user, exists,
    is_root, mode, names, needs_root, overwrite, refused, say_not_played, sh, stat, temp_dir, text,
};

fn fill(b: Branch) -> Branch {
    b.file("f", "lower")
        .mode("f", 0o640)
        .mtime("f", 1_000_000_000, 123_456_789)
        .sparse("sparse", 8 << 20, &[(3 << 20, b"data")])
        .file("one", "linked")
        .link("one", "two")
        .symlink("s", "f")
        .file("gone/x", "")
        .file("a", "A")
        .file("b", "B")
        .file("d/f", "deep")
        .file("d/sub/g", "deeper")
        .mode("d", 0o2750)
        .file("with_link/f", "")
        .symlink("with_link/s", "f")
        .file("with_fifo/f", "")
        .fifo("with_fifo/p")
        .file("tagged", "tagged")
}

/// What an operation comes to where the disk may lack what it needs.
#[track_caller]
fn done_or(lacks: bool, errno: Errno, outcome: Result<(), impl Into<std::io::Error>>) {
    if lacks {
        refused(outcome, errno);
    } else {
        outcome.map_err(Into::into).unwrap();
    }
}

/// One of every operation, on an upper that lacks this.
fn a_day(union: &mut Union, lacks: &[MissingFeature]) {
    let lacks = |what: MissingFeature| lacks.contains(&what);
    let at = |path: &str| union.at(path);

    overwrite(at("f"), 0, "UPPER");
    assert_eq!(text(at("f")), "UPPER");
    assert_eq!(mode(at("f")), 0o640);
    fs::set_permissions(at("f"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(mode(union.upper("f")), 0o600);
    overwrite(at("sparse"), 1, "up");
    let sparse = fs::read(at("sparse")).unwrap();
    assert_eq!(
        (sparse.len(), &sparse[..4], &sparse[3 << 20..][..4]),
        (8 << 20, &b"\0up\0"[..], &b"data"[..])
    );
    File::options().append(true).open(at("d/f")).unwrap().write_all(b" and more").unwrap();

    fs::remove_dir_all(at("gone")).unwrap();
    fs::create_dir(at("gone")).unwrap();
    assert!(names(at("gone")).is_empty());
    fs::write(at("new"), "new").unwrap();
    refused(renameat_with(CWD, at("new"), CWD, at("f"), RenameFlags::NOREPLACE), Errno::EXIST);
    renameat_with(CWD, at("new"), CWD, at("newer"), RenameFlags::NOREPLACE).unwrap();
    fs::rename(at("d"), at("moved")).unwrap();
    assert_eq!(text(at("moved/f")), "deep and more");
    assert_eq!(mode(at("moved")), 0o2750);

    let exchanged = renameat_with(CWD, at("a"), CWD, at("b"), RenameFlags::EXCHANGE);
    done_or(lacks(MissingFeature::RenameFlags), Errno::INVAL, exchanged);
    let swapped = !lacks(MissingFeature::RenameFlags);
    assert_eq!(text(at("a")) + &text(at("b")), if swapped { "BA" } else { "AB" });

    let file = File::options().write(true).open(at("one")).unwrap();
    done_or(lacks(MissingFeature::HardLinks), Errno::PERM, file.write_all_at(b"LINKED", 0));
    drop(file);
    assert_eq!(text(at("one")), text(at("two")), "one file");
    assert_eq!(text(at("two")), if lacks(MissingFeature::HardLinks) { "linked" } else { "LINKED" });
    done_or(lacks(MissingFeature::HardLinks), Errno::PERM, fs::hard_link(at("newer"), at("newest")));
    assert_eq!(exists(at("newest")), !lacks(MissingFeature::HardLinks));

    done_or(lacks(MissingFeature::Symlinks), Errno::PERM, symlink("newer", at("link")));
    done_or(lacks(MissingFeature::Symlinks), Errno::PERM, fs::rename(at("with_link"), at("links")));
    let place = if lacks(MissingFeature::Symlinks) { "with_link" } else { "links" };
    assert_eq!(names(at(place)), ["f", "s"]);
    let fifo = mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0);
    done_or(lacks(MissingFeature::Nodes), Errno::OPNOTSUPP, fifo);
    done_or(lacks(MissingFeature::Nodes), Errno::OPNOTSUPP, fs::rename(at("with_fifo"), at("fifos")));
    let place = if lacks(MissingFeature::Nodes) { "with_fifo" } else { "fifos" };
    assert!(stat(at(place).join("p")).file_type().is_fifo());

    let tag = setxattr(at("newer"), "user.tag", b"tag", XattrFlags::empty());
    done_or(lacks(MissingFeature::Xattrs), Errno::OPNOTSUPP, tag);
    if is_root() {
        done_or(lacks(MissingFeature::Owners), Errno::PERM, chown(at("tagged"), Some(ALICE), None));
        done_or(lacks(MissingFeature::Owners), Errno::PERM, chown(at("newer"), Some(ALICE), None));
    }
    fs::remove_file(at("s")).unwrap();
    union.remount();
    assert!(!exists(union.at("s")) && !exists(union.at("d")));
    assert_eq!(text(union.at("moved/sub/g")), "deeper");
}

/// How many entries are listed, if all are.
fn listed(dir: impl AsRef<Path>) -> std::io::Result<usize> {
    fs::read_dir(dir)?.try_fold(0, |count, entry| entry.map(|_| count + 1))
}

fn play_a_day(lacks: &[MissingFeature]) {
    let disk = FaultyFs::without(lacks);
    // Its numbers stay, which nobody can know of a FUSE filesystem.
    let union = Union::builder().writable_in(disk.path()).lower(fill).option("stable_inodes");
    a_day(&mut union.mount(), lacks);
}

mod an_upper {
    use super::*;

    #[test]
    fn on_xfs_works() {
        needs_root!("a loop device");
        on_a_loop_disk(|| LoopDisk::of("mkfs.xfs -q", 320));
    }

    #[test]
    fn on_btrfs_works() {
        needs_root!("a loop device");
        on_a_loop_disk(|| LoopDisk::of("mkfs.btrfs -q", 128));
    }

    #[test]
    fn on_ext4_without_a_journal_and_with_small_inodes_works() {
        needs_root!("a loop device");
        on_a_loop_disk(|| LoopDisk::of("mkfs.ext4 -q -O ^has_journal -b 1024", 64));
    }

    fn on_a_loop_disk(make: impl FnOnce() -> Option<LoopDisk>) {
        let Some(disk) = make() else {
            return say_not_played("this machine lends no loop device, or does not know the filesystem");
        };
        let mut union = Union::builder().writable_in(disk.path()).lower(fill).mount();
        a_day(&mut union, &[]);
    }

    #[test]
    fn on_tmpfs_works() {
        needs_root!("a tmpfs");
        let disk = Tmpfs::of_kib(32 * 1024);
        let mut union = Union::builder().writable_in(disk.path()).lower(fill).mount();
        a_day(&mut union, &[]);
    }

    /// As most are: no `O_TMPFILE`, no reflinks, no fallocate, no `copy_file_range`, no `SEEK_HOLE`.
    #[test]
    fn on_a_fuse_filesystem_works() {
        play_a_day(&[]);
        let disk = FaultyFs::new();
        let union = Union::builder().writable_in(disk.path()).lower(fill).mount();
        let file = File::options().read(true).write(true).open(union.at("f")).unwrap();
        refused(fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 4096), Errno::OPNOTSUPP);
        let (mut from, mut to) = (0, 10);
        let copied = rustix::fs::copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 5);
        assert_eq!(copied, Ok(5));
        assert_eq!(fs::read(union.at("f")).unwrap(), b"lower\0\0\0\0\0lower");
    }

    /// The whiteouts of a directory that was read before must still be seen.
    #[test]
    fn whose_directories_are_listed_once_by_a_descriptor_shows_what_came_since() {
        play_a_day(&[MissingFeature::Rewinding]);
        let disk = FaultyFs::without(&[MissingFeature::Rewinding]);
        let mut union = Union::builder()
            .writable_in(disk.path())
            .lower(|b| b.file("d/doomed", "").file("d/sub/file", ""))
            .mount();
        fs::remove_file(union.at("d/doomed")).unwrap();
        assert_eq!(names(union.at("d")), ["sub"]);
        fs::rename(union.at("d/sub"), union.at("d/moved")).unwrap();
        assert_eq!(names(union.at("d")), ["moved"]);
        union.remount();
        assert_eq!(names(union.at("d")), ["moved"]);
    }

    #[test]
    fn without_attributes_leaves_them_out() {
        play_a_day(&[MissingFeature::Xattrs]);
        let disk = FaultyFs::without(&[MissingFeature::Xattrs]);
        let union = Union::builder()
            .writable_in(disk.path())
            .lower(|b| b.file("f", "lower").xattr("f", "user.tag", "tag"))
            .mount();
        let mut value = [0; 8];
        assert_eq!(rustix::fs::getxattr(union.at("f"), "user.tag", &mut value), Ok(3));
        overwrite(union.at("f"), 0, "UPPER");
        assert_eq!(rustix::fs::getxattr(union.at("f"), "user.tag", &mut value), Err(Errno::NODATA));
    }

    /// Its mode alone would let in the group, whose bits are the ACL's mask.
    #[test]
    fn without_attributes_copies_nothing_up_that_has_an_acl() {
        let disk = FaultyFs::without(&[MissingFeature::Xattrs]);
        let with_acl = |b: Branch| {
            let b = b.file("f", "lower").mode("f", 0o600).file("d/g", "lower");
            sh(b.root(), "setfacl -m u:0:rw f; setfacl -m d:u:0:rwx d");
            b
        };
        let union = Union::builder().writable_in(disk.path()).lower(with_acl).mount();
        refused(fs::set_permissions(union.at("f"), fs::Permissions::from_mode(0o640)), Errno::OPNOTSUPP);
        refused(fs::write(union.at("d/g"), "upper"), Errno::OPNOTSUPP);
        assert_eq!((text(union.at("f")), text(union.at("d/g"))), ("lower".into(), "lower".into()));
        assert!(union.in_upper().is_empty());
        fs::remove_file(union.at("f")).unwrap();
    }

    /// The kernel asks for a file's ACL before it lets in anybody but the owner.
    #[test]
    fn without_attributes_lets_in_whom_the_mode_lets_in() {
        needs_root!("other users");
        let disk = FaultyFs::without(&[MissingFeature::Xattrs]);
        let lower = disk.dir("lower");
        fs::write(lower.join("of_lower"), "lower").unwrap();
        let union = Union::builder()
            .option("allow_other")
            .writable_in(disk.path())
            .option("stable_inodes")
            .lower_at(lower)
            .mount();
        fs::write(union.at("of_upper"), "upper").unwrap();
        for (name, content) in [("of_lower", "lower"), ("of_upper", "upper")] {
            chown(union.at(name), Some(BOB), Some(BOB)).unwrap();
            fs::set_permissions(union.at(name), fs::Permissions::from_mode(0o664)).unwrap();
            as_user(ALICE, || {
                assert_eq!(text(union.at(name)), content);
                refused(File::options().write(true).open(union.at(name)), Errno::ACCESS);
            });
        }
    }

    #[test]
    fn without_rename_flags_renames_but_does_not_exchange() {
        play_a_day(&[MissingFeature::RenameFlags]);
    }

    #[test]
    fn without_hard_links_keeps_the_links_of_lowers_as_they_are() {
        play_a_day(&[MissingFeature::HardLinks]);
        // Neither a change of attributes nor a move tears them apart.
        let disk = FaultyFs::without(&[MissingFeature::HardLinks]);
        let union = Union::builder()
            .writable_in(disk.path())
            .option("stable_inodes")
            .lower(|b| fill(b).link("one", "d/three"))
            .mount();
        let private = fs::Permissions::from_mode(0o600);
        refused(fs::set_permissions(union.at("two"), private), Errno::PERM);
        refused(fs::rename(union.at("one"), union.at("three")), Errno::PERM);
        refused(fs::rename(union.at("d"), union.at("e")), Errno::PERM);
        assert_eq!(stat(union.at("one")).nlink(), 3);
        assert_eq!(stat(union.at("one")).ino(), stat(union.at("d/three")).ino());
        assert!(union.in_upper().iter().all(|name| name == "d"), "{:?}", union.in_upper());
        // They can be removed, one by one.
        fs::remove_file(union.at("one")).unwrap();
        assert_eq!(stat(union.at("two")).nlink(), 2);
        assert_eq!(names(union.at("d")), ["f", "sub", "three"]);
    }

    #[test]
    fn without_mknod_makes_files_and_whiteouts_by_opening_them() {
        play_a_day(&[MissingFeature::Nodes]);
    }

    #[test]
    fn without_symlinks_has_those_of_its_lowers() {
        play_a_day(&[MissingFeature::Symlinks]);
        let disk = FaultyFs::without(&[MissingFeature::Symlinks]);
        let union = Union::builder().writable_in(disk.path()).lower(fill).mount();
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        refused(utimensat(CWD, union.at("s"), &times, AtFlags::SYMLINK_NOFOLLOW), Errno::PERM);
        assert_eq!(fs::read_link(union.at("s")).unwrap(), Path::new("f"));
        assert!(union.in_upper().is_empty());
    }

    #[test]
    fn without_owners_works_for_its_one_owner() {
        play_a_day(&[MissingFeature::Owners]);
    }

    #[test]
    fn without_owners_copies_nothing_up_that_is_somebody_elses() {
        needs_root!("to give files away");
        let disk = FaultyFs::without(&[MissingFeature::Owners]);
        let builder = Union::builder().writable_in(disk.path());
        let union = builder.lower(|b| fill(b).owner("f", ALICE, ALICE)).mount();
        let file = File::options().write(true).open(union.at("f")).unwrap();
        refused(file.write_all_at(b"x", 0), Errno::PERM);
        assert_eq!(text(union.at("f")), "lower");
        assert!(union.in_upper().is_empty());
    }

    #[test]
    fn without_anything_that_vfat_lacks_but_modes_works() {
        play_a_day(&[
            MissingFeature::Xattrs,
            MissingFeature::RenameFlags,
            MissingFeature::HardLinks,
            MissingFeature::Symlinks,
            MissingFeature::Owners,
        ]);
    }

    /// A copy that everybody can read is no copy of a private file; and where `a` is `A`, so is its whiteout.
    #[test]
    fn without_modes_or_case_is_refused_at_mount_time() {
        for (lack, said) in [
            (MissingFeature::Modes, "does not keep permission bits"),
            (MissingFeature::ModesSilently, "does not keep permission bits"),
            (MissingFeature::Case, "does not tell upper case from lower case"),
        ] {
            let disk = FaultyFs::without(&[lack]);
            let (upper, work) = (disk.dir("UPPER"), disk.dir("WORK"));
            let play = Playground::new();
            let words = format!("lowerdir=l,upperdir={},workdir={}", upper.display(), work.display());
            let error = play.sh(&format!("mkdir l m; plyfs -o {words} m 2>&1 || echo \"exit code $?\""));
            assert!(error.contains(said) && error.contains("exit code 3"), "{lack:?}: {error}");
            assert_eq!(names(&upper).len() + names(&work).len(), 0, "{lack:?}: nothing is left");
        }
    }

    /// A directory of it goes stale, as on NFS, or cannot be read: what is elsewhere works on.
    #[test]
    fn that_fails_in_one_directory_fails_there_only() {
        for errno in [Errno::STALE, Errno::IO, Errno::ACCESS] {
            let disk = FaultyFs::new();
            let mut union = Union::builder().writable_in(disk.path()).lower(fill).mount();
            fs::write(union.at("d/new"), "new").unwrap();
            fs::write(union.at("gone/new"), "new").unwrap();
            union.remount();
            disk.fail_inside("upper/d", errno);
            refused(listed(union.at("d")), errno);
            refused(fs::write(union.at("d/other"), ""), errno);
            refused(fs::rename(union.at("d"), union.at("e")), errno);
            assert!(names(union.root()).contains(&"d".to_owned()), "{errno}");
            assert_eq!(text(union.at("gone/new")), "new");
            overwrite(union.at("f"), 0, "UPPER");
            disk.recover();
            assert_eq!(names(union.at("d")), ["f", "new", "sub"], "{errno}");
            assert_eq!(text(union.at("d/new")), "new");
        }
    }
}

mod a_lower {
    use super::*;

    /// An edit, a removal and a directory rename over a lower at a place of its own.
    ///
    /// Names of one file stay one file where an inode is known again after a remount: a filesystem has handles, or
    /// times of birth.
    fn is_used(lower: &Path, keeps_links: bool) {
        let union = Union::builder().lower_at(lower.to_owned()).mount();
        assert_eq!(names(union.root()), ["d", "f", "gone", "one", "two"]);
        assert_eq!(text(union.at("f")), "lower\n");
        overwrite(union.at("f"), 0, "UPPER");
        overwrite(union.at("one"), 0, "L");
        assert_eq!(text(union.at("two")), if keeps_links { "Linked\n" } else { "linked\n" });
        fs::remove_dir_all(union.at("gone")).unwrap();
        fs::rename(union.at("d"), union.at("e")).unwrap();
        assert_eq!(text(union.at("e/sub/g")), "deeper\n");
        assert_eq!(names(union.root()), ["e", "f", "one", "two"]);
        assert!(!exists(union.upper("two")) && exists(union.upper("e/.wh..wh..opq")));
    }

    const FILL: &str = "mkdir -p d/sub gone; echo lower > f; echo linked > one; ln one two
         echo deeper > d/sub/g; touch d/f gone/x";

    #[test]
    fn on_tmpfs_works() {
        needs_root!("a tmpfs");
        let disk = Tmpfs::of_kib(1024);
        let lower = disk.dir("lower");
        sh(&lower, FILL);
        is_used(&lower, true);
    }

    #[test]
    fn on_a_fuse_filesystem_works() {
        let disk = FaultyFs::new();
        let lower = disk.dir("lower");
        sh(&lower, FILL);
        is_used(&lower, false);
    }

    #[test]
    fn on_squashfs_works() {
        needs_root!("a loop device");
        let place = temp_dir();
        sh(place.path(), &format!("mkdir fs; cd fs; {FILL}; cd ..; mksquashfs fs image -quiet -no-progress"));
        let Some(disk) = LoopDisk::read_only(&place.path().join("image")) else {
            return say_not_played("this machine lends no loop device, or does not know squashfs");
        };
        is_used(disk.path(), true);
    }

    /// The lower shows merged directories, whiteouts and copies of the kernel's own union.
    #[test]
    fn on_overlayfs_works() {
        needs_root!("to mount an overlayfs");
        let disk = Tmpfs::of_kib(4096);
        let play = Playground::new();
        let written = disk.path().display();
        play.sh(&format!(
            "mkdir merged; cd {written}; mkdir below upper work; cd below; {FILL}; rm gone/x; echo old > f; touch extra
             cd {0}; mount -t overlay -o lowerdir={written}/below,upperdir={written}/upper,workdir={written}/work none merged
             cd merged; rm extra; echo lower > f; touch gone/x",
            play.path("").display()
        ));
        is_used(&play.path("merged"), true);
        play.sh("umount merged");
    }

    #[test]
    fn that_is_a_union_itself_works() {
        let play = Playground::new();
        play.sh(&format!(
            "mkdir below upper work merged; cd below; {FILL}; rm gone/x; echo old > f; touch extra; cd ..
             plyfs -o lowerdir=below,upperdir=upper,workdir=work merged
             rm merged/extra; echo lower > merged/f; touch merged/gone/x; plyfs umount merged
             plyfs -o lowerdir=upper:below merged"
        ));
        is_used(&play.path("merged"), false);
        play.sh("plyfs umount merged");
    }

    /// An ordinary user's lower is full of directories that belong to root.
    #[test]
    fn that_fails_in_one_directory_shows_all_others() {
        for errno in [Errno::ACCESS, Errno::IO, Errno::STALE] {
            let disk = FaultyFs::new();
            let lower = disk.dir("lower");
            sh(&lower, "mkdir -p bad/sub good; touch bad/f good/f file");
            let union = Union::builder()
                .lower_at(lower)
                .lower(|b| b.file("bad/below", "").file("good/g", ""))
                .mount();
            disk.fail_inside("lower/bad", errno);
            // By readdirplus, and by readdir, which looks at nothing.
            for round in 0..3 {
                assert_eq!(names(union.root()), ["bad", "file", "good"], "{errno} {round}");
            }
            assert_eq!(names(union.at("good")), ["f", "g"]);
            assert!(fs::read_dir(union.root()).unwrap().all(|entry| {
                let entry = entry.unwrap();
                entry.file_type().unwrap().is_dir() == (entry.file_name() != "file")
            }));
            match fs::symlink_metadata(union.at("bad")) {
                // A disk tells of a directory that is closed.
                Ok(seen) => assert!(errno == Errno::ACCESS && seen.is_dir()),
                seen => assert!(errno != Errno::ACCESS, "{seen:?}"),
            }
            refused(listed(union.at("bad")), errno);
            refused(fs::metadata(union.at("bad/below")), errno);
            refused(fs::write(union.at("bad/new"), ""), errno);
            refused(fs::remove_dir(union.at("bad")), errno);
            refused(fs::rename(union.at("bad"), union.at("other")), errno);
            assert!(union.in_upper().iter().all(|name| name == "bad"), "{:?}", union.in_upper());
            disk.recover();
            assert_eq!(names(union.at("bad")), ["below", "f", "sub"], "{errno}");
            fs::rename(union.at("bad"), union.at("other")).unwrap();
            assert_eq!(names(union.at("other")), ["below", "f", "sub"], "{errno}");
        }
    }
}

/// Closed to an ordinary user's daemon, and opened by its owner through the mount.
#[test]
fn a_closed_directory_can_be_opened_again_and_is_merged_then() {
    let mut union = Union::builder()
        .upper(|b| b.file("d/upper", "").file("e", ""))
        .lower(|b| b.file("d/lower", ""))
        .mount();
    let mode_of_d = |mode| fs::set_permissions(union.at("d"), fs::Permissions::from_mode(mode)).unwrap();
    mode_of_d(0);
    union.remount();
    assert_eq!(names(union.root()), ["d", "e"]);
    assert_eq!(mode(union.at("d")), 0);
    fs::set_permissions(union.at("d"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(names(union.at("d")), ["lower", "upper"]);
}
