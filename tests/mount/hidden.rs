//! What of the lowers does not show: by `hide=`, `empty=` and `unreadable=empty`.

use crate::common::{Playground, is_root, needs_root, say_not_played, sh_refused};

#[test]
fn what_is_hidden_is_not_there_whatever_comes_to_be_there() {
    let play = Playground::new();
    let shown = play.sh(
        "mkdir -p low/d/secret low/other up mnt; echo s > low/d/secret/key; echo t > low/token; ln low/token low/alias; echo f > low/d/f
         plyfs -o 'lowerdir=low,upperdir=up,timeout=0,hide=low/d/secret,hide=low/token,hide=low/later,hide=low/a\\,b' mnt
         trap 'plyfs umount mnt' EXIT; cd mnt; find . | sort; cat d/secret/key token 2>/dev/null || echo no
         echo late > ../low/later; echo comma > ../low/a,b; rm ../low/token; echo another > ../low/token; mv ../low/d/secret ../low/moved
         ls; echo mine > token; mkdir d/secret; echo mine > d/secret/key; cat token d/secret/key; rm token; ls; cat ../low/token
         rm -r d; ls; cd ..",
    );
    assert_eq!(shown, ".\n./d\n./d/f\n./other\nno\nd\nother\nmine\nmine\nd\nother\nanother\nother\n");
    let refused = sh_refused(play.path("."), "plyfs -o lowerdir=low,upperdir=up,hide=no/such/path mnt");
    assert!(refused.contains("cannot hide") && refused.contains("no/such/path"), "{refused}");
}

#[test]
fn a_lower_that_is_added_hides_the_same() {
    let play = Playground::new();
    let shown = play.sh(
        "mkdir -p low more up mnt; echo l > low/l; echo m > more/m; echo s > more/secret
         plyfs -o lowerdir=low,upperdir=up,hide=more/secret mnt; plyfs branch add mnt more; ls mnt; plyfs umount mnt",
    );
    assert_eq!(shown, "l\nm\n");
}

#[test]
fn an_emptied_directory_is_there_and_takes_new_entries() {
    let play = Playground::new();
    let shown = play.sh(
        "mkdir -p low/d/sub up mnt; echo f > low/d/f; plyfs -o lowerdir=low,upperdir=up,empty=low/d mnt; trap 'plyfs umount mnt' EXIT
         ls mnt mnt/d; cat mnt/d/f 2>/dev/null || echo no; echo n > mnt/d/f; cat mnt/d/f; ls mnt/d; rm mnt/d/f; rmdir mnt/d; ls -A up; ls low/d",
    );
    assert_eq!(shown, "mnt:\nd\n\nmnt/d:\nno\nn\nf\n.wh.d\nf\nsub\n");
}

#[test]
fn what_may_not_be_read_shows_empty_if_that_is_asked_for() {
    if is_root() || rustix::process::geteuid().is_root() {
        return say_not_played("needs a user who is held to permissions");
    }
    let play = Playground::new();
    let shown = play.sh(
        "mkdir -p low/closed low/pass up mnt; echo s > low/secret; echo c > low/closed/c; echo p > low/pass/p; chmod 0 low/secret low/closed
         chmod 111 low/pass; plyfs -o lowerdir=low,upperdir=up,unreadable=empty mnt
         trap 'plyfs umount mnt; chmod 755 low/closed low/pass' EXIT
         stat -c %s mnt/secret; ls -A mnt/pass 2>/dev/null || true; cat mnt/pass/p; [ ! -e mnt/closed/c ]; chmod 644 mnt/secret
         cat mnt/secret; echo new > mnt/secret; cat mnt/secret",
    );
    assert_eq!(shown, "0\np\nnew\n");
}

#[test]
fn who_is_in_a_namespace_of_his_own_does_not_change_the_stack() {
    needs_root!("another user namespace of root's");
    let play = Playground::new();
    let refused = play
        .sh("mkdir low up mnt; plyfs -o lowerdir=low,upperdir=up mnt; trap 'plyfs umount mnt' EXIT
         unshare --user --map-root-user plyfs snapshot mnt 2>&1 || true; plyfs snapshot mnt");
    assert!(refused.contains("Operation not permitted") && refused.ends_with("\n1\n"), "{refused}");
}

#[test]
fn what_was_changed_is_noted_as_it_was() {
    let play = Playground::new();
    let noted = play.sh(
        "mkdir -p low/d/e low/x up mnt; echo one > low/f; echo two > low/d/e/g; ln -s f low/l; echo old > low/over; echo gone > low/gone
         plyfs -o lowerdir=low,upperdir=up,bases mnt; cd mnt; echo more >> f; echo more >> f; mv d moved; rm gone; echo new > t; mv t over; chmod 700 x
         touch -h l; rm l; echo again > l; cd ..; plyfs snapshot mnt s > /dev/null; rm mnt/x -r; plyfs rewind mnt s; plyfs umount mnt
         cd .up.plyfs-work/plyfs/bases; cut -d' ' -f1,3,4,7,12- log | sed 's/^\\(snapshot\\|rewind\\).*/\\1/'; tail -n +1 [0-9]*",
    );
    assert_eq!(
        noted,
        "base d 755 4096 - .\nbase f 644 4 0 f\nbase f 644 4 - d/e/g\nbase d 755 4096 - d/e\nbase d 755 4096 - d\n\
         base f 644 5 - gone\nbase f 644 4 1 over\nbase d 755 4096 - x\nbase l 777 1 2 l\nsnapshot\nrewind\n\
         ==> 0 <==\none\n\n==> 1 <==\nold\n\n==> 2 <==\nf"
    );
}
