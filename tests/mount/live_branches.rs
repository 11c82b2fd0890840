//! Lowers come, go and move while the mount is used.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;

use crate::common::{ALICE, Playground, needs_root, sh_as, sh_refused, stat, text};

/// Three lowers and an upper, of which the first two lowers are mounted on m.
fn stage() -> Playground {
    let play = Playground::new();
    play.sh(
        "for n in 1 2 3; do mkdir -p l$n/d; echo $n > l$n/f; echo $n > l$n/only$n; echo $n > l$n/d/f; echo $n > l$n/d/only$n; done
         mkdir up m; plyfs -o lowerdir=l2:l1,upperdir=up m",
    );
    play
}

impl Playground {
    /// What is mounted on m is unmounted, and must let itself be.
    fn end(&self) {
        self.sh("plyfs umount m");
    }

    #[track_caller]
    fn refuses(&self, command: &str, says: &str) {
        let branches = self.sh("plyfs branches m");
        let said = sh_refused(self.path(""), command);
        assert!(said.contains(says), "{command}: {said}");
        assert_eq!(self.sh("plyfs branch list m"), branches, "{command}");
    }
}

#[test]
fn a_lower_comes_and_goes() {
    let play = stage();
    assert_eq!(
        play.sh("cat m/f m/d/f; cat m/only3 2>&1 || ls m m/d"),
        "2\n2\ncat: m/only3: No such file or directory\nm:\nd\nf\nonly1\nonly2\n\nm/d:\nf\nonly1\nonly2\n"
    );
    play.sh("plyfs branch add m l3");
    assert_eq!(play.sh("cat m/f m/d/f m/only3 m/d/only3; ls m/d"), "3\n3\n3\n3\nf\nonly1\nonly2\nonly3\n");
    play.sh("plyfs branch del m l2");
    assert_eq!(play.sh("cat m/f; ls m m/d"), "3\nm:\nd\nf\nonly1\nonly3\n\nm/d:\nf\nonly1\nonly3\n");
    play.sh("plyfs branch del m l3 l1");
    assert_eq!(play.sh("ls m; plyfs branches m | wc -l"), "1\n");
    play.sh("plyfs branch add m l1 l2");
    let root = play.path("").canonicalize().unwrap();
    let branches = play.sh("plyfs branches m");
    let at = |name: &str| root.join(name).display().to_string();
    assert_eq!(branches, format!("{}=rw\n{}=ro\n{}=ro\n", at("up"), at("l1"), at("l2")));
    assert_eq!(play.sh("cat m/f m/d/f; rm -r m/d; mkdir m/d; ls m/d; ls -A up/d"), "1\n1\n.wh..wh..opq\n");
    play.sh("plyfs branch add m l3");
    assert_eq!(play.sh("ls m/d; cat m/only3"), "3\n");
    play.end();
}

#[test]
fn a_lower_has_the_place_that_is_named() {
    let play = stage();
    play.sh("plyfs branch add --at bottom m l3");
    assert_eq!(play.sh("cat m/f m/only3"), "2\n3\n");
    play.sh("plyfs branch move m l3 1");
    assert_eq!(play.sh("cat m/f m/d/f"), "3\n3\n");
    play.sh("plyfs branch move m l3 3; plyfs branch move m l1 top");
    assert_eq!(play.sh("cat m/f m/d/f"), "1\n1\n");
    play.sh("plyfs branch del m l3; plyfs branch add --at 2 m l3");
    assert_eq!(play.sh("plyfs branches m | sed 's/.*\\///'"), "up=rw\nl1=ro\nl3=ro\nl2=ro\n");
    play.end();
}

#[test]
fn several_changes_are_made_at_once_or_not_at_all() {
    let play = stage();
    play.refuses("plyfs branch change m del:l2 add:1:l3 del:nothing", "nothing is no lower of this mount");
    play.refuses("plyfs branch change m del:l1 del:l2 add:9:l3", "there is no place 9");
    play.sh("plyfs branch change m del:l2 prepend:l3 append:l2 mod:l1=ro");
    assert_eq!(play.sh("plyfs branches m | sed 's/.*\\///'; cat m/f"), "up=rw\nl3=ro\nl1=ro\nl2=ro\n3\n");
    // The same directory goes and comes.
    play.sh("plyfs branch change m del:l3 append:l3");
    assert_eq!(play.sh("cat m/f m/only3"), "1\n3\n");
    play.end();
}

