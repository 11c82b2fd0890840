//! The upper becomes a snapshot, and what it was again.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::common::{ALICE, Mapping, Playground, needs_root, sh_as, sh_refused, stat, text, traced};

/// A lower with what can be changed about it, mounted on m.
fn stage() -> Playground {
    let play = Playground::new();
    play.sh(
        "mkdir -p low/d/deep low/gone; echo low > low/f; echo a > low/d/a; ln low/d/a low/d/b; ln low/d/a low/c
         echo x > low/d/deep/x; echo g > low/gone/g; ln -s f low/link; mkdir up m; plyfs -o lowerdir=low,upperdir=up m",
    );
    play
}

impl Playground {
    fn remount(&self) {
        self.sh("plyfs umount m; plyfs -o lowerdir=low,upperdir=up m");
    }

    fn unmount(&self) {
        self.sh("plyfs umount m; [ -z \"$(ls -A .up.plyfs-work/plyfs/stage .up.plyfs-work/plyfs/unlinked 2>/dev/null)\" ]");
    }

    /// All that users see: names, types, modes, links, text.
    fn tree(&self) -> String {
        self.sh(
            "cd m; find . -printf '%P %y %m %n %l\\n' | sort; find . -type f | sort | xargs -r tail -n +1",
        )
    }

    /// The inode numbers of all that users see.
    fn numbers(&self) -> String {
        self.sh("cd m; find . -printf '%P %i\\n' | sort")
    }
}

