//! Reading and writing big files.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use plyfs::units::{KIB, MIB, size};

use super::{Workload, row};
use crate::Result;
use crate::candidate::Syncing;
use crate::corpus::{BIG, read_file, warm};
use crate::scale::Scale;

/// What programs write that do not think of the disk.
const BLOCK: u64 = 4 * KIB;

pub(super) fn workloads(scale: &Scale) -> Vec<Workload> {
    let (big, small) = (scale.written_in_big_blocks, scale.written_in_small_blocks);
    let random = scale.random_blocks;
    vec![
        Workload::new(
            "read-big",
            format!("read a file of {} in blocks of 1 MiB", size(scale.big_file)),
            [row("read-big-cold").at_most(4.0), row("read-big-warm").at_most(1.5)],
            |ground, candidate| {
                warm(&ground.corpus.big, true)?;
                let mounted = ground.disk.mount(candidate, &ground.corpus.big, Syncing::AsIs)?;
                let mut buffer = vec![0; MIB as usize];
                let mut read = || read_file(&mounted.path().join(BIG), &mut buffer);
                Ok(vec![ground.disk.time(&mut read)?, ground.disk.time(&mut read)?])
            },
        )
        .essential(),
        Workload::new(
            "read-random",
            format!("read {random} blocks of 4 KiB anywhere in it, each once, cold"),
            [row("read-random").at_most(2.5)],
            move |ground, candidate| {
                warm(&ground.corpus.big, true)?;
                let mounted = ground.disk.mount(candidate, &ground.corpus.big, Syncing::AsIs)?;
                let file = File::open(mounted.path().join(BIG))?;
                // Each block is asked for by itself.
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)?;
                let blocks = anywhere(file.metadata()?.len(), random);
                let mut buffer = [0; BLOCK as usize];
                let read = || blocks.iter().try_for_each(|at| Ok(file.read_exact_at(&mut buffer, *at)?));
                Ok(vec![ground.disk.time(read)?])
            },
        )
        .essential(),
        writing("write-big", big, MIB, 2.5).essential(),
        writing("write-small", small, BLOCK, 3.5).essential(),
        Workload::new(
            "write-random",
            format!("write {random} blocks of 4 KiB anywhere into a file of {}, no sync", size(small)),
            [row("write-random")],
            move |ground, candidate| {
                let mounted = ground.disk.mount(candidate, &ground.corpus.empty, Syncing::AsIs)?;
                let path = mounted.path().join("new");
                write(&path, small, MIB.min(small))?;
                let file = File::options().write(true).open(path)?;
                let blocks = anywhere(small, random);
                let write =
                    || blocks.iter().try_for_each(|at| Ok(file.write_all_at(&[b'y'; BLOCK as usize], *at)?));
                Ok(vec![ground.disk.time(write)?])
            },
        ),
    ]
}

fn writing(name: &'static str, total: u64, block: u64, most: f64) -> Workload {
    let about = format!("write {} into a new file in blocks of {}, no sync", size(total), size(block));
    Workload::new(name, about, [row(name).at_most(most)], move |ground, candidate| {
        let mounted = ground.disk.mount(candidate, &ground.corpus.empty, Syncing::AsIs)?;
        Ok(vec![ground.disk.time(|| write(&mounted.path().join("new"), total, block))?])
    })
}

/// Where the blocks of a file are, so many of them, in no order, none twice, always the same.
fn anywhere(len: u64, most: usize) -> Vec<u64> {
    let blocks = len / BLOCK;
    // A step that has no divisor in common with the number of blocks comes to each of them once.
    let step = (blocks * 618 / 1000..).find(|step| common_divisor(*step, blocks) == 1).unwrap_or(1);
    (0..blocks).map(|at| at * step % blocks * BLOCK).take(most).collect()
}

fn common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

fn write(path: &Path, total: u64, block: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let block = vec![b'x'; block as usize];
    for _ in 0..total / block.len() as u64 {
        file.write_all(&block)?;
    }
    Ok(())
}
