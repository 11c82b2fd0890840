//! Lowers whose inode numbers change: an overlayfs over two filesystems, sshfs, vfat, libfuse without `use_ino`. What is
//! found under one name of one directory is one inode of the union, whatever number it shows by now.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{Access, AtFlags, Mode, accessat, mkdirat};

use crate::common::{
    FaultyFs, MissingFeature, Playground, Tmpfs, Union, exists, names, overwrite, sh, stat, text,
};

/// The kernel forgets every inode and every name that nobody uses, and the daemon no longer uses what it used.
fn drop_caches(union: &Union) {
    for index in 0..OTHERS {
        names(union.at(format!("others/{index}")));
    }
    fs::write("/proc/sys/vm/drop_caches", "2").expect("root");
}

/// A lower whose inodes are forgotten now and then.
struct Forgetful<'a> {
    union: Union,
    forget: &'a dyn Fn(&Union),
}

/// More directories than the daemon keeps open.
const OTHERS: usize = 80;
const FEW_DESCRIPTORS: &str = "ulimit -n 128";

const FILL: &str = "mkdir -p d/sub/deep e g others; (cd others; seq 0 79 | xargs mkdir)
     printf lower > d/f; printf lower > d/sub/f; printf lower > d/sub/deep/f; printf lower > e/f; printf lower > g/f";

