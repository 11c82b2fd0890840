//! How do costs grow: with the size of a file, the number of branches, the size of a directory?

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use plyfs::units::{KIB, size};

use super::look::deep_stack;
use super::{Row, Workload, find, row};
use crate::Result;
use crate::candidate::{Candidate, Syncing};
use crate::corpus::{BIG, files_of, warm, write_noise};
use crate::ground::{Ground, Site};
use crate::scale::Scale;

/// The curve of the writes that copy up.
const FIRST: &str = "first write";

pub(super) fn workloads(scale: &Scale) -> Vec<Workload> {
    let sizes = scale.copy_up_sizes.clone();
    let on_disk = move |ground: &Ground, candidate: &Candidate| {
        writes(&ground.disk, candidate, &sizes, |size| {
            ground.once(&format!("size-{size}"), |dir| write_noise(&dir.join(BIG), size))
        })
    };
    let sizes = scale.copy_up_sizes.clone();
    let on_xfs = move |ground: &Ground, candidate: &Candidate| {
        let image = ground.reflink()?;
        writes(&image.site, candidate, &sizes, |size| image.lower(size))
    };
    let (counts, directories) = (scale.branch_counts.clone(), scale.directory_sizes.clone());
    let size_rows = |name| {
        let rows =
            |curve, short| scale.copy_up_sizes.iter().map(move |size| point(name, short, *size, curve));
        rows(FIRST, "first-").chain(rows("second write", "second-")).collect::<Vec<_>>()
    };
    vec![
        Workload::new(
            "copy-up-sizes",
            "first and second write of 4 KiB to lower files of growing size",
            size_rows("copy-up-sizes"),
            on_disk,
        )
        .plotted("What the first write to a file costs", "size of the file", "time"),
        Workload::new(
            "copy-up-sizes-reflink",
            "the same on xfs with reflink",
            size_rows("copy-up-sizes-reflink"),
            on_xfs,
        )
        .plotted("What the first write costs where blocks are shared", "size of the file", "time"),
        Workload::new(
            "branches",
            "find over the sources, cold, for each name, with more and more branches above",
            counts.iter().map(|count| point("branches", "", *count as u64, "")).collect::<Vec<_>>(),
            move |ground, candidate| counts.iter().map(|count| lookup(ground, candidate, *count)).collect(),
        )
        .plotted("What a lookup costs in a stack of branches", "branches", "time for each name"),
        Workload::new(
            "listing",
            "list a directory, cold",
            directories.iter().map(|count| point("listing", "", *count as u64, "")).collect::<Vec<_>>(),
            move |ground, candidate| {
                directories.iter().map(|count| listing(ground, candidate, *count)).collect()
            },
        )
        .plotted("What a listing costs", "entries of the directory", "time"),
    ]
}

fn point(workload: &str, short: &str, x: u64, curve: &'static str) -> Row {
    let at = if short.is_empty() { x.to_string() } else { size(x).replace(' ', "") };
    let point = Row { point: Some((x, curve)), ..row(&format!("{workload}-{short}{at}")) };
    if curve == FIRST { point.copies() } else { point }
}

/// First writes to a file of each size, then second writes.
fn writes(
    site: &Site,
    candidate: &Candidate,
    sizes: &[u64],
    lower: impl Fn(u64) -> Result<std::path::PathBuf>,
) -> Result<Vec<f64>> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for &size in sizes {
        let lower = lower(size)?;
        warm(&lower, true)?;
        let mounted = site.mount(candidate, &lower, Syncing::AsIs)?;
        let write = || write_in_the_middle(&mounted.path().join(BIG), size);
        first.push(site.time(write)?);
        second.push(site.time(write)?);
    }
    first.append(&mut second);
    Ok(first)
}

fn write_in_the_middle(path: &Path, size: u64) -> Result<()> {
    let file: File = OpenOptions::new().write(true).open(path)?;
    Ok(file.write_all_at(&[b'x'; 4 * KIB as usize], (size / 2) & !(4 * KIB - 1))?)
}

fn lookup(ground: &Ground, candidate: &Candidate, branches: usize) -> Result<f64> {
    let lower = &ground.corpus.sources;
    warm(lower, false)?;
    let stack = deep_stack(ground, branches, lower)?;
    let mounted = ground.disk.mount_stack(candidate, &stack, Syncing::AsIs)?;
    Ok(ground.disk.time(|| find(&mounted.path()))? / files_of(lower)?.len() as f64)
}

fn listing(ground: &Ground, candidate: &Candidate, entries: usize) -> Result<f64> {
    let lower = ground.once(&format!("entries-{entries}"), |dir| {
        (0..entries).try_for_each(|at| Ok(File::create(dir.join(format!("entry-{at}"))).map(drop)?))
    })?;
    let list = |dir: &Path| -> Result<()> {
        let listed = fs::read_dir(dir)?.count();
        if listed == entries {
            Ok(())
        } else {
            Err(format!("{listed} of {entries} entries are listed").into())
        }
    };
    list(&lower)?;
    let mounted = ground.disk.mount(candidate, &lower, Syncing::AsIs)?;
    ground.disk.time(|| list(&mounted.path()))
}
