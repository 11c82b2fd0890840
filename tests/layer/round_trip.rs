//! What is packed and unpacked is what it was: the same tree, no difference, and the same bytes when packed again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::needs_root;
use crate::stand::{As, NOBODY, PATIENCE, Stand, run, say_not_played};
use crate::tree::{Detail, difference, tree};

/// A bit of everything that an ordinary user may make.
const EVERYTHING: &str = r"
    mkdir -p a/dir/deeper a/empty a/sub/one a/sub/two
    echo text >a/file; : >a/nothing; ln -s file a/link; ln -s /nowhere a/dir/dangling; mkfifo a/fifo
    head -c 100000 /dev/urandom >a/dir/random
    ln a/file a/sub/one/file2; ln a/file a/dir/file3
    ln -P a/link a/sub/link2; ln a/fifo a/sub/fifo2
    truncate -s 2M a/sparse; printf middle | dd of=a/sparse bs=1 seek=1000000 conv=notrunc status=none
    truncate -s 70000 a/hole; printf end >>a/hole
    touch a/new$(printf '\nline') a/$(printf '\377\376') a/$(printf 'n%.0s' $(seq 255)) a/'sp ace' a/back\\slash a/-dash
    touch -d '1969-12-31 23:59:58.75 UTC' a/before; touch -d '1901-12-13 20:45:53 UTC' a/long_before
    touch -d '2024-02-29 12:34:56.123456789 UTC' a/nanoseconds; touch -d '2400-01-01 UTC' a/later
    setfattr -n user.mime -v text/plain a/file; setfattr -n user.binary -v 0x00ff0a3d a/dir
    setfattr -n user.empty a/nothing
    touch a/mode; chmod 0 a/mode; touch a/all; chmod 07777 a/all; chmod 01777 a/empty
    chmod 0700 a/dir; chmod 0555 a/sub/two
    touch -d '2020-01-01 00:00:00.5 UTC' a/dir a/sub/one a/sub/two a/sub; touch -h -d '2019-01-01 UTC' a/link
    touch -d '2018-01-01 UTC' a
";

/// And what takes root.
const OF_ROOT: &str = r"
    chown 1000:1001 a/file a/dir; chown -h 33:34 a/link; chown 4000000:4000001 a/nanoseconds
    mknod a/null c 1 3; mknod a/disk b 8 0; mknod a/large b 259 70000; chown 5:6 a/null
    touch a/cap; setcap cap_net_raw+ep a/cap 2>/dev/null || setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 a/cap
    setfattr -n trusted.thing -v secret a/file
    setfacl -m u:1000:rw,g:1001:r a/file; setfacl -d -m u:1000:rwx a/empty; setfacl -m u:7:x a/empty
    touch a/setuid; chown 12:13 a/setuid; chmod 06755 a/setuid
    touch -d '2020-01-01 00:00:00.5 UTC' a/dir a/sub/one a/sub/two a/sub; touch -d '2018-01-01 UTC' a
";

/// Packs `a`, unpacks it as `b`, packs `b`: no difference, the same bytes.
#[track_caller]
fn goes_round(stand: &Stand, by: As, options: &str) {
    for end in ["tar", "tar.gz", "tar.zst"] {
        let packed = stand.layer_as(by, &format!("pack a -o one.{end} {options}")).succeeds();
        let unpacked = stand.layer_as(by, &format!("unpack one.{end} b {options}")).succeeds();
        for key in ["digest", "diffID"] {
            assert_eq!(packed.value(key), unpacked.value(key));
        }
        let said = stand.layer_as(by, &format!("pack b -o two.{end} {options}")).succeeds();
        assert_eq!(said.value("digest"), packed.value("digest"), "{end}");
        assert!(
            fs::read(stand.path(format!("one.{end}"))).unwrap()
                == fs::read(stand.path(format!("two.{end}"))).unwrap()
        );
        if options.is_empty() {
            let said = stand.layer_as(by, "diff a b").succeeds();
            assert_eq!(said.out, "");
        }
        stand.sh("rm -rf b");
    }
    stand.layer_as(by, &format!("unpack one.tar b {options}")).succeeds();
}

