//! `plyfs image diff` and `commit`: what was changed on top of an image, and how does it become one?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::image::MediaType;
use serde_json::{Value, json};

use super::super::archive::media_type;
use super::super::diff::{Change, Line};
use super::super::digest::Digest;
use super::super::error::{Error, Result};
use super::super::item::{Content, Item, Node, Sink, TreePath};
use super::super::layer::{pack_unchanged, say};
use super::super::owners::Owners;
use super::super::place::{open_layers, open_layers_below, open_workdir};
use super::super::progress::Progress;
use super::super::store::{Image, MountRecord, Name, Store, parse_manifest};
use super::super::tree::{Part, Root, Shows, Ties, Tree, find_workdir, roots, shows};
use super::copy::Wanted;
use super::import::{call, descriptor, new_manifest};
use super::time;
use super::{Live, Taken};
use crate::branch::Dir;
use crate::cli::{CommitArgs, ImageDiffArgs, OwnersArgs};
use crate::shown::shown;

/// An upper, and what it is on top of.
struct Changed {
    upper: PathBuf,
    work: Option<PathBuf>,
    /// The snapshots that it lies on, topmost first.
    snapshots: Vec<PathBuf>,
    /// All that is below it, the topmost first; the snapshots are among them.
    lowers: Vec<PathBuf>,
    /// The image that it changes; None if it is on top of nothing.
    image: Option<Image>,
    /// For an upper of the store, what keeps it there meanwhile.
    _held: Option<std::fs::File>,
}

impl Changed {
    /// What somebody means by the ID of a mount, a mountpoint, or a directory.
    fn find(store: &Store, live: Live<'_>, text: &str, from: Option<&str>) -> Result<Self> {
        if let Some(record) = store.find_mount(text)? {
            return Self::of_mount(store, live, &record, from);
        }
        let dir = PathBuf::from(text).canonicalize().map_err(|error| {
            Error::Usage(format!(
                "`{}` is neither the ID of a mount, nor a directory ({error}): `plyfs image ls` lists mounts",
                shown(text)
            ))
        })?;
        let image = from.map(|from| store.find(from)).transpose()?;
        let mut lowers: Vec<PathBuf> = match &image {
            Some(image) => {
                image.chain().iter().rev().map(|id| store.layer_dir(id.hex()).join("diff")).collect()
            }
            None => Vec::new(),
        };
        let upper = match (live.branches)(&dir) {
            Some(branches) => {
                let Some(upper) = branches.upper else {
                    return Err(Error::Usage(format!(
                        "{} is mounted read-only: nothing was changed",
                        shown(&dir)
                    )));
                };
                if let Some(record) = store.mount_of_upper(&upper)? {
                    return Self::of_mount(store, live, &record, from);
                }
                // They are among them.
                let snapshots = snapshots_of(live, &upper)?;
                lowers = branches.lowers.into_iter().filter(|lower| !snapshots.contains(lower)).collect();
                upper
            }
            None => {
                if let Some(record) = store.mount_last_at(&dir)? {
                    return Err(Error::Usage(format!(
                        "nothing is mounted on {} now: write the mount's ID, {}",
                        shown(&dir),
                        record.short()
                    )));
                }
                dir
            }
        };
        let work = find_workdir(&upper);
        let snapshots = snapshots_of(live, &upper)?;
        let lowers = snapshots.iter().cloned().chain(lowers).collect();
        Ok(Self { upper, work, snapshots, lowers, image, _held: None })
    }

    fn of_mount(store: &Store, live: Live<'_>, record: &MountRecord, from: Option<&str>) -> Result<Self> {
        if from.is_some() {
            return Err(Error::Usage(format!(
                "{} is on top of {}: leave --from out",
                record.short(),
                shown(&record.image)
            )));
        }
        let image = store.image(&Digest::parse(&record.manifest)?, &record.media_type)?;
        let held = store.hold_layer(&record.id)?;
        let dir = store.layer_dir(&record.id);
        let upper = dir.join("diff");
        let snapshots = snapshots_of(live, &upper)?;
        let lowers = snapshots.iter().cloned().chain(store.lowers_of(record, &image)).collect();
        Ok(Self {
            upper,
            work: Some(dir.join("work")),
            snapshots,
            lowers,
            image: Some(image),
            _held: Some(held),
        })
    }

