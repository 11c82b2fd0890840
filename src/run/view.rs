//! What is to be seen in a run, and what does its daemon have to be told for it?
//!
//! Pure but for a look at which of the usual places there are.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::ids::Ids;
use super::inside::View;
use super::place::{Place, Run};
use crate::options::escaped;

/// What a system in use shares with what runs on it.
const SHARED: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];
/// Where graphical programs find their screen.
const SCREEN: &str = "/tmp/.X11-unix";

/// What is as it is outside though nobody has asked for it, if it is there: the session's sockets must work.
fn usual() -> Vec<PathBuf> {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let session = ["XDG_RUNTIME_DIR", "SSH_AUTH_SOCK"].into_iter().filter_map(named);
    let all = SHARED.iter().map(PathBuf::from).chain(session).chain([PathBuf::from(SCREEN)]);
    all.filter_map(|path| path.canonicalize().ok()).filter(|path| path != Path::new("/")).collect()
}

/// What a run shows.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) view: View,
    /// The words of its daemon's command line, but for the session.
    pub(super) daemon: Vec<OsString>,
}

/// Of these paths, the ones that are in none of the others, from the top down; each with whether it must be there.
fn outermost(mut paths: Vec<(PathBuf, bool)>) -> Vec<(PathBuf, bool)> {
    paths.sort();
    let mut kept: Vec<(PathBuf, bool)> = Vec::new();
    for (path, is_needed) in paths {
        match kept.iter_mut().find(|(above, _)| path.starts_with(above)) {
            Some((above, needed)) => *needed |= is_needed && *above == path,
            None => kept.push((path, is_needed)),
        }
    }
    kept
}

impl Plan {
    /// Of a run with these ids.
    pub(super) fn of(place: &Place, run: &Run, ids: &Ids) -> Self {
        let about = &run.about;
        let at = about.lowers.first().cloned();
        let pass = match at {
            Some(_) => Vec::new(),
            None => {
                let given = about.pass.iter().map(|path| (path.clone(), true));
                outermost(usual().into_iter().map(|path| (path, false)).chain(given).collect())
            }
        };
        let is_passed = |path: &Path| pass.iter().any(|(passed, _)| path.starts_with(passed));
        let in_union = |path: &Path| match &at {
            Some(at) => path.starts_with(at) && path != at,
            None => !is_passed(path),
        };
        let (hidden, cover): (Vec<_>, Vec<_>) = about.hide.iter().cloned().partition(|path| in_union(path));

        let mut options: Vec<(&str, Option<PathBuf>)> = vec![("bases", None), ("watch", None)];
        if about.records {
            options.extend([("xattr_permissions=2", None), ("plain_lowers", None)]);
        }
        let guest = format!("userns_ids={}", ids.count);
        if about.root && !ids.are_all() {
            // Root reads everything: what there is nothing to be read of is empty.
            options.push(("unreadable=empty", None));
        }
        if about.root && ids.are_one() {
            options.push(("squash_to_root", None));
        } else if !about.root && !ids.are_all() {
            options.push((&guest, None));
        }
        // In other lowers the same place is hidden.
        let lowers = if about.lowers.is_empty() { vec![PathBuf::from("/")] } else { about.lowers.clone() };
        for path in &hidden {
            let Some(relative) = path.strip_prefix(&lowers[0]).ok() else { continue };
            let there = |path: &PathBuf| path.parent().is_some_and(Path::is_dir);
            let paths = lowers.iter().map(|lower| lower.join(relative)).filter(there);
            options.extend(paths.map(|path| ("hide", Some(path))));
        }
        if in_union(place.path()) {
            options.push(("empty", Some(place.path().to_owned())));
        }
        let dirs = pass.iter().filter(|(path, _)| path.is_dir());
        options.extend(dirs.map(|(path, _)| ("empty", Some(path.clone()))));

        let mut daemon: Vec<OsString> = vec!["mount".into(), "--session-checks".into()];
        let mut add = |name: &str, path: PathBuf| daemon.extend([name.into(), path.into_os_string()]);
        add("--upper", about.upper.clone());
        add("--work", about.work.clone());
        add("--hold", run.path("lock"));
        add("--control", run.path("control"));
        lowers.into_iter().for_each(|lower| add("--lower", lower));
        for (name, path) in options {
            let value = path.map(|path| [b"=", &escaped(&path)[..]].concat()).unwrap_or_default();
            let word = OsString::from_vec([name.as_bytes(), &value].concat());
            daemon.extend(["-o".into(), word]);
        }
        let owner = |lines: &[super::ids::Line], own: u32| {
            lines.iter().find(|line| line.outside == own).map_or(0, |line| line.inside)
        };
        let view = View {
            at,
            stage: run.path("mount"),
            void: run.path("void"),
            locks: about.root,
            pass,
            instead: (place.path().to_owned(), run.path("inside")),
            cover,
            owner: (
                owner(&ids.uids, rustix::process::geteuid().as_raw()),
                owner(&ids.gids, rustix::process::getegid().as_raw()),
            ),
            net: about.net == crate::cli::Net::None,
        };
        Self { view, daemon }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inside_another_is_there_with_it() {
        let path = |path: &str, needed| (PathBuf::from(path), needed);
        let given =
            vec![path("/run/user/1", false), path("/run", false), path("/a", true), path("/runs", true)];
        assert_eq!(outermost(given), [path("/a", true), path("/run", false), path("/runs", true)]);
        assert_eq!(outermost(vec![path("/a", false), path("/a", true)]), [path("/a", true)]);
    }
}
