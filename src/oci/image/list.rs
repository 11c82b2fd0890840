//! `plyfs image ls` and `history`: which images are there, and how did they come about?

use serde::Serialize;
use serde_json::Value;

use super::super::error::Result;
use super::super::layer::say;
use super::super::store::{Image, Store};
use super::time::ago;
use crate::cli::{HistoryArgs, LsArgs};
use crate::shown::shown;
use crate::units::size;

/// So much of a step is shown.
const STEP_WIDTH: usize = 45;

#[derive(Debug, Serialize)]
struct Listed {
    repository: Option<String>,
    tag: Option<String>,
    id: String,
    digest: String,
    created: String,
    /// Of all files of all layers, in bytes.
    size: u64,
}

#[derive(Debug, Serialize)]
struct Mounted {
    id: String,
    image: String,
    mountpoint: String,
    /// Whether it is mounted now; else it was there last.
    mounted: bool,
    created: String,
}

#[derive(Debug, Serialize)]
struct List {
    images: Vec<Listed>,
    mounts: Vec<Mounted>,
}

pub(super) fn images(store: &Store, args: &LsArgs) -> Result<()> {
    let mut list = List { images: Vec::new(), mounts: Vec::new() };
    for image in store.images()? {
        let names: Vec<_> = image.names.iter().map(Some).collect();
        for name in if names.is_empty() { vec![None] } else { names } {
            list.images.push(Listed {
                repository: name.map(|name| name.repository.clone()),
                tag: name.map(|name| name.tag.clone()),
                id: image.id.to_string(),
                digest: image.manifest.to_string(),
                created: text(&image.config, "created"),
                size: unpacked_size(store, &image),
            });
        }
    }
    for mount in store.mounts()? {
        list.mounts.push(Mounted {
            mounted: store.is_mounted(&mount)?,
            id: mount.id,
            image: mount.image,
            mountpoint: shown(&mount.mountpoint).to_string(),
            created: mount.created,
        });
    }
    say(args.json, &list, || list.text())
}

impl List {
    fn text(&self) -> String {
        let head = ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"].map(str::to_owned);
        let none = || "<none>".to_owned();
        let row = |image: &Listed| {
            [
                image.repository.clone().unwrap_or_else(none),
                image.tag.clone().unwrap_or_else(none),
                short(&image.id),
                ago(&image.created),
                size(image.size),
            ]
        };
        let mut text = table(std::iter::once(head).chain(self.images.iter().map(row)));
        if !self.mounts.is_empty() {
            let head = ["MOUNT ID", "IMAGE", "CREATED", "MOUNTED ON"].map(str::to_owned);
            let row = |mount: &Mounted| {
                let place = if mount.mounted { mount.mountpoint.clone() } else { "-".to_owned() };
                [mount.id[..12].to_owned(), mount.image.clone(), ago(&mount.created), place]
            };
            text.push('\n');
            text.push_str(&table(std::iter::once(head).chain(self.mounts.iter().map(row))));
        }
        text
    }
}

fn unpacked_size(store: &Store, image: &Image) -> u64 {
    image.chain().iter().filter_map(|id| store.layer_size(id)).sum()
}

fn short(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().take(12).collect()
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Columns as wide as their widest cell, three spaces between them.
fn table<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = rows.collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}   "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A step of an image's history.
#[derive(Debug, Serialize)]
struct Step {
    /// The ID of the image that ended with this step, if the store has it.
    id: Option<String>,
    created: String,
    created_by: String,
    /// Of the files of the step's layer, in bytes; 0 without a layer.
    size: u64,
    comment: String,
    /// The step's layer, uncompressed.
    #[serde(rename = "diffID", skip_serializing_if = "Option::is_none")]
    diff_id: Option<String>,
}

pub(super) fn history(store: &Store, args: &HistoryArgs) -> Result<()> {
    let image = store.find(&args.image)?;
    let others = store.images()?;
    let chain = image.chain();
    let none = Vec::new();
    let recorded = image.config.get("history").and_then(Value::as_array).unwrap_or(&none);
    let mut steps = Vec::new();
    let mut layer = 0;
    for (at, step) in recorded.iter().enumerate() {
        let is_empty = step.get("empty_layer").and_then(Value::as_bool).unwrap_or(false);
        let own = (!is_empty && layer < image.layers.len()).then_some(layer);
        layer += usize::from(own.is_some());
        let is_last = at + 1 == recorded.len();
        let ended = |other: &&Image| {
            let history = other.config.get("history").and_then(Value::as_array);
            history.is_some_and(|history| history[..] == recorded[..=at])
                && other.layers.len() == layer
                && other.layers.iter().zip(&image.layers).all(|(one, ours)| one.diff_id == ours.diff_id)
        };
        let id = if is_last { Some(&image.id) } else { others.iter().find(ended).map(|other| &other.id) };
        steps.push(Step {
            id: id.map(ToString::to_string),
            created: text(step, "created"),
            created_by: text(step, "created_by"),
            size: own.and_then(|own| store.layer_size(&chain[own])).unwrap_or(0),
            comment: text(step, "comment"),
            diff_id: own.map(|own| image.layers[own].diff_id.to_string()),
        });
    }
    // Layers that nothing is said of.
    for (own, id) in image.layers.iter().zip(&chain).skip(layer) {
        steps.push(Step {
            id: None,
            created: String::new(),
            created_by: String::new(),
            size: store.layer_size(id).unwrap_or(0),
            comment: String::new(),
            diff_id: Some(own.diff_id.to_string()),
        });
    }
    if let Some(last) = steps.last_mut() {
        last.id.get_or_insert_with(|| image.id.to_string());
    }
    steps.reverse();
    say(args.json, &steps, || history_text(&steps, args.no_trunc))
}

fn history_text(steps: &[Step], no_trunc: bool) -> String {
    let cut = |text: &str| {
        if no_trunc || text.chars().count() <= STEP_WIDTH {
            return text.to_owned();
        }
        text.chars().take(STEP_WIDTH - 1).chain(['…']).collect()
    };
    let head = ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"].map(str::to_owned);
    let row = |step: &Step| {
        let id = match &step.id {
            Some(id) if no_trunc => id.clone(),
            Some(id) => short(id),
            None => "<missing>".to_owned(),
        };
        // A step may be many lines long.
        let by: String = step.created_by.split_whitespace().collect::<Vec<_>>().join(" ");
        [id, ago(&step.created), cut(&by), size(step.size), step.comment.clone()]
    };
    let mut text = table(std::iter::once(head).chain(steps.iter().map(row)));
    if steps.iter().any(|step| step.id.is_none()) {
        text.push_str(
            "\n<missing>: the step was made elsewhere. Its layer is here, but no image that ended with it.\n",
        );
    }
    text
}
