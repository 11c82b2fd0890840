//! A file's content across its copy-up: whatever is done to a file of a lower, by whatever call first, and by
//! whoever held it before, it reads as a file in memory would.
//!
//! fsx cannot tell: it begins by cutting the file off, so there is nothing to copy. `PLYFS_COPY_UP_RUNS` says
//! how many files are played with, `PLYFS_COPY_UP_STEPS` how often each is changed.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{Advice, FallocateFlags, copy_file_range, fadvise, fallocate};

use crate::common::{Dice, Mapping, Union, pattern};

/// The longest that a file gets. Some pages, and a part of one.
const LONGEST: usize = 70_000;
/// The longest that a range is.
const RANGE: usize = 20_000;

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}

/// A file, as it must be, and everything by which it is held.
struct Play {
    path: PathBuf,
    expected: Vec<u8>,
    /// From before the first change: it must follow.
    reader: File,
    writer: File,
    mapping: Option<Mapping>,
    /// Another file, of a lower.
    source: File,
    history: Vec<String>,
}

impl Play {
    fn new(path: PathBuf, source: PathBuf, expected: Vec<u8>) -> Self {
        let (reader, writer, source) = (File::open(&path).unwrap(), both(&path), File::open(source).unwrap());
        Self { path, expected, reader, writer, mapping: None, source, history: Vec::new() }
    }

    fn step(&mut self, dice: &mut Dice) {
        let len = self.expected.len();
        match dice.throw(14) {
            0 => self.read(dice.range(len, RANGE), dice.throw(2) == 0),
            1 | 2 => self.write(dice.range(LONGEST, RANGE), dice),
            3 => self.store(dice.range(len, RANGE), dice),
            4 => self.truncate(dice.throw(LONGEST)),
            5 => self.truncate(if dice.throw(4) == 0 { 0 } else { dice.throw(len + 1) }),
            6 => self.punch(dice.range(LONGEST, RANGE)),
            7 => self.allocate(dice.range(LONGEST, RANGE)),
            8 => self.copy_within(dice.range(len, RANGE), dice),
            9 => self.copy_in(dice.range(LONGEST, RANGE), dice),
            10 => self.map(),
            11 => self.drop_pages(),
            12 => self.reopen(),
            _ => self.look(),
        }
    }

    fn note(&mut self, what: String) {
        self.history.push(what);
    }

    fn grow(&mut self, end: usize) {
        let len = self.expected.len();
        self.expected.resize(len.max(end), 0);
    }

    fn read(&mut self, range: std::ops::Range<usize>, by_reader: bool) {
        self.note(format!("read {range:?}"));
        let mut read = vec![0; range.len()];
        let file = if by_reader { &self.reader } else { &self.writer };
        file.read_exact_at(&mut read, range.start as u64).unwrap();
        self.same(&read, range.start);
    }

    fn write(&mut self, range: std::ops::Range<usize>, dice: &mut Dice) {
        self.note(format!("write {range:?}"));
        let bytes = pattern(dice.throw(256) as u8, range.len());
        self.writer.write_all_at(&bytes, range.start as u64).unwrap();
        if !range.is_empty() {
            self.grow(range.end);
        }
        self.put(range.start, &bytes);
    }

    fn store(&mut self, range: std::ops::Range<usize>, dice: &mut Dice) {
        self.note(format!("store {range:?}"));
        if self.mapping.is_none() {
            self.map();
        }
        let bytes = pattern(dice.throw(256) as u8, range.len());
        if let Some(mapping) = self.mapping.as_mut().filter(|mapping| mapping.len() >= range.end) {
            mapping.store(range.start, &bytes);
            if dice.throw(2) == 0 {
                mapping.sync();
            }
            self.put(range.start, &bytes);
        }
    }

    fn put(&mut self, start: usize, bytes: &[u8]) {
        let end = self.expected.len().min(start + bytes.len());
        if start < end {
            self.expected[start..end].copy_from_slice(&bytes[..end - start]);
        }
    }

    fn truncate(&mut self, len: usize) {
        self.note(format!("truncate {len}"));
        // Touching what lies behind the end of a file is deadly.
        self.mapping = self.mapping.take().filter(|mapping| mapping.len() <= len);
        self.writer.set_len(len as u64).unwrap();
        self.expected.resize(len, 0);
    }

