//! The several ways in which people mount: in the background, by other tools' words, as an
//! ordinary user, in a user namespace.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::common::{
    Playground, is_root, needs_root, open_dev_fuse_to_everybody, plyfs, say_not_played, sh_as, sh_refused,
    text,
};

/// Two lowers, an upper and a workdir, in a folder of their own.
fn stack() -> Playground {
    let play = Playground::new();
    play.sh("mkdir -p one/d two/d upper work mnt
         echo one > one/f; echo two > two/f; echo two > two/g; touch one/d/1 two/d/2");
    play
}

const MOUNT: &str = "plyfs -o lowerdir=one:two,upperdir=upper,workdir=work";

/// The output is read to its end here: a daemon that holds it open would never let that come.
#[test]
fn in_the_background_the_mount_answers_on_return_and_the_output_is_closed() {
    let play = stack();
    // Root is warned of an upper that others can reach.
    play.sh("chmod 700 .");
    let seen = play.sh(&format!("out=$({MOUNT} mnt 2>&1); [ -z \"$out\" ]; cat mnt/f mnt/g; ls mnt/d"));
    assert_eq!(seen, "one\ntwo\n1\n2\n");
    play.sh("plyfs umount mnt; [ -z \"$(ls mnt)\" ]");
}

#[test]
fn the_subcommand_and_a_source_word_are_understood() {
    let play = stack();
    for words in [
        "plyfs mount -o lowerdir=one:two,upperdir=upper,workdir=work mnt",
        "plyfs -o lowerdir=one:two,upperdir=upper,workdir=work plyfs mnt",
        "plyfs plyfs mnt -o lowerdir=one:two,upperdir=upper,workdir=work",
        "plyfs -o lowerdir=one:two -o upperdir=upper -o workdir=work overlay mnt",
    ] {
        let seen = play.sh(&format!("{words}; cat mnt/f; plyfs umount mnt"));
        assert_eq!(seen, "one\n", "{words}");
    }
}

#[test]
fn aufs_words_are_understood_and_the_mount_tells_its_branches() {
    let play = stack();
    let root = fs::canonicalize(play.path("")).unwrap();
    let shown = |names: [&str; 3]| {
        let lines = names.map(|name| format!("{}/{name}\n", root.display()));
        lines.concat()
    };
    for words in [
        "plyfs -o dirs=upper:one:two none mnt",
        "plyfs -o dirs=./upper=rw:./one=ro:./two=ro none ./mnt",
        "plyfs -o br:upper:one:two none mnt",
    ] {
        let seen = play.sh(&format!("{words}; cat mnt/f; plyfs branches mnt; plyfs umount mnt"));
        assert_eq!(seen, format!("one\n{}", shown(["upper=rw", "one=ro", "two=ro"])), "{words}");
    }
    let error = sh_refused(play.path(""), "plyfs -o dirs=upper=rw:one=nonsense none mnt");
    assert!(error.contains("nonsense"), "{error}");
}

#[test]
fn paths_are_taken_as_the_kernel_takes_them() {
    let play = stack();
    play.sh("mkdir -p deep/er; ln -s ../one deep/link; ln -s deep/er jump; ln -s ../two deep/two");
    play.sh("cd deep
         plyfs -o lowerdir=link:../jump/../two,upperdir=../upper,workdir=../work ../mnt
         cat ../mnt/f ../mnt/g
         plyfs umount ../mnt");
}

#[test]
fn a_colon_and_a_comma_in_a_path_are_escaped() {
    let play = Playground::new();
    let seen = play.sh("mkdir 'a:b' 'c,d' upper work mnt; echo colon > a:b/f; echo comma > c,d/g
         plyfs -o 'lowerdir=a\\:b:c\\,d,upperdir=upper,workdir=work' mnt
         cat mnt/f mnt/g; plyfs umount mnt");
    assert_eq!(seen, "colon\ncomma\n");
}

#[test]
fn what_cannot_be_mounted_is_named_and_nothing_changes() {
    let play = stack();
    for (words, named) in [
        ("lowerdir=one:missing,upperdir=upper,workdir=work mnt", "missing"),
        ("lowerdir=one,upperdir=nowhere,workdir=work mnt", "nowhere"),
        ("lowerdir=one,upperdir=upper,workdir=nowork mnt", "nowork"),
        ("lowerdir=one,upperdir=upper,workdir=work nomnt", "nomnt"),
        ("lowerdir=one/f,upperdir=upper,workdir=work mnt", "one/f"),
        ("lowerdir=one:one/d,upperdir=upper,workdir=work mnt", "one"),
        ("lowerdir=one,upperdir=upper,workdir=upper/w mnt", "upper"),
        ("lowerdir=one,upperdir=upper,workdir=work upper/w", "upper/w"),
    ] {
        let error = sh_refused(play.path(""), &format!("mkdir -p upper/w; plyfs -o {words}"));
        assert!(error.contains(named), "{words}: {error}");
    }
    assert_eq!(
        play.sh("rmdir upper/w; find upper work mnt one two | sort"),
        play.sh("printf '%s\\n' mnt one one/d one/d/1 one/f two two/d two/d/2 two/f two/g upper work | sort")
    );
}

#[test]
fn a_live_upper_or_workdir_is_not_taken_twice() {
    let play = stack();
    play.sh(&format!("{MOUNT} mnt; mkdir other upper2 work2"));
    for words in ["upperdir=upper,workdir=work2", "upperdir=upper2,workdir=work"] {
        let error = sh_refused(play.path(""), &format!("plyfs -o lowerdir=one,{words} other"));
        assert!(error.contains("upper") || error.contains("work"), "{error}");
    }
    assert_eq!(play.sh("cat mnt/f; plyfs umount mnt"), "one\n", "the first mount is unharmed");
    // And is free again afterwards.
    play.sh(&format!("{MOUNT} mnt; plyfs umount mnt"));
}

#[test]
fn lowers_are_shared_by_any_number_of_mounts() {
    let play = stack();
    let seen = play.sh("mkdir u1 w1 m1 u2 w2 m2
         plyfs -o lowerdir=one:two,upperdir=u1,workdir=w1 m1
         plyfs -o lowerdir=one:two,upperdir=u2,workdir=w2 m2
         echo 1 > m1/f; rm m2/f; echo new > m2/new
         cat m1/f; ls m1 m2; cat one/f
         plyfs umount m1; plyfs umount m2");
    assert_eq!(seen, "1\nm1:\nd\nf\ng\n\nm2:\nd\ng\nnew\none\n");
}

#[test]
fn a_union_can_be_a_lower_of_another() {
    let play = stack();
    let seen = play.sh(&format!(
        "{MOUNT} mnt; mkdir u2 w2 m2; echo inner > mnt/inner
         plyfs -o lowerdir=mnt,upperdir=u2,workdir=w2 m2
         echo outer >> m2/f; rm m2/g; mv m2/d m2/e; cat m2/f m2/inner; ls m2 m2/e
         plyfs umount m2
         cat mnt/f mnt/g; ls mnt/d; plyfs umount mnt"
    ));
    assert_eq!(seen, "one\nouter\ninner\nm2:\ne\nf\ninner\n\nm2/e:\n1\n2\none\ntwo\n1\n2\n");
}

/// fusermount3 wants an ordinary user of whom the system knows the name.
const NOBODY: u32 = 65_534;

/// What an ordinary user does, through fusermount3.
const DAY: &str = "
    plyfs -o lowerdir=one:two,upperdir=upper,workdir=work mnt
    [ \"$(cat mnt/f)\" = one ]; [ \"$(ls mnt/d | tr '\\n' ' ')\" = '1 2 ' ]
    echo more >> mnt/f; rm mnt/g; mv mnt/d mnt/e; mkdir mnt/d; umask 027; touch mnt/d/new
    chmod 400 mnt/f; [ \"$(stat -c %a mnt/d/new)\" = 640 ]
    ln mnt/f mnt/h; ln -s h mnt/s; mkfifo mnt/p
    plyfs umount mnt; [ -z \"$(ls mnt)\" ]
    plyfs mount -o lowerdir=one:two,upperdir=upper,workdir=work mnt
    cat mnt/s; ls mnt mnt/d mnt/e
    plyfs umount mnt
    cd upper; find . | sort";

const DAYS_END: &str = "one\nmore\nmnt:\nd\ne\nf\nh\np\ns\n\nmnt/d:\nnew\n\nmnt/e:\n1\n2\n\
    .\n./.wh.g\n./d\n./d/.wh..wh..opq\n./d/new\n./e\n./e/.wh..wh..opq\n./e/1\n./e/2\n./f\n./h\n./p\n./s\n";

#[test]
fn an_ordinary_user_mounts_through_fusermount() {
    needs_root!("to become an ordinary user");
    open_dev_fuse_to_everybody();
    let play = stack();
    // The folder of the binary under test may be closed to others.
    fs::copy(plyfs(), play.path("plyfs")).unwrap();
    play.sh(&format!("chown -R {NOBODY}:{NOBODY} ."));
    let seen = sh_as(NOBODY, play.path(""), &format!("PATH=$PWD:$PATH; {DAY}"));
    assert_eq!(seen, DAYS_END);
    assert_eq!(fs::metadata(play.path("upper/f")).unwrap().uid(), NOBODY);
    assert_eq!(text(play.path("one/f")), "one\n");
}

#[test]
fn root_of_a_user_namespace_mounts_there() {
    if is_root() {
        open_dev_fuse_to_everybody();
    }
    let play = stack();
    let namespace = "unshare --user --map-root-user --mount";
    let outcome = play.sh(&format!("{namespace} mount -t tmpfs none mnt 2>&1 || echo forbidden"));
    if !outcome.is_empty() {
        say_not_played("this machine forbids mounting in a user namespace");
        return;
    }
    let day = DAY.replace('"', "\\\"").replace('$', "\\$");
    let seen = play.sh(&format!("{namespace} sh -euc \"{day}\""));
    assert_eq!(seen, DAYS_END);
    assert_eq!(text(play.path("one/f")), "one\n");
}
