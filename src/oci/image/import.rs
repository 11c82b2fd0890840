//! How does an image come in from a file or a directory?
//!
//! Source of the formats: OCI image-spec, `image-layout.md`; moby's image-spec v1.2, "Combined Image JSON +
//! Filesystem Changeset Format", which `docker save` writes.

use std::fs::File;
use std::io;
use std::path::Path;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifestBuilder, MediaType};
use serde::Deserialize;

use super::super::archive::{decoder, media_type};
use super::super::digest::Digest;
use super::super::error::{Error, Result};
use super::super::layer::say;
use super::super::place::open_layers;
use super::super::progress::Progress;
use super::super::store::{Image, Name, REF_NAME, Store, diff_ids, digest_of};
use super::Taken;
use super::copy::{Blobs, Wanted, choose, take};
use super::members::{Archive, Directory, Members};
use super::storage;
use crate::cli::{Compression, ImportArgs};
use crate::shown::shown;

/// Where containerd and BuildKit say what an image is called.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// An entry of docker's `manifest.json`.
#[derive(Debug, Deserialize)]
struct Saved {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    names: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

pub(super) fn run(store: &Store, args: &ImportArgs) -> Result<()> {
    let progress = Progress::begin("importing")?;
    let wanted = Wanted::parse(args.platform.as_deref())?;
    let name = args.name.as_deref().map(str::parse).transpose()?;
    let from_stdin = args.source == Path::new("-");
    let is_dir =
        !from_stdin && std::fs::metadata(&args.source).map_err(|error| unreadable(args, &error))?.is_dir();
    let images = if is_dir && storage::is_one(&args.source) {
        storage::import(store, &args.source, name.as_ref())?
    } else {
        from_members(store, args, is_dir, name.as_ref(), &wanted, &progress)?
    };
    drop(progress);
    let taken: Vec<Taken> = images.iter().map(Taken::of).collect();
    say(args.json, &taken, || taken.iter().map(Taken::text).collect())
}

fn from_members(
    store: &Store,
    args: &ImportArgs,
    is_dir: bool,
    name: Option<&Name>,
    wanted: &Wanted,
    progress: &Progress,
) -> Result<Vec<Image>> {
    let mut members: Box<dyn Members> = if is_dir {
        let root = open_layers(&[&args.source])?.remove(0);
        Box::new(Directory { root })
    } else if args.source == Path::new("-") {
        Box::new(Archive::read(store, decoder(io::stdin().lock())?, progress)?)
    } else {
        let file = File::open(&args.source).map_err(|error| unreadable(args, &error))?;
        Box::new(Archive::read(store, decoder(file)?, progress)?)
    };
    if members.json("oci-layout")?.is_some() {
        from_layout(store, &mut *members, &args.source, name, wanted, progress)
    } else if let Some(manifest) = members.json("manifest.json")? {
        from_docker(store, &mut *members, &manifest, name, progress)
    } else {
        Err(Error::Setup(format!(
            "{} holds no image: neither an OCI layout (oci-layout) nor one of `docker save` (manifest.json)",
            shown(&args.source)
        )))
    }
}

fn unreadable(args: &ImportArgs, error: &io::Error) -> Error {
    Error::Setup(format!("{}: {error}", shown(&args.source)))
}

fn only_one(count: usize) -> Result<()> {
    if count == 1 {
        return Ok(());
    }
    Err(Error::Usage(format!("there are {count} images in it, and --name can name one: leave it out")))
}

fn from_docker(
    store: &Store,
    members: &mut dyn Members,
    manifest: &[u8],
    name: Option<&Name>,
    progress: &Progress,
) -> Result<Vec<Image>> {
    let saved: Vec<Saved> = serde_json::from_slice(manifest)
        .map_err(|error| Error::Invalid(format!("manifest.json cannot be read: {error}")))?;
    if name.is_some() {
        only_one(saved.len())?;
    }
    let mut images = Vec::new();
    for saved in saved {
        let config = members.json(&saved.config)?.ok_or_else(|| {
            Error::Invalid(format!(
                "manifest.json names `{}`, and there is no such file",
                shown(&saved.config)
            ))
        })?;
        let parsed = serde_json::from_slice(&config)
            .map_err(|error| Error::Invalid(format!("`{}` cannot be read: {error}", shown(&saved.config))))?;
        let diff_ids = diff_ids(&parsed)?;
        if diff_ids.len() != saved.layers.len() {
            return Err(Error::Invalid(format!(
                "manifest.json names {} layers, and `{}` names {}",
                saved.layers.len(),
                shown(&saved.config),
                diff_ids.len()
            )));
        }
        let mut layers = Vec::new();
        for (path, expected) in saved.layers.iter().zip(&diff_ids) {
            let (digest, found) = members.layer(store, path)?;
            if found.as_ref().is_some_and(|found| found != expected) {
                return Err(Error::Digest {
                    what: format!("the layer `{}`", shown(path)),
                    found: found.map_or_else(String::new, |found| found.to_string()),
                    expected: expected.to_string(),
                });
            }
            layers.push(descriptor(store, &digest, media_type(Compression::Gzip).into())?);
        }
        let id = store.put_blob(&config)?;
        let manifest = new_manifest(descriptor(store, &id, MediaType::ImageConfig)?, layers)?;
        let names = match name {
            Some(name) => vec![name.clone()],
            None => saved.names.unwrap_or_default().iter().map(|name| name.parse()).collect::<Result<_>>()?,
        };
        let image = take(store, &mut Nowhere, &manifest, MediaType::ImageManifest.as_ref(), progress)?;
        images.push(call(store, image, &names)?);
    }
    Ok(images)
}

/// Gives an image its names, or none.
pub(super) fn call(store: &Store, mut image: Image, names: &[Name]) -> Result<Image> {
    if names.is_empty() {
        store.put_image(None, &image)?;
    }
    for name in names {
        store.put_image(Some(name), &image)?;
        image.names.push(name.clone());
    }
    Ok(image)
}

/// A manifest of content that is in the store.
pub(super) fn new_manifest(config: Descriptor, layers: Vec<Descriptor>) -> Result<Vec<u8>> {
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers)
        .build()
        .map_err(|error| Error::Invalid(format!("a manifest cannot be made: {error}")))?;
    serde_json::to_vec(&manifest)
        .map_err(|error| Error::Invalid(format!("a manifest cannot be written: {error}")))
}