    fn punch(&mut self, range: std::ops::Range<usize>) {
        self.note(format!("punch {range:?}"));
        if range.is_empty() {
            return;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.writer, flags, range.start as u64, range.len() as u64).unwrap();
        self.put(range.start, &vec![0; range.len()]);
    }

    fn allocate(&mut self, range: std::ops::Range<usize>) {
        self.note(format!("allocate {range:?}"));
        if range.is_empty() {
            return;
        }
        fallocate(&self.writer, FallocateFlags::empty(), range.start as u64, range.len() as u64).unwrap();
        self.grow(range.end);
    }

    /// To a place that does not overlap, which copy_file_range(2) forbids.
    fn copy_within(&mut self, range: std::ops::Range<usize>, dice: &mut Dice) {
        let to = range.end + dice.throw(5_000);
        self.note(format!("copy {range:?} to {to}"));
        let copied = copy(&self.writer, &self.writer, range.clone(), to);
        let bytes = self.expected[range].to_vec();
        assert_eq!(copied, bytes.len());
        if !bytes.is_empty() {
            self.grow(to + bytes.len());
        }
        self.put(to, &bytes);
        if self.expected.len() > LONGEST {
            self.truncate(LONGEST);
        }
    }

    fn copy_in(&mut self, range: std::ops::Range<usize>, dice: &mut Dice) {
        let to = dice.throw(LONGEST - range.len() + 1);
        self.note(format!("copy {range:?} of another file to {to}"));
        let copied = copy(&self.source, &self.writer, range.clone(), to);
        assert_eq!(copied, range.len());
        if !range.is_empty() {
            self.grow(to + range.len());
        }
        self.put(to, &pattern(1, LONGEST)[range]);
    }

    fn map(&mut self) {
        self.note("map".to_owned());
        let len = self.expected.len();
        self.mapping = (len > 0).then(|| Mapping::of(&self.writer, len, Mapping::SHARED));
    }

    /// So that the next look asks the daemon.
    fn drop_pages(&mut self) {
        self.note("drop pages".to_owned());
        self.writer.sync_all().unwrap();
        fadvise(&self.reader, 0, None, Advice::DontNeed).unwrap();
    }

    fn reopen(&mut self) {
        self.note("open again".to_owned());
        self.mapping = None;
        self.writer = both(&self.path);
    }

    /// By everything at once.
    fn look(&mut self) {
        self.note("look".to_owned());
        assert_eq!(self.reader.metadata().unwrap().len(), self.expected.len() as u64);
        self.same(&fs::read(&self.path).unwrap(), 0);
        if let Some(mapping) = &self.mapping {
            self.same(&mapping.bytes(), 0);
        }
        self.read(0..self.expected.len(), true);
    }

    #[track_caller]
    fn same(&self, seen: &[u8], from: usize) {
        let expected = &self.expected[from..from + seen.len()];
        let wrong = seen.iter().zip(expected).position(|(seen, expected)| seen != expected);
        assert_eq!(wrong.map(|at| from + at), None, "the first wrong byte");
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: {:#?}", self.path.display(), self.history);
        }
    }
}

fn both(path: &PathBuf) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn copy(from: impl AsFd, to: impl AsFd, range: std::ops::Range<usize>, at: usize) -> usize {
    let (mut from_at, mut to_at) = (range.start as u64, at as u64);
    let mut copied = 0;
    while copied < range.len() {
        match copy_file_range(&from, Some(&mut from_at), &to, Some(&mut to_at), range.len() - copied).unwrap()
        {
            0 => break,
            n => copied += n,
        }
    }
    copied
}

#[test]
fn a_file_reads_as_one_in_memory_whatever_is_done_to_it_first() {
    let runs = number("PLYFS_COPY_UP_RUNS").unwrap_or(60);
    let steps = number("PLYFS_COPY_UP_STEPS").unwrap_or(40);
    let seed = number("PLYFS_COPY_UP_SEED").unwrap_or(0) * runs;
    let seeds: Vec<usize> = (seed..seed + runs).collect();
    seeds.chunks(20).for_each(|seeds| play(seeds, steps));
}

