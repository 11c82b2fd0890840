//! xattr_permissions: owners, modes and types are in records, and every file on the disk is the mounter's.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, getxattr, lsetxattr, mknodat, setxattr};
use rustix::io::Errno;

use crate::common::{
    ALICE, BOB, Branch, CAP_NET_RAW, FaultyFs, MissingFeature, Union, as_user, mode, needs_root, overwrite,
    refused, sh, sh_as, stat, text,
};

const RECORD: &str = "user.containers.override_stat";
const OPTION: &str = "xattr_permissions=2";

/// Owner, group and permission bits.
fn shown(path: impl AsRef<Path>) -> (u32, u32, u32) {
    let seen = stat(path);
    (seen.uid(), seen.gid(), seen.mode() & 0o7777)
}

fn record(path: impl AsRef<Path>) -> String {
    let mut value = [0; 64];
    let length = getxattr(path.as_ref(), RECORD, &mut value).unwrap();
    String::from_utf8(value[..length].to_vec()).unwrap()
}

fn own() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

fn with_records(b: Branch) -> Branch {
    b.file("program", "#!")
        .xattr("program", RECORD, "0:0:4755:file")
        .dir("d")
        .xattr("d", RECORD, "33:34:1777:dir")
        .file("null", "")
        .xattr("null", RECORD, "0:5:0666:char-1-3")
        .file("pipe", "")
        .xattr("pipe", RECORD, "7:8:0640:pipe")
        .file("theirs", "")
        .xattr("theirs", "user.fuseoverlayfs.override_stat", "1:2:600")
        .file("none", "")
        .file("odd", "")
        .xattr("odd", RECORD, "0:0:rw-r--r--")
}

#[test]
fn what_a_record_says_is_shown() {
    needs_root!("ids of others");
    let union = Union::builder().option(OPTION).lower(with_records).mount();
    assert_eq!(shown(union.at("program")), (0, 0, 0o4755));
    assert_eq!(shown(union.at("d")), (33, 34, 0o1777));
    let null = stat(union.at("null"));
    assert!(null.file_type().is_char_device());
    assert_eq!((null.rdev(), null.gid()), (rustix::fs::makedev(1, 3), 5));
    assert!(stat(union.at("pipe")).file_type().is_fifo());
    // What says nothing, and what has another name than the branch's root has, is as on the disk.
    for name in ["none", "odd", "theirs"] {
        assert_eq!(shown(union.at(name)), (own().0, own().1, 0o644), "{name}");
    }
    let mut types: Vec<_> = fs::read_dir(union.root())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_fifo() || entry.file_type().unwrap().is_char_device())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    types.sort();
    assert_eq!(types, ["null", "pipe"]);
}

#[test]
fn a_branch_that_fuse_overlayfs_wrote_is_read() {
    needs_root!("to read a file of somebody else");
    let union = Union::builder()
        .option(OPTION)
        .lower(|b| {
            let b = b.file("theirs", "").xattr("theirs", "user.fuseoverlayfs.override_stat", "1:2:600");
            b.xattr(".", "user.fuseoverlayfs.override_stat", "0:0:755")
        })
        .mount();
    assert_eq!(shown(union.at("theirs")), (1, 2, 0o600));
}

#[test]
fn without_the_option_nothing_is_believed() {
    let union = Union::over(with_records);
    assert_eq!(shown(union.at("program")), (own().0, own().1, 0o644));
    assert!(stat(union.at("null")).is_file());
    let union = Union::builder().option("xattr_permissions=0").lower(with_records).mount();
    assert_eq!(shown(union.at("program")), (own().0, own().1, 0o644));
}

