//! What may a branch hold, and how does it get onto the disk?

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use proptest::prelude::*;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat, utimensat,
};

use super::name::{LONG, Name, any_name};
use super::times::{Instant, TIMES};

/// What every entry has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr {
    pub(crate) mode: u32,
    pub(crate) owner: u32,
    pub(crate) mtime: Instant,
    pub(crate) xattr: Option<&'static str>,
}

/// How a directory says that a name beneath is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whiteout {
    /// `.wh.NAME`.
    Oci,
    /// A device 0:0 of that name.
    Device,
    /// An empty file of that name with the attribute `overlay.whiteout`, in this namespace.
    Xattr(&'static str),
}

/// How a directory says that nothing beneath shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opaque {
    /// `.wh..wh..opq`.
    Oci,
    /// An attribute.
    Xattr(&'static str),
}

/// A directory of a branch.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    pub(crate) attr: Attr,
    pub(crate) opaque: Option<Opaque>,
    pub(crate) whiteouts: BTreeMap<Name, Whiteout>,
    pub(crate) entries: BTreeMap<Name, Entry>,
    /// Whether the names that AUFS keeps for itself lie about.
    pub(crate) aufs: bool,
}

/// What has a name in a branch.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Folder(Folder),
    File { attr: Attr, seed: u8, len: usize },
    Symlink { attr: Attr, target: &'static str },
    Node { attr: Attr, kind: FileType, device: (u32, u32) },
}

/// Which markers a branch may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Formats {
    Oci,
    /// What the kernel's overlayfs reads.
    Overlay,
    /// What an upper holds that overlayfs began and plyfs goes on with.
    Upper,
    All,
}

/// A directory with nothing in it.
pub(crate) fn folder() -> Folder {
    let attr = Attr { mode: 0o755, owner: 0, mtime: TIMES[0], xattr: None };
    Folder { attr, opaque: None, whiteouts: BTreeMap::new(), entries: BTreeMap::new(), aufs: false }
}

/// For the cases that were written down.
impl Folder {
    pub(crate) fn with(mut self, name: Name, entry: Entry) -> Self {
        self.entries.insert(name, entry);
        self
    }

    pub(crate) fn file(self, name: Name, len: usize) -> Self {
        let attr = Attr { mode: 0o644, ..folder().attr };
        self.with(name, Entry::File { attr, seed: 1, len })
    }

    pub(crate) fn dir(self, name: Name, folder: Self) -> Self {
        self.with(name, Entry::Folder(folder))
    }

    pub(crate) fn gone(mut self, name: Name, how: Whiteout) -> Self {
        self.whiteouts.insert(name, how);
        self
    }

    pub(crate) fn opaque(self, how: Opaque) -> Self {
        Self { opaque: Some(how), ..self }
    }

    /// Whether a device 0:0 is a whiteout, here or deeper.
    pub(crate) fn has_device_whiteouts(&self) -> bool {
        let inside = |entry: &Entry| matches!(entry, Entry::Folder(inner) if inner.has_device_whiteouts());
        self.whiteouts.values().any(|w| *w == Whiteout::Device) || self.entries.values().any(inside)
    }

    /// Nothing is in it, not even a marker.
    pub(crate) fn is_bare(&self) -> bool {
        self.opaque.is_none() && self.whiteouts.is_empty() && self.entries.is_empty()
    }
}

/// One line an entry.
impl Display for Folder {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.list(f, "")
    }
}

impl Folder {
    fn list(&self, f: &mut Formatter<'_>, path: &str) -> fmt::Result {
        let Self { attr, opaque, whiteouts, entries, aufs } = self;
        writeln!(f, "  {path}/  {attr}{}", if *aufs { " with AUFS' files" } else { "" })?;
        if let Some(opaque) = opaque {
            writeln!(f, "  {path}/ is opaque: {opaque:?}")?;
        }
        for (name, whiteout) in whiteouts {
            writeln!(f, "  {path}/{} is gone: {whiteout:?}", shown(name))?;
        }
        for (name, entry) in entries {
            let path = format!("{path}/{}", shown(name));
            match entry {
                Entry::Folder(folder) => folder.list(f, &path)?,
                Entry::File { attr, seed, len } => writeln!(f, "  {path}  {len} bytes of {seed}, {attr}")?,
                Entry::Symlink { attr, target } => writeln!(f, "  {path} -> {target}  {attr}")?,
                Entry::Node { attr, kind, device } => writeln!(f, "  {path}  {kind:?} {device:?}, {attr}")?,
            }
        }
        Ok(())
    }
}

impl Display for Attr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { mode, owner, mtime, xattr } = self;
        write!(f, "{mode:04o} of {owner}")?;
        if *mtime != TIMES[0] {
            write!(f, " at {mtime:?}")?;
        }
        xattr.map_or(Ok(()), |value| write!(f, " with xattr {value:?}"))
    }
}

