//! What do the facts mean for a mount?

use super::directory::{Directory, Tried};
use super::machine::{Device, Machine};
use super::{Check, State};
use crate::shown::shown;
use crate::units;

/// So many descriptors let a stack of 500 branches work as it should.
const ENOUGH_FILES: u64 = 4096;

pub(super) fn machine(facts: &Machine) -> Vec<Check> {
    let mut checks = vec![kernel(&facts.kernel)];
    checks.push(device(facts));
    if !facts.is_root {
        checks.push(fusermount(facts));
        let check = |state, says: &str| Check::new("allow_other", state, says);
        checks.push(if facts.user_allow_other {
            check(State::Good, "may be asked for")
        } else {
            check(State::Less, "only you will see your mounts")
                .mend("write `user_allow_other` into /etc/fuse.conf, as root")
        });
    }
    checks.push(namespaces(facts));
    if let Some(limit) = facts.open_files {
        let says = format!("the daemon may open {limit}");
        checks.push(if limit >= ENOUGH_FILES {
            Check::new("open files", State::Good, says)
        } else {
            Check::new("open files", State::Less, says).mend(format!(
                "stacks of hundreds of branches want more: `ulimit -Hn {ENOUGH_FILES}`, or LimitNOFILE="
            ))
        });
    }
    if let Some((mounts, limit)) = facts.mounts.filter(|(mounts, limit)| mounts + 100 > *limit) {
        let state = if mounts >= limit { State::Fails } else { State::Less };
        checks.push(
            Check::new("mounts", state, format!("there are {mounts}, and may be {limit}"))
                .mend("raise it: `sysctl fs.mount-max=200000`"),
        );
    }
    if let Some(container) = facts.container {
        checks.push(Check::new("container", State::Good, format!("this is one of {container}'s")));
    }
    checks
}

fn kernel(release: &str) -> Check {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let check = |state, says: &str| Check::new("kernel", state, format!("{release}{says}"));
    match version {
        (0..=3, _) | (4, 0..=19) => {
            check(State::Fails, ", which is too old").mend("Linux 5.4 or later is wanted")
        }
        (4, _) | (5, 0..=3) => {
            check(State::Less, ", with which nobody has tried").mend("Linux 5.4 or later is wanted")
        }
        (5, 4..=11) => {
            check(State::Less, ": the root of a user namespace cannot keep attributes of root's in it")
        }
        _ => check(State::Good, ""),
    }
}

fn device(facts: &Machine) -> Check {
    let check = |state, says: String| Check::new("/dev/fuse", state, says);
    let in_container =
        if facts.container.is_some() { "start the container with --device /dev/fuse" } else { "" };
    let or = |otherwise: &str| {
        if in_container.is_empty() { otherwise.to_owned() } else { in_container.to_owned() }
    };
    match &facts.device {
        Device::Opens => check(State::Good, "can be opened".to_owned()),
        Device::Missing => {
            check(State::Fails, "does not exist".to_owned()).mend(or("load the module: `modprobe fuse`"))
        }
        Device::NotFuse => check(State::Fails, "is something else".to_owned())
            .mend(or("`rm /dev/fuse; mknod -m 666 /dev/fuse c 10 229`, as root")),
        // fusermount3 opens it as root.
        Device::Refused(why) if facts.fusermount.as_ref().is_some_and(|program| program.has_roots_rights) => {
            check(
                State::Good,
                format!(
                    "is opened by fusermount3 (and not by you: {why}; `plyfs run` wants it mode 0666, as udev makes it)"
                ),
            )
        }
        Device::Refused(why) => check(State::Fails, format!("cannot be opened: {why}"))
            .mend(or("`chmod 0666 /dev/fuse`, as root")),
    }
}

fn fusermount(facts: &Machine) -> Check {
    let check = |state, says: String| Check::new("fusermount3", state, says);
    let without = "mount in a user namespace: `unshare -Urm`";
    match &facts.fusermount {
        None => check(State::Fails, "is not on the PATH".to_owned())
            .mend(format!("install the package fuse3, or {without}")),
        Some(program) if !program.has_roots_rights => {
            check(State::Fails, format!("{} has not root's rights", shown(&program.path)))
                .mend(format!("`chmod u+s` it, as root, or {without}"))
        }
        Some(program) => {
            let version = program.version.as_deref().unwrap_or("of unknown version");
            check(State::Good, format!("{} {}", shown(&program.path), shown(version)))
        }
    }
}

fn namespaces(facts: &Machine) -> Check {
    let check = |state, says: &str| Check::new("user namespaces", state, says);
    match (facts.in_namespace, facts.no_namespaces) {
        (true, _) => check(State::Good, "this is one"),
        (false, None) => check(State::Good, "can be made"),
        (false, Some(why)) => check(State::Less, why).mend(
            "wanted only for `plyfs run`, mounts without fusermount3, and many owners without root: set it with sysctl, as root",
        ),
    }
}

pub(super) fn directory(facts: &Directory) -> Vec<Check> {
    let path = shown(&facts.path).to_string();
    let check = |state, says: String| Check::new(path.clone(), state, says);
    if let Some(why) = &facts.unreadable {
        return vec![check(State::Fails, format!("cannot be a branch: {why}"))];
    }
    let filesystem = facts.filesystem.unwrap_or("an unknown filesystem");
    let mut checks = vec![check(State::Good, format!("can be a lower, on {filesystem}"))];
    if !facts.forbidden.is_empty() {
        checks.push(
            check(
                State::Less,
                format!("its mount is {}, and so will the union be", facts.forbidden.join(", ")),
            )
            .mend("give suid, dev or exec with -o, if that is not wanted"),
        );
    }
    match &facts.tried {
        None if facts.is_read_only_disk => {
            checks.push(check(State::Less, "cannot be an upper: it is mounted read-only".to_owned()));
        }
        None => checks.push(check(State::Less, "cannot be an upper: you may not write to it".to_owned())),
        Some(tried) => checks.extend(upper(&path, facts, tried)),
    }
    checks
}

