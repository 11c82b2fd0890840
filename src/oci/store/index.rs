//! Which images are there, and by which names?
//!
//! `index.json` is an OCI image index: one descriptor for each name, which is its annotation
//! `org.opencontainers.image.ref.name`. Source: OCI image-spec, `image-index.md`, `annotations.md`.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde_json::Value;

use super::super::digest::Digest;
use super::super::error::{Error, Result};
use super::{Layer, Store, chain_ids};
use crate::shown::shown;

/// Where an index says what an image is called.
pub(in super::super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// So many layers no image has: docker's limit is 127.
const MOST_LAYERS: usize = 500;
/// As many digits of an ID as nobody types by mistake.
const SHORTEST_ID: usize = 4;

/// What an image is called: `NAME:TAG`, with the registry's host in front if it has one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Name {
    /// Without the tag.
    pub(in super::super) repository: String,
    /// `latest` if nothing else is said.
    pub(in super::super) tag: String,
}

impl FromStr for Name {
    type Err = Error;

    /// Reads a name as people write it. `docker.io/library/` in front says nothing.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::Usage(format!(
                "`{}` is no name for an image: {why}; write [HOST[:PORT]/]NAME[:TAG], such as nginx:1.27",
                shown(text)
            ))
        };
        // A colon behind the last slash is a tag's; another one a port's.
        let (repository, tag) = match text.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (text, "latest"),
        };
        let repository = repository.strip_prefix("docker.io/").unwrap_or(repository);
        let repository = repository.strip_prefix("library/").unwrap_or(repository);
        let is_tag = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if tag.is_empty() || tag.len() > 128 || !tag.bytes().all(is_tag) || tag.starts_with(['.', '-']) {
            return Err(wrong("its tag has other characters than letters, digits and `_.-`"));
        }
        let parts: Vec<&str> = repository.split('/').collect();
        let (host, path) = match parts.split_first() {
            Some((first, rest))
                if !rest.is_empty() && (first.contains(['.', ':']) || *first == "localhost") =>
            {
                (Some(*first), rest)
            }
            _ => (None, &parts[..]),
        };
        if repository.len() > 255 || path.iter().any(|part| part.is_empty()) {
            return Err(wrong("it is empty, or a part of it is, or it is longer than 255 bytes"));
        }
        let is_path = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte);
        if !path.iter().all(|part| part.bytes().all(is_path) && !part.starts_with(['.', '-', '_'])) {
            return Err(wrong("it has other characters than lower-case letters, digits and `_.-`"));
        }
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        let host = host.unwrap_or("x");
        if !host.bytes().all(is_host) || host.starts_with(['.', '-', ':']) {
            return Err(wrong("its host has characters that none has"));
        }
        Ok(Self { repository: repository.to_owned(), tag: tag.to_owned() })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

/// An image, as far as its manifest and its configuration say.
#[derive(Clone, Debug)]
pub(in super::super) struct Image {
    /// By which names it is known.
    pub(in super::super) names: Vec<Name>,
    /// Its manifest.
    pub(in super::super) manifest: Digest,
    /// The manifest's media type.
    pub(in super::super) media_type: String,
    /// Its configuration, which gives the image its ID.
    pub(in super::super) id: Digest,
    /// What its configuration says.
    pub(in super::super) config: Value,
    /// The lowest first.
    pub(in super::super) layers: Vec<Layer>,
    /// How long the archives are together, in bytes.
    pub(in super::super) size: u64,
}

impl Image {
    /// The names of its layers with all below them, the lowest first.
    pub(in super::super) fn chain(&self) -> Vec<Digest> {
        chain_ids(self.layers.iter().map(|layer| &layer.diff_id))
    }

    /// A name, or the ID.
    pub(in super::super) fn title(&self) -> String {
        self.names.first().map_or_else(|| self.id.short().to_owned(), Name::to_string)
    }
}

/// Reads a digest that somebody else wrote.
pub(in super::super) fn digest_of(digest: &oci_spec::image::Digest) -> Result<Digest> {
    Digest::parse(digest.as_ref())
}

