//! What of the notes of the last version holds for this upper?
//!
//! That version kept `index` and `links` in the workdir itself, knew inodes by their number and lower files also by
//! the time of their last change, and did not say whose notes they were. They are taken over, once, if what they say
//! of the upper is so: a walk through the upper finds the inodes that they speak of. What is not plyfs' own, or
//! speaks of something else, is left where it is.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::sync::atomic::Ordering;

use super::Index;
use super::log_file::read;
use crate::branch::{Dir, UpperDir};
use crate::error::Result;
use crate::layer;
use crate::union::node::{NodeId, real_id};

/// What the old log said.
#[derive(Debug, Default)]
struct Old {
    origins: HashMap<u64, u64>,
    /// By number: how many names the upper did not cover, and the time of the last change.
    links: HashMap<u64, (u32, Version)>,
}

type Version = (i64, u64);

/// Takes over what holds. What goes wrong is said in the log: the old notes stay then.
pub(super) fn adopt(index: &Index, outer: &UpperDir, upper: &Dir, lowers: &[Dir]) {
    if let Err(e) = try_adopt(index, outer, upper, lowers) {
        log::warn!("the notes of an earlier version in the workdir are not taken over: {e}");
    }
}

fn try_adopt(index: &Index, outer: &UpperDir, upper: &Dir, lowers: &[Dir]) -> Result<()> {
    let ours = rustix::process::geteuid().as_raw();
    match outer.stat(OsStr::new("index"))? {
        Some(stat) if stat.st_uid == ours && stat.kind() == rustix::fs::FileType::RegularFile => {}
        _ => return Ok(()),
    }
    let Some(old) = Old::parse(&read(outer, "index")?.unwrap_or_default()) else { return Ok(()) };
    let mut in_upper = HashMap::new();
    layer::walk(upper, |way, name, ino| {
        in_upper.entry(ino).or_insert_with(|| (way.to_vec(), name.to_owned()));
    })?;
    let known = old.origins.keys().filter(|ino| in_upper.contains_key(ino)).count();
    if known == 0 || known * 2 < old.origins.len() {
        log::info!("`index` in the workdir speaks of another upper: left alone");
        return Ok(());
    }
    let mut left = 0;
    for (ino, number) in &old.origins {
        let Some((way, name)) = in_upper.get(ino) else { continue };
        let dir = way.iter().try_fold(upper.clone(), |dir, name| dir.open_dir(name))?;
        let inode = dir.open_inode(name)?;
        let stat = inode.stat()?;
        let id = inode.lasting_id(&stat)?;
        index.set_origin(real_id(0, &stat), id.as_ref(), NodeId(*number));
    }
    if outer.stat(OsStr::new("links"))?.is_some() {
        let links = outer.open_upper_dir(OsStr::new("links"))?;
        left = adopt_links(index, &links, &old, lowers)?;
        if left == 0 {
            outer.remove_dir(OsStr::new("links"))?;
        }
    }
    index.sync()?;
    if left > 0 || index.missed.load(Ordering::Relaxed) {
        // They are taken over again once there is room.
        return Ok(());
    }
    log::info!("notes of an earlier version taken over; {left} links left alone");
    outer.remove_marker(OsStr::new("index"))
}

/// Says how many were left alone.
fn adopt_links(index: &Index, links: &UpperDir, old: &Old, lowers: &[Dir]) -> Result<usize> {
    let entries = links.list()?;
    let named: Vec<_> = entries.iter().filter_map(|e| Some((e, parse_link_name(&e.name)?))).collect();
    // The lower 48 bits of a number are those of an inode number; the others tell filesystems apart.
    let wanted: HashSet<u64> = named.iter().map(|(_, (number, _))| number & ((1 << 48) - 1)).collect();
    let mut found = HashMap::new();
    for lower in lowers {
        let mut places = Vec::new();
        layer::walk(lower, |way, name, ino| {
            if wanted.contains(&(ino & ((1 << 48) - 1))) {
                places.push((way.to_vec(), name.to_owned()));
            }
        })?;
        for (way, name) in places {
            let dir = way.iter().try_fold(lower.clone(), |dir, name| dir.open_dir(name))?;
            let inode = dir.open_inode(&name)?;
            let stat = inode.stat()?;
            let version = (stat.st_ctime, stat.st_ctime_nsec);
            found.entry((stat.st_ino & ((1 << 48) - 1), version)).or_insert((inode, stat));
        }
    }
    let mut left = entries.len() - named.len();
    for (entry, (number, version)) in named {
        let lower = found.get(&(number & ((1 << 48) - 1), version));
        let key = match lower {
            Some((inode, stat)) => inode.lasting_id(stat)?.map(|key| (key, stat)),
            None => None,
        };
        let Some((key, lower)) = key else {
            left += 1;
            continue;
        };
        if index.has_copy(&key) {
            // It has been taken over before, and written since.
            continue;
        }
        let copy = links.open_upper_inode(&entry.name)?;
        let stat = copy.stat()?;
        if let Some(number) = old.origins.get(&stat.st_ino) {
            index.set_origin(real_id(0, &stat), copy.lasting_id(&stat)?.as_ref(), NodeId(*number));
        }
        let id = index.tie(&key, lower, &copy)?;
        let remaining = old.links.get(&number).map_or(1, |(remaining, _)| *remaining);
        let covered = (lower.st_nlink as u32).saturating_sub(remaining);
        index.update(id, |note| note.covered = covered);
        index.publish(id, &copy.stat()?);
        links.unlink(&entry.name)?;
    }
    Ok(left)
}

impl Old {
    /// None if it is somebody else's file: every whole line must be one of ours.
    fn parse(text: &str) -> Option<Self> {
        let mut old = Self::default();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        for line in text[..whole].lines().filter(|line| !line.is_empty()) {
            let mut words = line.split(' ');
            let kind = words.next();
            let numbers: Option<Vec<i64>> = words.map(|word| word.parse().ok()).collect();
            match (kind, &numbers.unwrap_or_default()[..]) {
                (Some("O"), &[upper, number]) => drop(old.origins.insert(upper as u64, number as u64)),
                (Some("X"), &[upper]) => drop(old.origins.remove(&(upper as u64))),
                (Some("L"), &[number, remaining, seconds, nanoseconds]) => {
                    let remaining = u32::try_from(remaining).unwrap_or(0);
                    old.links.insert(number as u64, (remaining, (seconds, nanoseconds as u64)));
                }
                (Some("D"), &[number]) => drop(old.links.remove(&(number as u64))),
                // Half a line, after a crash.
                _ if line.bytes().all(|byte| b"OXLD0123456789 -".contains(&byte)) => {}
                _ => return None,
            }
        }
        Some(old)
    }
}

/// `NUMBER.SECONDS.NANOSECONDS`.
fn parse_link_name(name: &OsStr) -> Option<(u64, Version)> {
    let mut words = name.to_str()?.splitn(3, '.');
    let number = words.next()?.parse().ok()?;
    Some((number, (words.next()?.parse().ok()?, words.next()?.parse().ok()?)))
}
