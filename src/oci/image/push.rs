//! `plyfs image push`: how does an image get to a registry, or into an OCI layout?

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::FlockOperation;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::digest::Digest;
use super::super::error::{Error, Result};
use super::super::layer::say;
use super::super::progress::Progress;
use super::super::registry::{Access, Registry};
use super::super::store::{Image, REF_NAME, Store};
use super::copy::layout_of;
use crate::cli::PushArgs;
use crate::shown::shown;

const VERSION: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

#[derive(Debug, Serialize)]
struct Pushed {
    destination: String,
    digest: String,
}

pub(super) fn run(store: &Store, args: &PushArgs) -> Result<()> {
    let image = store.find(&args.image)?;
    let progress = Progress::begin("pushing")?;
    let destination =
        match args.destination.as_deref() {
            Some(destination) => destination.to_owned(),
            None => image.names.first().map(ToString::to_string).ok_or_else(|| {
                Error::Usage(format!("{} has no name: say where to push it", image.title()))
            })?,
        };
    let destination = match layout_of(&destination) {
        Some((dir, tag)) => {
            let tag = tag.unwrap_or_else(|| image.names.first().map_or("latest", |name| &name.tag));
            to_layout(store, &image, Path::new(dir), tag, &progress)?;
            format!("oci:{}:{tag}", shown(dir))
        }
        None => to_registry(store, &image, &destination, args, &progress)?,
    };
    drop(progress);
    let pushed = Pushed { destination, digest: image.manifest.to_string() };
    say(args.json, &pushed, || format!("{}\ndigest  {}\n", pushed.destination, pushed.digest))
}

/// The image's configuration and layers, each once.
fn content(image: &Image) -> Vec<&Digest> {
    let mut content: Vec<&Digest> = Vec::new();
    for digest in image.layers.iter().map(|layer| &layer.blob).chain([&image.id]) {
        if !content.contains(&digest) {
            content.push(digest);
        }
    }
    content
}

fn to_registry(
    store: &Store,
    image: &Image,
    destination: &str,
    args: &PushArgs,
    progress: &Progress,
) -> Result<String> {
    let registry = Registry::connect(destination, &args.registry, Access::Push, progress)?;
    let content = content(image);
    for (at, digest) in content.iter().enumerate() {
        progress.say(&format!("blob {} of {}", at + 1, content.len()));
        if !registry.has_blob(digest)? {
            let (mut file, size) = store.open_blob(digest)?;
            registry.push_blob(digest, size, &mut file, progress)?;
        }
    }
    registry.push_manifest(&store.read_json(&image.manifest)?, &image.media_type)?;
    Ok(registry.reference())
}

/// Adds the image to a layout, which may hold others; makes it if it is not there.
fn to_layout(store: &Store, image: &Image, dir: &Path, tag: &str, progress: &Progress) -> Result<()> {
    let failed = Error::io("write", dir);
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(&failed)?;
    // As other tools do that write to one layout.
    let lock = File::open(dir).map_err(&failed)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(Error::io("lock", dir))?;
    for digest in content(image).into_iter().chain([&image.manifest]) {
        let path = blobs.join(digest.hex());
        if path.exists() {
            continue;
        }
        let (mut file, _) = store.open_blob(digest)?;
        publish(&path, &blobs, |out| io::copy(&mut file, out).map(drop).map_err(Error::io("write", &path)))?;
        progress.check()?;
    }
    let version = dir.join("oci-layout");
    if !version.exists() {
        publish(&version, dir, |out| out.write_all(VERSION.as_bytes()).map_err(&failed))?;
    }
    let index = dir.join("index.json");
    let mut value: Value = match fs::read(&index) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [] })
        }
        read => serde_json::from_slice(&read.map_err(Error::io("read", &index))?)
            .map_err(|error| Error::Setup(format!("{} is no image index: {error}", shown(&index))))?,
    };
    let manifests = value.get_mut("manifests").and_then(Value::as_array_mut);
    let manifests = manifests.ok_or_else(|| Error::Setup(format!("{} is no image index", shown(&index))))?;
    manifests.retain(|other| other.pointer(&pointer(REF_NAME)).and_then(Value::as_str) != Some(tag));
    let (_, size) = store.open_blob(&image.manifest)?;
    let config = |key: &str| image.config.get(key).cloned().unwrap_or_default();
    manifests.push(json!({
        "mediaType": image.media_type,
        "digest": image.manifest.as_str(),
        "size": size,
        "annotations": { REF_NAME: tag },
        "platform": { "architecture": config("architecture"), "os": config("os") },
    }));
    let bytes = serde_json::to_vec_pretty(&value)
        .map_err(|error| Error::Invalid(format!("the index cannot be written: {error}")))?;
    publish(&index, dir, |out| out.write_all(&bytes).map_err(Error::io("write", &index)))
}

fn pointer(annotation: &str) -> String {
    format!("/annotations/{annotation}")
}

/// Writes a file in one step; it is on disk then.
fn publish(path: &Path, dir: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let failed = Error::io("write", path);
    let mut file = tempfile::Builder::new()
        .prefix(".plyfs-")
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(dir)
        .map_err(&failed)?;
    fill(&mut file)?;
    file.as_file().sync_all().map_err(&failed)?;
    file.persist(path).map(drop).map_err(|error| failed(error.error))
}