impl Store {
    fn index(&self) -> Result<ImageIndex> {
        let path = self.path("index.json");
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut index = ImageIndex::default();
                index.set_schema_version(2);
                index.set_media_type(Some(MediaType::ImageIndex));
                Ok(index)
            }
            Err(error) => Err(Error::io("read", &path)(error)),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Error::Setup(format!("{} is no image index: {error}", shown(&path)))),
        }
    }

    fn write_index(&self, index: &ImageIndex) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(index)
            .map_err(|error| Error::Invalid(format!("the index cannot be written: {error}")))?;
        self.publish(&self.path("index.json"), &bytes)
    }

    /// All images, by name; those without one behind them.
    pub(in super::super) fn images(&self) -> Result<Vec<Image>> {
        let mut images: Vec<Image> = Vec::new();
        for descriptor in self.index()?.manifests() {
            let manifest = digest_of(descriptor.digest())?;
            let name = name_of(descriptor);
            match images.iter_mut().find(|image| image.manifest == manifest) {
                Some(image) => image.names.extend(name),
                None => {
                    let mut image = self.image(&manifest, descriptor.media_type().as_ref())?;
                    image.names.extend(name);
                    images.push(image);
                }
            }
        }
        for image in &mut images {
            image.names.sort();
        }
        images.sort_by(|one, other| {
            (one.names.is_empty(), &one.names, &one.id).cmp(&(
                other.names.is_empty(),
                &other.names,
                &other.id,
            ))
        });
        Ok(images)
    }

    /// The image of a manifest.
    pub(in super::super) fn image(&self, manifest: &Digest, media_type: &str) -> Result<Image> {
        let bytes = self.read_json(manifest)?;
        let parsed = parse_manifest(&bytes)?;
        let id = digest_of(parsed.config().digest())?;
        let config: Value = serde_json::from_slice(&self.read_json(&id)?).map_err(|error| {
            Error::Invalid(format!("the image's configuration {id} cannot be read: {error}"))
        })?;
        let blobs =
            parsed.layers().iter().map(|layer| digest_of(layer.digest())).collect::<Result<Vec<_>>>()?;
        let diff_ids = diff_ids(&config)?;
        if blobs.len() != diff_ids.len() {
            return Err(Error::Invalid(format!(
                "the manifest has {} layers, and the configuration {}",
                blobs.len(),
                diff_ids.len()
            )));
        }
        let layers = blobs.into_iter().zip(diff_ids).map(|(blob, diff_id)| Layer { blob, diff_id }).collect();
        let size = parsed.layers().iter().map(Descriptor::size).sum();
        Ok(Image {
            names: Vec::new(),
            manifest: manifest.clone(),
            media_type: media_type.to_owned(),
            id,
            config,
            layers,
            size,
        })
    }

    /// The image that somebody means by a name, an ID or the beginning of one.
    pub(in super::super) fn find(&self, text: &str) -> Result<Image> {
        let images = self.images()?;
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if let Ok(name) = text.parse::<Name>()
            && let Some(image) = images.iter().find(|image| image.names.contains(&name))
        {
            return Ok(image.clone());
        }
        let is_id = digits.len() >= SHORTEST_ID && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut meant: Vec<&Image> = images
            .iter()
            .filter(|image| {
                is_id && (image.id.hex().starts_with(digits) || image.manifest.hex().starts_with(digits))
            })
            .collect();
        meant.dedup_by(|one, other| one.id == other.id);
        match meant[..] {
            [image] => Ok(image.clone()),
            [] => Err(Error::Usage(format!(
                "no image is called `{}`: `plyfs image ls` lists them",
                shown(text)
            ))),
            _ => Err(Error::Usage(format!(
                "`{}` is the beginning of several IDs: write more of it",
                shown(text)
            ))),
        }
    }

    /// Calls an image so. All that it needs is there. Answers the name's former image.
    pub(in super::super) fn put_image(&self, name: Option<&Name>, image: &Image) -> Result<()> {
        let _lock = self.lock_index()?;
        let mut index = self.index()?;
        let mut manifests = index.manifests().clone();
        let text = name.map(Name::to_string);
        manifests.retain(|other| match &text {
            Some(_) => name_of(other).as_ref() != name,
            // Nothing new is said of an image that has a name.
            None => true,
        });
        let is_there = manifests.iter().any(|other| other.digest().as_ref() == image.manifest.as_str());
        if text.is_none() && is_there {
            return Ok(());
        }
        // The same without a name is said by the one that has it.
        manifests
            .retain(|other| name_of(other).is_some() || other.digest().as_ref() != image.manifest.as_str());
        let (_, size) = self.open_blob(&image.manifest)?;
        let digest = oci_spec::image::Digest::from_str(image.manifest.as_str())
            .map_err(|error| Error::Invalid(format!("{}: {error}", image.manifest)))?;
        let mut descriptor = Descriptor::new(MediaType::from(image.media_type.as_str()), size, digest);
        descriptor.set_annotations(text.map(|text| [(REF_NAME.to_owned(), text)].into()));
        manifests.push(descriptor);
        index.set_manifests(manifests);
        self.write_index(&index)
    }

    /// Takes a name away, or with an ID all of an image's. Answers what was removed; None if no image is meant.
    pub(in super::super) fn remove_names(&self, text: &str) -> Result<Vec<String>> {
        let image = self.find(text)?;
        let named = text.parse::<Name>().ok().filter(|name| image.names.contains(name));
        let _lock = self.lock_index()?;
        let mut index = self.index()?;
        let mut manifests = index.manifests().clone();
        let mut removed = Vec::new();
        manifests.retain(|other| {
            let name = name_of(other);
            let is_meant = match &named {
                Some(_) => name == named,
                None => other.digest().as_ref() == image.manifest.as_str(),
            };
            if is_meant {
                removed.push(name.map_or_else(|| image.id.to_string(), |name| name.to_string()));
            }
            !is_meant
        });
        index.set_manifests(manifests);
        self.write_index(&index)?;
        Ok(removed)
    }
}

