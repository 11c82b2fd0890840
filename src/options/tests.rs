//! Command lines, and what they mean.

use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};

fn read(line: &str) -> Result<(MountOptions, Vec<Warning>), OptionError> {
    let cli = Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
    match cli.into_command() {
        Command::Mount(args) => parse(&args),
        other => panic!("{line} is no mount but {other:?}"),
    }
}

fn options(line: &str) -> MountOptions {
    match read(line) {
        Ok((options, warnings)) => {
            assert_eq!(warnings, [], "{line}");
            options
        }
        Err(error) => panic!("{line}: {error}"),
    }
}

fn paths(names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(PathBuf::from).collect()
}

#[test]
fn branches() {
    type Row = (&'static str, Option<&'static str>, &'static [&'static str], Option<&'static str>);
    let table: &[Row] = &[
        ("plyfs -o lowerdir=a:b,upperdir=u,workdir=w m", Some("u"), &["a", "b"], Some("w")),
        ("plyfs m -o lowerdir=a:b -oupperdir=u -o workdir=w", Some("u"), &["a", "b"], Some("w")),
        ("plyfs none -olowerdir=a m -oworkdir=w,upperdir=u", Some("u"), &["a"], Some("w")),
        ("plyfs mount -o lowerdir=a:b none m", None, &["a", "b"], None),
        ("plyfs mount --lower a --lower b --upper u --work w m", Some("u"), &["a", "b"], Some("w")),
        ("plyfs mount m --upper u", Some("u"), &[], None),
        ("plyfs -o lowerdir+=a,lowerdir+=b:c m", None, &["a", "b:c"], None),
        (r"plyfs -o lowerdir+=a\:b\,c,lowerdir+=d\\,upperdir=u m", Some("u"), &[r"a\:b,c", r"d\"], None),
        ("plyfs -o lowerdir=a:b -o lowerdir=c m", None, &["c"], None),
        (r"plyfs -o lowerdir=a\:b:c\,d:e\\f,upperdir=x\:y m", Some("x:y"), &["a:b", "c,d", r"e\f"], None),
        ("plyfs -o lowerdir=../a/../b/:./c m", None, &["../a/../b/", "./c"], None),
        ("plyfs -o dirs=./u:./b:./a none ./m", Some("./u"), &["./b", "./a"], None),
        ("plyfs -o br:u=rw:b=ro:a=rr none m", Some("u"), &["b", "a"], None),
        ("plyfs -o br=u:b=ro+wh m", Some("u"), &["b"], None),
        ("plyfs -o dirs=b=RO:a m", None, &["b", "a"], None),
        ("plyfs -o dirs=u=x=rw:a=ro m", Some("u=x"), &["a"], None),
    ];
    for (line, upper, lowers, work) in table {
        let options = options(line);
        assert_eq!(options.upper, upper.map(PathBuf::from), "{line}");
        assert_eq!(options.lowers, paths(lowers), "{line}");
        assert_eq!(options.work, work.map(PathBuf::from), "{line}");
        let access = if upper.is_some() { Access::ReadWrite } else { Access::ReadOnly };
        assert_eq!(options.access, access, "{line}");
    }
}

#[test]
fn source_and_mountpoint() {
    for (line, source, mountpoint) in [
        ("plyfs -o lowerdir=a m", "plyfs", "m"),
        ("plyfs none m -o lowerdir=a", "none", "m"),
        ("plyfs none m -o lowerdir=a,fsname=x", "x", "m"),
        (r"plyfs m -o lowerdir=a,fsname=x\,y", "x,y", "m"),
        ("plyfs -o lowerdir=a -- -m", "plyfs", "-m"),
    ] {
        let options = options(line);
        assert_eq!(options.source, source, "{line}");
        assert_eq!(options.mountpoint, PathBuf::from(mountpoint), "{line}");
    }
}

#[test]
fn switches() {
    let plain = options("plyfs m -o upperdir=u,lowerdir=a");
    assert!(!plain.volatile && !plain.foreground && !plain.overlay_upper);
    assert_eq!((plain.threads, plain.sharing), (DEFAULT_THREADS, Sharing::ByPrivilege));
    assert!(plain.flags.is_empty() && plain.ids.of_daemon(5, 5).is_identity());

    let with = |switches: &str| options(&format!("plyfs mount m -o upperdir=u,lowerdir=a {switches}"));
    assert!(with("-f").foreground && with("-d").foreground && with("--debug").foreground);
    assert!(with("-o volatile").volatile && with("--volatile").volatile);
    assert!(with("-o upper_from_overlayfs").overlay_upper);
    assert!(with("-o stable_inodes").stable_inodes && !plain.stable_inodes);
    assert_eq!(with("-o ro").access, Access::ReadOnly);
    assert_eq!(with("-o ro,rw").access, Access::ReadWrite);
    assert_eq!(with("--read-only -o rw").access, Access::ReadOnly);
    assert_eq!(with("-o allow_other").sharing, Sharing::Everybody);
    assert!(plain.follows_callers && with("-o affinity=caller").follows_callers);
    assert!(!with("-o affinity=none").follows_callers);
    assert_eq!(with("-s").threads, 1);
    assert_eq!(with("-s -o threads=64").threads, 64);
    assert_eq!(
        with("-o nosuid,nodev,noexec,dev,noatime").flags,
        MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NOATIME
    );
}

#[test]
fn who_decides_on_a_flag() {
    let decided = |list: &str| options(&format!("plyfs none m -o lowerdir=a,{list}")).decided;
    let (suid, dev) = (MountFlags::NOSUID, MountFlags::NODEV);
    assert_eq!(decided("suid,exec"), suid | MountFlags::NOEXEC);
    assert_eq!(decided("nodev,atime"), dev | MountFlags::NOATIME);
    // mount(8)'s helper ends its lines so.
    assert_eq!(decided("rw,dev,suid"), MountFlags::empty());
    assert_eq!(decided("nosuid,dev"), suid);
    assert_eq!(decided("suid,dev,suid"), suid);
    assert_eq!(decided("suid,dev"), suid | dev);
}

#[test]
fn labels_go_to_the_kernel_as_they_are() {
    let options = options("plyfs m -o lowerdir=a,context=\"u:r:t:s0:c1,c2\",defcontext=x");
    assert_eq!(options.labels, ["context=\"u:r:t:s0:c1,c2\"", "defcontext=x"]);
}

#[test]
fn ids() {
    let maps = |list: &str| options(&format!("plyfs m -o lowerdir=a,{list}")).ids.of_daemon(1000, 1001);
    let mapped = maps("uidmapping=:1000:0:1:5000:1:10,gidmapping=0:7:1");
    assert_eq!((mapped.uid.shown(5000), mapped.gid.disk(7)), (1, Some(0)));
    let squashed = maps("squash_to_root");
    assert_eq!((squashed.uid.shown(9), squashed.uid.disk(3)), (0, Some(1000)));
    assert_eq!((squashed.gid.shown(9), squashed.gid.disk(3)), (0, Some(1001)));
    let one = maps("squash_to_uid=12");
    assert_eq!((one.uid.shown(9), one.gid.shown(9)), (12, 9));
}

#[test]
fn lines_that_work_elsewhere() {
    for list in [
        "context=\"system_u:object_r:container_file_t:s0:c1,c2\"",
        "xattr_permissions=0,fsync=0,timeout=5",
        "redirect_dir=off,index=off,xino=auto,metacopy=off,userxattr,nfs_export=off,verity=off,uuid=null",
        "cow,max_files=32768,hide_meta_files",
        "xino=/x,noplink,udba=none,sum",
        "rw,dev,suid,user=root,noauto,_netdev,x-systemd.automount,X-mount.mkdir,defaults",
        "auto_unmount,default_permissions,big_writes,max_read=131072,attr_timeout=1,entry_timeout=1",
        "subtype=overlay,allow_other,,",
        "udba=reval",
        "udba=reval,udba=notify",
        "udba=inotify,watch=7",
    ] {
        options(&format!("plyfs none m -o lowerdir=a,{list}"));
    }
}

#[test]
fn warnings() {
    for (list, warning) in [
        ("lowerdir=a,bogus", Warning::Unknown("bogus".into())),
        ("lowerdir=a,bogus=1:2", Warning::Unknown("bogus=1:2".into())),
        ("lowerdir=a,workdir=w", Warning::WorkWithoutUpper),
    ] {
        let (options, warnings) = read(&format!("plyfs m -o {list}")).expect(list);
        assert_eq!((options.work, warnings), (None, vec![warning]), "{list}");
    }
}

#[test]
fn errors_name_the_option() {
    for (list, part) in [
        ("ro", "no branches"),
        ("lowerdir", "lowerdir needs a value"),
        ("lowerdir=", "lowerdir needs a value"),
        ("lowerdir=a,upperdir=", "upperdir needs a value"),
        ("lowerdir=a,upperdir=u,workdir", "workdir needs a value"),
        ("lowerdir=a::b", "lowerdir has an empty path"),
        ("dirs=a:", "dirs has an empty path"),
        ("dirs==rw", "dirs has an empty path"),
        ("br:a=ro:b=rw", "b=rw is not the first branch"),
        ("br:a=wo", "unknown permission `wo` of branch a"),
        ("br:a,lowerdir=b", "both by br: and by lowerdir"),
        ("upperdir=b,dirs=a", "both by upperdir and by dirs"),
        ("lowerdir=a,allow_root", "use allow_other"),
        ("lowerdir=a,lowerdir+=b", "both by lowerdir and by lowerdir+"),
        ("lowerdir+=a,lowerdir=b", "both by lowerdir+ and by lowerdir"),
        ("lowerdir=a,datadir+=b", "datadir+=b is not possible: there are no data-only lowers"),
        ("lowerdir=a,remount,ro", "remount is not possible: a live mount"),
        ("lowerdir=a,umask=077", "umask=077 is not possible"),
        ("lowerdir=a,ro=1", "ro takes no value"),
        ("lowerdir=a,affinity=cpu", "unknown affinity=cpu: it is affinity=caller or affinity=none"),
        ("lowerdir=a,affinity", "affinity needs a value: affinity=caller|none"),
        ("lowerdir=a,udba=maybe", "unknown udba=maybe: it is udba=none, udba=reval or udba=notify"),
        ("lowerdir=a,udba", "udba needs a value: udba=none|reval|notify"),
        ("lowerdir=a,watch,timeout=1", "watch and timeouts do not go together"),
        ("lowerdir=a,attr_timeout=0,watch,negative_timeout=1", "watch and timeouts do not go together"),
        ("lowerdir=a,watch=x", "watch=x is not a number"),
        ("lowerdir=a,threads=0", "threads=0 is not a number from 1 to 64"),
        ("lowerdir=a,threads=65", "threads=65 is not a number from 1 to 64"),
        ("lowerdir=a,squash_to_uid=x", "squash_to_uid=x is not a number"),
        ("lowerdir=a,uidmapping=0:1", "uidmapping: ranges are three numbers"),
        ("lowerdir=a,gidmapping=0:1:0", "gidmapping: the range 0:1:0 is empty"),
    ] {
        let error = read(&format!("plyfs m -o {list}")).expect_err(list).to_string();
        assert!(error.contains(part), "{list}: {error}");
    }
}

#[test]
fn words_of_aufs_for_changes_behind_the_mount() {
    let said = |list: &str| {
        let options = options(&format!("plyfs m -o lowerdir=a,{list}"));
        (options.timeouts.entry, options.watch)
    };
    let zero = Some(Duration::ZERO);
    assert_eq!(said("udba=none"), (None, None));
    assert_eq!(said("udba=reval"), (zero, None));
    assert_eq!(said("timeout=0"), said("udba=reval"));
    assert_eq!(said("udba=notify"), (None, Some(Watch::Share)));
    assert_eq!(said("watch"), said("udba=inotify"));
    assert_eq!(said("watch=12"), (None, Some(Watch::Most(12))));
    assert_eq!(said("watch,udba=none"), (None, None));
    assert_eq!(said("udba=notify,udba=reval"), (zero, None));
}
