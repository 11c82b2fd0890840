//! `plyfs image mount`: how does an image become a mount?
//!
//! By `plyfs mount`, in a process of its own, with the image's layers as lowers. What it is told to hold keeps `gc`
//! away for as long as the mount lives.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use serde::Serialize;

use super::super::digest::Digest;
use super::super::error::{Error, Result};
use super::super::layer::say;
use super::super::owners;
use super::super::store::{Image, MountRecord, Store};
use super::time;
use crate::cli::{ImageMountArgs, OwnersIn};
use crate::exit::Exit;
use crate::shown::shown;

#[derive(Debug, Serialize)]
struct Report {
    /// The mount's ID; None for one that only reads.
    id: Option<String>,
    image: String,
    mountpoint: String,
    /// Where the changes go.
    upper: Option<String>,
}

pub(super) fn run(store: &Store, args: &ImageMountArgs) -> Result<ExitCode> {
    let mountpoint = args.mountpoint.canonicalize().map_err(|error| {
        Error::Setup(format!("{}: {error}: name a directory to mount on", shown(&args.mountpoint)))
    })?;
    let earlier = store.find_mount(&args.image)?.filter(|_| store.find(&args.image).is_err());
    let (image, record, is_new) = match earlier {
        Some(mut record) => {
            let image = store.image(&Digest::parse(&record.manifest)?, &record.media_type)?;
            record.mountpoint.clone_from(&mountpoint);
            (image, Some(record), false)
        }
        None => {
            let image = store.find(&args.image)?;
            // They may have been removed by hand; all they hold is in their archives.
            let progress = super::Progress::begin("unpacking")?;
            store.unpack_layers(&image.layers, &progress)?;
            let record =
                if args.rw { Some(store.new_mount(&image, &mountpoint, time::now()?)?) } else { None };
            (image, record, true)
        }
    };
    let status = mount(store, args, &image, record.as_ref());
    match (&record, status) {
        (Some(record), Ok(0)) if !is_new => store.save_mount(record)?,
        (_, Ok(0)) => {}
        (record, failed) => {
            if let (Some(record), true) = (record, is_new) {
                // Nothing was changed in it.
                store.remove_mount(record)?;
            }
            return failed.map(ExitCode::from);
        }
    }
    let report = Report {
        id: record.as_ref().map(|record| record.id.clone()),
        image: image.title(),
        mountpoint: shown(&mountpoint).to_string(),
        upper: record.as_ref().map(|record| shown(&store.layer_dir(&record.id).join("diff")).to_string()),
    };
    say(args.json, &report, || report.id.as_ref().map_or_else(String::new, |id| format!("{id}\n")))?;
    Ok(Exit::Success.into())
}

/// Answers the exit code of `plyfs mount`, which has said why it failed.
fn mount(store: &Store, args: &ImageMountArgs, image: &Image, record: Option<&MountRecord>) -> Result<u8> {
    let chain = image.chain();
    let Some(top) = chain.last() else {
        return Err(Error::Setup(format!("{} has no layers: there is nothing to mount", image.title())));
    };
    let mut line: Vec<OsString> = vec!["mount".into()];
    let lowers: Vec<PathBuf> = match record {
        Some(record) => store.lowers_of(record, image),
        None => chain.iter().rev().map(|id| store.layer_dir(id.hex()).join("diff")).collect(),
    };
    for lower in lowers {
        line.extend(["--lower".into(), lower.into()]);
    }
    let held = match record {
        Some(record) => {
            let dir = store.layer_dir(&record.id);
            line.extend(["--upper".into(), dir.join("diff").into()]);
            line.extend(["--work".into(), dir.join("work").into()]);
            store.layer_dir(&record.init())
        }
        None => store.layer_dir(top.hex()),
    };
    line.extend(["--hold".into(), held.join("link").into()]);
    if store.owners.place == OwnersIn::Override && owners::may_give_away() {
        // Root of a user namespace may use what is shown as others'; an ordinary user could not even write to it.
        line.extend(["-o".into(), "xattr_permissions=2".into()]);
    }
    for options in &args.options {
        line.extend(["-o".into(), options.clone()]);
    }
    line.extend([image.title().into(), args.mountpoint.clone().into()]);
    let status = Command::new("/proc/self/exe").args(line).status().map_err(|error| Error::Io {
        what: "run",
        path: "/proc/self/exe".into(),
        error,
    })?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(u8::try_from(code).unwrap_or(1))
}
