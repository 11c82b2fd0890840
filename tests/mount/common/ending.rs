//! What must hold after any use of a union.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::snapshot::Snapshot;
use super::union::{KEPT, Union};

/// Looks, unmounts, looks, mounts once more, looks, and unmounts for good.
pub(super) fn check(union: &mut Union) {
    no_removed_file_stays_open(union.pid());
    let seen = Snapshot::of(&union.mount_point);
    union.unmount();
    let left_in_upper = union.writable.as_ref().map(|(upper, _)| Snapshot::of(upper));
    if let Some(upper) = &left_in_upper {
        upper_is_a_layer(union, upper, &seen);
    }
    workdir_is_clean(union);
    lowers_are_untouched(union);

    union.mount();
    same_tree_after_a_remount(union, &seen);
    union.unmount();
    if let (Some((path, _)), Some(before)) = (&union.writable, &left_in_upper) {
        // Reading may set access times in an upper, nothing else.
        let differences = before.differences(&Snapshot::of(path), &["atime"]);
        assert_eq!(differences, "", "mounting and looking changed the upper");
    }
    workdir_is_clean(union);
    lowers_are_untouched(union);
}

fn lowers_are_untouched(union: &Union) {
    let ignored: &[&str] = if union.numbers_change { &["ino"] } else { &[] };
    for (lower, before) in union.lowers.iter().zip(&union.lowers_before) {
        let differences = before.differences(&Snapshot::of(lower), ignored);
        assert_eq!(differences, "", "a lower was changed: {}", lower.display());
    }
}

/// A removed file's descriptor goes once no handle is open and the kernel has forgotten it.
fn no_removed_file_stays_open(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let removed: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|descriptor| descriptor.unwrap().path())
            // One that is closed while we look is none that stays.
            .filter(|path| fs::metadata(path).is_ok_and(|file| file.nlink() == 0))
            .filter_map(|path| fs::read_link(path).ok())
            // Pipes, eventfds and the like have no place in a tree.
            .filter(|target| target.is_absolute())
            .collect();
        if removed.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "removed files stay open: {removed:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The upper is a valid OCI changeset: entries that users see, and markers. A marker is an empty
/// file, and stands only where it hides something.
fn upper_is_a_layer(union: &Union, upper: &Snapshot, seen: &Snapshot) {
    let before = union.upper_before.as_ref().expect("an upper");
    for path in upper.paths().filter(|path| before.field(path, "mode").is_none()) {
        let shown = path.display();
        // A record of whose the file is belongs in a layer, see xattr_permissions.
        let xattrs = upper.field(path, "xattrs").unwrap().replace("fuseoverlayfs.override_stat", "");
        for private in ["plyfs", ".overlay.", "fuseoverlayfs"] {
            assert!(!xattrs.contains(private), "private xattrs on {shown}: {xattrs}");
        }
        let name = path.file_name().unwrap().to_str();
        let Some(hidden) = name.and_then(|name| name.strip_prefix(".wh.")) else {
            assert!(seen.field(path, "mode").is_some(), "in the upper but not to be seen: {shown}");
            continue;
        };
        let is_file = upper.field(path, "mode").unwrap().starts_with("100");
        assert!(is_file && upper.field(path, "size") == Some("0"), "a marker is empty: {shown}");
        if hidden == ".wh..opq" {
            continue;
        }
        assert!(!hidden.starts_with(".wh."), "not a name for users: {shown}");
        let dir = path.parent().unwrap();
        let place = dir.join(hidden);
        let hides = union.lowers_before.iter().any(|lower| lower.field(&place, "mode").is_some());
        let hides_past = || snapshots(union).any(|layer| layer.join(&place).symlink_metadata().is_ok());
        assert!(hides || is_opaque(upper, dir) || hides_past(), "hides nothing: {shown}");
    }
}

/// What the upper was once.
fn snapshots(union: &Union) -> impl Iterator<Item = PathBuf> {
    let store = union.writable.as_ref().map(|(upper, _)| {
        let mut name = upper.file_name().unwrap().to_owned();
        name.push(".snapshots");
        upper.with_file_name(name)
    });
    let entries = store.into_iter().flat_map(|store| fs::read_dir(store).into_iter().flatten());
    entries.map(|entry| entry.unwrap().path().join("layer"))
}

/// In an opaque directory a whiteout from before it became opaque may stand.
fn is_opaque(upper: &Snapshot, dir: &Path) -> bool {
    dir.ancestors().any(|dir| upper.field(&dir.join(".wh..wh..opq"), "mode").is_some())
}

/// In the workdir is what was there before, as it was, and one directory that is plyfs' own. Nothing is left in that
/// of what was staged.
fn workdir_is_clean(union: &Union) {
    let (Some((_, work)), Some(before)) = (&union.writable, &union.work_before) else {
        return;
    };
    let names_before = before.names();
    let left: Vec<_> =
        super::names(work).into_iter().filter(|name| name != KEPT && !names_before.contains(name)).collect();
    assert!(left.is_empty(), "left in the workdir: {left:?}");
    let now = Snapshot::of(work);
    let foreign = |path: &Path| path != Path::new(".") && !path.starts_with(KEPT);
    let differences = before.part(foreign).differences(&now.part(foreign), &["atime"]);
    assert_eq!(differences, "", "what is not ours was changed in the workdir");
    let kept = work.join(KEPT);
    if super::exists(&kept) {
        assert_eq!(super::mode(&kept), 0o700, "others may look into the workdir");
        let stage = kept.join("stage");
        let staged = if super::exists(&stage) { super::names(stage) } else { Vec::new() };
        assert!(staged.is_empty(), "still staged: {staged:?}");
    }
}

fn same_tree_after_a_remount(union: &Union, seen: &Snapshot) {
    // A read sets the access time in an upper as on any disk. The change time is that of the
    // branch, so a copy-up sets it.
    let mut ignored = vec!["atime", "ctime"];
    if union.numbers_change || !on_one_filesystem(union) {
        ignored.push("ino");
    }
    let differences = seen.differences(&Snapshot::of(&union.mount_point), &ignored);
    assert_eq!(differences, "", "the tree is another one after a remount");
}

fn on_one_filesystem(union: &Union) -> bool {
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    let upper = union.writable.iter().map(|(upper, _)| upper);
    let devices: BTreeSet<_> = union.lowers.iter().chain(upper).map(|path| device(path)).collect();
    devices.len() == 1
}
