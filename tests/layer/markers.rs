//! Every format of markers on a disk becomes OCI's, and several layers become one that shows and hides the same.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

use crate::needs_root;
use crate::stand::Stand;
use crate::tree::{Detail, difference, lines, tree, xattrs_of};

#[test]
fn every_marker_format_is_packed_as_oci_has_it() {
    needs_root!("overlayfs' markers");
    let rows: &[(&str, &[&str])] = &[
        ("touch u/.wh.f", &[".wh.f file 644 "]),
        ("echo content >u/.wh.f; chmod 600 u/.wh.f", &[".wh.f file 644 "]),
        ("mknod u/f c 0 0", &[".wh.f file 644 "]),
        ("mknod u/f c 0 0; touch u/.wh.f", &[".wh.f file 644 "]),
        (
            "setfattr -n trusted.overlay.opaque -v x u; touch u/f; setfattr -n trusted.overlay.whiteout -v y u/f",
            &[".wh.f file 644 "],
        ),
        (
            "mkdir u/d; setfattr -n user.overlay.opaque -v x u/d; touch u/d/f; setfattr -n user.overlay.whiteout -v y u/d/f",
            &["d dir 755", "d/.wh.f file 644 "],
        ),
        (
            "mkdir u/d; setfattr -n trusted.overlay.opaque -v y u/d",
            &["d dir 755", "d/.wh..wh..opq file 644 "],
        ),
        ("mkdir u/d; setfattr -n user.overlay.opaque -v y u/d", &["d dir 755", "d/.wh..wh..opq file 644 "]),
        (
            "mkdir u/d; setfattr -n user.fuseoverlayfs.opaque -v y u/d",
            &["d dir 755", "d/.wh..wh..opq file 644 "],
        ),
        (
            "mkdir u/d; touch u/d/.wh..wh..opq; setfattr -n trusted.overlay.opaque -v y u/d",
            &["d dir 755", "d/.wh..wh..opq file 644 "],
        ),
        (
            "touch u/.wh.d; mkdir u/d; touch u/d/f",
            &["d dir 755", "d/.wh..wh..opq file 644 ", "d/f file 644 "],
        ),
        ("touch u/.wh.f; echo x >u/f", &["f file 644 x\n"]),
        ("touch u/.wh..wh..opq", &[".wh..wh..opq file 644 "]),
        ("mkdir u/.wh..wh.plnk; touch u/.wh..wh.aufs u/f", &["f file 644 "]),
        // Without the directory's word an attribute on a file is none.
        ("touch u/f; setfattr -n trusted.overlay.whiteout -v y u/f", &["f file 644 "]),
    ];
    let mut failures = Vec::new();
    for (make, wanted) in rows {
        let stand = Stand::new();
        stand.sh(&format!("umask 022; mkdir u; {make}"));
        stand.layer("pack u -o u.tar").succeeds();
        stand.layer("unpack u.tar out").succeeds();
        stand.layer("squash u -o squashed").succeeds();
        for out in ["out", "squashed"] {
            let found = lines(&stand.path(out), Detail::Shape);
            if found != *wanted {
                failures.push(format!("- {make}: {out} is {found:?}"));
            }
        }
        let said = stand.layer("diff out squashed");
        if said.code != Some(0) {
            failures.push(format!("- {make}: unpacked and squashed differ: {}", said.out));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_no_marker_can_say_is_refused() {
    needs_root!("overlayfs' markers");
    let stand = Stand::new();
    stand.sh("mkdir u; mknod u/$(printf 'n%.0s' $(seq 252)) c 0 0");
    stand.layer("pack u -o u.tar").fails(1, &["nnnn", "too long"]);
    assert_eq!(stand.names(), ["u"]);
}

/// A repeatable source of choices.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Fills a directory of a layer with entries and markers of all formats.
fn fill(dice: &mut Dice, dir: &Path, depth: u32, has_markers: bool, says_whiteouts: bool) {
    let set = |path: &Path, key: &str, value: &[u8]| {
        setxattr(path, OsStr::new(key), value, XattrFlags::empty()).expect("we are root");
    };
    for name in NAMES {
        let path = dir.join(name);
        let marker = dir.join(format!(".wh.{name}"));
        match dice.throw(if has_markers { 12 } else { 6 }) {
            0..=1 => fs::write(&path, format!("{}", dice.throw(1000))).expect("our own"),
            2..=4 if depth > 0 => {
                fs::create_dir(&path).expect("our own");
                let mut says_whiteouts = false;
                if has_markers {
                    match dice.throw(8) {
                        0 => fs::write(path.join(".wh..wh..opq"), "").expect("our own"),
                        1 => set(&path, "trusted.overlay.opaque", b"y"),
                        2 => set(&path, "user.fuseoverlayfs.opaque", b"y"),
                        3 => {
                            set(&path, "trusted.overlay.opaque", b"x");
                            says_whiteouts = true;
                        }
                        4 => fs::write(&marker, "").expect("our own"),
                        _ => {}
                    }
                }
                fill(dice, &path, depth - 1, has_markers, says_whiteouts);
            }
            5 => symlink(format!("to{}", dice.throw(9)), &path).expect("our own"),
            6..=7 => fs::write(&marker, "").expect("our own"),
            8 => mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))
                .expect("we are root"),
            9 if says_whiteouts => {
                fs::write(&path, "").expect("our own");
                set(&path, "trusted.overlay.whiteout", b"y");
            }
            10 => {
                fs::write(&marker, "").expect("our own");
                fs::write(&path, "beside its marker").expect("our own");
            }
            _ => {}
        }
    }
}

#[test]
fn one_layer_shows_what_all_of_them_did() {
    needs_root!("overlayfs' markers");
    let mut failures = Vec::new();
    let played = std::env::var("PLYFS_LAYER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = played.map_or_else(|| (1..=50).collect(), |seed| vec![seed]);
    for seed in seeds {
        let stand = Stand::new();
        let mut dice = Dice(seed);
        for (layer, has_markers) in [("l1", true), ("l2", true), ("l3", true), ("lower", false)] {
            fs::create_dir(stand.path(layer)).expect("our own");
            fill(&mut dice, &stand.path(layer), 2, has_markers, false);
        }
        stand.sh("mkdir mnt; $PLYFS layer squash l1 l2 l3 -o one >/dev/null
             $PLYFS layer pack l1 l2 l3 -o one.tar >/dev/null; $PLYFS layer pack one -o again.tar >/dev/null
             $PLYFS -o lowerdir=l1:l2:l3:lower mnt");
        let wanted = tree(&stand.path("mnt"), Detail::All);
        stand.sh("$PLYFS umount mnt; $PLYFS -o lowerdir=one:lower mnt");
        let found = tree(&stand.path("mnt"), Detail::All);
        stand.sh("$PLYFS umount mnt");
        let mut differs = difference(&wanted, &found);
        // A mount shows overlayfs' whiteouts by attribute as the empty files that they are, where no layer below has a
        // say in the directory. A layer never does.
        differs.retain(|line| {
            let path = line.split(": ").next().unwrap_or_default();
            let is_whiteout = |(key, _): &(std::ffi::OsString, Vec<u8>)| key == "trusted.overlay.whiteout";
            !["l1", "l2", "l3"]
                .iter()
                .any(|layer| xattrs_of(&stand.path(layer).join(path)).iter().any(is_whiteout))
        });
        if !differs.is_empty() {
            failures.push(format!("- seed {seed}: {differs:?}"));
        }
        let read = |name: &str| fs::read(stand.path(name)).expect("just made");
        if read("one.tar") != read("again.tar") {
            failures.push(format!("- seed {seed}: packed as several and as one it is not the same archive"));
        }
        // It is a layer of one format; what is left may be in vain, and nothing else.
        let said = stand.layer("check one");
        if said.code != Some(0) {
            failures.push(format!("- seed {seed}: {}", said.out));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn names_that_the_workdir_ties_are_packed() {
    needs_root!("mounts");
    let stand = Stand::new();
    stand.sh(
        "mkdir -p lower/d u mnt; echo lower >lower/a; ln lower/a lower/b; ln lower/a lower/d/c; echo x >lower/alone
         $PLYFS -o lowerdir=lower,upperdir=u mnt; echo upper >mnt/a; $PLYFS umount mnt",
    );
    stand.layer("pack u -o u.tar").fails(3, &["--lower"]);
    assert!(!stand.path("u.tar").exists());
    stand.layer("pack u -o u.tar --lower lower").succeeds();
    stand.layer("unpack u.tar out").succeeds();
    let inode = |name: &str| fs::symlink_metadata(stand.path(name)).expect("it is packed").ino();
    assert_eq!((inode("out/a"), inode("out/a")), (inode("out/b"), inode("out/d/c")));
    assert_eq!(fs::read_to_string(stand.path("out/d/c")).unwrap(), "upper\n");
    assert!(!stand.path("out/alone").exists());
    // What the layer shows over its lower is what the mount showed.
    stand.sh("$PLYFS -o lowerdir=lower,upperdir=u mnt");
    let wanted = tree(&stand.path("mnt"), Detail::Shape);
    stand.sh("$PLYFS umount mnt; $PLYFS -o lowerdir=out:lower mnt");
    let found = tree(&stand.path("mnt"), Detail::Shape);
    stand.sh("$PLYFS umount mnt");
    assert_eq!(difference(&wanted, &found), Vec::<String>::new());
    // A name that was deleted is not brought back.
    stand.sh("$PLYFS -o lowerdir=lower,upperdir=u mnt; rm mnt/b; $PLYFS umount mnt; rm -rf out");
    stand.layer("pack u -o u.tar --lower lower").succeeds();
    stand.layer("unpack u.tar out").succeeds();
    assert_eq!(lines(&stand.path("out"), Detail::Shape)[0], ".wh.b file 644 ");
    assert_eq!(inode("out/a"), inode("out/d/c"));
}

#[test]
fn hard_links_within_a_layer_stay_one_file() {
    let stand = Stand::new();
    stand.sh(
        "mkdir -p l1/d l2/d; echo x >l1/f; ln l1/f l1/d/g; echo y >l2/d/h; ln l2/d/h l2/i; touch l1/.wh.i",
    );
    stand.layer("squash l1 l2 -o one").succeeds();
    let found = lines(&stand.path("one"), Detail::Shape);
    assert!(found.contains(&"f file 644 x\n = d/g".to_owned()), "{found:?}");
    assert!(found.contains(&"d/h file 644 y\n".to_owned()), "{found:?}");
}
