//! Making, changing and removing many small things.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use super::{Workload, program, row};
use crate::Result;
use crate::candidate::Syncing;
use crate::corpus::{walk, warm};
use crate::scale::Scale;

/// Entries of each directory that is filled.
const IN_ONE_DIRECTORY: usize = 100;

pub(super) fn workloads(scale: &Scale) -> Vec<Workload> {
    let (created, files) = (scale.created, scale.repository_files);
    vec![
        Workload::new(
            "create",
            format!("create {created} files of 100 bytes in directories of {IN_ONE_DIRECTORY}"),
            [row("create").at_most(1.5)],
            move |ground, candidate| {
                let mounted = ground.disk.mount(candidate, &ground.corpus.empty, Syncing::AsIs)?;
                Ok(vec![ground.disk.time(|| create(&mounted.path(), created))?])
            },
        )
        .essential(),
        Workload::new(
            "untar",
            format!("tar -x of {files} files into a new directory"),
            [row("untar").at_most(1.6)],
            |ground, candidate| {
                let mounted = ground.disk.mount(candidate, &ground.corpus.empty, Syncing::AsIs)?;
                let target = mounted.path().join("new");
                let unpack = || {
                    fs::create_dir(&target)?;
                    program("tar", &["-xf"], &[&ground.corpus.archive, Path::new("-C"), &target])
                };
                Ok(vec![ground.disk.time(unpack)?])
            },
        )
        .essential(),
        Workload::new(
            "remove",
            format!("rm -r of a lower's tree of {files} files"),
            [row("remove").at_most(1.6)],
            |ground, candidate| {
                warm(&ground.corpus.sources, false)?;
                let mounted = ground.disk.mount(candidate, &ground.corpus.sources, Syncing::AsIs)?;
                let top = fs::read_dir(mounted.path())?.map(|entry| Ok(entry?.path()));
                let top = top.collect::<Result<Vec<_>>>()?;
                Ok(vec![ground.disk.time(|| program("rm", &["-rf"], &top))?])
            },
        )
        .essential(),
        Workload::new(
            "chmod",
            format!("change the mode of everything in a lower's tree of {files} files"),
            [row("chmod").at_most(0.9).copies()],
            |ground, candidate| {
                warm(&ground.corpus.sources, true)?;
                let mounted = ground.disk.mount(candidate, &ground.corpus.sources, Syncing::AsIs)?;
                Ok(vec![ground.disk.time(|| chmod_all(&mounted.path()))?])
            },
        ),
        Workload::new(
            "move",
            format!("mv of a lower's directory with {files} files in it"),
            [row("move").at_most(0.5).copies()],
            |ground, candidate| {
                let lower = ground.corpus.sources.parent().ok_or("the corpus is in a folder")?;
                warm(&ground.corpus.sources, true)?;
                let mounted = ground.disk.mount(candidate, lower, Syncing::AsIs)?;
                let of = |name: &str| mounted.path().join(name);
                // Where rename(2) is refused, mv copies and removes.
                Ok(vec![ground.disk.time(|| program("mv", &[], &[of("sources"), of("moved")]))?])
            },
        ),
        Workload::new(
            "beside-move",
            format!("move a lower's tree of {files} files; the slowest change of a file beside it meanwhile"),
            [row("beside-move")],
            |ground, candidate| {
                warm(&ground.corpus.sources, true)?;
                let mounted = ground.disk.mount(candidate, &ground.corpus.sources, Syncing::AsIs)?;
                Ok(vec![slowest_beside_a_move(&mounted.path())?])
            },
        )
        .once()
        .essential(),
    ]
}

/// Seconds of the slowest create, link, rename or removal in one directory while all others are moved, one by one.
fn slowest_beside_a_move(dir: &Path) -> Result<f64> {
    let mut moved = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            moved.push(entry.path());
        }
    }
    let beside = dir.join("beside");
    fs::create_dir(&beside)?;
    let change = || -> Result<()> {
        let path = |name: &str| beside.join(name);
        fs::write(path("new"), b"new")?;
        fs::hard_link(path("new"), path("link"))?;
        fs::rename(path("new"), path("newer"))?;
        fs::remove_file(path("newer"))?;
        Ok(fs::remove_file(path("link"))?)
    };
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| -> std::result::Result<(), String> {
            for dir in &moved {
                // Where rename(2) is refused, mv copies and removes.
                let target = dir.with_extension("moved");
                program("mv", &[], &[dir, &target]).map_err(|error| error.to_string())?;
            }
            Ok(())
        });
        let mut slowest = 0.0_f64;
        while !moving.is_finished() {
            let start = Instant::now();
            change()?;
            slowest = slowest.max(start.elapsed().as_secs_f64());
        }
        moving.join().map_err(|_| "a thread panicked")??;
        Ok(slowest)
    })
}

fn create(dir: &Path, files: usize) -> Result<()> {
    for at in 0..files {
        let folder = dir.join((at / IN_ONE_DIRECTORY).to_string());
        if at % IN_ONE_DIRECTORY == 0 {
            fs::create_dir(&folder)?;
        }
        fs::write(folder.join(at.to_string()), [b'x'; 100])?;
    }
    Ok(())
}

/// As `chmod -R` does, in this process.
fn chmod_all(dir: &Path) -> Result<()> {
    walk(dir, &mut |path, kind| {
        if !kind.is_symlink() {
            let mode = fs::symlink_metadata(path)?.permissions().mode();
            fs::set_permissions(path, Permissions::from_mode(mode ^ 0o010))?;
        }
        Ok(())
    })
}