fn shown(name: Name) -> Name {
    if name == LONG { "LONG" } else { name }
}

/// Bytes that differ from seed to seed, so that a mix-up shows.
pub(crate) fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) as u8) ^ ((i >> 8) as u8) ^ seed.wrapping_mul(57)).collect()
}

/// Fills a directory.
pub(crate) fn lay(dir: &Path, folder: &Folder) {
    let spaces = xattr_spaces(folder);
    lay_folder(dir, folder, &spaces, true);
}

fn lay_folder(dir: &Path, folder: &Folder, spaces: &[&'static str], is_root: bool) {
    for (name, whiteout) in &folder.whiteouts {
        let bare = dir.join(name);
        match whiteout {
            Whiteout::Oci => fs::write(dir.join(format!(".wh.{name}")), "").expect("a whiteout"),
            Whiteout::Device => {
                mknodat(CWD, &bare, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)).expect("root");
            }
            Whiteout::Xattr(space) => {
                fs::write(&bare, "").expect("a whiteout");
                set_xattr(&bare, &format!("{space}.overlay.whiteout"), "");
            }
        }
    }
    let xattr_whiteout =
        |space: &&'static str| folder.whiteouts.values().any(|w| *w == Whiteout::Xattr(space));
    for space in spaces.iter().copied().filter(|space| is_root || xattr_whiteout(space)) {
        set_xattr(dir, &format!("{space}.overlay.opaque"), "x");
    }
    match folder.opaque {
        None => {}
        Some(Opaque::Oci) => fs::write(dir.join(".wh..wh..opq"), "").expect("a marker"),
        // One attribute cannot say both `x` and `y`.
        Some(Opaque::Xattr(_)) if !spaces.is_empty() => set_xattr(dir, "user.fuseoverlayfs.opaque", "y"),
        Some(Opaque::Xattr(key)) => set_xattr(dir, key, "y"),
    }
    if folder.aufs {
        for name in [".wh.", ".wh..", ".wh...", ".wh..wh.aufs", ".wh..wh.orph"] {
            fs::write(dir.join(name), "").expect("a reserved name");
        }
        fs::create_dir(dir.join(".wh..wh.plnk")).expect("a reserved name");
    }
    for (name, entry) in &folder.entries {
        lay_entry(&dir.join(name), entry, spaces);
    }
    attribute(dir, &folder.attr);
}