#[test]
fn roots_layer_goes_round() {
    needs_root!("owners and devices");
    let stand = Stand::new();
    stand.sh(EVERYTHING);
    stand.sh(OF_ROOT);
    goes_round(&stand, As::Tester, "");
    let differs = difference(&tree(&stand.path("a"), Detail::All), &tree(&stand.path("b"), Detail::All));
    assert_eq!(differs, Vec::<String>::new());
    let blocks = |name: &str| rustix::fs::stat(stand.path(name)).unwrap().st_blocks;
    assert!(blocks("b/sparse") < 64 && blocks("b/hole") < 64, "holes are filled");
}

/// An ordinary user keeps owners, devices and root's attributes of an archive, and packs them again.
#[test]
fn an_ordinary_users_layer_goes_round() {
    needs_root!("becomes an ordinary user");
    let stand = Stand::new();
    stand.sh(EVERYTHING);
    stand.sh(OF_ROOT);
    stand.sh("chmod 755 a; rm -rf out; $PLYFS layer pack a -o root.tar; chmod 644 root.tar; mv a of_root");
    stand.layer_as(As::Nobody, "unpack root.tar a").succeeds();
    goes_round(&stand, As::Nobody, "");
    let again = stand.layer_as(As::Nobody, "pack a -o again.tar").succeeds();
    let by_root = stand.layer("pack of_root -o by_root.tar").succeeds();
    // A symbolic link of an ordinary user's has no attributes; owners it has.
    assert_eq!(again.value("diffID"), by_root.value("diffID"));
    let owner = rustix::fs::stat(stand.path("a/null")).unwrap();
    assert_eq!((owner.st_uid, owner.st_mode & 0o170_000), (NOBODY, 0o100_000));
}

/// Who comes last counts, in one directory and over several layers.
#[test]
fn an_ordinary_user_knows_whose_symbolic_links_are() {
    needs_root!("becomes an ordinary user");
    use crate::archive::{Header, Tar};
    let link = |uid: u32| Header::new(b'2', b"d/l").link(b"t").owner(uid, uid);
    let owner_of_link = |stand: &Stand, dirs: &str| {
        stand.layer_as(As::Nobody, &format!("pack {dirs} -o out.tar")).succeeds();
        let listed = stand.sh("tar --numeric-owner -tvf out.tar d/l; rm out.tar");
        listed.split_whitespace().nth(1).unwrap().to_owned()
    };
    let stand = Stand::new();
    stand.write("again.tar", Tar::new().dir("d").raw(link(5), b"").file("f", "").dir("d").end());
    stand.write("roots.tar", Tar::new().dir("d").raw(link(5), b"").raw(link(0), b"").end());
    stand.write("top.tar", Tar::new().dir("d").file("d/f", "").end());
    for (archive, owner) in [("again", "5/5"), ("roots", "0/0"), ("top", "")] {
        stand.layer_as(As::Nobody, &format!("unpack {archive}.tar {archive}")).succeeds();
        if !owner.is_empty() {
            assert_eq!(owner_of_link(&stand, archive), owner, "{archive}");
        }
    }
    assert_eq!(owner_of_link(&stand, "top again"), "5/5");
    // More owners than an attribute can hold are no reason to fail.
    let mut many = Tar::new();
    for number in 0..3000 {
        let name = format!("d/a-link-with-some-name-{number}");
        many = many.raw(Header::new(b'2', name.as_bytes()).link(b"t").owner(1000, 1000), b"");
    }
    stand.write("many.tar", many.end());
    stand.layer_as(As::Nobody, "unpack many.tar many").succeeds();
}

