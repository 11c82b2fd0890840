//! Where is it all played, and how is one run kept from paying for another?

use std::cell::OnceCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::Result;
use crate::candidate::{Candidate, Syncing};
use crate::corpus::Corpus;
use crate::image::Image;
use crate::mounted::Mounted;
use crate::scale::Scale;

/// After a sync the disk may still be busy with what it was told to discard.
const SETTLE: Duration = Duration::from_millis(50);

/// Everything that a workload needs: the corpus, and places to mount in.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) scale: Scale,
    pub(crate) corpus: Corpus,
    /// The filesystem that is measured.
    pub(crate) disk: Site,
    scratch: PathBuf,
    reflink: OnceCell<Result<Image, String>>,
}

/// A folder in which mounts are made, on the filesystem that they write to.
#[derive(Debug)]
pub(crate) struct Site(PathBuf);

impl Ground {
    pub(crate) fn prepare(scratch: &Path, scale: Scale) -> Result<Self> {
        let corpus = Corpus::make(&scratch.join("corpus"), &scale)?;
        let disk = Site::new(&scratch.join("runs"))?;
        Ok(Self { scale, corpus, disk, scratch: scratch.to_owned(), reflink: OnceCell::new() })
    }

    /// A folder of a workload's own, filled the first time that it is asked for.
    pub(crate) fn once(&self, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let dir = self.scratch.join(name);
        if !dir.exists() {
            std::fs::create_dir(&dir)?;
            fill(&dir)?;
        }
        Ok(dir)
    }

    /// A filesystem that shares blocks, mounted the first time that it is asked for.
    pub(crate) fn reflink(&self) -> Result<&Image> {
        let image = || Image::mount(&self.scratch, &self.scale).map_err(|error| error.to_string());
        self.reflink.get_or_init(image).as_ref().map_err(|error| error.as_str().into())
    }
}

impl Site {
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        std::fs::create_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        Ok(Self(dir.to_owned()))
    }

    /// A fresh mount over one lower.
    pub(crate) fn mount(&self, candidate: &Candidate, lower: &Path, syncing: Syncing) -> Result<Mounted> {
        self.mount_stack(candidate, &[lower.to_owned()], syncing)
    }

    /// A fresh mount over several lowers, topmost first.
    pub(crate) fn mount_stack(
        &self,
        candidate: &Candidate,
        lowers: &[PathBuf],
        syncing: Syncing,
    ) -> Result<Mounted> {
        Mounted::new(candidate, lowers, syncing, &self.0)
    }

    /// How many seconds `work` takes, when nothing that was done before is still to be written.
    pub(crate) fn time<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<f64> {
        rustix::fs::syncfs(File::open(&self.0)?)?;
        sleep(SETTLE);
        let start = Instant::now();
        work()?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// The first signal takes every mount beneath `scratch` away and ends the process. The script removes the files.
pub(crate) fn leave_nothing_on_a_signal(scratch: &Path) -> Result<()> {
    let scratch = scratch.canonicalize()?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            eprintln!("\nbench: interrupted, cleaning up");
            let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            let places = table.lines().rev().filter_map(|line| line.split(' ').nth(1));
            for place in places.filter(|place| Path::new(place).starts_with(&scratch)) {
                if let Err(errno) = rustix::mount::unmount(place, UnmountFlags::DETACH) {
                    eprintln!("bench: {place}: {errno}");
                }
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}
