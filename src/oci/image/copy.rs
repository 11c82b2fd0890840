//! `plyfs image pull`: how does an image come in from elsewhere, piece by piece, and verified?

use oci_spec::image::{Descriptor, ImageIndex};
use serde_json::Value;

use super::super::digest::Digest;
use super::super::error::{Error, Result};
use super::super::layer::say;
use super::super::place::open_layers;
use super::super::progress::Progress;
use super::super::registry::{Access, Registry};
use super::super::store::{Image, Name, REF_NAME, Store, digest_of, parse_manifest};
use super::Taken;
use super::import::{Layout, call};
use super::members::{Directory, Members};
use crate::cli::PullArgs;
use crate::shown::shown;

/// An index may name an index; nobody goes deeper.
const DEEPEST_INDEX: usize = 4;

/// Where content comes from that is known by its digest.
pub(super) trait Blobs {
    /// A manifest or an index; it has this digest.
    fn json(&mut self, digest: &Digest) -> Result<Vec<u8>>;

    /// Takes content over into the store.
    fn fetch(&mut self, store: &Store, digest: &Digest, size: u64, progress: &Progress) -> Result<()>;
}

/// For which machine an image is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Wanted {
    /// `OS/ARCHITECTURE[/VARIANT]`, else this machine.
    pub(super) fn parse(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else {
            // As Go calls them: OCI image-spec, `image-index.md`, "platform".
            let architecture = match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "x86" => "386",
                "aarch64" => "arm64",
                "powerpc64" => "ppc64le",
                "loongarch64" => "loong64",
                other => other,
            };
            return Ok(Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None });
        };
        match text.split('/').collect::<Vec<_>>()[..] {
            [os, architecture] if !os.is_empty() && !architecture.is_empty() => {
                Ok(Self { os: os.to_owned(), architecture: architecture.to_owned(), variant: None })
            }
            [os, architecture, variant] if !os.is_empty() && !architecture.is_empty() => Ok(Self {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: Some(variant.to_owned()),
            }),
            _ => Err(Error::Usage(format!(
                "--platform {}: write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64",
                shown(text)
            ))),
        }
    }

    /// The operating system and the architecture.
    pub(super) fn names(&self) -> (&str, &str) {
        (&self.os, &self.architecture)
    }

    fn is(&self, descriptor: &Descriptor) -> bool {
        let Some(platform) = descriptor.platform() else { return false };
        platform.os().to_string() == self.os
            && platform.architecture().to_string() == self.architecture
            && (self.variant.is_none() || *platform.variant() == self.variant)
    }
}

/// The manifest of the image that is wanted, of those that an index offers.
pub(super) fn choose(from: &mut dyn Blobs, top: &Descriptor, wanted: &Wanted) -> Result<(Vec<u8>, String)> {
    let mut digest = digest_of(top.digest())?;
    for _ in 0..DEEPEST_INDEX {
        let bytes = from.json(&digest)?;
        match next(&bytes, wanted)? {
            Some(inner) => digest = inner,
            None => {
                let media_type = media_type_of(&bytes).unwrap_or_else(|| top.media_type().to_string());
                return Ok((bytes, media_type));
            }
        }
    }
    Err(Error::Invalid("an image index leads to another, and that to another".to_owned()))
}

/// What a manifest says of its own type.
pub(super) fn media_type_of(bytes: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    Some(value.get("mediaType")?.as_str()?.to_owned())
}

/// The manifest to go on with, if this is an index.
pub(super) fn next(bytes: &[u8], wanted: &Wanted) -> Result<Option<Digest>> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| Error::Invalid(format!("the manifest cannot be read: {error}")))?;
    if value.get("manifests").is_none() {
        return Ok(None);
    }
    let index: ImageIndex = serde_json::from_value(value)
        .map_err(|error| Error::Invalid(format!("the image index cannot be read: {error}")))?;
    let manifests = index.manifests();
    let chosen = match &manifests[..] {
        [only] if only.platform().is_none() => Some(only),
        several => several.iter().find(|descriptor| wanted.is(descriptor)),
    };
    let Some(chosen) = chosen else {
        let platforms: Vec<String> = manifests
            .iter()
            .filter_map(|manifest| manifest.platform().as_ref())
            .map(|platform| format!("{}/{}", platform.os(), platform.architecture()))
            .collect();
        return Err(Error::Usage(format!(
            "there is no image for {}/{} in it: say --platform with one of {}",
            wanted.os,
            wanted.architecture,
            shown(&platforms.join(", "))
        )));
    };
    digest_of(chosen.digest()).map(Some)
}

/// Takes an image over: its content first, then its layers are unpacked. It has no name yet.
pub(super) fn take(
    store: &Store,
    from: &mut dyn Blobs,
    manifest: &[u8],
    media_type: &str,
    progress: &Progress,
) -> Result<Image> {
    let parsed = parse_manifest(manifest)?;
    let layers = parsed.layers();
    for (at, descriptor) in std::iter::once(parsed.config()).chain(layers).enumerate() {
        let digest = digest_of(descriptor.digest())?;
        if descriptor.urls().as_ref().is_some_and(|urls| !urls.is_empty()) {
            return Err(Error::Invalid(format!(
                "{digest} is to be had elsewhere only, which is not supported"
            )));
        }
        if !store.has_blob(&digest) {
            if at > 0 {
                progress.say(&format!("layer {at} of {}", layers.len()));
            }
            from.fetch(store, &digest, descriptor.size(), progress)?;
        }
    }
    let digest = store.put_blob(manifest)?;
    let image = store.image(&digest, media_type)?;
    store.unpack_layers(&image.layers, progress)?;
    Ok(image)
}