#[test]
fn a_snapshot_changes_nothing_that_users_see() {
    let play = stage();
    play.sh("cd m; echo changed > f; echo new > new; rm -r gone; mkdir gone; echo 2 > gone/2; mv d moved; mknod p p; chmod 600 f; ln new new2");
    let (tree, numbers) = (play.tree(), play.numbers());
    assert_eq!(play.sh("plyfs snapshot m first"), "first\n");
    assert_eq!((play.tree(), play.numbers()), (tree.clone(), numbers.clone()));
    assert_eq!(
        play.sh("ls -A up; ls up.snapshots up.snapshots/first"),
        "up.snapshots:\nfirst\nstack\n\nup.snapshots/first:\nlayer\nnotes\n"
    );
    play.remount();
    assert_eq!((play.tree(), play.numbers()), (tree.clone(), numbers.clone()));
    assert_eq!(play.sh("plyfs snapshot m; plyfs snapshot m"), "2\n3\n");
    assert_eq!((play.tree(), play.numbers()), (tree.clone(), numbers));
    // Each is a layer. (Squashed by an ordinary user, a fifo is a file whose record says so.)
    play.sh("plyfs umount m; for s in first 2 3; do plyfs layer check up.snapshots/$s/layer; done
             plyfs layer squash up.snapshots/3/layer up.snapshots/2/layer up.snapshots/first/layer low -o flat; mkdir x; plyfs -o lowerdir=flat,upperdir=x m");
    assert_eq!(
        play.sh("cd m; find . -type f ! -name p | sort | xargs tail -n +1"),
        tree[tree.find("==>").unwrap()..]
    );
    play.sh("plyfs umount m");
}

#[test]
fn what_is_in_a_snapshot_is_never_written_to() {
    let play = stage();
    play.sh("cd m; echo changed > f; echo new > new; mkdir nd; echo nd > nd/f; ln new hard; mv d moved; echo w > moved/a");
    let m = |name: &str| play.path("m").join(name);
    let mut open = File::options().read(true).append(true).open(m("new")).unwrap();
    let mut unlinked = File::options().read(true).write(true).open(m("nd/f")).unwrap();
    fs::hard_link(m("nd/f"), m("nd/other")).unwrap();
    fs::remove_file(m("nd/f")).unwrap();
    play.sh("plyfs snapshot m; (cd up.snapshots/1/layer; find . -printf '%p %y %m %s %T@\\n' | sort; tail -n +1 $(find . -type f | sort)) > before");
    open.write_all(b"more\n").unwrap();
    unlinked.write_all_at(b"ND", 0).unwrap();
    play.sh("cd m; echo 2 >> f; chmod 700 nd; echo 3 >> hard; rm moved/a; mv moved again; touch again/b; setfattr -n user.x -v y link 2>/dev/null || true; rm -r nd; chmod 644 f");
    play.sh("(cd up.snapshots/1/layer; find . -printf '%p %y %m %s %T@\\n' | sort; tail -n +1 $(find . -type f | sort)) | diff before -");
    let read = |file: &mut File| {
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!((read(&mut open), read(&mut unlinked)), ("new\nmore\n3\n".into(), "ND\n".into()));
    assert_eq!(play.sh("cat m/f m/new m/hard"), "changed\n2\nnew\nmore\n3\nnew\nmore\n3\n");
    assert!(play.path("m/new").metadata().unwrap().nlink() == 2);
    drop((open, unlinked));
    play.unmount();
}

#[test]
fn names_of_one_file_stay_one_file_over_snapshots() {
    let play = stage();
    let same = || play.sh("cmp m/c m/d/a; cmp m/c m/d/b; [ m/c -ef m/d/a ]; [ m/d/a -ef m/d/b ]; cat m/c");
    let links = || stat(play.path("m/c")).nlink();
    play.sh("echo 1 >> m/d/a");
    for (at, name) in ["m/d/b", "m/c", "m/d/a", "m/c"].into_iter().enumerate() {
        play.sh("plyfs snapshot m");
        assert_eq!(links(), 3, "{at}");
        if at % 2 == 1 {
            play.remount();
        }
        play.sh(&format!("echo more >> {name}"));
        assert_eq!(same(), format!("a\n1\n{}", "more\n".repeat(at + 1)), "{at}");
        assert_eq!(links(), 3, "{at}");
    }
    play.sh("plyfs snapshot m; rm m/d/a");
    assert_eq!(links(), 2);
    play.remount();
    assert_eq!(
        play.sh(
            "[ m/c -ef m/d/b ]; echo x >> m/d/b; tail -n 1 m/c; rm m/c; plyfs snapshot m; cat m/d/b | wc -l"
        ),
        "x\n6\n7\n"
    );
    assert_eq!(stat(play.path("m/d/b")).nlink(), 1);
    play.sh("rm m/d/b; [ ! -e m/d/b ]");
    play.remount();
    assert_eq!(play.sh("ls m/d; cat low/d/a"), "deep\na\n");
    play.unmount();
}

#[test]
fn a_name_that_is_left_is_looked_up_in_the_stack_of_now() {
    let play = stage();
    play.sh(
        "cd m; for f in moved linked written removed; do echo $f > $f; ln $f $f-too; cat $f-too $f; done",
    );
    play.sh("plyfs snapshot m");
    // What is known by two names was last seen in the upper under one of them, and loses the other.
    play.sh("cd m; for f in moved linked written removed; do cat $f-too; rm $f-too; done");
    play.sh("cd m; timeout 20 mv moved again; timeout 20 ln linked hard; echo w >> written; timeout 20 rm removed");
    play.sh("(cd up.snapshots/1/layer; cat moved moved-too linked linked-too written written-too removed) > before");
    assert_eq!(
        play.sh("cd m; cat again linked hard written; ls"),
        "moved\nlinked\nlinked\nwritten\nw\nagain\nc\nd\nf\ngone\nhard\nlink\nlinked\nwritten\n"
    );
    assert_eq!(play.sh("cat before"), "moved\nmoved\nlinked\nlinked\nwritten\nwritten\nremoved\n");
    let tree = play.tree();
    play.remount();
    assert_eq!(play.tree(), tree);
    play.unmount();
}

#[test]
fn a_rewind_shows_what_was() {
    let play = stage();
    play.sh("cd m; echo 1 > f; echo n > new; mv d moved; echo w > moved/a; rm link; ls -R >/dev/null");
    let first = play.tree();
    play.sh("plyfs snapshot m first; cd m; echo 2 > f; rm new; echo l > link; rm -r moved; mkdir -p moved/x; rm c; echo other > later; ls -R >/dev/null");
    let second = play.tree();
    play.sh("plyfs snapshot m second; echo unsaved > m/unsaved; echo 3 > m/f; cat m/f m/unsaved");
    play.sh("plyfs rewind m first");
    assert_eq!(play.tree(), first);
    assert_eq!(play.sh("ls -A up; plyfs snapshots m | cut -c 1-8"), "* first \n  second\n");
    play.remount();
    assert_eq!(play.tree(), first);
    play.sh("echo again > m/f; cat m/f; plyfs rewind m second");
    assert_eq!(play.tree(), second);
    play.sh("plyfs rewind m second; plyfs rewind m first; plyfs snapshot m third; echo t > m/t; plyfs rewind m second");
    assert_eq!(play.tree(), second);
    play.remount();
    assert_eq!(play.tree(), second);
    // What was taken away does not stay.
    play.sh("for i in $(seq 100); do [ -z \"$(ls -A up.snapshots | grep -v '^first$\\|^second$\\|^third$\\|^stack$')\" ] && exit 0; sleep 0.1; done; ls -A up.snapshots; exit 1");
    play.unmount();
}

#[test]
fn hard_links_are_what_they_were_after_a_rewind() {
    let play = stage();
    play.sh("echo 1 >> m/d/a; plyfs snapshot m one; echo 2 >> m/d/b; rm m/c; plyfs snapshot m two; echo 3 >> m/d/a");
    play.sh("plyfs rewind m one");
    assert_eq!(play.sh("cat m/c; [ m/c -ef m/d/a ]; [ m/c -ef m/d/b ]; stat -c %h m/c; echo x >> m/c; tail -n 1 m/d/a m/d/b"), "a\n1\n3\n==> m/d/a <==\nx\n\n==> m/d/b <==\nx\n");
    play.sh("plyfs rewind m two");
    assert_eq!(play.sh("cat m/d/a; [ m/d/a -ef m/d/b ]; [ ! -e m/c ]; stat -c %h m/d/b"), "a\n1\n2\n2\n");
    play.remount();
    assert_eq!(play.sh("cat m/d/b; [ m/d/a -ef m/d/b ]; [ ! -e m/c ]"), "a\n1\n2\n");
    play.unmount();
}

#[test]
fn who_has_something_open_goes_on_after_a_rewind() {
    let play = stage();
    play.sh("echo 1 > m/f; plyfs snapshot m; echo 2 > m/f; mkdir m/dir; echo new > m/dir/new");
    let mut changed = File::options().read(true).write(true).open(play.path("m/f")).unwrap();
    let mut new = File::open(play.path("m/dir/new")).unwrap();
    let shown = play.sh("cd m/dir; plyfs rewind $OLDPWD/m 1; ls; cat $OLDPWD/m/f; [ ! -e $OLDPWD/m/dir ]");
    assert_eq!(shown, "1\n");
    let mut read = String::new();
    new.read_to_string(&mut read).unwrap();
    changed.read_to_string(&mut read).unwrap();
    assert_eq!(read, "new\n2\n");
    changed.write_all_at(b"3", 0).unwrap();
    assert_eq!(
        (text(play.path("m/f")), text(play.path("up.snapshots/1/layer/f"))),
        ("1\n".into(), "1\n".into())
    );
    drop((changed, new));
    play.unmount();
}

#[test]
fn fsync_reaches_what_was_written_before_the_snapshot() {
    let play = stage();
    play.sh("echo data > m/new");
    let file = File::options().read(true).write(true).open(play.path("m/new")).unwrap();
    play.sh("plyfs snapshot m");
    let daemon =
        play.sh("plyfs show m --json | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p'").trim().parse().unwrap();
    if let Some(calls) = traced(daemon, "syncfs,fsync,fdatasync", || file.sync_all().unwrap()) {
        assert!(
            calls.iter().any(|call| call.contains("syncfs") || call.contains("up.snapshots")),
            "{calls:?}"
        );
    }
    // Once is enough.
    if let Some(calls) = traced(daemon, "syncfs", || file.sync_all().unwrap()) {
        assert_eq!(calls, [""; 0]);
    }
    drop(file);
    play.unmount();
}

#[test]
fn bad_names_and_taken_ones_are_refused() {
    let play = stage();
    play.sh("plyfs snapshot m taken");
    let long = "x".repeat(101);
    for name in ["taken", "a/b", ".hidden", "''", "'a b'", "stack", "\"$(printf 'a\\nb')\"", &long, "-- -"] {
        let said = sh_refused(play.path(""), &format!("plyfs snapshot m {name}"));
        assert!(said.contains("snapshot"), "{name}: {said}");
    }
    for name in ["unknown", "../taken", "stack"] {
        assert!(
            sh_refused(play.path(""), &format!("plyfs rewind m {name}")).contains("there is no snapshot"),
            "{name}"
        );
    }
    assert_eq!(
        play.sh("plyfs snapshots m | wc -l; plyfs snapshots up | wc -l; ls up.snapshots"),
        "1\n1\nstack\ntaken\n"
    );
    play.sh(&format!("plyfs snapshot m {}", "x".repeat(100)));
    play.unmount();
}

#[test]
fn only_who_has_mounted_takes_and_leaves_snapshots() {
    needs_root!("other users");
    let play = stage();
    play.sh("chmod 755 . m; plyfs snapshot m one");
    for command in ["plyfs snapshot m", "plyfs rewind m one"] {
        let said = sh_as(ALICE, play.path(""), &format!("{command} 2>&1 || true"));
        assert!(said.contains("only who has mounted"), "{said}");
    }
    assert_eq!(play.sh("ls up.snapshots"), "one\nstack\n");
    play.unmount();
}

#[test]
fn an_upper_that_cannot_be_exchanged_is_said_to_be_so() {
    needs_root!("tmpfs");
    let play = Playground::new();
    play.sh("mkdir low m t; mount -t tmpfs none t; trap 'umount t' EXIT; mkdir t/work t/up; mount --bind t/up t/up
             plyfs -o lowerdir=low,upperdir=t/up,workdir=t/work m 2>/dev/null && { plyfs snapshot m 2>said && exit 1; plyfs umount m; } || true; umount t/up");
    let play = stage();
    play.sh("mv up elsewhere");
    let said = sh_refused(play.path(""), "plyfs snapshot m");
    assert!(said.contains("is not under its name any more"), "{said}");
    play.sh("mv elsewhere up; plyfs snapshot m; echo x > m/x; [ -e up/x ]");
    play.unmount();
}

#[test]
fn what_says_whose_files_are_says_it_of_snapshots() {
    let play = Playground::new();
    let mount = "plyfs -o lowerdir=low,upperdir=up,xattr_permissions=2 m";
    play.sh(&format!(
        "mkdir low up m; echo f > low/f; {mount}; echo s > m/s; ln -s s m/link; chmod 4711 m/f"
    ));
    if crate::common::is_root() {
        play.sh("chown 33:34 m/s; chown -h 35:36 m/link; mknod m/null c 1 3");
    }
    let shown = || play.sh("cd m; stat -c '%n %u %g %a %F' *");
    let before = shown();
    play.sh("plyfs snapshot m");
    assert_eq!(shown(), before);
    play.sh(&format!("plyfs umount m; {mount}"));
    assert_eq!(shown(), before);
    play.sh("chmod 4700 m/f; touch m/s; plyfs rewind m 1");
    assert_eq!(shown(), before);
    play.sh("plyfs umount m");
}

#[test]
fn limits_count_what_is_in_snapshots() {
    let play = Playground::new();
    let mount = "plyfs -o lowerdir=low,upperdir=up,size=1m m";
    play.sh(&format!("mkdir low up m; {mount}; head -c 600k /dev/zero > m/a; plyfs snapshot m; ! head -c 600k /dev/zero > m/b; rm m/b"));
    play.sh(&format!(
        "plyfs umount m; {mount}; ! head -c 600k /dev/zero > m/b; rm m/b
         # The kernel lets go of what was removed in its own time.
         for i in $(seq 100); do head -c 300k /dev/zero > m/c && break; sleep 0.05; done; [ $(stat -c %s m/c) = 307200 ]"
    ));
    // What a rewind takes away is room again, once it is removed.
    play.sh("plyfs rewind m 1; for i in $(seq 100); do head -c 300k /dev/zero > m/d && break; sleep 0.1; done; stat -c %s m/d");
    play.sh("plyfs umount m");
}

#[test]
fn an_upper_is_mounted_read_only_with_its_snapshots() {
    let play = stage();
    play.sh("echo 1 > m/f; echo w >> m/d/a; plyfs snapshot m; echo 2 > m/new; plyfs umount m; plyfs -o ro,lowerdir=low,upperdir=up m");
    assert_eq!(play.sh("cat m/f m/new m/c; [ m/c -ef m/d/a ]; plyfs branches m | wc -l"), "1\n2\na\nw\n3\n");
    assert!(sh_refused(play.path(""), "plyfs snapshot m").contains("read-only"));
    play.sh("plyfs umount m");
}

#[test]
fn a_copy_of_all_of_it_works() {
    let play = stage();
    play.sh("echo 1 > m/f; echo w >> m/d/a; plyfs snapshot m; echo 2 > m/new; plyfs umount m; mkdir copy; cp -a up up.snapshots copy
             plyfs -o lowerdir=low,upperdir=copy/up m");
    assert_eq!(
        play.sh("cat m/f m/new m/d/a; plyfs snapshot m; plyfs snapshots m | wc -l"),
        "1\n2\na\nw\n2\n2\n"
    );
    play.sh("plyfs umount m");
    // So it does without the workdir, and with a snapshot named as a lower as well.
    play.sh("rm -rf .up.plyfs-work; plyfs -o lowerdir=up.snapshots/1/layer:low,upperdir=up m");
    assert_eq!(
        play.sh("cat m/f m/new m/d/a m/c; [ m/c -ef m/d/a ]; plyfs branches m | wc -l"),
        "1\n2\na\nw\na\nw\n3\n"
    );
    play.unmount();
}

#[test]
fn a_record_that_leads_elsewhere_is_not_followed() {
    let play = stage();
    play.sh("plyfs snapshot m; plyfs umount m; mkdir -p victim/layer; echo v > victim/layer/v
             sed -i 's/^snapshot 1 /making ..\\/victim /' up.snapshots/stack");
    let said = sh_refused(play.path(""), "plyfs -o lowerdir=low,upperdir=up m");
    assert!(said.contains("is not as plyfs writes it"), "{said}");
    assert_eq!(play.sh("cat victim/layer/v"), "v\n");
    play.sh("chmod 777 up.snapshots");
    assert!(
        sh_refused(play.path(""), "plyfs -o lowerdir=low,upperdir=up m").contains("others can write to it")
    );
}

#[test]
fn many_snapshots_while_programs_work() {
    let play = stage();
    play.sh(
        "for p in 1 2 3; do ( mkdir m/p$p; for i in $(seq 150); do echo $i > m/p$p/$i; echo $i >> m/p$p/log; [ $i -lt 10 ] || rm m/p$p/$((i - 5)); mv m/p$p/log m/p$p/log2; mv m/p$p/log2 m/p$p/log; done ) & pids=\"${pids-} $!\"; done
         for i in $(seq 40); do plyfs snapshot m >/dev/null; done; for p in $pids; do wait $p; done",
    );
    let shown = play.sh(
        "for p in 1 2 3; do seq 150 | cmp - m/p$p/log; ls m/p$p | wc -l; done; plyfs snapshots m | wc -l",
    );
    assert_eq!(shown, "10\n10\n10\n40\n");
    let tree = play.tree();
    play.remount();
    assert_eq!(play.tree(), tree);
    play.sh("plyfs rewind m 1; plyfs rewind m 40; echo x >> m/p1/log; tail -n 1 m/p1/log");
    play.unmount();
}

#[test]
fn a_mapping_goes_on_over_a_snapshot_and_leaves_the_snapshot_as_it_was() {
    let play = stage();
    let first = "a".repeat(4096);
    play.sh(&format!("printf %s {first} > m/mapped"));
    let file = File::options().read(true).write(true).open(play.path("m/mapped")).unwrap();
    let mut mapping = Mapping::of(&file, 4096, Mapping::SHARED);
    mapping.store(0, b"before");
    mapping.sync();
    play.sh("plyfs snapshot m");
    mapping.store(0, b"after!");
    mapping.sync();
    let begins = |path: &str, with: &str| assert!(text(play.path(path)).starts_with(with), "{path}");
    begins("m/mapped", "after!a");
    begins("up.snapshots/1/layer/mapped", "beforea");
    play.sh("plyfs snapshot m; printf written | dd of=m/mapped conv=notrunc status=none");
    assert_eq!(&mapping.bytes()[..8], b"writtena");
    drop((mapping, file));
    begins("up.snapshots/2/layer/mapped", "after!a");
    play.unmount();
}

#[test]
fn who_lists_a_directory_meanwhile_finds_every_entry_once() {
    let play = stage();
    play.sh("mkdir m/many; cd m/many; for i in $(seq 600); do : > entry-with-quite-a-long-name-$i; done");
    let mut listed: Vec<String> = Vec::new();
    for (at, entry) in fs::read_dir(play.path("m/many")).unwrap().enumerate() {
        listed.push(entry.unwrap().file_name().into_string().unwrap());
        if at == 100 {
            play.sh("plyfs snapshot m; : > m/many/new");
        }
        if at == 300 {
            play.sh("mkdir other; : > other/f; plyfs branch add m other");
        }
    }
    listed.retain(|name| name != "new");
    listed.sort();
    listed.dedup();
    assert_eq!(listed.len(), 600);
    play.sh("plyfs branch del m other");
    play.unmount();
}
