//! Looking: names, attributes, and the data of small files.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Workload, exit_code, find, row};
use crate::Result;
use crate::candidate::{Candidate, Syncing};
use crate::corpus::{read_file, walk, warm};
use crate::ground::Ground;
use crate::scale::Scale;

pub(super) fn workloads(scale: &Scale) -> Vec<Workload> {
    let branches = scale.branches;
    vec![
        Workload::new(
            "find",
            "find -printf %s over the tree",
            [row("find-cold").at_most(1.4), row("find-second").at_most(1.2), row("find-warm").at_most(1.05)],
            |ground, candidate| {
                warm(&ground.corpus.tree, false)?;
                let mounted = ground.disk.mount(candidate, &ground.corpus.tree, Syncing::AsIs)?;
                three_times(ground, || find(&mounted.path()))
            },
        )
        .essential(),
        Workload::new(
            "find-deep",
            format!("the same, cold, with {branches} branches and the tree in the lowest"),
            [row("find-deep").at_most(1.6)],
            move |ground, candidate| {
                let stack = deep_stack(ground, branches, &ground.corpus.tree)?;
                warm(&ground.corpus.tree, false)?;
                let mounted = ground.disk.mount_stack(candidate, &stack, Syncing::AsIs)?;
                Ok(vec![ground.disk.time(|| find(&mounted.path()))?])
            },
        )
        .essential(),
        Workload::new(
            "find-parallel",
            "find twice at once, cold",
            [row("find-parallel").at_most(1.6)],
            two_finds,
        ),
        Workload::new(
            "grep",
            "grep -r for what is not there, over the repository",
            [row("grep-cold").at_most(2.2), row("grep-second"), row("grep-warm").at_most(1.3)],
            |ground, candidate| {
                let repository = &ground.corpus.repository;
                warm(repository, true)?;
                let mounted = ground.disk.mount(candidate, repository, Syncing::AsIs)?;
                three_times(ground, || grep(&mounted.path()))
            },
        )
        .essential(),
        Workload::new(
            "read-all",
            "read every file of the tree, cold and once more",
            [row("read-all").at_most(2.0), row("read-all-second").at_most(1.8)],
            |ground, candidate| {
                warm(&ground.corpus.tree, true)?;
                let mounted = ground.disk.mount(candidate, &ground.corpus.tree, Syncing::AsIs)?;
                let read = || ground.disk.time(|| read_all(&mounted.path()));
                Ok(vec![read()?, read()?])
            },
        )
        .essential(),
    ]
}

/// Cold, once more, and warm: what the first pass has read has another access time, which on a FUSE filesystem the
/// second pass asks for.
fn three_times(ground: &Ground, work: impl Fn() -> Result<()>) -> Result<Vec<f64>> {
    [(); 3].iter().map(|()| ground.disk.time(&work)).collect()
}

fn two_finds(ground: &Ground, candidate: &Candidate) -> Result<Vec<f64>> {
    warm(&ground.corpus.tree, false)?;
    let mounted = ground.disk.mount(candidate, &ground.corpus.tree, Syncing::AsIs)?;
    let path = mounted.path();
    let all = || {
        std::thread::scope(|scope| {
            let finds = [(); 2].map(|()| scope.spawn(|| find(&path)));
            finds.into_iter().try_for_each(|find| find.join().map_err(|_| "a thread panicked")?)
        })
    };
    Ok(vec![ground.disk.time(all)?])
}

/// Branches with a file each, and `lowest` below them.
pub(super) fn deep_stack(ground: &Ground, branches: usize, lowest: &Path) -> Result<Vec<PathBuf>> {
    let folder = ground.once(&format!("stack-{branches}"), |dir| {
        for at in 1..branches {
            std::fs::create_dir(dir.join(at.to_string()))?;
            std::fs::write(dir.join(at.to_string()).join(format!("of-{at}")), "")?;
        }
        Ok(())
    })?;
    let above = (1..branches).map(|at| folder.join(at.to_string()));
    Ok(above.chain([lowest.to_owned()]).collect())
}

fn grep(dir: &Path) -> Result<()> {
    match exit_code(Command::new("grep").args(["-r", "no file has these words"]).arg(dir))? {
        1 => Ok(()),
        code => Err(format!("grep ended with {code}").into()),
    }
}

pub(super) fn read_all(dir: &Path) -> Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    walk(dir, &mut |path, kind| {
        if kind.is_file() {
            read_file(path, &mut buffer)?;
        }
        Ok(())
    })
}
