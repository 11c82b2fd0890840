//! Which users and groups are there in a run?
//!
//! A user namespace has the ids that it is given, and an ordinary user may give it his own, and by newuidmap(1) those that
//! /etc/subuid lends him. With these, a run has as many ids as a system needs, and each is shown as it is outside; the user
//! is himself, or root. Without, he is alone in it. Root gives a run all ids that he has.

use std::fs;
use std::path::PathBuf;

/// So many ids a system needs: with nobody, the last one.
const ENOUGH: u32 = 65536;

/// Ids of the namespace that are others outside: `inside`, `outside`, how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) inside: u32,
    pub(super) outside: u32,
    pub(super) count: u32,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.inside, self.outside, self.count)
    }
}

/// Who writes the maps of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// We: they are ours to give.
    Ourselves,
    /// newuidmap(1) and newgidmap(1).
    Helper,
}

/// The ids of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) uids: Vec<Line>,
    pub(super) gids: Vec<Line>,
    pub(super) writer: Writer,
    /// How many ids, from 0, the namespace has.
    pub(super) count: u32,
}

impl Ids {
    /// Whether it has all that there are.
    pub(super) fn are_all(&self) -> bool {
        self.count == u32::MAX
    }

    /// Whether it has one user only.
    pub(super) fn are_one(&self) -> bool {
        self.count <= 1
    }
}

/// Who asks, and what he has to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Giver {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The maps of the namespace that he is in, if he may give all of these.
    pub(super) all: Option<(Vec<Line>, Vec<Line>)>,
    /// What /etc/subuid and /etc/subgid lend him, if there are the programs to give it.
    pub(super) lent: Option<((u32, u32), (u32, u32))>,
}

impl Giver {
    /// This process.
    pub(super) fn this() -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let own_map = |which: &str| parse_map(&fs::read_to_string(format!("/proc/self/{which}")).ok()?);
        let all = if uid == 0 { own_map("uid_map").zip(own_map("gid_map")) } else { None };
        let has_helpers = || ["newuidmap", "newgidmap"].iter().all(|name| find_program(name).is_some());
        let lent = if uid != 0 && has_helpers() {
            let name = user_name(uid);
            let lent = |file: &str| lent_to(&fs::read_to_string(file).ok()?, uid, name.as_deref());
            lent("/etc/subuid").zip(lent("/etc/subgid"))
        } else {
            None
        };
        Self { uid, gid, all, lent }
    }

    /// The ids of a run, in which he is himself or root.
    pub(super) fn ids(&self, root: bool) -> Ids {
        if let Some((uids, gids)) = &self.all {
            let same = |map: &[Line]| map.iter().map(|line| Line { outside: line.inside, ..*line }).collect();
            let count = from_zero(uids).min(from_zero(gids));
            return Ids { uids: same(uids), gids: same(gids), writer: Writer::Ourselves, count };
        }
        let own = |id: u32| if root { 0 } else { id };
        match self.lent {
            Some((uids, gids)) => {
                let count = uids.1.min(gids.1).min(ENOUGH);
                Ids {
                    uids: around(own(self.uid), self.uid, uids.0, count),
                    gids: around(own(self.gid), self.gid, gids.0, count),
                    writer: Writer::Helper,
                    count,
                }
            }
            None => self.alone(root),
        }
    }

    /// The ids of a run in which he is alone.
    pub(super) fn alone(&self, root: bool) -> Ids {
        let line = |id| vec![Line { inside: if root { 0 } else { id }, outside: id, count: 1 }];
        Ids { uids: line(self.uid), gids: line(self.gid), writer: Writer::Ourselves, count: 0 }
    }
}

/// How many ids from 0 a map has without a gap.
fn from_zero(map: &[Line]) -> u32 {
    let mut lines: Vec<_> = map.iter().map(|line| (line.inside, line.count)).collect();
    lines.sort_unstable();
    lines
        .into_iter()
        .fold(0, |end, (first, count)| if first == end { end.saturating_add(count) } else { end })
}

