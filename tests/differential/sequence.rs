//! Does a mount behave as a plain directory does?
//!
//! The same operations on both, one after the other: the same answers, and in the end the same tree, before
//! and after a remount. The upper, unpacked over the lowers as an OCI layer, must give that tree too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::FileType;
use tempfile::TempDir;

use super::accepted::{Long, stands_alone};
use super::flatten::{ZeroDevice, flatten, may_be_whiteout};
use super::layer::{Entry, Folder, Formats, any_branch, folder, lay};
use super::look::{Inode, Tree, fingerprint, short};
use super::mounted::{Mounted, command, options};
use super::name::{LONG, Where, any_entry};
use super::op::{Op, Step, any_steps};
use super::play::Side;

/// What is mounted, and what is done to it. An upper with devices that are whiteouts is mounted as one that overlayfs
/// wrote.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) upper: Folder,
    pub(crate) lowers: Vec<Folder>,
    /// Hard links in the only lower: a name and its second name.
    pub(crate) twins: Vec<(Where, Where)>,
    pub(crate) volatile: bool,
    pub(crate) steps: Vec<Step>,
}

pub(crate) fn any_case() -> impl Strategy<Value = Case> {
    let lowers = prop::collection::vec(any_branch(Formats::All), 1..4);
    let upper =
        prop_oneof![4 => Just(folder()), 1 => any_branch(Formats::Oci), 1 => any_branch(Formats::Upper)];
    let stack = (upper.boxed(), lowers.boxed(), Just(Vec::new()));
    let twins = prop::collection::vec((any_entry(), any_entry()), 1..4);
    let one = any_branch(Formats::Oci).prop_map(|lower| vec![lower]).boxed();
    let linked = (Just(folder()), one, twins);
    let volatile = prop::bool::weighted(0.8);
    (prop_oneof![4 => stack.boxed(), 1 => linked.boxed()], volatile, any_steps().boxed())
        .prop_map(|((upper, lowers, twins), volatile, steps)| Case { upper, lowers, twins, volatile, steps })
}

/// As it is to be read.
impl Display for Case {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { upper, lowers, twins, volatile, steps } = self;
        write!(f, "upper{}:\n{upper}", if *volatile { " (volatile)" } else { "" })?;
        for lower in lowers {
            write!(f, "lower:\n{lower}")?;
        }
        for (from, to) in twins {
            writeln!(f, "if it can be done: ln {from:?} {to:?}")?;
        }
        for (i, Step { user, op }) in steps.iter().enumerate() {
            let by = if *user == 0 { String::new() } else { format!(" by {user}") };
            writeln!(f, "{i}{by}: {op:?}")?;
        }
        Ok(())
    }
}

/// Plays a case.
pub(crate) fn play(case: &Case) -> Result<(), String> {
    let _alone = super::alone();
    let mut game = Game::new(case);
    for (i, step) in case.steps.iter().enumerate() {
        game.step(step, i).map_err(|e| format!("step {i}, {step:?}: {e}"))?;
    }
    game.end()
}

struct Game {
    dir: TempDir,
    lowers: Vec<PathBuf>,
    lowers_before: Vec<BTreeMap<PathBuf, String>>,
    /// The upper's entries before the first mount: its markers are not ours.
    upper_before: BTreeSet<PathBuf>,
    /// How the upper's devices 0:0 are read.
    zero: ZeroDevice,
    options: String,
    union: Side,
    plain: Side,
    mounted: Option<Mounted>,
    /// Which number the union shows for which inode of the plain directory.
    numbers: BTreeMap<Inode, u64>,
    long: Long,
    has_twins: bool,
}