fn name_of(descriptor: &Descriptor) -> Option<Name> {
    descriptor.annotations().as_ref()?.get(REF_NAME)?.parse().ok()
}

/// Reads a manifest of one image.
pub(in super::super) fn parse_manifest(bytes: &[u8]) -> Result<ImageManifest> {
    let manifest: ImageManifest = serde_json::from_slice(bytes)
        .map_err(|error| Error::Invalid(format!("the image's manifest cannot be read: {error}")))?;
    if manifest.layers().len() > MOST_LAYERS {
        return Err(Error::Invalid(format!(
            "the image has {} layers, and none has more than {MOST_LAYERS}",
            manifest.layers().len()
        )));
    }
    Ok(manifest)
}

/// The layers that a configuration names, the lowest first.
pub(in super::super) fn diff_ids(config: &Value) -> Result<Vec<Digest>> {
    let list = config.pointer("/rootfs/diff_ids").and_then(Value::as_array);
    let Some(list) = list else {
        return Err(Error::Invalid("the image's configuration names no layers (rootfs.diff_ids)".to_owned()));
    };
    list.iter().map(|id| Digest::parse(id.as_str().unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_people_write_them() {
        for (text, repository, tag) in [
            ("nginx", "nginx", "latest"),
            ("nginx:1.27", "nginx", "1.27"),
            ("docker.io/library/nginx", "nginx", "latest"),
            ("localhost:5000/a/b", "localhost:5000/a/b", "latest"),
            ("localhost:5000/a/b:T_1", "localhost:5000/a/b", "T_1"),
            ("quay.io/x/y:v", "quay.io/x/y", "v"),
        ] {
            let name: Name = text.parse().expect(text);
            assert_eq!((&*name.repository, &*name.tag), (repository, tag));
        }
        for text in ["", ":x", "a:", "a//b", "Nginx", "a:b c", "../x", "a/../b", "a b", "-a", "host.x:5/a:é"]
        {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
    }
}