/// `count` ids from 0, the user's own at its place, the others lent.
fn around(inside: u32, own: u32, lent: u32, count: u32) -> Vec<Line> {
    let before = inside.min(count);
    let after = count.saturating_sub(inside.saturating_add(1)).min(count - before);
    let lines = [
        Line { inside: 0, outside: lent, count: before },
        Line { inside, outside: own, count: 1 },
        Line { inside: inside.saturating_add(1), outside: lent + before, count: after },
    ];
    lines.into_iter().filter(|line| line.count > 0).collect()
}

/// The largest range that a user is lent. Lines are `NAME:FIRST:COUNT`, source: subuid(5).
fn lent_to(text: &str, uid: u32, name: Option<&str>) -> Option<(u32, u32)> {
    let uid = uid.to_string();
    let ranges = text.lines().filter_map(|line| {
        let mut words = line.trim().split(':');
        let who = words.next()?;
        let range = (words.next()?.parse::<u32>().ok()?, words.next()?.parse::<u32>().ok()?);
        let is_his = who == uid || Some(who) == name;
        (is_his && range.0.checked_add(range.1).is_some()).then_some(range)
    });
    ranges.filter(|(_, count)| *count > 0).max_by_key(|(first, count)| (*count, u32::MAX - first))
}

pub(super) fn parse_map(text: &str) -> Option<Vec<Line>> {
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace().map(|word| word.parse().ok());
            let mut word = || words.next()?;
            Some(Line { inside: word()?, outside: word()?, count: word()? })
        })
        .collect()
}

/// The name of a user in /etc/passwd, else of whom the environment speaks of.
fn user_name(uid: u32) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let by_file = passwd.lines().find_map(|line| {
        let mut words = line.split(':');
        let name = words.next()?;
        (words.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    // newuidmap(1) knows better should it lie.
    by_file.or_else(|| std::env::var("USER").ok())
}

/// Where a program is.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/bin", "/bin", "/usr/local/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[Line]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_user_is_himself_among_those_that_he_is_lent() {
        let giver =
            Giver { uid: 1000, gid: 100, all: None, lent: Some(((100_000, 65_536), (200_000, 70_000))) };
        let ids = giver.ids(false);
        assert_eq!(lines(&ids.uids), ["0 100000 1000", "1000 1000 1", "1001 101000 64535"]);
        assert_eq!(lines(&ids.gids), ["0 200000 100", "100 100 1", "101 200100 65435"]);
        assert_eq!((ids.writer, ids.count), (Writer::Helper, 65_536));
        let ids = giver.ids(true);
        assert_eq!(lines(&ids.uids), ["0 1000 1", "1 100000 65535"]);
    }

    #[test]
    fn an_id_beyond_the_others_is_there_too() {
        let giver =
            Giver { uid: 1_200_345, gid: 65_535, all: None, lent: Some(((100_000, 65_536), (1, 65_536))) };
        let ids = giver.ids(false);
        assert_eq!(lines(&ids.uids), ["0 100000 65536", "1200345 1200345 1"]);
        assert_eq!(lines(&ids.gids), ["0 1 65535", "65535 65535 1"]);
    }

    #[test]
    fn without_he_is_alone_and_root_gives_what_he_has() {
        let giver = Giver { uid: 1000, gid: 100, all: None, lent: None };
        assert_eq!(lines(&giver.ids(false).uids), ["1000 1000 1"]);
        assert_eq!(lines(&giver.ids(true).gids), ["0 100 1"]);
        let map = parse_map("         0       1000          1\n         1     100000      65536\n");
        let all = map.clone().zip(map);
        let ids = Giver { uid: 0, gid: 0, all, lent: None }.ids(true);
        assert_eq!((lines(&ids.uids), ids.count), (vec!["0 0 1".to_owned(), "1 1 65536".to_owned()], 65_537));
        let all = parse_map("0 0 4294967295\n").map(|map| (map.clone(), map));
        assert!(Giver { uid: 0, gid: 0, all, lent: None }.ids(true).are_all());
    }

    #[test]
    fn the_largest_range_of_his_counts() {
        let text = "other:1:99999\nme:100000:10\n1000:300000:65536\nme:x:1\n\nme:4294967295:2\n";
        assert_eq!(lent_to(text, 1000, Some("me")), Some((300_000, 65_536)));
        assert_eq!(lent_to(text, 1001, Some("me")), Some((100_000, 10)));
        assert_eq!(lent_to(text, 1001, None), None);
    }
}
