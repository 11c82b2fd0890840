//! Reading and writing big files.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use plyfs::units::{KIB, MIB, size};

use super::{Workload, row};
use crate::Result;
use crate::candidate::Syncing;
use crate::corpus::{BIG, read_file, warm};
use crate::scale::Scale;

pub(super) fn workloads(scale: &Scale) -> Vec<Workload> {
    let (big, small) = (scale.written_in_big_blocks, scale.written_in_small_blocks);
    vec![
        Workload::new(
            "read-big",
            format!("read a file of {} in blocks of 1 MiB", size(scale.big_file)),
            [row("read-big-cold").at_most(8.0), row("read-big-warm").at_most(2.0)],
            |ground, candidate| {
                warm(&ground.corpus.big, true)?;
                let mounted = ground.disk.mount(candidate, &ground.corpus.big, Syncing::AsIs)?;
                let mut buffer = vec![0; MIB as usize];
                let mut read = || read_file(&mounted.path().join(BIG), &mut buffer);
                Ok(vec![ground.disk.time(&mut read)?, ground.disk.time(&mut read)?])
            },
        )
        .essential(),
        writing("write-big", big, MIB).essential(),
        writing("write-small", small, 4 * KIB).essential(),
    ]
}

fn writing(name: &'static str, total: u64, block: u64) -> Workload {
    let about = format!("write {} into a new file in blocks of {}, no sync", size(total), size(block));
    Workload::new(name, about, [row(name).at_most(3.0)], move |ground, candidate| {
        let mounted = ground.disk.mount(candidate, &ground.corpus.empty, Syncing::AsIs)?;
        Ok(vec![ground.disk.time(|| write(&mounted.path().join("new"), total, block))?])
    })
}

fn write(path: &Path, total: u64, block: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let block = vec![b'x'; block as usize];
    for _ in 0..total / block.len() as u64 {
        file.write_all(&block)?;
    }
    Ok(())
}