#[test]
fn the_root_of_a_user_namespace_goes_round() {
    needs_root!("maps ids");
    let stand = Stand::new();
    stand.sh(EVERYTHING);
    stand.sh(
        "chown 1000:1001 a/file; setfacl -m u:1000:rw a/file; $PLYFS layer pack a -o root.tar; mv a of_root",
    );
    // As newuidmap does it: the map is written from the outside.
    let script = r#"
        chown 100000:100000 .; chmod 644 root.tar
        mkfifo ready go
        unshare --user --keep-caps sh -euc '
            echo >ready; read go <go
            exec setpriv --reuid 0 --regid 0 --clear-groups sh -euc "
                $PLYFS layer unpack root.tar a >/dev/null
                $PLYFS layer pack a -o two.tar >/dev/null
            "
        ' &
        pid=$!
        read ready <ready
        echo "0 100000 65536" >/proc/$pid/uid_map; echo "0 100000 65536" >/proc/$pid/gid_map
        echo >go; wait $pid
    "#;
    let wrapped = format!("exec setpriv --groups 100000 sh -euc '{}'", script.replace('\'', "'\\''"));
    // The ids in front of the namespace are those of its root, so that it may write here.
    let mut command = Command::new("sh");
    command.args(["-euc", &wrapped]).env("PLYFS", crate::stand::plyfs()).current_dir(stand.path(""));
    let said = run(command, PATIENCE);
    if said.code != Some(0) && (said.err.contains("unshare") || said.err.contains("uid_map")) {
        say_not_played(&format!("no user namespaces here: {}", said.err.trim()));
        return;
    }
    let said = said.succeeds();
    assert!(!said.err.contains("panicked"), "{said:#?}");
    assert!(
        fs::read(stand.path("root.tar")).unwrap() == fs::read(stand.path("two.tar")).unwrap(),
        "other bytes"
    );
    assert_eq!(rustix::fs::stat(stand.path("a/file")).unwrap().st_uid, 101_000);
}

#[test]
fn ids_are_mapped_there_and_back() {
    needs_root!("owners on the disk");
    let stand = Stand::new();
    stand.sh("mkdir a; touch a/f a/g; chown 1000:5 a/f; setfacl -m u:7:rw a/f; touch -d @5 a");
    let plain = stand.layer("pack a -o plain.tar").succeeds();
    let maps = "--uidmapping 100000:0:65536 --gidmapping 200000:0:65536";
    stand.layer(&format!("unpack plain.tar b {maps}")).succeeds();
    assert_eq!(rustix::fs::stat(stand.path("b/f")).unwrap().st_uid, 101_000);
    let mapped = stand.layer(&format!("pack b -o mapped.tar {maps}")).succeeds();
    assert_eq!(plain.value("digest"), mapped.value("digest"));
}

#[test]
fn the_bytes_do_not_depend_on_the_machine() {
    let stand = Stand::new();
    stand.sh("mkdir a; for i in $(seq 300); do echo $i >a/$i; done; head -c 5000000 /dev/zero | tr '\\0' x >a/big; touch -d @9 a/* a; cp -a a b");
    for end in ["tar", "tar.gz", "tar.zst"] {
        stand.layer(&format!("pack a -o a.{end}")).succeeds();
        stand.sh(&format!("taskset -c 0 $PLYFS layer pack b -o b.{end} >/dev/null; cmp a.{end} b.{end}"));
    }
}

#[test]
fn no_time_is_later_than_source_date_epoch() {
    let stand = Stand::new();
    stand.sh("mkdir a; touch -d '2024-01-01 00:00:00.5 UTC' a/late; touch -d '1999-01-01 00:00:00.25 UTC' a/early; touch a/.wh.x");
    stand.sh("SOURCE_DATE_EPOCH=1000000000 $PLYFS layer pack a -o a.tar; sleep 0.01; touch a; SOURCE_DATE_EPOCH=1000000000 $PLYFS layer pack a -o b.tar; cmp a.tar b.tar");
    stand.layer("unpack a.tar b --owners ours").succeeds();
    let times = |name: &str| {
        let stat = rustix::fs::stat(stand.path(name)).unwrap();
        (stat.st_mtime, stat.st_mtime_nsec)
    };
    assert_eq!(times("b/late"), (1_000_000_000, 0));
    assert_eq!(times("b/early"), (915_148_800, 250_000_000));
    let mut command = stand.command(As::Tester, "pack a -o c.tar");
    command.env("SOURCE_DATE_EPOCH", "soon");
    run(command, PATIENCE).fails(2, &["SOURCE_DATE_EPOCH=soon"]);
}

#[test]
fn ten_thousand_entries_go_round() {
    let stand = Stand::new();
    stand.sh("mkdir a; cd a; for d in $(seq 100); do mkdir $d; (cd $d; touch $(seq 99)); done");
    stand.layer("pack a -o one.tar").succeeds();
    let said = stand.layer("unpack one.tar b").succeeds();
    assert_eq!(said.value("diffID"), stand.layer("pack b -o two.tar").succeeds().value("diffID"));
}

