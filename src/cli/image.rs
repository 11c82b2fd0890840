//! `plyfs image`: container images, and what was changed on top of them.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::layer::Compression;
use crate::exit::EXIT_CODES;

/// `plyfs image`.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// Where images are kept [default: $XDG_DATA_HOME/plyfs, or ~/.local/share/plyfs]
    #[arg(long, global = true, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// What to do.
    #[command(subcommand)]
    pub command: ImageCommand,
}

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Take an image over from a file or a directory
    ///
    /// What `docker save` and `podman save` write, OCI layouts and archives of them, from stdin with `-`; and without
    /// copying its layers, what podman and buildah hold: /var/lib/containers/storage.
    #[command(after_long_help = EXIT_CODES)]
    Import(ImportArgs),

    /// List images, and what was mounted of them
    #[command(visible_alias = "list", after_long_help = EXIT_CODES)]
    Ls(LsArgs),

    /// Show how an image came about, the last step first
    #[command(after_long_help = EXIT_CODES)]
    History(HistoryArgs),

    /// Show all that is known of an image, as JSON
    #[command(after_long_help = EXIT_CODES)]
    Inspect(InspectArgs),

    /// Mount an image; with --rw on a layer of its own that takes the changes
    #[command(after_long_help = EXIT_CODES)]
    Mount(ImageMountArgs),

    /// Show what was changed on top of an image: A path (added), C path (changed), D path (deleted)
    #[command(after_long_help = EXIT_CODES)]
    Diff(ImageDiffArgs),

    /// Make an image of what was changed on top of one
    #[command(after_long_help = EXIT_CODES)]
    Commit(CommitArgs),

    /// Copy an image to a registry, or with `oci:DIR[:TAG]` to an OCI layout
    #[command(after_long_help = EXIT_CODES)]
    Push(PushArgs),

    /// Copy an image from a registry, or with `oci:DIR[:TAG]` from an OCI layout
    #[command(after_long_help = EXIT_CODES)]
    Pull(PullArgs),

    /// Remove an image's name, or what was changed in a mount of one
    #[command(after_long_help = EXIT_CODES)]
    Rm(RmArgs),

    /// Remove what no image and no mount needs
    #[command(after_long_help = EXIT_CODES)]
    Gc(GcArgs),
}

/// `plyfs image import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The archive or the directory
    #[arg(value_name = "FILE|DIR")]
    pub source: PathBuf,

    /// What to call the image [default: as the archive says]
    #[arg(long)]
    pub name: Option<String>,

    /// Which of several: `OS/ARCHITECTURE[/VARIANT]` [default: this machine's]
    #[arg(long)]
    pub platform: Option<String>,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs image ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Print the list as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs image history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Its name or its ID
    pub image: String,

    /// Cut nothing short
    #[arg(long)]
    pub no_trunc: bool,

    /// Print the list as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs image inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Its name or its ID, or that of a mount of one
    pub image: String,

    /// Print this instead: text with {{.A.B}} or {{json .A}} in it
    #[arg(short, long)]
    pub format: Option<String>,
}

/// `plyfs image mount`.
#[derive(Debug, Args)]
pub struct ImageMountArgs {
    /// The image's name or its ID; or the ID of an earlier mount, to go on with it
    pub image: String,

    /// The directory to mount on
    pub mountpoint: PathBuf,

    /// Take changes, on a layer that stays after the mount
    #[arg(long)]
    pub rw: bool,

    /// More options of the mount, as for `plyfs mount`
    #[arg(short = 'o', value_name = "OPTIONS", allow_hyphen_values = true)]
    pub options: Vec<std::ffi::OsString>,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs image diff`.
#[derive(Debug, Args)]
pub struct ImageDiffArgs {
    /// Where the image is mounted, or the ID of the mount
    #[arg(value_name = "MOUNTPOINT|ID")]
    pub changed: String,

    /// Print the list as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs image commit`.
#[derive(Debug, Args)]
pub struct CommitArgs {
    /// Where the image is mounted, the ID of the mount, or an upper
    #[arg(value_name = "MOUNTPOINT|ID|UPPER")]
    pub changed: String,

    /// What to call the new image
    #[arg(value_name = "IMAGE")]
    pub name: String,

    /// What the upper is on top of: an image [default: for an upper, nothing]
    #[arg(long, value_name = "IMAGE")]
    pub from: Option<String>,

    /// What is said of the change in the image's history
    #[arg(short, long)]
    pub message: Option<String>,

    /// Who made the change
    #[arg(short, long)]
    pub author: Option<String>,

    /// How the new layer is compressed
    #[arg(long, value_enum, default_value = "gzip")]
    pub compression: Compression,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// How a registry is reached.
#[derive(Debug, Default, Args)]
pub struct RegistryArgs {
    /// Where user names and passwords are [default: $REGISTRY_AUTH_FILE, $XDG_RUNTIME_DIR/containers/auth.json,
    /// ~/.docker/config.json]
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,

    /// A certificate authority to trust besides the system's, as PEM
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// Talk to the registry without TLS
    #[arg(long)]
    pub plain_http: bool,
}

/// `plyfs image push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// Its name or its ID
    pub image: String,

    /// Where to: `HOST[:PORT]/NAME[:TAG]` or `oci:DIR[:TAG]` [default: as the image is called]
    #[arg(value_name = "DESTINATION")]
    pub destination: Option<String>,

    /// How the registry is reached.
    #[command(flatten)]
    pub registry: RegistryArgs,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs image pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// From where: `[HOST[:PORT]/]NAME[:TAG][@DIGEST]` or `oci:DIR[:TAG]`
    #[arg(value_name = "SOURCE")]
    pub source: String,

    /// What to call the image [default: as it is called there]
    #[arg(long)]
    pub name: Option<String>,

    /// Which of several: `OS/ARCHITECTURE[/VARIANT]` [default: this machine's]
    #[arg(long)]
    pub platform: Option<String>,

    /// How the registry is reached.
    #[command(flatten)]
    pub registry: RegistryArgs,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs image rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Names or IDs
    #[arg(required = true, value_name = "IMAGE|ID")]
    pub images: Vec<String>,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs image gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
