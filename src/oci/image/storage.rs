//! How is an image taken over that podman, buildah or CRI-O hold already, without copying its layers?
//!
//! Their store (containers/storage, driver `overlay`) has each layer unpacked in `overlay/ID/diff`: ours gets a symbolic
//! link to that. Manifest and configuration are copied. Source: containers/storage, `images.go`, `layers.go`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::super::digest::Digest;
use super::super::error::{Error, Result};
use super::super::store::{Image, Name, Store, digest_of, parse_manifest};
use super::copy::media_type_of;
use super::import::call;
use crate::shown::shown;

/// No list of images or layers is longer.
const LONGEST_LIST: u64 = 256 << 20;
/// No manifest is longer.
const LONGEST_JSON: u64 = 4 << 20;

#[derive(Debug, Deserialize)]
struct StoredImage {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    layer: String,
}

#[derive(Debug, Deserialize)]
struct StoredLayer {
    id: String,
    #[serde(default)]
    parent: String,
    #[serde(rename = "diff-digest", default)]
    diff_digest: String,
    #[serde(rename = "diff-size", default)]
    diff_size: i64,
}

/// Whether a directory is such a store.
pub(super) fn is_one(dir: &Path) -> bool {
    dir.join("overlay-images/images.json").is_file()
}

/// Takes over one image, or all that have a name. With `--name`, that is which.
pub(super) fn import(store: &Store, dir: &Path, name: Option<&Name>) -> Result<Vec<Image>> {
    let dir = dir.canonicalize().map_err(Error::io("open", dir))?;
    let images: Vec<StoredImage> = read_list(&dir.join("overlay-images/images.json"))?;
    let layers: Vec<StoredLayer> = read_list(&dir.join("overlay-layers/layers.json"))?;
    let layers: HashMap<&str, &StoredLayer> = layers.iter().map(|layer| (&*layer.id, layer)).collect();
    let mut taken = Vec::new();
    for image in &images {
        let names: Vec<Name> = image.names.iter().filter_map(|name| local(name).parse().ok()).collect();
        let names = match name {
            Some(name) if names.contains(name) => vec![name.clone()],
            Some(_) => continue,
            None if names.is_empty() => continue,
            None => names,
        };
        taken.push(take(store, &dir, image, &layers, &names)?);
    }
    match name {
        Some(name) if taken.is_empty() => {
            let known: Vec<&str> =
                images.iter().flat_map(|image| &image.names).map(|name| local(name)).collect();
            Err(Error::Usage(format!(
                "{} has no image {name}: say --name with one of {}",
                shown(&dir),
                shown(&known.join(", "))
            )))
        }
        _ => Ok(taken),
    }
}

/// podman calls what it has made `localhost/NAME`.
fn local(name: &str) -> &str {
    name.strip_prefix("localhost/").unwrap_or(name)
}

fn read_list<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Vec<T>> {
    serde_json::from_slice(&read(path, LONGEST_LIST)?)
        .map_err(|error| Error::Setup(format!("{} cannot be read: {error}", shown(path))))
}

fn read(path: &Path, longest: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Error::io("open", path))?;
    file.take(longest).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}

fn take(
    store: &Store,
    dir: &Path,
    image: &StoredImage,
    layers: &HashMap<&str, &StoredLayer>,
    names: &[Name],
) -> Result<Image> {
    let unfit = |why: &str| Error::Setup(format!("the image {} in {} {why}", shown(&image.id), shown(dir)));
    let is_id = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_id(&image.id) {
        return Err(unfit("has an ID that is none"));
    }
    let data = dir.join("overlay-images").join(&image.id);
    let manifest = read(&data.join("manifest"), LONGEST_JSON)?;
    let media_type =
        media_type_of(&manifest).ok_or_else(|| unfit("has a manifest that does not say its type"))?;
    let parsed = parse_manifest(&manifest)?;
    let id = digest_of(parsed.config().digest())?;
    let config = find(&data, &id)?.ok_or_else(|| unfit("lacks its configuration"))?;
    // From the topmost down, as each names the one below.
    let mut chain: Vec<(&StoredLayer, PathBuf)> = Vec::new();
    let mut next = image.layer.as_str();
    while !next.is_empty() {
        let layer = layers.get(next).ok_or_else(|| unfit("names a layer that is not there"))?;
        if !is_id(&layer.id) || chain.len() > layers.len() {
            return Err(unfit("names layers that cannot be"));
        }
        chain.push((layer, dir.join("overlay").join(&layer.id).join("diff")));
        next = &layer.parent;
    }
    chain.reverse();
    store.put_blob(&config)?;
    let digest = store.put_blob(&manifest)?;
    let taken = store.image(&digest, &media_type)?;
    let is_same = taken.layers.len() == chain.len()
        && taken
            .layers
            .iter()
            .zip(&chain)
            .all(|(ours, (theirs, _))| ours.diff_id.as_str() == theirs.diff_digest);
    if !is_same {
        return Err(unfit("has other layers than its configuration names"));
    }
    let ids = taken.chain();
    for (at, (layer, diff)) in chain.iter().enumerate() {
        if !diff.is_dir() {
            return Err(unfit("lacks a layer's folder"));
        }
        store.link_layer(&ids[..=at], diff, u64::try_from(layer.diff_size).unwrap_or(0))?;
    }
    call(store, taken, names)
}

/// A file of that digest.
fn find(dir: &Path, digest: &Digest) -> Result<Option<Vec<u8>>> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        if path.is_file() {
            let bytes = read(&path, LONGEST_JSON)?;
            if Digest::of(&bytes) == *digest {
                return Ok(Some(bytes));
            }
        }
    }
    Ok(None)
}