#[test]
fn what_cannot_be_a_branch_is_refused_and_nothing_has_changed() {
    let play = stage();
    play.sh("mkdir -p up/inner l1/inner m2 outer/inner; touch file; ln -s l2 link");
    for (command, says) in [
        ("plyfs branch add m l2", "are the same directory"),
        ("plyfs branch add m link", "are the same directory"),
        ("plyfs branch add m up", "are the same directory"),
        ("plyfs branch add m up/inner", "is inside upper"),
        ("plyfs branch add m l1/inner", "is inside lower"),
        ("plyfs branch add m .up.plyfs-work", "are the same directory"),
        ("plyfs branch add m l3 l3", "are the same directory"),
        ("plyfs branch add m outer outer/inner", "is inside lower"),
        ("plyfs branch add m nowhere", "does not exist"),
        ("plyfs branch add m file", "is not a directory"),
        ("plyfs branch add --at 0 m l3", "the first place for a lower is 1"),
        ("plyfs branch add --at 4 m l3", "there is no place 4"),
        ("plyfs branch del m l3", "is no lower of this mount"),
        ("plyfs branch del m up", "is the upper"),
        ("plyfs branch move m l3 1", "is no lower of this mount"),
        ("plyfs branch change m append:l3=rw", "one writable branch"),
        ("plyfs branch change m frobnicate:l3", "is no change"),
    ] {
        play.refuses(command, says);
    }
    assert!(sh_refused(play.path(""), "plyfs branch add m2 l3").contains("m2"));
    play.end();
}