impl Game {
    fn new(case: &Case) -> Self {
        let dir = open_temp_dir();
        let path = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).expect("a directory");
            path
        };
        let lowers: Vec<_> = (0..case.lowers.len()).map(|i| path(&format!("lower{i}"))).collect();
        let (upper, work, plain, mnt) = (path("upper"), path("work"), path("plain"), path("mnt"));
        for (dir, folder) in lowers.iter().zip(&case.lowers) {
            lay(dir, folder);
        }
        lay(&upper, &case.upper);
        link_twins(&lowers[0], &case.twins);
        let from_overlayfs = case.upper.has_device_whiteouts();
        let zero = if from_overlayfs { ZeroDevice::Whiteout } else { ZeroDevice::Node };
        let mut stack = vec![(&*upper, zero)];
        stack.extend(lowers.iter().map(|lower| (&**lower, ZeroDevice::Whiteout)));
        flatten(&stack, &plain);

        let mut options = options(&lowers, Some((&upper, &work)));
        if case.volatile {
            options += ",volatile";
        }
        if from_overlayfs {
            options += ",upper_from_overlayfs";
        }
        Self {
            lowers_before: lowers.iter().map(|lower| fingerprint(lower)).collect(),
            upper_before: fingerprint(&upper).into_keys().collect(),
            zero,
            mounted: Some(Mounted::new(&options, &mnt)),
            options,
            union: Side::new(mnt),
            plain: Side::new(plain),
            numbers: BTreeMap::new(),
            long: Long {
                in_lowers: case.lowers.iter().any(holds_long)
                    || case.twins.iter().any(|(_, to)| to.ends_long()),
                gone_in_upper: long_is_gone(&case.upper),
            },
            has_twins: !case.twins.is_empty(),
            lowers,
            dir,
        }
    }

    fn step(&mut self, step: &Step, i: usize) -> Result<(), String> {
        match step.op {
            Op::Compare => return self.compare().map(drop),
            Op::Remount => return self.remount().map(drop),
            Op::Snapshot => return self.snapshot(),
            // It would be a whiteout.
            Op::Mknod { kind: FileType::CharacterDevice, device: (0, 0), .. }
                if self.zero == ZeroDevice::Whiteout =>
            {
                return Ok(());
            }
            _ => {}
        }
        let seed = i as u8;
        let answer = self.union.play(step, seed);
        if let Some(verdict) = stands_alone(&step.op, &answer, self.long) {
            self.plain.clock.skip();
            return verdict;
        }
        let expected = self.plain.play(step, seed);
        if answer == expected { Ok(()) } else { Err(format!("\n   plain {expected:?}\n   union {answer:?}")) }
    }

    /// The two trees are one, and every inode still has its number. Returns what the mount shows.
    fn compare(&mut self) -> Result<Tree, String> {
        let union = Tree::of(&self.union.root, &self.union.clock)?;
        let plain = Tree::of(&self.plain.root, &self.plain.clock)?;
        same(&plain, &union, ("plain", "union"))?;
        for (path, inode) in &plain.inodes {
            let number = union.inodes[path].number;
            let before = *self.numbers.entry(*inode).or_insert(number);
            if before != number {
                return Err(format!("/{}: st_ino was {before}, is {number}", short(path)));
            }
        }
        let shown: BTreeSet<_> = plain.inodes.values().map(|inode| self.numbers[inode]).collect();
        let real: BTreeSet<_> = plain.inodes.values().collect();
        if shown.len() != real.len() {
            return Err("two files have one st_ino".into());
        }
        Ok(union)
    }

    fn remount(&mut self) -> Result<Tree, String> {
        self.compare()?;
        self.union.close_all();
        self.plain.close_all();
        self.mounted.take().expect("mounted").end();
        self.mounted = Some(Mounted::new(&self.options, &self.union.root));
        self.compare().map_err(|e| format!("after a remount: {e}"))
    }

    fn snapshot(&mut self) -> Result<(), String> {
        command(&["snapshot"], &self.union.root, &[])?;
        self.compare().map(drop).map_err(|e| format!("after a snapshot: {e}"))
    }

    /// What was the upper, topmost first.
    fn snapshots(&self) -> Vec<PathBuf> {
        let layer = |number: usize| self.dir.path().join(format!("upper.snapshots/{number}/layer"));
        let mut found: Vec<_> = (1..).map(layer).take_while(|layer| layer.exists()).collect();
        found.reverse();
        found
    }

    fn end(mut self) -> Result<(), String> {
        let shown = self.remount()?;
        self.mounted.take().expect("mounted").end();
        for (lower, before) in self.lowers.iter().zip(&self.lowers_before) {
            if fingerprint(lower) != *before {
                return Err(format!("{} was changed", lower.display()));
            }
        }
        self.upper_is_a_layer(&shown)?;
        let work = self.dir.path().join("work");
        let names = fs::read_dir(&work).expect("the workdir").map(|e| e.expect("an entry").file_name());
        let left: Vec<_> = names.filter(|name| name != "plyfs").collect();
        if left.is_empty() { Ok(()) } else { Err(format!("left in the workdir: {left:?}")) }
    }

    /// Everything in the upper is shown, or a marker that hides something; and whoever unpacks it gets the
    /// same tree.
    fn upper_is_a_layer(&self, shown: &Tree) -> Result<(), String> {
        let upper = self.dir.path().join("upper");
        let snapshots = self.snapshots();
        let below: Vec<PathBuf> = snapshots.iter().chain(&self.lowers).cloned().collect();
        for path in fingerprint(&upper).into_keys().filter(|path| !self.upper_before.contains(path)) {
            let inner = path.strip_prefix(&upper).expect("beneath");
            let name = inner.file_name().unwrap_or_default().to_string_lossy();
            if may_be_whiteout(&path, self.zero) {
                // It moved with its directory: none is made.
                continue;
            }
            let Some(hidden) = name.strip_prefix(".wh.") else {
                if !shown.items.contains_key(inner) {
                    return Err(format!("in the upper, but not shown: {}", short(inner)));
                }
                continue;
            };
            let stat = fs::symlink_metadata(&path).expect("an entry");
            if !stat.is_file() || stat.len() > 0 {
                return Err(format!("a marker that is no empty file: {}", short(inner)));
            }
            let dir = inner.parent().expect("not the root");
            let is_there = |lower: &PathBuf| lower.join(dir).join(hidden).symlink_metadata().is_ok();
            let in_opaque = || dir.ancestors().any(|dir| upper.join(dir).join(".wh..wh..opq").exists());
            // A whiteout that was in the upper already may have been moved with its directory.
            let is_ours = self.upper_before.len() == 1;
            if is_ours && hidden != ".wh..opq" && !below.iter().any(is_there) && !in_opaque() {
                return Err(format!("a whiteout that hides nothing: {}", short(inner)));
            }
        }
        // Of a lower file's names only those in the upper change, as a layer.
        if self.has_twins {
            return Ok(());
        }
        let unpacked = self.dir.path().join("unpacked");
        fs::create_dir(&unpacked).expect("a directory");
        let mut stack = vec![(&*upper, self.zero)];
        stack.extend(snapshots.iter().map(|layer| (&**layer, self.zero)));
        stack.extend(self.lowers.iter().map(|lower| (&**lower, ZeroDevice::Whiteout)));
        flatten(&stack, &unpacked);
        // What was done through the mount has its time in the upper, and so in the layer.
        let unpacked = Tree::of(&unpacked, &self.union.clock)?;
        same(shown, &unpacked, ("shown", "unpacked")).map_err(|e| format!("the upper as a layer: {e}"))
    }
}

