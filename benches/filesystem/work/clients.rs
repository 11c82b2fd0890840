//! Several clients at once: who makes them wait for each other?

use std::path::PathBuf;

use plyfs::units::KIB;

use super::{Row, Unit, Workload, row};
use crate::Result;
use crate::candidate::Syncing;
use crate::corpus::{files_of, read_file, warm};
use crate::scale::Scale;

pub(super) fn workloads(scale: &Scale) -> Vec<Workload> {
    let counts = scale.client_counts.clone();
    let row = |clients: &usize| {
        let rate = row(&format!("clients-{clients}")).counts(Unit::PerSecond);
        Row { point: Some((*clients as u64, "")), ..rate }
    };
    let rows: Vec<Row> = counts.iter().map(row).collect();
    let about = "files read in a second by several clients, each its part of the sources, cold";
    let run = move |ground: &crate::ground::Ground, candidate: &crate::candidate::Candidate| {
        let lower = &ground.corpus.sources;
        warm(lower, true)?;
        let files = files_of(lower)?;
        let mut rates = Vec::new();
        for &clients in &counts {
            let mounted = ground.disk.mount(candidate, lower, Syncing::AsIs)?;
            let files: Vec<PathBuf> = files.iter().map(|file| mounted.path().join(file)).collect();
            let seconds = ground.disk.time(|| read_in_parts(&files, clients))?;
            rates.push(files.len() as f64 / seconds);
        }
        Ok(rates)
    };
    vec![Workload::new("clients", about, rows, run).plotted(
        "Files read by several clients at once",
        "clients",
        "files a second",
    )]
}

fn read_in_parts(files: &[PathBuf], clients: usize) -> Result<()> {
    let read = |part: &[PathBuf]| -> Result<()> {
        let mut buffer = vec![0; 128 * KIB as usize];
        part.iter().try_for_each(|file| read_file(file, &mut buffer).map(drop))
    };
    std::thread::scope(|scope| {
        let parts = files.chunks(files.len().div_ceil(clients).max(1));
        let threads: Vec<_> = parts.map(|part| scope.spawn(move || read(part))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
    })
}
