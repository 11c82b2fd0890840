//! The union's own directories may lie inside a lower, and other filesystems be mounted there.

use crate::common::{Playground, is_root, needs_root};

/// A home with a store in it, as `-v $HOME:/x:O` has one.
fn home() -> Playground {
    let play = Playground::new();
    play.sh("mkdir -p home/docs home/.store/up home/.store/work home/.store/mnt; chmod 700 home/.store
         echo text > home/docs/f; echo other > home/.store/other");
    play
}

#[test]
fn upper_workdir_and_mountpoint_inside_a_lower_do_not_show_in_it() {
    for (words, at) in [
        ("upperdir=home/.store/up,workdir=home/.store/work home/.store/mnt", "home/.store/mnt"),
        ("upperdir=home/.store/up home/.store/mnt", "home/.store/mnt"),
        ("upperdir=home/.store/up,workdir=home/.store/work elsewhere", "elsewhere"),
    ] {
        let play = home();
        let shown = play.sh(&format!(
            "mkdir elsewhere; plyfs -o lowerdir=home,{words}
             cd {at}; find . | LC_ALL=C sort; [ ! -e .store/up ]; [ ! -e .store/.up.plyfs-work ]"
        ));
        let mut wanted = vec![".", "./.store", "./.store/other", "./docs", "./docs/f"];
        if !words.contains("workdir") {
            // What somebody else's workdir is called says nothing.
            wanted.push("./.store/work");
        }
        if at == "elsewhere" {
            wanted.push("./.store/mnt");
        }
        wanted.sort_unstable();
        assert_eq!(shown.lines().collect::<Vec<_>>(), wanted, "{words}");
        play.sh(&format!(
            "echo new > {at}/docs/new; echo changed > {at}/docs/f; rm {at}/.store/other; mkdir {at}/.store/up
             echo mine > {at}/.store/up/mine; mv {at}/.store {at}/moved; cat {at}/moved/up/mine; plyfs umount {at}
             [ \"$(cat home/docs/f)\" = text ]; [ ! -e home/docs/new ]; [ -e home/.store/other ]
             find home/.store/up | sort"
        ));
        let again = play.sh(&format!(
            "plyfs -o lowerdir=home,{words}; cat {at}/docs/f {at}/docs/new {at}/moved/up/mine; plyfs umount {at}"
        ));
        assert_eq!(again, "changed\nnew\nmine\n", "{words}");
    }
}

#[test]
fn a_home_may_be_mounted_over_itself() {
    let play = home();
    let shown = play.sh(
        "plyfs -o lowerdir=home,upperdir=home/.store/up,workdir=home/.store/work home
         cd home; find . | sort; echo new > docs/new; cd ..; plyfs umount home; ls home/docs home/.store/up/docs",
    );
    assert_eq!(
        shown,
        ".\n./.store\n./.store/mnt\n./.store/other\n./docs\n./docs/f\nhome/.store/up/docs:\nnew\n\nhome/docs:\nf\n"
    );
}

#[test]
fn a_reader_of_such_a_stack_hides_the_same() {
    let play = home();
    let shown = play.sh(
        "plyfs -o lowerdir=home,upperdir=home/.store/up home/.store/mnt; echo new > home/.store/mnt/docs/new
         plyfs umount home/.store/mnt; rmdir home/.store/work
         plyfs -o ro,lowerdir=home,upperdir=home/.store/up home/.store/mnt; find home/.store/mnt -mindepth 1 | sort
         plyfs umount home/.store/mnt",
    );
    let names: Vec<_> = shown.lines().map(|line| line.trim_start_matches("home/.store/mnt/")).collect();
    assert_eq!(names, [".store", ".store/other", "docs", "docs/f", "docs/new"]);
}

#[test]
fn the_whole_system_can_be_a_lower() {
    let play = Playground::new();
    // Copies of root's directories belong to root: for others, by the record.
    let option = if is_root() { "" } else { ",xdev,xattr_permissions=2" };
    let shown = play.sh(&format!(
        "mkdir up mnt; plyfs -o lowerdir=/,upperdir=up{option} mnt
         [ -x mnt/bin/sh ]; here=$PWD; [ -d mnt$here ]; [ ! -e mnt$here/up ]; [ ! -e mnt$here/mnt ]; ls -A mnt$here
         echo new > mnt$here/new; cat mnt$here/new; plyfs umount mnt; find up -name new | wc -l"
    ));
    assert_eq!(shown, "new\n1\n");
}

#[test]
fn with_xdev_a_lower_ends_where_something_is_mounted() {
    needs_root!("mount(2)");
    let play = Playground::new();
    let shown = play.sh(
        "mkdir -p low/here/inner low/sub up mnt; echo under > low/here/under; echo beside > low/sub/f
         mount -t tmpfs none low/here; trap 'umount -l low/here' EXIT; echo there > low/here/there
         mkdir other; mount --bind low/sub other; mkdir low/bound; mount --bind low/sub low/bound
         trap 'umount -l low/here other low/bound' EXIT
         plyfs -o lowerdir=low,upperdir=up mnt; ls mnt/here mnt/bound; plyfs umount mnt
         plyfs -o xdev,lowerdir=low,upperdir=up mnt; ls mnt/here mnt/bound; ls mnt
         echo new > mnt/here/new; cat mnt/here/new; rm -r mnt/here; ls mnt; ls low/here; plyfs umount mnt",
    );
    assert_eq!(
        shown,
        "mnt/bound:\nf\n\nmnt/here:\nthere\nmnt/bound:\n\nmnt/here:\nbound\nhere\nsub\nnew\nbound\nsub\nthere\n"
    );
}
