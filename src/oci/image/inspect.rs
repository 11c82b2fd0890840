//! `plyfs image inspect`: all that is known of an image, as docker says it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::digest::Digest;
use super::super::error::{Error, Result};
use super::super::layer::say;
use super::super::store::{Image, MountRecord, Store};
use super::Live;
use crate::cli::InspectArgs;
use crate::shown::shown;

pub(super) fn run(store: &Store, live: Live<'_>, args: &InspectArgs) -> Result<()> {
    let value = match store.find(&args.image) {
        Ok(image) => of_image(store, &image),
        Err(error) => match find_mount(store, live, &args.image)? {
            Some(record) => {
                let image = store.image(&Digest::parse(&record.manifest)?, &record.media_type)?;
                of_mount(store, &record, &image)
            }
            None => return Err(error),
        },
    };
    match &args.format {
        None => say(true, &json!([value]), String::new),
        Some(format) => {
            let text = fill_in(format, &value)?;
            say(false, &value, || format!("{text}\n"))
        }
    }
}

/// By its ID, or where it is mounted.
fn find_mount(store: &Store, live: Live<'_>, text: &str) -> Result<Option<MountRecord>> {
    if let Some(record) = store.find_mount(text)? {
        return Ok(Some(record));
    }
    match (live.branches)(Path::new(text)).and_then(|branches| branches.upper) {
        Some(upper) => store.mount_of_upper(&upper),
        None => Ok(None),
    }
}

/// Where the parts of a mount of it are, by overlayfs' names.
fn driver(store: &Store, lowers: &[PathBuf], own: &str) -> Value {
    let path = |path: PathBuf| Value::from(shown(&path).to_string());
    let dir = store.layer_dir(own);
    let mut data = serde_json::Map::new();
    if !lowers.is_empty() {
        let lowers: Vec<String> = lowers.iter().map(|lower| shown(lower).to_string()).collect();
        data.insert("LowerDir".to_owned(), lowers.join(":").into());
    }
    data.insert("MergedDir".to_owned(), path(dir.join("merged")));
    data.insert("UpperDir".to_owned(), path(dir.join("diff")));
    data.insert("WorkDir".to_owned(), path(dir.join("work")));
    json!({ "Name": "plyfs", "Data": data })
}

fn of_image(store: &Store, image: &Image) -> Value {
    let chain = image.chain();
    let (top, below) = match chain.split_last() {
        Some((top, below)) => (top.hex(), below),
        None => ("", &chain[..]),
    };
    let lowers: Vec<PathBuf> = below.iter().rev().map(|id| store.layer_dir(id.hex()).join("diff")).collect();
    let config = |key: &str| image.config.get(key).cloned().unwrap_or_default();
    let size: u64 = chain.iter().filter_map(|id| store.layer_size(id)).sum();
    let diff_ids: Vec<&str> = image.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
    json!({
        "Id": image.id.as_str(),
        "RepoTags": names,
        "RepoDigests": image.names.iter().map(|name| format!("{}@{}", name.repository, image.manifest)).collect::<Vec<_>>(),
        "Comment": last_comment(image),
        "Created": config("created"),
        "Author": config("author"),
        "Architecture": config("architecture"),
        "Os": config("os"),
        "Size": size,
        "CompressedSize": image.size,
        "Digest": image.manifest.as_str(),
        "Config": config("config"),
        "GraphDriver": driver(store, &lowers, top),
        "RootFS": { "Type": "layers", "Layers": diff_ids },
    })
}

fn last_comment(image: &Image) -> Value {
    let history = image.config.get("history").and_then(Value::as_array);
    let last = history.and_then(|history| history.last());
    last.and_then(|last| last.get("comment")).cloned().unwrap_or_else(|| "".into())
}

fn of_mount(store: &Store, record: &MountRecord, image: &Image) -> Value {
    json!({
        "Id": record.id,
        "Created": record.created,
        "Image": image.id.as_str(),
        "ImageName": record.image,
        "Mountpoint": shown(&record.mountpoint).to_string(),
        "GraphDriver": driver(store, &store.lowers_of(record, image), &record.id),
    })
}

/// Puts values in for `{{.A.B}}` and, as JSON, for `{{json .A}}`.
fn fill_in(format: &str, value: &Value) -> Result<String> {
    let wrong = |inner: &str| {
        Error::Usage(format!(
            "--format: `{{{{{}}}}}` is not known: write {{{{.Name.Name}}}} or {{{{json .Name}}}}, with names of what \
             `inspect` shows",
            shown(inner)
        ))
    };
    let mut text = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once("{{") {
        let (inner, after) = after.split_once("}}").ok_or_else(|| wrong(after))?;
        text.push_str(before);
        let words: Vec<&str> = inner.split_whitespace().collect();
        let (path, as_json) = match words[..] {
            [path] => (path, false),
            ["json", path] => (path, true),
            _ => return Err(wrong(inner)),
        };
        let path = path.strip_prefix('.').ok_or_else(|| wrong(inner))?;
        let mut found = value;
        for name in path.split('.').filter(|name| !name.is_empty()) {
            found = found.get(name).ok_or_else(|| wrong(inner))?;
        }
        match found {
            Value::String(string) if !as_json => text.push_str(string),
            other => text.push_str(&other.to_string()),
        }
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_filled_in() {
        let value = json!({ "A": { "B": "text", "N": 3 }, "L": ["x"] });
        for (format, text) in [
            ("{{.A.B}}", "text"),
            ("a {{ .A.N }} b {{json .A.B}}", "a 3 b \"text\""),
            ("{{.L}}", "[\"x\"]"),
            ("plain", "plain"),
        ] {
            assert_eq!(fill_in(format, &value).expect(format), text);
        }
        for format in ["{{.C}}", "{{A}}", "{{.A", "{{range .L}}", "{{}}"] {
            let error = fill_in(format, &value).expect_err(format).to_string();
            assert!(error.contains("--format"), "{error}");
        }
    }
}
