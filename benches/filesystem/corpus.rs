//! What do all candidates work on? Made once, read by all, changed by none.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use plyfs::bench::noise::Noise;
use plyfs::units;

use crate::Result;
use crate::scale::Scale;
use crate::work::program;

/// The lowers.
#[derive(Debug)]
pub(crate) struct Corpus {
    /// A copy of /usr/share.
    pub(crate) tree: PathBuf,
    /// Sources under version control, nothing changed.
    pub(crate) repository: PathBuf,
    /// The same files without `.git`.
    pub(crate) sources: PathBuf,
    /// Those as an archive, outside every lower.
    pub(crate) archive: PathBuf,
    /// A folder with one file, [`BIG`].
    pub(crate) big: PathBuf,
    /// A folder without anything.
    pub(crate) empty: PathBuf,
}

/// A branch of the repository in which half of the files are others.
pub(crate) const OTHER_BRANCH: &str = "other";
/// The big file's name.
pub(crate) const BIG: &str = "big";
/// Where trees come from: every Debian or Ubuntu with a compiler has plenty in them.
const SOURCES: [&str; 2] = ["/usr/include", "/usr/share"];
/// A source file, not a picture or a database.
const LARGEST_SOURCE: u64 = 64 * units::KIB;

impl Corpus {
    pub(crate) fn make(within: &Path, scale: &Scale) -> Result<Self> {
        let at = |name| within.join(name);
        let corpus = Self {
            tree: at("tree"),
            repository: at("repository"),
            sources: at("sources"),
            archive: at("sources.tar"),
            big: at("big"),
            empty: at("empty"),
        };
        for dir in [&corpus.tree, &corpus.repository, &corpus.sources, &corpus.big, &corpus.empty] {
            fs::create_dir_all(dir)?;
        }
        eprintln!("making the corpus");
        let copied = copy_trees(&["/usr/share"], &corpus.tree, scale.tree_files, u64::MAX)?;
        eprintln!("  tree: {copied} files of /usr/share");
        let copied = copy_trees(&SOURCES, &corpus.sources, scale.repository_files, LARGEST_SOURCE)?;
        eprintln!("  sources: {copied} files of {}", SOURCES.join(" and "));
        program("cp", &["-a"], &[&corpus.sources.join("."), &corpus.repository])?;
        for words in [&["init", "-q"][..], &["add", "-A"], &["commit", "-q", "-m", "all"]] {
            git(&corpus.repository, words)?;
        }
        make_other_branch(&corpus.repository)?;
        program("tar", &["-cf"], &[&corpus.archive, Path::new("-C"), &corpus.sources, Path::new(".")])?;
        write_noise(&corpus.big.join(BIG), scale.big_file)?;
        eprintln!("  one file of {}", units::size(scale.big_file));
        rustix::fs::syncfs(File::open(within)?)?;
        Ok(corpus)
    }
}

/// Runs git, away from whatever the user has set.
pub(crate) fn git(repository: &Path, words: &[&str]) -> Result<()> {
    let status = Command::new("git")
        .args([
            "-c",
            "safe.directory=*",
            "-c",
            "gc.auto=0",
            "-c",
            "user.name=bench",
            "-c",
            "user.email=bench@localhost",
        ])
        .arg("-C")
        .arg(repository)
        .args(words)
        .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_SYSTEM", "/dev/null")])
        .stdout(Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { Err(format!("git {}: {status}", words.join(" ")).into()) }
}

/// Leaves the branch that was checked out checked out.
fn make_other_branch(repository: &Path) -> Result<()> {
    git(repository, &["checkout", "-q", "-b", OTHER_BRANCH])?;
    let half = files_of(repository)?.into_iter().filter(|file| !file.starts_with(".git")).step_by(2);
    for (at, file) in half.enumerate() {
        let file = repository.join(file);
        if at % 8 == 0 {
            fs::remove_file(file)?;
        } else {
            fs::OpenOptions::new().append(true).open(file)?.write_all(b"changed\n")?;
        }
    }
    git(repository, &["commit", "-q", "-a", "-m", "half"])?;
    git(repository, &["checkout", "-q", "-"])
}

/// Copies files in the order of their names until there are `most`: on one machine always the same. What this
/// user may not read is left out.
fn copy_trees(from: &[&str], to: &Path, most: usize, largest: u64) -> Result<usize> {
    let mut copied = 0;
    for root in from {
        let target = to.join(Path::new(root).file_name().ok_or("a tree has a name")?);
        copy_tree(Path::new(root), &target, &mut copied, most, largest)?;
    }
    Ok(copied)
}

fn copy_tree(from: &Path, to: &Path, copied: &mut usize, most: usize, largest: u64) -> Result<()> {
    fs::create_dir(to)?;
    let Ok(listing) = fs::read_dir(from) else { return Ok(()) };
    let mut entries = listing.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if *copied == most {
            return Ok(());
        }
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let stat = entry.metadata()?;
        if stat.is_dir() {
            copy_tree(&path, &target, copied, most, largest)?;
        } else if stat.is_symlink() {
            symlink(fs::read_link(&path)?, &target)?;
        } else if stat.is_file() && stat.len() <= largest && fs::copy(&path, &target).is_ok() {
            *copied += 1;
        }
    }
    Ok(())
}

/// A file that has to be copied whole.
pub(crate) fn write_noise(path: &Path, size: u64) -> Result<()> {
    let (mut file, mut noise, mut left) = (File::create(path)?, Noise::default(), size);
    while left > 0 {
        let block = noise.next(left);
        file.write_all(block)?;
        left -= block.len() as u64;
    }
    Ok(())
}

/// Reads a file to its end.
pub(crate) fn read_file(path: &Path, buffer: &mut [u8]) -> Result<u64> {
    let mut file = File::open(path)?;
    let mut total = 0;
    loop {
        match file.read(buffer)? {
            0 => return Ok(total),
            some => total += some as u64,
        }
    }
}

/// Every non-directory beneath `dir` with its type, and every directory, parents first.
pub(crate) fn walk(dir: &Path, each: &mut dyn FnMut(&Path, fs::FileType) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        each(&entry.path(), kind)?;
        if kind.is_dir() {
            walk(&entry.path(), each)?;
        }
    }
    Ok(())
}

/// The regular files beneath `dir`, in the order of their names.
pub(crate) fn files_of(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    walk(dir, &mut |path, kind| {
        if kind.is_file() {
            files.push(path.strip_prefix(dir)?.to_owned());
        }
        Ok(())
    })?;
    files.sort();
    Ok(files)
}

/// Brings a tree into the disk cache: its inodes, or its data too.
pub(crate) fn warm(dir: &Path, data: bool) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    walk(dir, &mut |path, kind| {
        if kind.is_file() && data {
            read_file(path, &mut buffer)?;
        } else {
            fs::symlink_metadata(path)?;
        }
        Ok(())
    })
}