/// Deep enough for a path that no call takes, and with few descriptors.
#[test]
fn depth_takes_no_descriptors() {
    let stand = Stand::new();
    stand.deep("a", 300, "directory-of-a-long-name");
    let script = "ulimit -n 64; $PLYFS layer pack a -o one.tar; $PLYFS layer unpack one.tar b; $PLYFS layer pack b -o two.tar; cmp one.tar two.tar; $PLYFS layer diff a b; $PLYFS layer check b; $PLYFS layer squash b -o c";
    stand.sh(script);
    // What failed at the end is removed with as few.
    stand.sh("head -c -1024 one.tar >cut.tar; ulimit -n 64; ! $PLYFS layer unpack cut.tar d 2>/dev/null; ls -A >names; ! grep plyfs-unpack names");
}

/// How deep a tree may be that goes round: what pack writes, unpack reads.
#[test]
fn what_is_packed_can_be_unpacked() {
    let stand = Stand::new();
    for (depth, is_packed) in [(999, true), (1000, false)] {
        stand.deep("a", depth, "d");
        let packed = stand.layer("pack a -o a.tar");
        if is_packed {
            packed.succeeds();
            stand.layer("unpack a.tar b").succeeds();
        } else {
            packed.fails(1, &["1,000"]);
        }
        fs::remove_dir_all(stand.path("a")).unwrap();
    }
}

/// What cannot be read is no sign of a change.
#[test]
fn what_cannot_be_packed_is_named() {
    needs_root!("becomes an ordinary user");
    let stand = Stand::new();
    stand.sh("mkdir a; touch a/secret; chmod 0 a/secret");
    stand.layer_as(As::Nobody, "pack a -o a.tar").fails(1, &["`secret`"]);
    stand.sh("rm a/secret; mkdir a/closed; chmod 0 a/closed");
    stand.layer_as(As::Nobody, "pack a -o a.tar").fails(1, &["closed"]);
    assert_eq!(stand.names(), ["a"]);
}

