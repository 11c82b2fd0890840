//! Where is a stack on disk, and what must hold of it whenever no mount uses it?

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use plyfs::branch::{BranchRoot, BranchRoots, Hidden, UpperRoot};
use plyfs::error::Error;
use plyfs::union::{NodeId, Union, UnionOptions};
use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use super::layer::{self, Snapshot, each, xattrs};
use super::stacks::Stack;
use super::view::{Kernel, View};

/// A stack in a directory of its own.
pub struct Stand<'a> {
    stack: &'a Stack,
    root: TempDir,
    lowers: Vec<Snapshot>,
    /// What the lowers alone show.
    beneath: View,
    /// The markers that were in the upper from the beginning.
    markers: BTreeSet<PathBuf>,
}

/// Which disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// Syncs cost nothing there.
    Memory,
    /// Where temporary files are: `TMPDIR`.
    Temporary,
}

impl Disk {
    pub fn dir(self) -> TempDir {
        let memory = Path::new("/dev/shm");
        let in_memory = self == Self::Memory && memory.is_dir();
        let made = match in_memory.then(|| tempfile::Builder::new().prefix("plyfs-crash.").tempdir_in(memory))
        {
            Some(Ok(made)) => Ok(made),
            _ => tempfile::Builder::new().prefix("plyfs-crash.").tempdir(),
        };
        made.expect("a directory")
    }
}

impl fmt::Display for Stand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.stack.name)
    }
}

impl<'a> Stand<'a> {
    pub fn build(stack: &'a Stack, disk: Disk) -> Self {
        let root = disk.dir();
        let lowers = stack.lowers.len();
        for (branch, items) in stack.lowers.iter().enumerate() {
            layer::put(&root.path().join(branch.to_string()), items, branch + 1);
        }
        layer::put(&root.path().join("upper"), &stack.upper, 0);
        fs::create_dir(root.path().join("work")).expect("a workdir");
        fs::create_dir(root.path().join("outside")).expect("a directory");
        for (nth, (branch, name)) in stack.outside.iter().enumerate() {
            let from = root.path().join(branch.to_string()).join(name);
            fs::hard_link(from, root.path().join("outside").join(nth.to_string())).expect("a link");
        }
        let mut stand =
            Self { stack, root, lowers: Vec::new(), beneath: View::default(), markers: BTreeSet::new() };
        stand.lowers = (0..lowers).map(|branch| stand.snapshot(branch)).collect();
        stand.beneath = stand.walk_lowers();
        if !stack.history.is_empty() {
            let union = stand.open().expect("the union of an earlier mount");
            let mut known = Vec::new();
            for operation in &stack.history {
                operation
                    .run(&union, &mut known)
                    .unwrap_or_else(|e| panic!("{}: {operation}: {e}", stack.name));
            }
            forget(&union, known);
            union.close().expect("the end of an earlier mount");
        }
        each(&stand.upper(), &mut |path, _| {
            if is_marker(path) {
                stand.markers.insert(path.to_owned());
            }
        });
        stand
    }

    pub fn upper(&self) -> PathBuf {
        self.root.path().join("upper")
    }

    pub fn work(&self) -> PathBuf {
        self.root.path().join("work")
    }

    pub fn open(&self) -> Result<Union, Error> {
        self.open_as(UnionOptions::default())
    }

    pub fn open_as(&self, options: UnionOptions) -> Result<Union, Error> {
        let upper = UpperRoot {
            upper: open(self.upper()),
            work: Some(open(self.work())),
            writes: true,
            snapshots: Vec::new(),
        };
        let overlay_upper = self.stack.overlay_upper;
        let roots = BranchRoots { upper: Some(upper), lowers: self.lower_roots(), hidden: Hidden::default() };
        Union::open(roots, UnionOptions { overlay_upper, ..options })
    }

    fn lower_roots(&self) -> Vec<BranchRoot> {
        (0..self.stack.lowers.len()).map(|branch| open(self.root.path().join(branch.to_string()))).collect()
    }