#[test]
fn a_change_of_owner_or_mode_goes_into_the_record() {
    needs_root!("chown");
    let mut union = Union::builder().option(OPTION).lower(with_records).mount();
    chown(union.at("program"), Some(ALICE), Some(BOB)).unwrap();
    // As on any disk, whoever gives it away takes suid from it.
    assert_eq!(shown(union.at("program")), (ALICE, BOB, 0o755));
    fs::set_permissions(union.at("program"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(union.at("none"), fs::Permissions::from_mode(0o000)).unwrap();
    chown(union.at("d"), None, Some(BOB)).unwrap();
    chown(union.at("null"), Some(BOB), None).unwrap();
    for _ in 0..2 {
        assert_eq!(shown(union.at("program")), (ALICE, BOB, 0o4711));
        assert_eq!(shown(union.at("none")), (0, 0, 0));
        assert_eq!(shown(union.at("d")), (33, BOB, 0o1777));
        assert_eq!(shown(union.at("null")), (BOB, 5, 0o666));
        assert!(stat(union.at("null")).file_type().is_char_device());
        for (name, disk) in [("program", 0o600), ("none", 0o600), ("d", 0o700), ("null", 0o600)] {
            assert_eq!(shown(union.upper(name)), (0, 0, disk), "{name}");
        }
        assert_eq!(record(union.upper("program")), format!("{ALICE}:{BOB}:4711:file"));
        assert_eq!(record(union.upper("null")), format!("{BOB}:5:0666:char-1-3"));
        assert_eq!(text(union.at("none")), "");
        union.remount();
    }
}

#[test]
fn what_is_made_belongs_to_who_made_it() {
    needs_root!("other users");
    let mut union =
        Union::builder().option(OPTION).lower(|b| b.dir("open").mode("open", 0o1777).dir("group")).mount();
    chown(union.at("group"), Some(ALICE), Some(BOB)).unwrap();
    fs::set_permissions(union.at("group"), fs::Permissions::from_mode(0o2775)).unwrap();
    sh_as(
        ALICE,
        union.root(),
        "umask 027; cd open; echo hers >f; mkdir d; mkfifo p; ln -s f s; touch ../group/f; mkdir ../group/d",
    );
    // In one step: it may be made so that its maker cannot open it again.
    as_user(ALICE, || {
        let mut file = File::options().write(true).create_new(true).open(union.at("open/again")).unwrap();
        fs::set_permissions(union.at("open/again"), fs::Permissions::from_mode(0o400)).unwrap();
        file.write_all(b"once").unwrap();
    });
    for _ in 0..2 {
        assert_eq!(shown(union.at("open/f")), (ALICE, ALICE, 0o640));
        assert_eq!(shown(union.at("open/d")), (ALICE, ALICE, 0o750));
        assert_eq!(shown(union.at("open/p")), (ALICE, ALICE, 0o640));
        assert!(stat(union.at("open/p")).file_type().is_fifo());
        let link = fs::symlink_metadata(union.at("open/s")).unwrap();
        assert_eq!((link.uid(), link.gid()), (ALICE, ALICE));
        assert_eq!(shown(union.at("group/f")), (ALICE, BOB, 0o640));
        assert_eq!(shown(union.at("group/d")), (ALICE, BOB, 0o2750));
        assert_eq!((shown(union.at("open/again")).2, text(union.at("open/again"))), (0o400, "once".into()));
        as_user(BOB, || refused(File::open(union.at("open/f")), Errno::ACCESS));
        assert_eq!(shown(union.upper("open/f")), (0, 0, 0o600));
        assert!(stat(union.upper("open/p")).is_file());
        union.remount();
    }
}

#[test]
fn a_copy_keeps_what_its_records_said() {
    needs_root!("to write to a file of somebody else");
    let mut union = Union::builder().option(OPTION).lower(with_records).mount();
    overwrite(union.at("program"), 0, "!!");
    fs::hard_link(union.at("null"), union.at("null2")).unwrap();
    fs::rename(union.at("d"), union.at("moved")).unwrap();
    for _ in 0..2 {
        assert_eq!(text(union.at("program")), "!!");
        assert_eq!(shown(union.at("moved")), (33, 34, 0o1777));
        assert_eq!(shown(union.at("null2")), (0, 5, 0o666));
        assert_eq!(record(union.upper("moved")), "33:34:1777:dir");
        union.remount();
    }
}

#[test]
fn owners_of_symbolic_links_are_kept_beside_the_upper() {
    needs_root!("chown");
    let mut union = Union::builder().option(OPTION).lower(|b| b.symlink("low", "x")).mount();
    let records = |union: &Union| fs::read_dir(union.kept("owners")).map_or(0, Iterator::count);
    symlink("x", union.at("ours")).unwrap();
    assert_eq!(records(&union), 0, "the disk says it");
    for name in ["ours", "low"] {
        lchown(union.at(name), Some(ALICE), Some(BOB)).unwrap();
    }
    symlink("x", union.at("gone")).unwrap();
    lchown(union.at("gone"), Some(ALICE), Some(BOB)).unwrap();
    fs::rename(union.at("ours"), union.at("renamed")).unwrap();
    assert_eq!(records(&union), 3);
    let owner = |path| {
        let seen = fs::symlink_metadata(path).unwrap();
        (seen.uid(), seen.gid())
    };
    for _ in 0..2 {
        assert_eq!(owner(union.at("renamed")), (ALICE, BOB));
        assert_eq!(owner(union.at("low")), (ALICE, BOB));
        union.remount();
    }
    fs::remove_file(union.at("gone")).unwrap();
    fs::remove_file(union.at("renamed")).unwrap();
    symlink("x", union.at("another")).unwrap();
    assert_eq!(owner(union.at("another")), own());
    union.unmount();
    assert_eq!(records(&union), 1);
    union.mount();
}

#[test]
fn what_only_root_may_set_is_kept_under_another_name() {
    needs_root!("capabilities");
    let mut union = Union::builder().option(OPTION).lower(|b| b.file("f", "text").dir("d")).mount();
    let capability = |path: std::path::PathBuf| getxattr(path, "security.capability", &mut [0; 32]);
    setxattr(union.at("f"), "security.capability", &CAP_NET_RAW, XattrFlags::empty()).unwrap();
    sh(
        union.root(),
        &format!("setfacl -m u:{ALICE}:rwx,d:u:{BOB}:rx d; mkdir d/sub; touch d/f; chmod 710 d"),
    );
    for _ in 0..2 {
        assert_eq!(capability(union.at("f")), Ok(CAP_NET_RAW.len()));
        assert_eq!(capability(union.upper("f")), Err(Errno::NODATA));
        let acl = sh(union.root(), "getfacl -cnpE d d/sub d/f");
        let wanted = format!(
            "user::rwx\nuser:{ALICE}:rwx\ngroup::r-x\nmask::--x\nother::---\n\
             default:user::rwx\ndefault:user:{BOB}:r-x\ndefault:group::r-x\ndefault:mask::r-x\ndefault:other::r-x\n\n\
             user::rwx\nuser:{BOB}:r-x\ngroup::r-x\nmask::r-x\nother::r-x\n\
             default:user::rwx\ndefault:user:{BOB}:r-x\ndefault:group::r-x\ndefault:mask::r-x\ndefault:other::r-x\n\n\
             user::rw-\nuser:{BOB}:r-x\ngroup::r-x\nmask::r--\nother::r--"
        );
        assert_eq!(acl.trim(), wanted);
        assert_eq!(mode(union.at("d")), 0o710);
        assert_eq!(sh(union.upper("."), "getfacl -cnp d").trim(), "user::rwx\ngroup::---\nother::---");
        union.remount();
    }
    as_user(ALICE, || fs::read_dir(union.at("d")).map(drop).unwrap_err());
    fs::set_permissions(union.at("d"), fs::Permissions::from_mode(0o770)).unwrap();
    as_user(ALICE, || fs::write(union.at("d/hers"), "").unwrap());
    as_user(BOB, || refused(File::open(union.at("d/f")), Errno::ACCESS));
    // What a disk does by itself.
    overwrite(union.at("f"), 0, "TEXT");
    assert_eq!(capability(union.at("f")), Err(Errno::NODATA));
    setxattr(union.at("f"), "security.capability", &CAP_NET_RAW, XattrFlags::empty()).unwrap();
    overwrite(union.at("f"), 0, "text");
    assert_eq!(capability(union.at("f")), Err(Errno::NODATA), "set after it was opened");
    setxattr(union.at("f"), "security.capability", &CAP_NET_RAW, XattrFlags::empty()).unwrap();
    chown(union.at("f"), Some(ALICE), None).unwrap();
    assert_eq!(capability(union.at("f")), Err(Errno::NODATA));
}

#[test]
fn nobody_sees_or_sets_a_record_through_the_mount() {
    needs_root!("to write to a file of somebody else");
    let union = Union::builder().option(OPTION).lower(with_records).mount();
    let own = [RECORD, "user.containers.override_security.capability", "user.fuseoverlayfs.override_stat"];
    for key in own {
        refused(setxattr(union.at("none"), key, b"0:0:4755:file", XattrFlags::empty()), Errno::PERM);
        let unknown = if key.starts_with("user.fuse") { Errno::PERM } else { Errno::NODATA };
        refused(rustix::fs::removexattr(union.at("program"), key), unknown);
        refused(getxattr(union.at("program"), key, &mut [0; 64]), Errno::NODATA);
    }
    overwrite(union.at("program"), 0, "!!");
    assert_eq!(sh(union.root(), "getfattr -d -m - program none d"), "");
    setxattr(union.at("none"), "user.mine", b"mine", XattrFlags::empty()).unwrap();
    assert!(sh(union.root(), "getfattr -d -m - none").contains("user.mine=\"mine\""));
}

/// Whoever may write a file may write its record: root's mount must not make programs of root's of them.
#[test]
fn root_believes_what_only_root_can_have_written() {
    needs_root!("a mount of root's");
    let union = Union::builder()
        .option(OPTION)
        .lower(|b| {
            with_records(b)
                .owner("program", ALICE, ALICE)
                .file("open", "")
                .xattr("open", RECORD, "0:0:4755:file")
                .mode("open", 0o666)
        })
        .mount();
    assert_eq!(shown(union.at("program")), (ALICE, ALICE, 0o644));
    assert_eq!(shown(union.at("open")), (0, 0, 0o666));
    assert_eq!(shown(union.at("d")), (33, 34, 0o1777));
}

#[test]
fn root_may_keep_records_in_an_attribute_of_root_s() {
    needs_root!("attributes security.*");
    let key = "security.fuseoverlayfs.override_stat";
    let mut union = Union::builder()
        .option("xattr_permissions=1")
        .lower(|b| b.file("f", "").xattr("f", key, "1:2:640").owner("f", ALICE, ALICE))
        .mount();
    assert_eq!(shown(union.at("f")), (1, 2, 0o640));
    chown(union.at("f"), Some(BOB), None).unwrap();
    fs::write(union.at("new"), "").unwrap();
    for _ in 0..2 {
        assert_eq!(shown(union.at("f")), (BOB, 2, 0o640));
        let mut value = [0; 64];
        let length = getxattr(union.upper("f"), key, &mut value).unwrap();
        assert_eq!(value[..length], *format!("{BOB}:2:0640:file").as_bytes());
        refused(lsetxattr(union.at("f"), key, b"0:0:644", XattrFlags::empty()), Errno::PERM);
        union.remount();
    }
}

/// As a home on NFS or Lustre may be.
#[test]
fn a_disk_without_attributes_has_all_records_in_the_workdir() {
    needs_root!("chown");
    let disk = FaultyFs::without(&[MissingFeature::Xattrs]);
    let mut union = Union::builder()
        .writable_in(disk.path())
        .option("stable_inodes")
        .option(OPTION)
        .lower(with_records)
        .mount();
    chown(union.at("program"), Some(ALICE), Some(BOB)).unwrap();
    fs::create_dir(union.at("new")).unwrap();
    fs::set_permissions(union.at("new"), fs::Permissions::from_mode(0o1770)).unwrap();
    mknodat(
        CWD,
        union.at("zero"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o640),
        rustix::fs::makedev(1, 5),
    )
    .unwrap();
    fs::write(union.at("gone"), "").unwrap();
    fs::hard_link(union.at("program"), union.at("linked")).unwrap();
    for _ in 0..2 {
        assert_eq!(shown(union.at("program")), (ALICE, BOB, 0o755));
        assert_eq!(shown(union.at("linked")), (ALICE, BOB, 0o755));
        assert_eq!(shown(union.at("new")), (0, 0, 0o1770));
        let zero = stat(union.at("zero"));
        assert!(zero.file_type().is_char_device());
        assert_eq!((zero.rdev(), zero.mode() & 0o7777), (rustix::fs::makedev(1, 5), 0o640));
        union.remount();
    }
    let records = |union: &Union| fs::read_dir(union.kept("owners")).unwrap().count();
    let before = records(&union);
    let open = File::open(union.at("gone")).unwrap();
    fs::set_permissions(union.at("gone"), fs::Permissions::from_mode(0o604)).unwrap();
    fs::remove_file(union.at("gone")).unwrap();
    assert_eq!(open.metadata().unwrap().mode() & 0o7777, 0o604);
    drop(open);
    fs::remove_dir(union.at("new")).unwrap();
    fs::remove_file(union.at("linked")).unwrap();
    union.remount();
    assert_eq!(records(&union), before - 2);
    assert_eq!(shown(union.at("program")), (ALICE, BOB, 0o755));
}

/// A record is what makes a mount of one's own show root's files, and no more than that: whoever
/// mounts it has the rights of others on them.
#[test]
fn a_record_gives_an_ordinary_user_nothing() {
    let union = Union::builder().option(OPTION).lower(with_records).mount();
    let own = own();
    fs::set_permissions(union.at("none"), fs::Permissions::from_mode(0o751)).unwrap();
    assert_eq!(shown(union.at("none")), (own.0, own.1, 0o751));
    assert_eq!(record(union.upper("none")), format!("{}:{}:0751:file", own.0, own.1));
    if !rustix::process::geteuid().is_root() {
        assert_eq!(shown(union.at("program")), (0, 0, 0o4755));
        refused(File::options().write(true).open(union.at("program")), Errno::ACCESS);
        refused(chown(union.at("program"), Some(own.0), None), Errno::PERM);
        refused(chown(union.at("none"), Some(0), None), Errno::PERM);
    }
}