#[test]
fn tar_reads_what_was_packed() {
    needs_root!("owners and devices");
    let stand = Stand::new();
    stand.sh(EVERYTHING);
    stand.sh(OF_ROOT);
    stand.layer("pack a -o a.tar").succeeds();
    stand.sh("mkdir gnu; tar --xattrs --xattrs-include='*' --numeric-owner --same-owner --same-permissions -xf a.tar -C gnu");
    let plain = tree(&stand.path("a"), Detail::All);
    // GNU tar clears what it cannot set in one call: only its own order matters here.
    let differs = difference(&plain, &tree(&stand.path("gnu"), Detail::All));
    assert_eq!(differs, Vec::<String>::new(), "GNU tar");
    if Command::new("bsdtar").arg("--version").output().is_err() {
        say_not_played("bsdtar is not installed");
        return;
    }
    stand.sh("mkdir bsd; bsdtar --numeric-owner --same-owner -pxf a.tar -C bsd");
    let without_xattrs =
        |dir: &str| stand.sh(&format!("cd {dir}; find . -printf '%P %y %#m %U:%G %s %T@ %l\\n' | sort"));
    // bsdtar does not set times before 1970 on all versions, nor the root's.
    let keep = |text: String| {
        text.lines()
            .filter(|line| !line.contains("before") && !line.starts_with(' '))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(keep(without_xattrs("a")), keep(without_xattrs("bsd")), "bsdtar");
}

#[test]
fn what_tar_wrote_is_unpacked() {
    needs_root!("owners and devices");
    let stand = Stand::new();
    stand.sh(EVERYTHING);
    stand.sh(OF_ROOT);
    // GNU tar spells ACLs as text (SCHILY.acl), which plyfs does not read; and only pax has attributes.
    // Nor does it tie the names of a fifo.
    stand.sh("setfacl -R -b a; rm a/sub/fifo2 a/later a/long_before; chmod 0 a/mode; touch -d '2020-01-01 00:00:00.5 UTC' a/dir a/sub/one a/sub/two a/sub; touch -d '2018-01-01 UTC' a");
    stand.sh("tar --xattrs --xattrs-include='*' --format=pax -S -C a -cf pax.tar .");
    let wanted = tree(&stand.path("a"), Detail::All);
    stand.layer("unpack pax.tar pax").succeeds();
    assert_eq!(difference(&wanted, &tree(&stand.path("pax"), Detail::All)), Vec::<String>::new(), "pax");
    let shape = tree(&stand.path("a"), Detail::Shape);
    for version in ["0.0", "0.1"] {
        stand.sh(&format!("tar --format=pax --sparse-version={version} -S -C a -cf v.tar ."));
        stand.layer("unpack v.tar v").succeeds();
        assert_eq!(
            difference(&shape, &tree(&stand.path("v"), Detail::Shape)),
            Vec::<String>::new(),
            "sparse {version}"
        );
        stand.sh("rm -rf v");
    }
    stand.sh("rm a/before; touch -d '2018-01-01 UTC' a");
    let shape = tree(&stand.path("a"), Detail::Shape);
    for format in ["gnu", "oldgnu"] {
        stand.sh(&format!("tar --format={format} -S -C a -cf f.tar ."));
        stand.layer("unpack f.tar f").succeeds();
        assert_eq!(
            difference(&shape, &tree(&stand.path("f"), Detail::Shape)),
            Vec::<String>::new(),
            "{format}"
        );
        stand.sh("rm -rf f");
    }
    // What ustar cannot hold is left out by tar.
    stand.sh("rm -f a/n* a/large; touch a/short; tar --format=ustar -C a -cf u.tar . --exclude='*nnnn*' 2>/dev/null || :");
    stand.layer("unpack u.tar u").succeeds();
    assert_eq!(
        difference(&tree(&stand.path("a"), Detail::Shape), &tree(&stand.path("u"), Detail::Shape)),
        Vec::<String>::new(),
        "ustar"
    );
}

#[test]
fn a_target_may_have_any_name() {
    let stand = Stand::new();
    stand.write("a.tar", crate::archive::Tar::new().file("f", "x").end());
    let long = "n".repeat(255);
    for target in [&long, "-dir", "./sub", "t/", "utf\u{e9}"] {
        stand
            .layer(
                &format!("unpack a.tar -- {target}")
                    .replace("-- ", if target.starts_with('-') { "-- " } else { "" }),
            )
            .succeeds();
        assert_eq!(fs::read(stand.path(target.trim_end_matches('/')).join("f")).unwrap(), b"x", "{target}");
    }
    stand.sh("mkdir empty link_to; ln -s link_to link; mkdir full; touch full/x; touch file");
    stand.layer("unpack a.tar empty").succeeds();
    stand.layer("unpack a.tar link").succeeds();
    assert!(stand.path("link_to/f").exists());
    stand.layer("unpack a.tar full").fails(3, &["full", "not empty"]);
    stand.layer("unpack a.tar file").fails(3, &["file"]);
    stand.layer("unpack a.tar no/such/dir").fails(3, &["no/such/dir"]);
    assert!(stand.names().iter().all(|name| !name.contains("plyfs-unpack")));
}

/// What is no file is not replaced by one.
#[test]
fn an_archive_does_not_take_a_devices_place() {
    let stand = Stand::new();
    stand.sh("mkdir a; mkfifo pipe");
    stand.layer("pack a -o pipe").fails(3, &["pipe", "-o -"]);
    assert!(!Path::new(&stand.path("pipe")).metadata().unwrap().is_file());
    if crate::stand::is_root() {
        stand.sh("mknod null c 1 3");
        stand.layer("pack a -o null").fails(3, &["null"]);
        assert!(!stand.path("null").metadata().unwrap().is_file());
    }
    stand.sh("$PLYFS layer pack a -o - >by_stdout.tar 2>/dev/null; $PLYFS layer pack a -o by_name.tar; cmp by_stdout.tar by_name.tar");
    assert_eq!(stand.path("by_name.tar").metadata().unwrap().permissions().mode() & 0o600, 0o600);
}

#[test]
fn a_digest_is_held_against_the_archive() {
    let stand = Stand::new();
    stand.sh("mkdir a; echo x >a/f");
    let packed = stand.layer("pack a -o a.tar.gz").succeeds();
    for (key, name) in [("digest", "b"), ("diffID", "c")] {
        stand.layer(&format!("unpack a.tar.gz {name} --digest {}", packed.value(key))).succeeds();
    }
    let other = format!("sha256:{}", "0".repeat(64));
    stand.layer(&format!("unpack a.tar.gz d --digest {other}")).fails(1, &[&other[..]]);
    stand.layer("unpack a.tar.gz d --digest md5:1").fails(2, &["md5:1"]);
    assert_eq!(stand.names(), ["a", "a.tar.gz", "b", "c"]);
}