fn same(one: &Tree, other: &Tree, names: (&str, &str)) -> Result<(), String> {
    let differences = one.differences(other, names);
    if differences.is_empty() { Ok(()) } else { Err(format!("\n{}", differences.join("\n"))) }
}

/// A folder that every user may enter.
pub(crate) fn open_temp_dir() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::Builder::new().prefix("plyfs-differential-").tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("our own");
    dir
}

/// As many as can be made.
fn link_twins(root: &Path, twins: &[(Where, Where)]) {
    for (from, to) in twins {
        if from.has_reserved() || to.has_reserved() {
            continue;
        }
        let (from, to) = (from.under(root), to.under(root));
        let Some(parent) = to.parent() else { continue };
        let Ok(kept) = fs::symlink_metadata(parent) else { continue };
        let is_file = fs::symlink_metadata(&from).is_ok_and(|stat| !stat.is_dir());
        if is_file
            && kept.is_dir()
            && !to.to_string_lossy().contains(".wh.")
            && fs::hard_link(&from, &to).is_ok()
        {
            fs::File::open(parent)
                .and_then(|dir| dir.set_modified(kept.modified()?))
                .expect("our own directory");
        }
    }
}

fn holds_long(folder: &Folder) -> bool {
    folder
        .entries
        .iter()
        .any(|(name, entry)| *name == LONG || matches!(entry, Entry::Folder(inner) if holds_long(inner)))
}

fn long_is_gone(folder: &Folder) -> bool {
    let inside = |entry: &Entry| matches!(entry, Entry::Folder(inner) if long_is_gone(inner));
    folder.whiteouts.contains_key(LONG) || folder.entries.values().any(inside)
}