fn lay_entry(path: &Path, entry: &Entry, spaces: &[&'static str]) {
    match entry {
        Entry::Folder(folder) => {
            fs::create_dir(path).expect("a directory");
            lay_folder(path, folder, spaces, false);
        }
        Entry::File { attr, seed, len } => {
            let file = fs::File::create_new(path).expect("a file");
            if *len > 50_000 {
                // Mostly a hole.
                file.set_len(*len as u64).expect("a sparse file");
                file.write_all_at(&pattern(*seed, 100), *len as u64 / 2).expect("data");
            } else {
                file.write_all_at(&pattern(*seed, *len), 0).expect("data");
            }
            attribute(path, attr);
        }
        Entry::Symlink { attr, target } => {
            symlink(target, path).expect("a symbolic link");
            attribute(path, attr);
        }
        Entry::Node { attr, kind, device } => {
            mknodat(CWD, path, *kind, Mode::empty(), makedev(device.0, device.1)).expect("root");
            attribute(path, attr);
        }
    }
}

fn attribute(path: &Path, attr: &Attr) {
    let is_symlink = path.is_symlink();
    lchown(path, Some(attr.owner), Some(attr.owner)).expect("root");
    if !is_symlink {
        chown(path, Some(attr.owner), Some(attr.owner)).expect("root");
        fs::set_permissions(path, fs::Permissions::from_mode(attr.mode)).expect("root");
    }
    if let Some(value) = attr.xattr {
        // Only files and directories take `user.`.
        let takes_user = path.is_dir() || path.is_file();
        let key = if takes_user && !is_symlink { "user.t" } else { "trusted.t" };
        set_xattr(path, key, value);
    }
    let time = Timespec { tv_sec: attr.mtime.0, tv_nsec: attr.mtime.1 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("a time");
}

fn set_xattr(path: &Path, key: &str, value: &str) {
    lsetxattr(path, key, value.as_bytes(), XattrFlags::empty()).expect("an extended attribute");
}

/// The namespaces of a branch's whiteouts by attribute: its root must announce them.
fn xattr_spaces(folder: &Folder) -> Vec<&'static str> {
    let mut spaces: Vec<_> = folder
        .whiteouts
        .values()
        .filter_map(|w| if let Whiteout::Xattr(space) = w { Some(*space) } else { None })
        .collect();
    for entry in folder.entries.values() {
        if let Entry::Folder(inner) = entry {
            spaces.extend(xattr_spaces(inner));
        }
    }
    spaces.sort_unstable();
    spaces.dedup();
    spaces
}

/// A whole branch.
pub(crate) fn any_branch(formats: Formats) -> BoxedStrategy<Folder> {
    let leaf = any_leaf().boxed();
    let inner = any_folder(leaf.clone(), formats).prop_map(Entry::Folder);
    let entry = prop_oneof![2 => leaf.clone(), 1 => inner].boxed();
    let outer = any_folder(entry, formats).prop_map(Entry::Folder);
    let top = prop_oneof![1 => leaf, 2 => outer].boxed();
    any_folder(top, formats)
        .prop_map(|mut root| {
            if !matches!(root.attr.mode, 0o755 | 0o777) {
                root.attr.mode = 0o755;
            }
            root
        })
        .boxed()
}

fn any_folder(entry: BoxedStrategy<Entry>, formats: Formats) -> BoxedStrategy<Folder> {
    let modes = [0o755, 0o755, 0o777, 0o777, 0o700, 0o1777, 0o2775, 0o555];
    let opaque = prop_oneof![7 => Just(None), 1 => any_opaque(formats).prop_map(Some)];
    let whiteouts = prop::collection::btree_map(any_name(), any_whiteout(formats), 0..2);
    let entries = prop::collection::btree_map(any_name(), entry, 0..5);
    let aufs = prop::bool::weighted(if formats == Formats::All { 0.05 } else { 0.0 });
    (any_attr(modes.to_vec()), opaque, whiteouts, entries, aufs)
        .prop_map(|(attr, opaque, mut whiteouts, entries, aufs)| {
            whiteouts.retain(|name, whiteout| {
                if *whiteout == Whiteout::Oci { name.len() <= 251 } else { !entries.contains_key(name) }
            });
            Folder { attr, opaque, whiteouts, entries, aufs }
        })
        .boxed()
}

fn any_leaf() -> impl Strategy<Value = Entry> {
    let modes = vec![0o644, 0o644, 0o666, 0o600, 0o444, 0o4755, 0o2755, 0o755];
    let attr = move || any_attr(modes.clone());
    let lens = prop::sample::select(vec![0, 7, 7, 4096, 10_000, 300_000]);
    let targets = prop::sample::select(vec!["a", "b", "b/c", "nowhere", "."]);
    let kinds = prop::sample::select(vec![
        (FileType::Fifo, (0, 0)),
        (FileType::Socket, (0, 0)),
        (FileType::CharacterDevice, (1, 3)),
        (FileType::BlockDevice, (7, 1)),
    ]);
    prop_oneof![
        8 => (attr(), any::<u8>(), lens).prop_map(|(attr, seed, len)| Entry::File { attr, seed, len }),
        2 => (attr(), targets).prop_map(|(attr, target)| Entry::Symlink { attr, target }),
        1 => (attr(), kinds).prop_map(|(attr, (kind, device))| Entry::Node { attr, kind, device }),
    ]
}

fn any_attr(modes: Vec<u32>) -> impl Strategy<Value = Attr> {
    let owner = prop::sample::select(vec![0, 0, 1000, 65_534]);
    let mtime = prop::sample::select(TIMES.to_vec());
    let xattr = prop::sample::select(vec![None, None, Some("one"), Some("")]);
    (prop::sample::select(modes), owner, mtime, xattr).prop_map(|(mode, owner, mtime, xattr)| Attr {
        mode,
        owner,
        mtime,
        xattr,
    })
}

fn any_opaque(formats: Formats) -> BoxedStrategy<Opaque> {
    let keys = match formats {
        Formats::Oci => return Just(Opaque::Oci).boxed(),
        Formats::Overlay | Formats::Upper => vec!["trusted.overlay.opaque"],
        Formats::All => vec!["trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque"],
    };
    let xattr = prop::sample::select(keys).prop_map(Opaque::Xattr);
    if formats == Formats::Overlay { xattr.boxed() } else { prop_oneof![Just(Opaque::Oci), xattr].boxed() }
}

fn any_whiteout(formats: Formats) -> BoxedStrategy<Whiteout> {
    match formats {
        Formats::Oci => Just(Whiteout::Oci).boxed(),
        Formats::Overlay => Just(Whiteout::Device).boxed(),
        Formats::Upper => prop_oneof![1 => Just(Whiteout::Oci), 3 => Just(Whiteout::Device)].boxed(),
        Formats::All => prop::sample::select(vec![
            Whiteout::Oci,
            Whiteout::Oci,
            Whiteout::Device,
            Whiteout::Xattr("trusted"),
            Whiteout::Xattr("user"),
        ])
        .boxed(),
    }
}
