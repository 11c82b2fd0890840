//! How much memory does a daemon take for what it has shown, and does it give it back?

use std::fs::{self, File};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use super::{Row, Target, Unit, Workload, find, row};
use crate::Result;
use crate::candidate::{Candidate, Syncing};
use crate::ground::Ground;
use crate::scale::Scale;

/// Entries of each directory of the tree with many files.
const IN_ONE_DIRECTORY: usize = 1_000;
/// When nobody asks, a daemon may tidy up.
const LEISURE: Duration = Duration::from_secs(1);

pub(super) fn workloads(scale: &Scale) -> Vec<Workload> {
    let many = scale.many_files;
    let row = |name| row(name).counts(Unit::Bytes);
    let must = |row: Row| row.must(Target::Absolute(200.0));
    vec![
        Workload::new(
            "memory",
            "the daemon's memory for each inode, after find over the tree",
            [must(row("memory"))],
            |ground, candidate| {
                Ok(memory(ground, candidate, &ground.corpus.tree)?.into_iter().take(1).collect())
            },
        )
        .once(),
        Workload::new(
            "memory-many",
            format!(
                "the same for {many} files, and what is left of it when the kernel has dropped its caches"
            ),
            [must(row("memory-many")), row("memory-many-left")],
            move |ground, candidate| memory(ground, candidate, &many_files(ground, many)?),
        )
        .once(),
    ]
}

fn many_files(ground: &Ground, many: usize) -> Result<std::path::PathBuf> {
    ground.once(&format!("files-{many}"), |dir| {
        for at in 0..many {
            let folder = dir.join((at / IN_ONE_DIRECTORY).to_string());
            if at % IN_ONE_DIRECTORY == 0 {
                fs::create_dir(&folder)?;
            }
            File::create(folder.join(format!("file-{at}")))?;
        }
        Ok(())
    })
}

/// How much it has grown by for each inode that was shown, and by how much it is larger when all are forgotten.
fn memory(ground: &Ground, candidate: &Candidate, lower: &Path) -> Result<Vec<f64>> {
    let mut inodes = 0;
    crate::corpus::walk(lower, &mut |_, _| {
        inodes += 1;
        Ok(())
    })?;
    let mounted = ground.disk.mount(candidate, lower, Syncing::AsIs)?;
    // The kernel's memory is not any process'.
    let Some(daemon) = mounted.daemon() else { return Ok(Vec::new()) };
    let before = resident(daemon)?;
    let each = |now: u64| now.saturating_sub(before) as f64 / f64::from(inodes);
    find(&mounted.path())?;
    sleep(LEISURE);
    let full = each(resident(daemon)?);
    // Only real root can have them dropped.
    match fs::write("/proc/sys/vm/drop_caches", "2") {
        Ok(()) => {
            sleep(2 * LEISURE);
            Ok(vec![full, each(resident(daemon)?)])
        }
        Err(_) => Ok(vec![full]),
    }
}

/// What a process has in memory of its own, in bytes.
fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon in /proc")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