fn upper(path: &str, facts: &Directory, tried: &Tried) -> Vec<Check> {
    let check = |state, says: String| Check::new(path, state, says);
    if let Some(why) = &tried.unfit {
        return vec![check(State::Less, format!("cannot be an upper: {why}"))];
    }
    let mut space = format!("can be an upper, with {} free", units::size(facts.free_bytes));
    if let Some(inodes) = facts.free_inodes {
        space.push_str(&format!(" and {inodes} inodes"));
    }
    let is_full = facts.free_bytes == 0 || facts.free_inodes == Some(0);
    let state = if is_full { State::Less } else { State::Good };
    let mut checks = vec![check(state, format!("{space}; its workdir belongs on the same filesystem"))];
    let lacks: [(bool, &str, &str); 8] = [
        (
            tried.keeps_numbers,
            "does not know its inodes again after a remount",
            "numbers change, and hard links of lowers part upon copy-up; `-o stable_inodes` if it does all the same",
        ),
        (
            tried.user_xattrs,
            "keeps no user attributes",
            "copies are made without them; owners can be kept in the workdir: `-o xattr_permissions=2`",
        ),
        (tried.acls, "keeps no ACLs", "what has one in a lower cannot be changed"),
        (tried.hard_links, "has no hard links", "each deletion takes an inode"),
        (tried.symlinks, "has no symbolic links", "none can be made or copied up"),
        (tried.unnamed_files, "has no O_TMPFILE", "everything works by other means"),
        (tried.exchange, "cannot exchange two names", "RENAME_EXCHANGE is EINVAL"),
        (tried.types_in_listings, "lists names without types", "listings take a call for each entry"),
    ];
    for (has, lack, then) in lacks {
        if !has {
            checks.push(check(State::Less, format!("{lack}: {then}")));
        }
    }
    if !tried.reflinks {
        checks.push(check(
            State::Good,
            "shares no blocks (reflink): a copy-up copies all of a file".to_owned(),
        ));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::super::machine::Fusermount;
    use super::*;

    fn good() -> Machine {
        Machine {
            kernel: "6.1.0-18-amd64".to_owned(),
            device: Device::Opens,
            fusermount: Some(Fusermount {
                path: "/usr/bin/fusermount3".into(),
                has_roots_rights: true,
                version: Some("3.14.0".to_owned()),
            }),
            user_allow_other: true,
            open_files: Some(1 << 20),
            mounts: Some((30, 100_000)),
            ..Machine::default()
        }
    }

    fn worst(facts: &Machine) -> (State, String) {
        let checks = machine(facts);
        let rank = |state| [State::Good, State::Less, State::Fails].iter().position(|other| *other == state);
        let worst = checks.iter().max_by_key(|check| rank(check.state)).unwrap();
        (worst.state, format!("{}: {} {}", worst.what, worst.says, worst.mend.as_deref().unwrap_or_default()))
    }

    #[test]
    fn a_machine_as_it_should_be_is_good() {
        assert_eq!(worst(&good()).0, State::Good);
    }

    #[test]
    fn what_is_wrong_is_named_with_the_way_out() {
        type Spoil = fn(&mut Machine);
        let cases: [(Spoil, State, &str); 10] = [
            (|m| m.device = Device::Missing, State::Fails, "modprobe fuse"),
            (
                |m| (m.device, m.container) = (Device::Missing, Some("docker")),
                State::Fails,
                "--device /dev/fuse",
            ),
            (|m| m.device = Device::NotFuse, State::Fails, "mknod"),
            (
                |m| (m.device, m.fusermount, m.is_root) = (Device::Refused("EACCES".to_owned()), None, true),
                State::Fails,
                "chmod 0666 /dev/fuse",
            ),
            (|m| m.fusermount = None, State::Fails, "package fuse3"),
            (|m| m.fusermount.as_mut().unwrap().has_roots_rights = false, State::Fails, "chmod u+s"),
            (|m| m.user_allow_other = false, State::Less, "/etc/fuse.conf"),
            (|m| m.no_namespaces = Some("user.max_user_namespaces is 0"), State::Less, "sysctl"),
            (|m| m.open_files = Some(1024), State::Less, "ulimit -Hn"),
            (|m| m.kernel = "4.18.0".to_owned(), State::Fails, "Linux 5.4"),
        ];
        for (spoil, state, mend) in cases {
            let mut facts = good();
            spoil(&mut facts);
            let (worst, text) = worst(&facts);
            assert!(worst == state && text.contains(mend), "{worst:?} {text}, and not {state:?} {mend}");
        }
        // fusermount3 opens the device as root, and root needs no fusermount3.
        let mut facts = good();
        facts.device = Device::Refused("EACCES".to_owned());
        assert_eq!(worst(&facts).0, State::Good);
        let mut facts = good();
        (facts.fusermount, facts.user_allow_other, facts.is_root) = (None, false, true);
        assert_eq!(worst(&facts).0, State::Good);
    }
}