    /// All that was changed, the oldest first: a snapshot is a layer, and so is what was changed after the last one.
    fn trees<'a>(&self, owners: &'a Owners) -> Result<Vec<Tree<'a>>> {
        let mut trees = Vec::new();
        for snapshot in self.snapshots.iter().rev() {
            let ties = match &self.work {
                Some(work) => {
                    let upper = open_layers(&[&self.upper])?;
                    let upper = upper.first().ok_or_else(|| Error::Invalid("no upper".to_owned()))?;
                    Ties::of_snapshot(upper, &open_workdir(work)?)?
                }
                None => Ties::default(),
            };
            trees.push(Tree { layers: open_layers(&[snapshot])?, owners, ties, root: Root::LeftOut });
        }
        trees.push(self.tree(owners)?);
        Ok(trees)
    }

    fn tree<'a>(&self, owners: &'a Owners) -> Result<Tree<'a>> {
        let layers = open_layers(&[&self.upper])?;
        let ties = match (&self.work, layers.first()) {
            (Some(work), Some(upper)) => Ties::of(upper, &open_workdir(work)?, &self.open_lowers()?)?,
            _ => Ties::default(),
        };
        Ok(Tree { layers, owners, ties, root: Root::LeftOut })
    }

    /// The lowers; their numbers are those that a mount gives them.
    fn open_lowers(&self) -> Result<Vec<Dir>> {
        open_layers_below(&self.lowers, 1)
    }
}

pub(super) fn diff(store: &Store, live: Live<'_>, args: &ImageDiffArgs) -> Result<()> {
    let changed = Changed::find(store, live, &args.changed, None)?;
    let owners = Owners::new(&OwnersArgs { owners: Some(store.owners.place), ..OwnersArgs::default() })?;
    let progress = Progress::begin("comparing")?;
    let mut lines = Lines { below: roots(&changed.open_lowers()?)?, lines: BTreeMap::new() };
    changed.tree(&owners)?.read(&mut lines, &progress)?;
    drop(progress);
    let lines: Vec<Line> = lines.lines.iter().map(|(path, change)| Line::new(*change, path)).collect();
    say(args.json, &lines, || lines.iter().map(Line::text).collect())
}

/// Tells what an upper's entries do to what is below.
struct Lines {
    below: Vec<Part>,
    lines: BTreeMap<TreePath, Change>,
}

impl Lines {
    fn is_below(&self, path: &TreePath) -> Result<bool> {
        let mut parts = self.below.clone();
        let names: Vec<_> = path.names().collect();
        for (at, name) in names.iter().enumerate() {
            match shows(&parts, name)? {
                Shows::Nothing => return Ok(false),
                Shows::Leaf(_) => return Ok(at + 1 == names.len()),
                Shows::Dir(next) => parts = next,
            }
        }
        Ok(true)
    }
}

impl Sink for Lines {
    fn put(&mut self, item: &Item, _: &mut dyn Content) -> Result<()> {
        let change = match item.node {
            Node::Whiteout if !self.is_below(&item.path)? => return Ok(()),
            Node::Whiteout => Change::Deleted,
            // It hides what is below, one by one or not at all: the directory itself was replaced.
            Node::Opaque => Change::Changed,
            _ if self.is_below(&item.path)? => Change::Changed,
            _ => Change::Added,
        };
        if item.node == Node::Opaque {
            self.lines.entry(item.path.clone()).or_insert(change);
        } else {
            self.lines.insert(item.path.clone(), change);
        }
        Ok(())
    }
}

