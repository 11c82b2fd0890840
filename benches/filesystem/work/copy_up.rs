//! The first write to a lower file.
//!
//! The kernel's overlayfs and plyfs have a copy on disk before they show it; with `-o volatile` they don't.
//! fuse-overlayfs and unionfs-fuse never do. So each of these comes twice.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use plyfs::units::size;

use super::{Row, Target, Workload, row};
use crate::Result;
use crate::candidate::Syncing;
use crate::corpus::{BIG, files_of, warm};
use crate::scale::Scale;

pub(super) fn workloads(scale: &Scale) -> Vec<Workload> {
    vec![
        many(scale, Syncing::AsIs, row("copy-up-many").at_most(1.0)).essential(),
        many(
            scale,
            Syncing::Volatile,
            row("copy-up-many-volatile").must(Target::RatioTo("copy-up-many", 0.6)),
        )
        .volatile()
        .essential(),
        one(scale, Syncing::AsIs, row("copy-up-big").at_most(1.0)).essential(),
        one(scale, Syncing::Volatile, row("copy-up-big-volatile").must(Target::RatioTo("copy-up-big", 0.18)))
            .volatile()
            .essential(),
        shared(scale),
    ]
}

fn many(scale: &Scale, syncing: Syncing, row: Row) -> Workload {
    let (name, copied) = (name(syncing, ["copy-up-many", "copy-up-many-volatile"]), scale.copied);
    let about = format!("append a byte to each of {copied} small files{}", how(syncing));
    Workload::new(name, about, [row.copies()], move |ground, candidate| {
        let lower = &ground.corpus.sources;
        warm(lower, true)?;
        let mut files = files_of(lower)?;
        files.truncate(copied);
        let mounted = ground.disk.mount(candidate, lower, syncing)?;
        let append_to_all = || files.iter().try_for_each(|file| append(&mounted.path().join(file)));
        Ok(vec![ground.disk.time(append_to_all)?])
    })
}

fn one(scale: &Scale, syncing: Syncing, row: Row) -> Workload {
    let name = name(syncing, ["copy-up-big", "copy-up-big-volatile"]);
    let about = format!("append a byte to a file of {}{}", size(scale.big_file), how(syncing));
    Workload::new(name, about, [row.copies()], move |ground, candidate| {
        warm(&ground.corpus.big, true)?;
        let mounted = ground.disk.mount(candidate, &ground.corpus.big, syncing)?;
        Ok(vec![ground.disk.time(|| append(&mounted.path().join(BIG)))?])
    })
}

/// Where blocks can be shared there is nothing to copy.
fn shared(scale: &Scale) -> Workload {
    let big = scale.big_file;
    let about = format!("append a byte to a file of {} on xfs, which can share its blocks", size(big));
    let row = row("copy-up-reflink").must(Target::Absolute(0.006)).copies();
    Workload::new("copy-up-reflink", about, [row], move |ground, candidate| {
        let image = ground.reflink()?;
        let mounted = image.site.mount(candidate, &image.lower(big)?, Syncing::AsIs)?;
        Ok(vec![image.site.time(|| append(&mounted.path().join(BIG)))?])
    })
    .once()
}

fn name(syncing: Syncing, names: [&'static str; 2]) -> &'static str {
    names[usize::from(syncing == Syncing::Volatile)]
}

fn how(syncing: Syncing) -> &'static str {
    match syncing {
        Syncing::AsIs => "",
        Syncing::Volatile => ", with -o volatile",
    }
}

fn append(file: &Path) -> Result<()> {
    Ok(OpenOptions::new().append(true).open(file)?.write_all(b"x")?)
}