/// The descriptor of content that is in the store.
pub(super) fn descriptor(store: &Store, digest: &Digest, media_type: MediaType) -> Result<Descriptor> {
    let (_, size) = store.open_blob(digest)?;
    let name = digest
        .as_str()
        .parse::<oci_spec::image::Digest>()
        .map_err(|error| Error::Invalid(format!("{digest}: {error}")))?;
    Ok(Descriptor::new(media_type, size, name))
}

fn from_layout(
    store: &Store,
    members: &mut dyn Members,
    source: &Path,
    name: Option<&Name>,
    wanted: &Wanted,
    progress: &Progress,
) -> Result<Vec<Image>> {
    let index = members
        .json("index.json")?
        .ok_or_else(|| Error::Invalid("the OCI layout has no index.json".to_owned()))?;
    let index: ImageIndex = serde_json::from_slice(&index)
        .map_err(|error| Error::Invalid(format!("index.json cannot be read: {error}")))?;
    if name.is_some() {
        only_one(index.manifests().len())?;
    }
    let mut from = Layout(members);
    let mut images: Vec<Image> = Vec::new();
    for top in index.manifests() {
        let names = match name {
            Some(name) => vec![name.clone()],
            None => name_in_layout(top, source).into_iter().collect(),
        };
        let digest = digest_of(top.digest())?;
        if let Some(image) = images.iter().find(|image| image.manifest == digest) {
            images.push(call(store, image.clone(), &names)?);
            continue;
        }
        let (bytes, media_type) = choose(&mut from, top, wanted)?;
        let image = take(store, &mut from, &bytes, &media_type, progress)?;
        images.push(call(store, image, &names)?);
    }
    Ok(images)
}

/// A name as its layout has it; a tag alone belongs to what the layout itself is called.
fn name_in_layout(descriptor: &Descriptor, source: &Path) -> Option<Name> {
    let annotations = descriptor.annotations().as_ref()?;
    if let Some(name) = annotations.get(CONTAINERD_NAME).and_then(|name| name.parse().ok()) {
        return Some(name);
    }
    let name = annotations.get(REF_NAME)?;
    if name.contains([':', '/']) {
        return name.parse().ok();
    }
    let stem = source.file_stem()?.to_str()?.to_ascii_lowercase();
    format!("{stem}:{name}").parse().ok()
}

/// The blobs of an OCI layout.
pub(super) struct Layout<'a>(pub(super) &'a mut dyn Members);

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl Blobs for Layout<'_> {
    fn json(&mut self, digest: &Digest) -> Result<Vec<u8>> {
        let path = blob_path(digest);
        let bytes = self.0.json(&path)?;
        let bytes = bytes.ok_or_else(|| Error::Invalid(format!("the OCI layout lacks {digest}")))?;
        let found = Digest::of(&bytes);
        if found == *digest {
            return Ok(bytes);
        }
        Err(Error::Digest {
            what: format!("`{path}`"),
            found: found.to_string(),
            expected: digest.to_string(),
        })
    }

    fn fetch(&mut self, store: &Store, digest: &Digest, _: u64, _: &Progress) -> Result<()> {
        self.0.blob(store, &blob_path(digest), digest)
    }
}

/// Where nothing comes from: all is in the store.
struct Nowhere;

impl Blobs for Nowhere {
    fn json(&mut self, digest: &Digest) -> Result<Vec<u8>> {
        Err(Error::Invalid(format!("{digest} is not in the store")))
    }

    fn fetch(&mut self, _: &Store, digest: &Digest, _: u64, _: &Progress) -> Result<()> {
        Err(Error::Invalid(format!("{digest} is not in the store")))
    }
}
