//! Does a stack of branches show what it flattens to?
//!
//! Branches with markers of every format, mounted without and with an upper, are compared with what they
//! unpack to; and where the kernel's overlayfs reads all of the formats, with what it shows.

use std::ffi::CString;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::flatten::{ZeroDevice, flatten};
use super::layer::{Folder, Formats, any_branch, lay};
use super::look::Tree;
use super::mounted::{Mounted, options};
use super::sequence::open_temp_dir;
use super::times::Clock;

/// What is stacked, topmost first.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    formats: Formats,
    branches: Vec<Folder>,
}

impl Display for Stack {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.branches.iter().try_for_each(|branch| write!(f, "branch:\n{branch}"))
    }
}

pub(crate) fn any_stack() -> impl Strategy<Value = Stack> {
    let formats = prop_oneof![3 => Just(Formats::All), 1 => Just(Formats::Oci), 2 => Just(Formats::Overlay)];
    formats.prop_flat_map(|formats| {
        prop::collection::vec(any_branch(formats), 1..6).prop_map(move |branches| Stack { formats, branches })
    })
}

/// Mounts it in every way.
pub(crate) fn check(stack: &Stack) -> Result<(), String> {
    let _alone = super::alone();
    let dir = open_temp_dir();
    let path = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).expect("a directory");
        path
    };
    let branches: Vec<_> = (0..stack.branches.len()).map(|i| path(&format!("branch{i}"))).collect();
    for (dir, folder) in branches.iter().zip(&stack.branches) {
        lay(dir, folder);
    }
    let (flat, mnt) = (path("flat"), path("mnt"));
    let bottom_up: Vec<_> = branches.iter().map(|branch| (&**branch, ZeroDevice::Whiteout)).collect();
    flatten(&bottom_up, &flat);
    let expected = Tree::of(&flat, &Clock::default())?;

    let read_only = show(&options(&branches, None), &mnt)?;
    same(&expected, &read_only, "flattened", "read-only")?;

    let (upper, work) = (path("upper"), path("work"));
    let mut under_upper = show(&options(&branches, Some((&upper, &work))), &mnt)?;
    take_root_of(&mut under_upper, &expected);
    same(&expected, &under_upper, "flattened", "with an empty upper")?;

    if stack.formats == Formats::Overlay && stack.branches.iter().all(|branch| branch.opaque.is_none()) {
        // It wants two branches, and an empty one at the end hides nothing.
        let overlay = show_overlay(&branches, &path("empty"), &mnt)?;
        same(&overlay, &read_only, "overlayfs", "plyfs")?;
    }
    Ok(())
}

fn show(options: &str, mnt: &Path) -> Result<Tree, String> {
    let mounted = Mounted::new(options, mnt);
    let tree = Tree::of(mnt, &Clock::default());
    mounted.end();
    tree.map_err(|e| format!("{options}: {e}"))
}

fn show_overlay(branches: &[PathBuf], empty: &Path, mnt: &Path) -> Result<Tree, String> {
    let all: Vec<_> = branches.iter().map(|branch| branch.to_str().expect("our own path")).collect();
    let options = format!("lowerdir={}:{}", all.join(":"), empty.display());
    let options = CString::new(options).expect("no NUL");
    mount("overlay", mnt, "overlay", MountFlags::RDONLY, options.as_c_str()).expect("root");
    let tree = Tree::of_overlayfs(mnt);
    unmount(mnt, UnmountFlags::empty()).expect("our own mount");
    tree
}

/// The upper's root is the topmost part of the root.
fn take_root_of(tree: &mut Tree, from: &Tree) {
    let root = PathBuf::new();
    tree.items.insert(root.clone(), from.items[&root].clone());
}

fn same(one: &Tree, other: &Tree, name: &str, other_name: &str) -> Result<(), String> {
    let differences = one.differences(other, (name, other_name));
    if differences.is_empty() { Ok(()) } else { Err(format!("\n{}", differences.join("\n"))) }
}
