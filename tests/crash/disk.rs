//! What is on a disk once the power has failed?
//!
//! A model: names and data that are on disk for sure are those that fsync(2) or syncfs(2) has answered for. Of the rest
//! any part may be there, but the changes of one directory's names are there in their order, and a rename is there
//! wholly or not at all. [`Loss::Journal`] is kinder, and what ext4, XFS and btrfs promise: all names change in the
//! order of the calls. [`Loss::Unordered`] is what no plan can stand without a sync between its steps: of the names of
//! one directory, too, any may be there. Attributes go with their inode. Then the upper and the workdir are made anew
//! from what is left.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use plyfs::branch::Stat;
use plyfs::branch::faults::{Event, InodeId, Slot};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

/// Which part of what was not synced is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of it.
    Everything,
    /// The data; all names are there.
    Data,
    /// The data, and the names that changed after so many events.
    Journal(usize),
    /// Any part; this is the seed.
    Random(u64),
    /// Any part, and out of order.
    Unordered(u64),
}

/// The upper and the workdir.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The inodes of both, and where they are.
    roots: Vec<(InodeId, PathBuf)>,
    names: BTreeMap<InodeId, BTreeMap<OsString, InodeId>>,
    inodes: BTreeMap<InodeId, (Stat, Vec<u8>)>,
}

impl Disk {
    /// Reads what is there. All of it is on disk.
    pub fn read(roots: &[PathBuf]) -> Self {
        let mut disk = Self { roots: Vec::new(), names: BTreeMap::new(), inodes: BTreeMap::new() };
        for root in roots {
            let inode = disk.add(root);
            disk.roots.push((inode, root.clone()));
        }
        disk
    }

    fn add(&mut self, path: &Path) -> InodeId {
        let flags = rustix::fs::StatxFlags::BASIC_STATS | rustix::fs::StatxFlags::BTIME;
        let stat = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, flags).expect("an entry");
        let stat = Stat::from(stat);
        let inode = InodeId::of(&stat);
        let content = match stat.kind() {
            FileType::RegularFile => fs::read(path).expect("a file"),
            FileType::Symlink => fs::read_link(path).expect("a link").into_os_string().into_encoded_bytes(),
            _ => Vec::new(),
        };
        if stat.kind() == FileType::Directory {
            let mut names = BTreeMap::new();
            for entry in fs::read_dir(path).expect("a directory") {
                let entry = entry.expect("an entry");
                names.insert(entry.file_name(), self.add(&entry.path()));
            }
            self.names.insert(inode, names);
        }
        self.inodes.insert(inode, (stat, content));
        inode
    }

    /// What is left after these events and a loss.
    pub fn after(&self, events: &[Event], loss: Loss) -> Self {
        let mut disk = self.clone();
        let mut dice = Dice(match loss {
            Loss::Random(seed) | Loss::Unordered(seed) => seed.wrapping_mul(2).wrapping_add(1),
            _ => 1,
        });
        let synced = synced_names(events, !matches!(loss, Loss::Unordered(_)));
        let last_synced = synced.iter().next_back().copied();
        let is_random = matches!(loss, Loss::Random(_));
        // In which directories, and under which names, something is lost.
        let (mut lost_in, mut lost) = (BTreeSet::new(), BTreeSet::new());
        for (at, event) in events.iter().enumerate() {
            let slots = slots_of(event);
            if slots.is_empty() {
                continue;
            }
            let kept = synced.contains(&at)
                || match loss {
                    Loss::Everything => false,
                    Loss::Data => true,
                    Loss::Journal(kept) => at < kept || last_synced.is_some_and(|last| at <= last),
                    Loss::Random(_) | Loss::Unordered(_) => {
                        let is_lost =
                            |slot: &Slot| lost.contains(slot) || is_random && lost_in.contains(&slot.0);
                        !slots.iter().any(|slot| is_lost(slot)) && dice.roll(3) > 0
                    }
                };
            if kept {
                disk.apply(event);
            } else {
                lost_in.extend(slots.iter().map(|slot| slot.0));
                lost.extend(slots.into_iter().cloned());
            }
        }
        disk.lose_data(events, loss, &mut dice);
        disk
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Add { slot: (dir, name), inode, stat, .. } => {
                self.inodes.entry(*inode).or_insert_with(|| (*stat, Vec::new()));
                if stat.kind() == FileType::Directory {
                    self.names.entry(*inode).or_default();
                }
                self.names.entry(*dir).or_default().insert(name.clone(), *inode);
            }
            Event::Remove((dir, name)) => drop(self.names.entry(*dir).or_default().remove(name)),
            Event::Move((dir, name), (to, new)) => {
                if let Some(inode) = self.names.entry(*dir).or_default().remove(name) {
                    self.names.entry(*to).or_default().insert(new.clone(), inode);
                }
            }
            Event::Swap((dir, name), (to, new)) => {
                let one = self.names.entry(*dir).or_default().remove(name);
                let other = self.names.entry(*to).or_default().remove(new);
                if let (Some(one), Some(other)) = (one, other) {
                    self.names.entry(*dir).or_default().insert(name.clone(), other);
                    self.names.entry(*to).or_default().insert(new.clone(), one);
                }
            }
            Event::Data(..) | Event::Attributes(..) | Event::Sync(_) | Event::SyncAll => {}
        }
    }

    /// Gives every inode the data that is left of it.
    fn lose_data(&mut self, events: &[Event], loss: Loss, dice: &mut Dice) {
        // Versions of each file, and how many of them are on disk for sure.
        let mut versions: HashMap<InodeId, (Vec<&[u8]>, usize)> = HashMap::new();
        for event in events {
            match event {
                Event::Add { inode, stat, content, .. } if stat.kind() == FileType::Symlink => {
                    versions.insert(*inode, (vec![content], 1));
                }
                Event::Data(inode, content) => versions.entry(*inode).or_default().0.push(content),
                Event::Sync(inode) => {
                    if let Some((versions, synced)) = versions.get_mut(inode) {
                        *synced = versions.len();
                    }
                }
                Event::SyncAll => {
                    versions.values_mut().for_each(|(versions, synced)| *synced = versions.len())
                }
                _ => {}
            }
            if let Event::Attributes(inode, stat) = event
                && let Some(known) = self.inodes.get_mut(inode)
            {
                known.0 = *stat;
            }
        }
        let mut all: Vec<_> = versions.into_iter().collect();
        all.sort_by_key(|(inode, _)| *inode);
        for (inode, (versions, synced)) in all {
            let Some((_, content)) = self.inodes.get_mut(&inode) else { continue };
            let kept = match loss {
                Loss::Random(_) | Loss::Unordered(_) => synced + dice.roll(versions.len() - synced + 1),
                _ => synced,
            };
            if kept > 0 {
                *content = versions[kept - 1].to_vec();
            }
            let is_torn = kept < versions.len() && dice.roll(2) == 0;
            if is_torn && kept == 0 && content.is_empty() {
                // The length is there, and the data is not.
                *content = vec![0; versions[versions.len() - 1].len()];
            }
        }
    }

    /// Makes the upper and the workdir anew.
    pub fn write(&self) {
        let mut made = HashMap::new();
        for (inode, path) in &self.roots {
            for entry in fs::read_dir(path).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.symlink_metadata().expect("an entry").is_dir() {
                    fs::remove_dir_all(path).expect("a tree goes");
                } else {
                    fs::remove_file(path).expect("a file goes");
                }
            }
            self.fill(*inode, path, &mut made);
        }
    }

    fn fill(&self, dir: InodeId, path: &Path, made: &mut HashMap<InodeId, PathBuf>) {
        for (name, inode) in self.names.get(&dir).into_iter().flatten() {
            let at = path.join(name);
            let (stat, content) = &self.inodes[inode];
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            if let Some(first) = made.get(inode) {
                fs::hard_link(first, &at).expect("a link");
                continue;
            }
            match stat.kind() {
                FileType::Directory => {
                    fs::create_dir(&at).expect("a directory");
                    self.fill(*inode, &at, made);
                }
                FileType::RegularFile => fs::write(&at, content).expect("a file"),
                FileType::Symlink => {
                    std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(content), &at).expect("a link");
                }
                kind => rustix::fs::mknodat(CWD, &at, kind, mode, stat.st_rdev).expect("a node"),
            }
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::lchown(&at, Some(stat.st_uid), Some(stat.st_gid)).expect("an owner");
            }
            if stat.kind() != FileType::Symlink {
                rustix::fs::chmod(&at, mode).expect("a mode");
            }
            let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
            let times = Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(CWD, &at, &times, AtFlags::SYMLINK_NOFOLLOW).expect("times");
            if stat.kind() != FileType::Directory {
                made.insert(*inode, at);
            }
        }
    }
}

