//! `plyfs image`: what can be done with images?

mod commit;
mod copy;
mod import;
mod inspect;
mod list;
mod members;
mod mount;
mod push;
mod storage;
mod time;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::error::Result;
use super::layer::say;
use super::progress::Progress;
use super::store::{Image, Removed, Store, Work};
use crate::cli::{ImageArgs, ImageCommand, RmArgs};
use crate::exit::Exit;

/// The branches of a live mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Branches {
    /// The writable one, if there is one.
    pub upper: Option<PathBuf>,
    /// The others, topmost first.
    pub lowers: Vec<PathBuf>,
}

/// What images do not know by themselves of mounts.
pub struct Mounts<'a> {
    /// What is mounted on a directory; None if that is no plyfs.
    pub branches: &'a dyn Fn(&Path) -> Option<Branches>,
    /// The snapshots that an upper lies on, topmost first; or why that cannot be told.
    pub snapshots: &'a dyn Fn(&Path) -> std::result::Result<Vec<PathBuf>, String>,
}

type Live<'a> = &'a Mounts<'a>;

/// Runs a command on images.
///
/// # Errors
/// Every way in which it can fail, see [`super::Error`].
pub fn run(args: &ImageArgs, live: Live<'_>) -> Result<ExitCode> {
    let work = match &args.command {
        ImageCommand::Gc(_) => Work::Removes,
        _ => Work::Adds,
    };
    let store = Store::open(args.store.as_deref(), work)?;
    match &args.command {
        ImageCommand::Import(args) => import::run(&store, args)?,
        ImageCommand::Ls(args) => list::images(&store, args)?,
        ImageCommand::History(args) => list::history(&store, args)?,
        ImageCommand::Inspect(args) => inspect::run(&store, live, args)?,
        ImageCommand::Mount(args) => return mount::run(&store, args),
        ImageCommand::Diff(args) => commit::diff(&store, live, args)?,
        ImageCommand::Commit(args) => commit::run(&store, live, args)?,
        ImageCommand::Push(args) => push::run(&store, args)?,
        ImageCommand::Pull(args) => copy::run(&store, args)?,
        ImageCommand::Rm(args) => remove(&store, args)?,
        ImageCommand::Gc(args) => {
            let removed = store.gc()?;
            say(args.json, &removed, || removed_text(&removed))?;
        }
    }
    Ok(Exit::Success.into())
}

fn removed_text(removed: &Removed) -> String {
    let Removed { blobs, bytes, layers } = removed;
    format!("removed {layers} unpacked layers and {blobs} blobs of {}\n", crate::units::size(*bytes))
}

fn remove(store: &Store, args: &RmArgs) -> Result<()> {
    let mut removed = Vec::new();
    for text in &args.images {
        match store.find_mount(text)? {
            Some(record) if store.find(text).is_err() => {
                store.remove_mount(&record)?;
                removed.push(record.id);
            }
            _ => removed.append(&mut store.remove_names(text)?),
        }
    }
    let lines = || removed.iter().map(|name| format!("removed {name}\n")).collect();
    say(args.json, &removed, lines)
}

/// What is said of an image that has come or was made.
#[derive(Debug, Serialize)]
struct Taken {
    /// Its ID.
    id: String,
    /// By which names it is known now.
    names: Vec<String>,
    /// Its manifest's digest.
    digest: String,
    /// How many layers it has.
    layers: usize,
}

impl Taken {
    fn of(image: &Image) -> Self {
        Self {
            id: image.id.to_string(),
            names: image.names.iter().map(ToString::to_string).collect(),
            digest: image.manifest.to_string(),
            layers: image.layers.len(),
        }
    }

    fn text(&self) -> String {
        format!(
            "{}\nID      {}\ndigest  {}\nlayers  {}\n",
            if self.names.is_empty() { "(no name)".to_owned() } else { self.names.join(" ") },
            self.id,
            self.digest,
            self.layers
        )
    }
}