/// `oci:DIR` or `oci:DIR:TAG`.
pub(super) fn layout_of(text: &str) -> Option<(&str, Option<&str>)> {
    let rest = text.strip_prefix("oci:")?;
    Some(match rest.rsplit_once(':') {
        Some((dir, tag)) if !tag.contains('/') => (dir, Some(tag)),
        _ => (rest, None),
    })
}

pub(super) fn run(store: &Store, args: &PullArgs) -> Result<()> {
    let wanted = Wanted::parse(args.platform.as_deref())?;
    let name = args.name.as_deref().map(str::parse::<Name>).transpose()?;
    let progress = Progress::begin("pulling")?;
    let image = match layout_of(&args.source) {
        Some((dir, tag)) => from_layout(store, dir, tag, name, &wanted, &progress)?,
        None => from_registry(store, args, name, &wanted, &progress)?,
    };
    drop(progress);
    let taken = Taken::of(&image);
    say(args.json, &taken, || taken.text())
}

fn from_layout(
    store: &Store,
    dir: &str,
    tag: Option<&str>,
    name: Option<Name>,
    wanted: &Wanted,
    progress: &Progress,
) -> Result<Image> {
    let mut members = Directory { root: open_layers(&[dir])?.remove(0) };
    let index = members
        .json("index.json")?
        .ok_or_else(|| Error::Setup(format!("{} is no OCI layout: it has no index.json", shown(dir))))?;
    let index: ImageIndex = serde_json::from_slice(&index)
        .map_err(|error| Error::Invalid(format!("index.json cannot be read: {error}")))?;
    let top = match (tag, &index.manifests()[..]) {
        (None, [only]) => Some(only),
        (None, several) => several.iter().find(|descriptor| name_in(descriptor) == Some("latest")),
        (Some(tag), all) => all.iter().find(|descriptor| {
            name_in(descriptor).is_some_and(|name| name == tag || name.rsplit(':').next() == Some(tag))
        }),
    };
    let top = top.ok_or_else(|| {
        let names: Vec<&str> =
            index.manifests().iter().filter_map(|descriptor| name_in(descriptor)).collect();
        Error::Usage(format!(
            "{} has no such image: say oci:DIR:TAG with one of {}",
            shown(dir),
            shown(&names.join(", "))
        ))
    })?;
    let stem = std::path::Path::new(dir).file_stem().and_then(|stem| stem.to_str()).unwrap_or("image");
    let name = match name {
        Some(name) => name,
        None => match name_in(top) {
            Some(full) if full.contains([':', '/']) => full.parse()?,
            tag => format!("{}:{}", stem.to_ascii_lowercase(), tag.unwrap_or("latest")).parse()?,
        },
    };
    let mut from = Layout(&mut members);
    let (bytes, media_type) = choose(&mut from, top, wanted)?;
    let image = take(store, &mut from, &bytes, &media_type, progress)?;
    call(store, image, &[name])
}

fn name_in(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations().as_ref()?.get(REF_NAME).map(String::as_str)
}

fn from_registry(
    store: &Store,
    args: &PullArgs,
    name: Option<Name>,
    wanted: &Wanted,
    progress: &Progress,
) -> Result<Image> {
    let mut registry = Registry::connect(&args.source, &args.registry, Access::Pull, progress)?;
    let name = match name {
        Some(name) => name,
        None => {
            let without_digest = args.source.split('@').next().unwrap_or_default();
            without_digest.strip_prefix("docker://").unwrap_or(without_digest).parse()?
        }
    };
    let mut manifest = registry.manifest()?;
    let mut depth = 0;
    while let Some(inner) = next(&manifest.bytes, wanted)? {
        depth += 1;
        if depth == DEEPEST_INDEX {
            return Err(Error::Invalid("an image index leads to another, and that to another".to_owned()));
        }
        manifest = registry.manifest_by_digest(&inner)?;
    }
    let media_type = media_type_of(&manifest.bytes).unwrap_or(manifest.media_type);
    let image = take(store, &mut registry, &manifest.bytes, &media_type, progress)?;
    call(store, image, &[name])
}

impl Blobs for Registry {
    fn json(&mut self, digest: &Digest) -> Result<Vec<u8>> {
        Ok(self.manifest_by_digest(digest)?.bytes)
    }

    fn fetch(&mut self, store: &Store, digest: &Digest, size: u64, progress: &Progress) -> Result<()> {
        let (mut file, partial) = store.partial_blob(digest, progress)?;
        // Somebody else may have fetched it while we waited.
        if store.has_blob(digest) {
            return Ok(());
        }
        self.pull_blob(digest, size, &mut file, progress)?;
        store.keep_partial(&file, &partial, digest)
    }
}
