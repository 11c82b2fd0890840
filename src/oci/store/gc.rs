//! What does nobody need any more?
//!
//! Needed is what an image in `index.json` or a mount's record names, and layers that a mount shows. All else goes:
//! nobody is at work meanwhile (`lock`), so what is not ready is a crash's.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::digest::Digest;
use super::super::error::{Error, Result};
use super::super::place::open_upper;
use super::layers::short_name_of;
use super::{Image, Store};
use crate::shown::shown;

/// After `umount` returns, a daemon that only reads still needs a moment to end.
const PATIENCE: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_millis(5);

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(in super::super) struct Removed {
    /// Pieces of content.
    pub(in super::super) blobs: u64,
    /// Their length, in bytes.
    pub(in super::super) bytes: u64,
    /// Unpacked layers.
    pub(in super::super) layers: u64,
}

impl Store {
    /// Removes what nobody needs. The store was opened for that.
    pub(in super::super) fn gc(&self) -> Result<Removed> {
        let mut removed = Removed::default();
        let mut blobs: HashSet<String> = HashSet::new();
        let mut layers: HashSet<String> = HashSet::new();
        let mut need = |image: &Image| {
            let names = [&image.manifest, &image.id].into_iter().chain(image.layers.iter().map(|l| &l.blob));
            blobs.extend(names.map(|digest| digest.hex().to_owned()));
            layers.extend(image.chain().iter().map(|id| id.hex().to_owned()));
        };
        for image in self.images()? {
            need(&image);
        }
        let mounts = self.mounts()?;
        for mount in &mounts {
            let manifest = Digest::parse(&mount.manifest)?;
            need(&self.image(&manifest, &mount.media_type)?);
        }
        layers.extend(mounts.into_iter().flat_map(|mount| [mount.init(), mount.id]));
        self.keep_shown(&mut layers)?;
        self.empty_tmp()?;
        for id in names_in(self, "layers")? {
            if id != "l" && !layers.contains(&id) {
                self.discard_layer(&id)?;
                removed.layers += 1;
            }
        }
        for short in names_in(self, "layers/l")? {
            let path = self.path("layers/l").join(short);
            if !path.exists() {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        for hex in names_in(self, "blobs/sha256")? {
            if !blobs.contains(&hex) {
                let path = self.path("blobs/sha256").join(hex);
                let failed = Error::io("remove", &path);
                removed.bytes += path.metadata().map_err(&failed)?.len();
                fs::remove_file(&path).map_err(&failed)?;
                removed.blobs += 1;
            }
        }
        Ok(removed)
    }

    /// A mount that only reads has no record: the layer that it shows is locked, and says which are below it.
    fn keep_shown(&self, layers: &mut HashSet<String>) -> Result<()> {
        let all: Vec<String> = names_in(self, "layers")?.into_iter().filter(|id| id != "l").collect();
        let deadline = Instant::now() + PATIENCE;
        for id in &all {
            if layers.contains(id) {
                continue;
            }
            let mut is_shown = self.is_shown(id)?;
            while is_shown && Instant::now() < deadline {
                std::thread::sleep(INTERVAL);
                is_shown = self.is_shown(id)?;
            }
            if !is_shown {
                continue;
            }
            let lower = fs::read_to_string(self.layer_dir(id).join("lower")).unwrap_or_default();
            let below: HashSet<&str> =
                lower.split(':').filter_map(|short| short.strip_prefix("l/")).collect();
            layers.extend(all.iter().filter(|other| below.contains(&*short_name_of(other))).cloned());
            layers.insert(id.clone());
        }
        Ok(())
    }

    fn empty_tmp(&self) -> Result<()> {
        let tmp = open_upper(&self.path("tmp"))?;
        for entry in tmp.list()? {
            tmp.remove_tree(&entry.name)?;
        }
        Ok(())
    }

    /// Removes a layer's folder: first it is no layer any more, then it goes.
    pub(super) fn discard_layer(&self, id: &str) -> Result<()> {
        let from = self.layer_dir(id);
        let name = format!("gone-{}-{id}", std::process::id());
        let to = self.path("tmp").join(&name);
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(Error::io("remove", &from))?,
        }
        let short = self.path("layers/l").join(short_name_of(id));
        if let Err(error) = fs::remove_file(&short) {
            // The next gc finds that it leads nowhere.
            log::debug!("{}: {error}", shown(&short));
        }
        Ok(open_upper(&self.path("tmp"))?.remove_tree(name.as_ref())?)
    }
}

fn names_in(store: &Store, dir: &str) -> Result<Vec<String>> {
    let dir = store.path(dir);
    let failed = Error::io("read", &dir);
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).map_err(&failed)? {
        // What is no text is nobody's name in here, and nothing of ours.
        if let Ok(name) = entry.map_err(&failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}