#[test]
fn a_lower_around_the_upper_and_the_mountpoint_hides_them() {
    let play = Playground::new();
    play.sh("mkdir -p home/up home/m l; chmod 700 home/up; echo 1 > home/f; plyfs -o lowerdir=l,upperdir=home/up home/m
             plyfs branch add home/m home");
    assert_eq!(play.sh("ls -A home/m; echo 2 > home/m/f; cat home/f home/up/f"), "f\n1\n2\n");
    play.sh("plyfs umount home/m");
}

#[test]
fn what_is_open_stays_what_it_was() {
    let play = stage();
    play.sh("plyfs branch add m l3");
    let m = |name: &str| play.path("m").join(name);
    let mut hidden = File::options().read(true).write(true).open(m("only2")).unwrap();
    let mut going = File::open(m("only3")).unwrap();
    let mut unlinked = File::open(m("d/only3")).unwrap();
    fs::remove_file(m("d/only3")).unwrap();
    play.sh("mkdir l4; echo 4 > l4/only2; plyfs branch change m del:l3 prepend:l4");
    assert_eq!(text(m("only2")), "4\n");
    assert!(!m("only3").exists());
    let read = |file: &mut File| {
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!(
        (read(&mut hidden), read(&mut going), read(&mut unlinked)),
        ("2\n".into(), "3\n".into(), "3\n".into())
    );
    // It has no name any more, so what is written to it shows nowhere.
    hidden.seek(SeekFrom::Start(0)).unwrap();
    hidden.write_all(b"written").unwrap();
    assert_eq!((read(&mut hidden), text(m("only2"))), ("written".into(), "4\n".into()));
    assert_eq!(play.sh("cat l2/only2 l4/only2; find up -type f | sort"), "2\n4\nup/d/.wh.only3\n");
    drop((hidden, going, unlinked));
    play.end();
}

#[test]
fn a_program_in_a_directory_sees_what_comes_to_it() {
    let play = stage();
    let shown = play.sh(
        "cd m/d; ls; plyfs branch add $OLDPWD/m $OLDPWD/l3 >&2; ls; cat f; echo new > made; plyfs branch del $OLDPWD/m $OLDPWD/l3
         ls; cat f; pwd | sed 's/.*\\///'; [ $(stat -c %i .) = $(stat -c %i ../d) ]; cat ../../up/d/made",
    );
    assert_eq!(shown, "f\nonly1\nonly2\nf\nonly1\nonly2\nonly3\n3\nf\nmade\nonly1\nonly2\n2\nd\nnew\n");
    play.end();
}

#[test]
fn a_directory_that_is_gone_is_gone_and_one_that_is_a_file_now_is_a_file() {
    let play = stage();
    play.sh("mkdir -p l3/x/y l4; echo deep > l3/x/y/z; echo file > l4/d; plyfs branch add m l3; cat m/x/y/z");
    let shown = play.sh(
        "cd m/x/y; plyfs branch del $OLDPWD/m $OLDPWD/l3; ls; echo x > new 2>/dev/null || echo gone; cd $OLDPWD
         [ ! -e m/x ]; ls m/d; plyfs branch add m l4; cat m/d; [ ! -e m/d/f ]; plyfs branch del m l4; cat m/d/f",
    );
    assert_eq!(shown, "gone\nf\nonly1\nonly2\nfile\n2\n");
    play.end();
}

#[test]
fn whiteouts_and_opaque_directories_count_in_what_comes() {
    let play = stage();
    play.sh("mkdir -p l4/d; touch l4/.wh.only1 l4/d/.wh..wh..opq; echo 4 > l4/d/four; ls -R m >/dev/null; cat m/only1 m/d/only1");
    play.sh("plyfs branch add m l4");
    assert_eq!(
        play.sh("ls m m/d; cat m/only1 2>/dev/null || echo hidden"),
        "m:\nd\nf\nonly2\n\nm/d:\nfour\nhidden\n"
    );
    play.sh("echo changed > m/d/four; plyfs branch move m l4 bottom");
    assert_eq!(
        play.sh("ls m m/d; cat m/d/four"),
        "m:\nd\nf\nonly1\nonly2\n\nm/d:\nf\nfour\nonly1\nonly2\nchanged\n"
    );
    play.sh("plyfs branch del m l4");
    assert_eq!(play.sh("ls m/d; cat m/d/four; cat m/only1"), "f\nfour\nonly1\nonly2\nchanged\n1\n");
    play.end();
}

#[test]
fn numbers_stay_where_the_branch_stays() {
    let play = stage();
    play.sh("mkdir l1/deep; ln l1/only1 l1/deep/link; echo w > m/d/only1; mv m/d m/moved; mkdir m/made");
    let numbers =
        || play.sh("cd m; stat -c '%n %i' only1 only2 deep deep/link moved moved/only1 moved/only2 made .");
    let before = numbers();
    for change in ["prepend:l3", "move:2:l3", "del:l3", "append:l3", "move:1:l1"] {
        play.sh(&format!("plyfs branch change m {change}"));
        assert_eq!(numbers(), before, "{change}");
    }
    assert_eq!(play.sh("cat m/moved/only1; ls m/moved; [ ! -e m/d ]"), "w\nf\nonly1\nonly2\n");
    play.end();
}

#[test]
fn what_is_mounted_on_a_directory_stays_mounted() {
    needs_root!("mount(2)");
    let play = stage();
    play.sh("mkdir l3/only l2/only; mount -t tmpfs none m/d; trap 'umount m/d' EXIT; echo t > m/d/t
             plyfs branch add m l3; cat m/d/t; plyfs branch move m l3 2; cat m/d/t; plyfs branch del m l2; cat m/d/t; ls m/d");
    assert_eq!(play.sh("cat m/d/f"), "3\n");
    play.end();
}

#[test]
fn a_branch_in_use_is_refused_if_that_is_asked_for_and_let_go_of_with_its_last_user() {
    needs_root!("tmpfs");
    let play = stage();
    play.sh("mkdir t; mount -t tmpfs none t; mkdir t/b; echo t > t/b/only-t; mkdir t/b/dir; echo x > t/b/dir/x; plyfs branch add m t/b; find m >/dev/null");
    let open = File::open(play.path("m/only-t")).unwrap();
    play.refuses("plyfs branch del --strict m t/b", "in use: 1");
    assert_eq!(text(play.path("m/only-t")), "t\n");
    let said = play.sh("plyfs branch del m t/b 2>&1");
    assert!(said.contains("in use: 1"), "{said}");
    assert!(sh_refused(play.path(""), "umount t").contains("busy"));
    drop(open);
    play.sh("for i in $(seq 100); do umount t 2>/dev/null && exit 0; sleep 0.1; done; exit 1");
    // Nothing in it is open: it can be unmounted at once.
    play.sh("mount -t tmpfs none t; mkdir -p t/b/d; echo t > t/b/t; echo t > t/b/d/t; plyfs branch add m t/b; find m >/dev/null; cat m/t m/d/t
             plyfs branch del --strict m t/b; umount t");
    play.end();
}

#[test]
fn only_who_has_mounted_changes_the_stack() {
    needs_root!("other users");
    let play = stage();
    play.sh("chmod 755 . m l3");
    let said = sh_as(ALICE, play.path(""), "plyfs branch add m l3 2>&1 || true");
    assert!(said.contains("only who has mounted"), "{said}");
    assert_eq!(play.sh("plyfs branches m | wc -l"), "3\n");
    play.end();
}

#[test]
fn what_a_branchs_mount_forbids_the_union_must_forbid() {
    needs_root!("mount(2)");
    let play = stage();
    play.sh("mkdir t; mount -t tmpfs -o nosuid,nodev none t; mkdir t/b");
    play.refuses("plyfs branch add m t/b", "is mounted with nosuid,nodev, and the union is not");
    play.sh("plyfs umount m; plyfs -o lowerdir=l1,upperdir=up,nosuid,nodev m; plyfs branch add m t/b; plyfs umount m; umount t");
}

#[test]
fn aufs_words_work_in_a_remount() {
    needs_root!("mount(8) and its helper");
    let play = stage();
    let helper = "/sbin/mount.fuse.plyfs";
    if std::path::Path::new(helper).exists() {
        crate::common::say_not_played("somebody has installed a helper for mount(8)");
        return play.end();
    }
    // As mount(8) calls it.
    play.sh("plyfs plyfs m -o rw,relatime,user_id=0,group_id=0,default_permissions,allow_other,remount,append:l3=ro+wh,del:l2");
    assert_eq!(play.sh("plyfs branches m | sed 's/.*\\///'"), "up=rw\nl1=ro\nl3=ro\n");
    let said = sh_refused(play.path(""), "plyfs plyfs m -o remount,ro,del:l1");
    assert!(said.contains("one after the other"), "{said}");
    play.end();
}

#[test]
fn a_union_without_an_upper_changes_as_well() {
    let play = Playground::new();
    play.sh("mkdir l1 l2 m; echo 1 > l1/f; echo 2 > l2/f; plyfs -o lowerdir=l1 m; cat m/f; plyfs branch add --at 0 m l2");
    assert_eq!(play.sh("cat m/f"), "2\n");
    play.sh("plyfs branch del m l1");
    play.refuses("plyfs branch del m l2", "nothing would be left in the stack");
    play.end();
}

#[test]
fn hard_links_of_lowers_stay_one_file() {
    let play = stage();
    play.sh("echo low > l1/a; ln l1/a l1/b; ln l1/a l1/d/c; echo more >> m/a");
    for change in ["prepend:l3", "move:1:l1", "del:l3"] {
        play.sh(&format!("plyfs branch change m {change}; cmp m/a m/b; cmp m/b m/d/c; [ m/a -ef m/d/c ]"));
        assert_eq!(stat(play.path("m/b")).nlink(), 3, "{change}");
    }
    play.sh("echo again >> m/d/c");
    assert_eq!(play.sh("cat m/a"), "low\nmore\nagain\n");
    play.end();
}

#[test]
fn many_lowers_come_one_by_one_with_few_descriptors() {
    let play = Playground::new();
    play.sh("mkdir l0 up m; echo 0 > l0/f; ulimit -n 250; plyfs -o lowerdir=l0,upperdir=up m
             for n in $(seq 100); do mkdir l$n; echo $n > l$n/f; echo $n > l$n/n$n; plyfs branch add m l$n; done");
    assert_eq!(play.sh("cat m/f m/n1 m/n50; ls m | wc -l"), "100\n1\n50\n101\n");
    play.sh("for n in $(seq 100); do plyfs branch del m l$n; done");
    assert_eq!(play.sh("cat m/f; ls m"), "0\nf\n");
    play.end();
}

#[test]
fn nobody_sees_one_half_of_a_change() {
    let play = Playground::new();
    // Each of two branches has a pair of the same text; a change swaps them at once.
    play.sh(
        "mkdir base one two up m; for n in one two; do for f in $(seq 40); do echo $n > $n/$f; done; done
         plyfs -o lowerdir=one:base,upperdir=up m",
    );
    let shown = play.sh(
        "( for i in $(seq 60); do plyfs branch change m del:one prepend:two; plyfs branch change m del:two prepend:one; done ) &
         changing=$!; mixed=0; looks=0
         while kill -0 $changing 2>/dev/null; do
             # One request lists the names, and each name is there in every stack.
             [ $(ls m | wc -l) = 40 ] || mixed=$((mixed + 1)); looks=$((looks + 1))
             text=$(cat m/7) && { [ $text = one ] || [ $text = two ]; } || mixed=$((mixed + 1))
         done
         wait $changing; echo mixed $mixed; [ $looks -gt 0 ]; cat m/* | sort | uniq -c | tr -s ' '",
    );
    assert_eq!(shown, "mixed 0\n 40 one\n");
    play.end();
}