fn on_a_fuse_disk(missing: &[MissingFeature], play: impl Fn(&mut Forgetful<'_>)) {
    let disk = FaultyFs::without(missing);
    let lower = disk.dir("lower");
    sh(&lower, FILL);
    let union = Union::builder().setup(FEW_DESCRIPTORS).numbers_change().lower_at(lower).mount();
    play(&mut Forgetful { union, forget: &|_| disk.renumber() });
}

/// Without xino, directories of an overlayfs have numbers that live as long as the kernel's cache.
fn on_overlayfs(play: impl Fn(&mut Forgetful<'_>)) {
    let (upper, place) = (Tmpfs::of_kib(1024), Playground::new());
    let written = upper.path().display();
    place.sh(&format!(
        "mkdir below merged; cd below; {FILL}; cd ..; mkdir {written}/upper {written}/work
         mount -t overlay -o lowerdir=below,upperdir={written}/upper,workdir={written}/work,xino=off none merged
         touch merged/d/sub/in_upper; rm merged/d/sub/in_upper"
    ));
    let union =
        Union::builder().setup(FEW_DESCRIPTORS).numbers_change().lower_at(place.path("merged")).mount();
    play(&mut Forgetful { union, forget: &drop_caches });
    place.sh("umount merged");
}

/// Plays each sequence on each kind of lower, as a test of its own.
macro_rules! on_every_kind {
    ($($sequence:ident,)*) => {
        mod on_a_fuse_filesystem {
            $(#[test] fn $sequence() { super::on_a_fuse_disk(&[], super::$sequence); })*
        }
        mod on_a_fuse_filesystem_that_lists_no_numbers {
            use crate::common::MissingFeature::NumbersInListings;
            $(#[test] fn $sequence() { super::on_a_fuse_disk(&[NumbersInListings], super::$sequence); })*
        }
        mod on_an_overlayfs_of_two_filesystems {
            $(#[test] fn $sequence() {
                crate::common::needs_root!("an overlayfs");
                super::on_overlayfs(super::$sequence);
            })*
        }
    };
}

// Row 10.
on_every_kind! {
    a_directory_stays_one_directory,
    what_is_made_by_a_handle_shows_by_the_path_and_the_other_way_round,
    what_is_made_in_a_directory_shows,
    a_directory_made_anew_is_taken_for_no_other,
    a_reader_from_before_a_copy_up_follows_it,
    a_directory_moves,
    a_walk_finds_the_same,
}

fn a_directory_stays_one_directory(Forgetful { union, forget }: &mut Forgetful<'_>) {
    let dirs = ["d", "d/sub", "d/sub/deep", "e"];
    // So that the kernel does not forget those.
    let handles = dirs.map(|path| File::open(union.at(path)).unwrap());
    let before = dirs.map(|path| stat(union.at(path)).ino());
    for round in 0..3 {
        forget(union);
        // Who lists a directory looks at each entry again.
        for dir in ["", "d", "d/sub"] {
            fs::read_dir(union.at(dir)).unwrap().for_each(|entry| drop(entry.unwrap().metadata()));
        }
        assert_eq!(dirs.map(|path| stat(union.at(path)).ino()), before, "{round}");
        for (handle, number) in handles.iter().zip(before) {
            assert_eq!(handle.metadata().unwrap().ino(), number, "by a handle, {round}");
        }
        assert_eq!(names(union.at("d/sub")), ["deep", "f"]);
    }
}

fn what_is_made_by_a_handle_shows_by_the_path_and_the_other_way_round(
    Forgetful { union, forget }: &mut Forgetful<'_>,
) {
    for (parent, dir) in [("", "d"), ("d", "d/sub"), ("d/sub", "d/sub/deep"), ("", "e")] {
        let handle = File::open(union.at(dir)).unwrap();
        forget(union);
        fs::read_dir(union.at(parent)).unwrap().for_each(|entry| drop(entry.unwrap().metadata()));
        let mode = Mode::from_raw_mode(0o755);
        mkdirat(&handle, "by_handle", mode).unwrap_or_else(|e| panic!("mkdir by a handle on {dir}: {e}"));
        fs::create_dir(union.at(dir).join("by_path")).unwrap_or_else(|e| panic!("mkdir in {dir}: {e}"));
        mkdirat(&handle, "again", mode).unwrap_or_else(|e| panic!("mkdir by a handle on {dir}: {e}"));
        for name in ["again", "by_handle", "by_path"] {
            assert!(names(union.at(dir)).contains(&name.to_owned()), "{dir}/{name} by the path");
            accessat(&handle, name, Access::EXISTS, AtFlags::empty())
                .unwrap_or_else(|e| panic!("{dir}/{name} by the handle: {e}"));
        }
    }
}

fn what_is_made_in_a_directory_shows(Forgetful { union, forget }: &mut Forgetful<'_>) {
    for (round, dir) in ["d", "d/sub", "d/sub/deep", "e"].into_iter().cycle().take(12).enumerate() {
        let at = |name: &str| union.at(dir).join(format!("{name}{round}"));
        let (handle, number) = (File::open(union.at(dir)).unwrap(), stat(union.at(dir)).ino());
        forget(union);
        fs::create_dir(at("dir")).unwrap_or_else(|e| panic!("mkdir in {dir}, {round}: {e}"));
        forget(union);
        fs::write(at("dir").join("f"), "new").unwrap_or_else(|e| panic!("create in {dir}, {round}: {e}"));
        fs::write(at("file"), "new").unwrap_or_else(|e| panic!("create in {dir}, {round}: {e}"));
        forget(union);
        fs::rename(at("file"), at("moved")).unwrap_or_else(|e| panic!("mv in {dir}, {round}: {e}"));
        assert_eq!(text(at("moved")) + &text(at("dir").join("f")), "newnew");
        forget(union);
        assert!(names(union.at(dir)).contains(&format!("moved{round}")), "{dir}, {round}");
        fs::remove_file(at("moved")).unwrap();
        fs::remove_dir_all(at("dir")).unwrap();
        assert!(!exists(at("dir")) && !exists(at("moved")), "{dir}, {round}");
        let seen = [stat(union.at(dir)), handle.metadata().unwrap()].map(|dir| dir.ino());
        assert_eq!(seen, [number; 2], "{dir}, {round}");
    }
}

/// As `mkdir -p` and a loop of `touch` find it.
fn a_directory_made_anew_is_taken_for_no_other(Forgetful { union, forget }: &mut Forgetful<'_>) {
    fs::remove_dir_all(union.at("d")).unwrap();
    forget(union);
    fs::create_dir(union.at("d")).unwrap();
    forget(union);
    assert!(names(union.at("d")).is_empty());
    fs::write(union.at("d/f"), "new").unwrap();
    fs::rename(union.at("e"), union.at("d/e")).unwrap();
    forget(union);
    fs::rename(union.at("g"), union.at("e")).unwrap();
    assert_eq!(text(union.at("d/e/f")) + &text(union.at("e/f")), "lowerlower");
    assert_eq!(names(union.at("d")), ["e", "f"]);
}

fn a_reader_from_before_a_copy_up_follows_it(Forgetful { union, forget }: &mut Forgetful<'_>) {
    for path in ["d/f", "d/sub/f", "d/sub/deep/f", "e/f"] {
        let reader = File::open(union.at(path)).unwrap();
        let read = |len: usize| {
            let mut bytes = vec![0; len];
            reader.read_exact_at(&mut bytes, 0).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(read(5), "lower");
        forget(union);
        overwrite(union.at(path), 0, "UPP");
        assert_eq!(read(5), "UPPer", "{path}");
        forget(union);
        overwrite(union.at(path), 3, "ER and more");
        assert_eq!(read(14), "UPPER and more", "{path}");
        let seen = [stat(union.at(path)), reader.metadata().unwrap()].map(|file| file.ino());
        assert_eq!(seen[0], seen[1], "{path}");
        assert_eq!(text(union.upper(path)), "UPPER and more", "{path}");
    }
}

fn a_directory_moves(Forgetful { union, forget }: &mut Forgetful<'_>) {
    let dir = File::open(union.at("d/sub")).unwrap();
    let number = stat(union.at("d/sub/f")).ino();
    let reader = File::open(union.at("d/sub/f")).unwrap();
    forget(union);
    fs::rename(union.at("d"), union.at("moved")).unwrap();
    forget(union);
    assert_eq!(stat(union.at("moved/sub/f")).ino(), number);
    overwrite(union.at("moved/sub/f"), 0, "UPPER");
    let mut bytes = [0; 5];
    reader.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"UPPER");
    assert_eq!(dir.metadata().unwrap().ino(), stat(union.at("moved/sub")).ino());
    drop((reader, dir));
    for round in ["at once", "after a remount"] {
        assert_eq!(names(union.at("moved/sub")), ["deep", "f"], "{round}");
        assert_eq!(names(union.root()), ["e", "g", "moved", "others"], "{round}");
        assert!(!exists(union.at("d")), "{round}: {:?}", union.in_upper());
        union.remount();
    }
}

/// Two lowers that change their numbers independently of one another.
#[test]
fn a_merged_directory_of_two_such_lowers_stays_one_directory() {
    let disks = [FaultyFs::new(), FaultyFs::new()];
    let [first, second] = disks.each_ref().map(|disk| disk.dir("lower"));
    sh(&first, "mkdir -p d/sub; touch d/sub/first");
    sh(&second, "mkdir -p d/sub; touch d/sub/second");
    let union =
        Union::builder().setup(FEW_DESCRIPTORS).numbers_change().lower_at(first).lower_at(second).mount();
    let (handle, number) = (File::open(union.at("d/sub")).unwrap(), stat(union.at("d/sub")).ino());
    for round in 0..4 {
        disks[round % 2].renumber();
        assert_eq!(names(union.at("d/sub")).len(), 2 + round);
        assert_eq!(stat(union.at("d/sub")).ino(), number, "{round}");
        assert_eq!(handle.metadata().unwrap().ino(), number, "{round}");
        fs::create_dir(union.at(format!("d/sub/{round}"))).unwrap();
    }
}

fn a_walk_finds_the_same(Forgetful { union, forget }: &mut Forgetful<'_>) {
    for _ in 0..3 {
        let walk = || sh(union.root(), "find . | sort; find . -type f -exec cat {} +");
        let before = walk();
        forget(union);
        assert_eq!(walk(), before);
    }
}