    fn walk_lowers(&self) -> View {
        let roots = BranchRoots { upper: None, lowers: self.lower_roots(), hidden: Hidden::default() };
        let union = Union::open(roots, UnionOptions::default()).expect("a union without an upper");
        View::of(&union, Kernel::Forgets, &mut Vec::new()).expect("what the lowers show")
    }

    fn snapshot(&self, branch: usize) -> Snapshot {
        Snapshot::of(&self.root.path().join(branch.to_string()))
    }

    /// How many of our descriptors lead here.
    pub fn descriptors(&self) -> Vec<PathBuf> {
        let all = fs::read_dir("/proc/self/fd").expect("our descriptors");
        let paths = all.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        paths.filter(|path| path.starts_with(self.root.path())).collect()
    }

    /// What is wrong with the branches and the workdir while users see `view`.
    pub fn check(&self, view: &View) -> Vec<String> {
        let mut wrong = Vec::new();
        for (branch, before) in self.lowers.iter().enumerate() {
            if self.snapshot(branch) != *before {
                wrong.push(format!("lower {branch} was changed"));
            }
        }
        self.check_upper(view, &mut wrong);
        for dir in ["stage", "unlinked"] {
            for entry in fs::read_dir(self.work().join("plyfs").join(dir)).into_iter().flatten().flatten() {
                let name = entry.file_name();
                if !name.to_string_lossy().starts_with("whiteout-") {
                    wrong.push(format!("`{}` stays in {dir}", name.display()));
                }
            }
        }
        wrong
    }

    /// It is a layer at any time: what users see, and markers that hide something.
    fn check_upper(&self, view: &View, wrong: &mut Vec<String>) {
        let upper = self.upper();
        each(&upper, &mut |path, meta| {
            let below =
                path.strip_prefix(&upper).expect("a path in the upper").to_str().expect("a plain path");
            let private =
                xattrs(path).into_iter().find(|key| key.contains(".overlay.") || key.contains("plyfs"));
            if let Some(key) = private {
                wrong.push(format!("`{below}` in the upper has {key}"));
            }
            if is_marker(path) {
                if !meta.is_file() || meta.len() > 0 {
                    wrong.push(format!("`{below}` in the upper is no empty file"));
                }
                if !self.markers.contains(path) && !self.hides_something(path, below) {
                    wrong.push(format!("`{below}` in the upper hides nothing"));
                }
                return;
            }
            let is_whiteout =
                self.stack.overlay_upper && meta.file_type().is_char_device() && meta.rdev() == 0;
            match view.get(below) {
                _ if is_whiteout => {}
                None => wrong.push(format!("`{below}` is in the upper, and nobody sees it")),
                Some(entry) if entry.kind != rustix::fs::FileType::from_raw_mode(meta.mode()) => {
                    wrong.push(format!("`{below}` is of another type in the upper"));
                }
                Some(_) => {}
            }
        });
    }

    fn hides_something(&self, path: &Path, below: &str) -> bool {
        let (dir, name) = super::operation::parent_of(below);
        let hidden = name.trim_start_matches(".wh.");
        let hidden = if dir.is_empty() { hidden.to_owned() } else { format!("{dir}/{hidden}") };
        let in_opaque = path.parent().is_some_and(|dir| {
            dir.ancestors().take_while(|dir| *dir != self.upper()).any(|dir| dir.join(OPAQUE).exists())
        });
        name == OPAQUE || in_opaque || self.beneath.get(&hidden).is_some()
    }

    /// The copies that the workdir holds for lower files with several names, and how many names each has on disk.
    pub fn links(&self) -> BTreeMap<PathBuf, u64> {
        let dir = fs::read_dir(self.work().join("plyfs/links")).into_iter().flatten().flatten();
        dir.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.nlink()))).collect()
    }
}

const OPAQUE: &str = ".wh..wh..opq";

fn is_marker(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".wh."))
}

fn open(path: PathBuf) -> BranchRoot {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd: OwnedFd = rustix::fs::open(&path, flags, Mode::empty()).expect("a branch");
    BranchRoot { path, fd }
}

/// The kernel forgets all that it has looked up.
pub fn forget(union: &Union, known: Vec<NodeId>) {
    known.into_iter().for_each(|id| union.forget(id, 1));
}