/// Plays with a file of a lower for each seed.
fn play(seeds: &[usize], steps: usize) {
    let content = |seed: usize| pattern(seed as u8, [LONGEST, 30_000, 4096, 5, 0, 65_536][seed % 6]);
    let mut union = Union::over(|b| {
        seeds.iter().fold(b.file("source", pattern(1, LONGEST)), |b, seed| match seed % 4 {
            0 | 1 => b.file(&seed.to_string(), content(*seed)),
            // With a hole that must stay the zeros that it is.
            _ => b.sparse(&seed.to_string(), LONGEST as u64, &[(20_000, &content(*seed))]),
        })
    });
    let mut ends = Vec::new();
    for seed in seeds {
        let mut expected = content(*seed);
        if seed % 4 > 1 {
            expected.splice(0..0, vec![0; 20_000]);
            expected.resize(expected.len().max(LONGEST), 0);
        }
        let mut dice = Dice::new(*seed as u64);
        let mut play = Play::new(union.at(seed.to_string()), union.at("source"), expected);
        for _ in 0..steps {
            play.step(&mut dice);
        }
        play.look();
        ends.push(std::mem::take(&mut play.expected));
    }
    union.remount();
    for (seed, expected) in seeds.iter().zip(ends) {
        assert!(fs::read(union.at(seed.to_string())).unwrap() == expected, "{seed} after a remount");
    }
}

/// Two processes and one file: each has every other block of it, and none of them ends where a page does.
mod two_processes {
    use super::*;

    const BLOCK: usize = 1000;
    const BLOCKS: usize = 60;
    const ROUNDS: u8 = 30;
    /// Names the file to the other process.
    const FILE: &str = "PLYFS_TEST_SHARED_FILE";

    /// The blocks of one of the two, with what they hold in a round.
    fn blocks(whose: usize, round: u8) -> impl Iterator<Item = (usize, Vec<u8>)> {
        let value = move |block: usize| pattern(round.wrapping_mul(7).wrapping_add(block as u8), BLOCK);
        (whose..BLOCKS).step_by(2).map(move |block| (block * BLOCK, value(block)))
    }

    #[test]
    fn that_write_and_map_a_file_of_a_lower_each_find_what_they_wrote() {
        for play in 0..4 {
            let union = Union::over(|b| b.file("f", vec![b'.'; BLOCK * BLOCKS]));
            let mut other = Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "across_copy_up::two_processes::the_other_process"])
                .env(FILE, union.at("f"))
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let file = both(&union.at("f"));
            let mut mapping = Mapping::of(&file, BLOCK * BLOCKS, Mapping::SHARED);
            for round in 0..ROUNDS {
                blocks(0, round).for_each(|(at, bytes)| mapping.store(at, &bytes));
                if round % 8 == play {
                    mapping.sync();
                }
                let seen = mapping.bytes();
                let lost = blocks(0, round).find(|(at, bytes)| seen[*at..][..BLOCK] != **bytes);
                assert_eq!(lost.map(|(at, _)| at), None, "stored and lost, round {round}");
            }
            assert!(other.wait().unwrap().success(), "the process that writes");
            mapping.sync();
            drop(mapping);
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            for place in [union.at("f"), union.upper("f")] {
                let seen = fs::read(&place).unwrap();
                for (at, bytes) in blocks(0, ROUNDS - 1).chain(blocks(1, ROUNDS - 1)) {
                    assert!(seen[at..][..BLOCK] == *bytes, "{} at {at}", place.display());
                }
            }
        }
    }

    #[test]
    #[ignore = "is started by the test above, as its other process"]
    fn the_other_process() {
        let path = std::env::var_os(FILE).expect("a file to write to");
        let file = both(&path.into());
        for round in 0..ROUNDS {
            for (at, bytes) in blocks(1, round) {
                file.write_all_at(&bytes, at as u64).unwrap();
            }
            for (at, bytes) in blocks(1, round) {
                let mut seen = vec![0; BLOCK];
                file.read_exact_at(&mut seen, at as u64).unwrap();
                assert!(seen == bytes, "written and lost at {at}, round {round}");
            }
        }
    }
}