pub(super) fn run(store: &Store, live: Live<'_>, args: &CommitArgs) -> Result<()> {
    let name: Name = args.name.parse()?;
    let changed = Changed::find(store, live, &args.changed, args.from.as_deref())?;
    let owners = Owners::new(&OwnersArgs { owners: Some(store.owners.place), ..OwnersArgs::default() })?;
    let progress = Progress::begin("packing")?;
    let mut packed = Vec::new();
    for tree in changed.trees(&owners)? {
        let mut blob = store.new_blob()?;
        let (written, _) = pack_unchanged(&tree, args.compression, &mut blob, &progress)?;
        packed.push((store.keep_blob(blob)?, written.diff_id));
    }

    let created = time::now()?;
    let base = changed.image.as_ref();
    let diff_ids: Vec<&Digest> = packed.iter().map(|(_, diff_id)| diff_id).collect();
    let config = config_on(base, &diff_ids, &created, args)?;
    let config = serde_json::to_vec(&config)
        .map_err(|error| Error::Invalid(format!("the configuration cannot be written: {error}")))?;
    let id = store.put_blob(&config)?;
    let mut layers = match base {
        Some(image) => parse_manifest(&store.read_json(&image.manifest)?)?.layers().clone(),
        None => Vec::new(),
    };
    for layer in &mut layers {
        layer.set_media_type(as_oci(layer.media_type()));
    }
    for (layer, _) in &packed {
        layers.push(descriptor(store, layer, media_type(args.compression).into())?);
    }
    let manifest = new_manifest(descriptor(store, &id, MediaType::ImageConfig)?, layers)?;
    let manifest = store.put_blob(&manifest)?;
    let image = store.image(&manifest, MediaType::ImageManifest.as_ref())?;
    store.unpack_layers(&image.layers, &progress)?;
    let image = call(store, image, &[name])?;
    drop(progress);
    let taken = Taken::of(&image);
    say(args.json, &taken, || taken.text())
}

/// Docker's names of layers in OCI's: one manifest is of one kind.
fn as_oci(media_type: &MediaType) -> MediaType {
    match media_type.as_ref() {
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => MediaType::ImageLayerGzip,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => MediaType::ImageLayerZstd,
        "application/vnd.docker.image.rootfs.diff.tar" => MediaType::ImageLayer,
        _ => media_type.clone(),
    }
}

fn snapshots_of(live: Live<'_>, upper: &Path) -> Result<Vec<PathBuf>> {
    (live.snapshots)(upper).map_err(Error::Setup)
}

/// The configuration of an image with more layers. What plyfs does not know of it stays as it is.
fn config_on(
    base: Option<&Image>,
    diff_ids_above: &[&Digest],
    created: &str,
    args: &CommitArgs,
) -> Result<Value> {
    let mut config = match base {
        Some(image) => image.config.clone(),
        None => {
            let here = Wanted::parse(None)?;
            let (os, architecture) = here.names();
            json!({
                "architecture": architecture,
                "os": os,
                "config": {},
                "rootfs": { "type": "layers", "diff_ids": [] },
                "history": [],
            })
        }
    };
    let unfit = || Error::Invalid("the image's configuration is no JSON object".to_owned());
    let map = config.as_object_mut().ok_or_else(unfit)?;
    map.insert("created".to_owned(), json!(created));
    if let Some(author) = &args.author {
        map.insert("author".to_owned(), json!(author));
    }
    let mut step = json!({ "created": created, "created_by": "plyfs image commit" });
    if let Some(step) = step.as_object_mut() {
        if let Some(author) = &args.author {
            step.insert("author".to_owned(), json!(author));
        }
        if let Some(message) = &args.message {
            step.insert("comment".to_owned(), json!(message));
        }
    }
    match map.entry("history").or_insert_with(|| json!([])) {
        Value::Array(history) => history.extend(diff_ids_above.iter().map(|_| step.clone())),
        history => *history = Value::Array(diff_ids_above.iter().map(|_| step.clone()).collect()),
    }
    let diff_ids = map
        .get_mut("rootfs")
        .and_then(|rootfs| rootfs.get_mut("diff_ids"))
        .and_then(Value::as_array_mut)
        .ok_or_else(unfit)?;
    diff_ids.extend(diff_ids_above.iter().map(|diff_id| json!(diff_id.as_str())));
    Ok(config)
}