/// The changes of names that are on disk for sure. What happened before to the same name, or if they are ordered in the
/// same directory, is there, too.
fn synced_names(events: &[Event], ordered: bool) -> BTreeSet<usize> {
    let mut synced = BTreeSet::new();
    for (at, event) in events.iter().enumerate() {
        let is_synced = |slots: &[&Slot]| match event {
            Event::Sync(inode) => slots.iter().any(|(dir, _)| dir == inode),
            _ => true,
        };
        if let Event::Sync(_) | Event::SyncAll = event {
            synced.extend((0..at).filter(|at| {
                let slots = slots_of(&events[*at]);
                !slots.is_empty() && is_synced(&slots)
            }));
        }
    }
    let (mut needed, mut needed_in): (BTreeSet<&Slot>, BTreeSet<InodeId>) = Default::default();
    for (at, event) in events.iter().enumerate().rev() {
        let slots = slots_of(event);
        let is_needed = |slot: &&Slot| needed.contains(*slot) || ordered && needed_in.contains(&slot.0);
        if synced.contains(&at) || slots.iter().any(is_needed) {
            if !slots.is_empty() {
                synced.insert(at);
            }
            needed_in.extend(slots.iter().map(|slot| slot.0));
            needed.extend(slots);
        }
    }
    synced
}

fn slots_of(event: &Event) -> Vec<&Slot> {
    match event {
        Event::Add { slot, .. } | Event::Remove(slot) => vec![slot],
        Event::Move(from, to) | Event::Swap(from, to) => vec![from, to],
        Event::Data(..) | Event::Attributes(..) | Event::Sync(_) | Event::SyncAll => Vec::new(),
    }
}

/// Random numbers, the same ones for a seed (xorshift64).
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides
    }
}
