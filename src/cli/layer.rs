//! `plyfs layer`: layers as they lie on the disk.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::exit::EXIT_CODES;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// Not at all
    None,
    /// gzip, which every registry and engine reads
    Gzip,
    /// Zstandard: faster and smaller, for engines since 2021
    Zstd,
}

/// Where it is said whose a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OwnersIn {
    /// Files have the owners, modes and devices of the image: takes root, if only of a user namespace
    Disk,
    /// Files are those of whoever runs plyfs; their attribute user.containers.override_stat says the rest
    Override,
    /// Files are those of whoever runs plyfs, and root's in the image; other owners and devices are not kept
    Ours,
}

/// Whose the files of a layer are, on the disk and in the image.
#[derive(Debug, Default, Args)]
pub struct OwnersArgs {
    /// Where it is said whose a file is [default: disk for root, override for anybody else]
    #[arg(long, value_enum, value_name = "WHERE")]
    pub owners: Option<OwnersIn>,

    /// The N ids from D on disk are those from S in the image, as `-o uidmapping=` has it
    #[arg(long, value_name = "D:S:N[:…]")]
    pub uidmapping: Option<String>,

    /// The same for groups
    #[arg(long, value_name = "D:S:N[:…]")]
    pub gidmapping: Option<String>,
}

/// `plyfs layer`.
#[derive(Debug, Subcommand)]
pub enum LayerCommand {
    /// Write a directory as a layer of an image: a tar archive, the same bytes from every disk
    ///
    /// Whiteouts and opaque directories in every format (.wh. files, overlayfs' devices and attributes) become OCI's.
    /// Times are those of the files, none later than $SOURCE_DATE_EPOCH; the archive's digest and diffID are printed.
    /// Several directories, the upper first, are written as one layer. A directory that changes meanwhile, as the
    /// upper of a mount may, is an error after three attempts.
    #[command(after_long_help = EXIT_CODES)]
    Pack(PackArgs),

    /// Make a directory of a layer's archive
    ///
    /// The archive may be anybody's: nothing outside of the directory is read or written, and what cannot be a layer
    /// is an error that names the entry. The directory must not exist, or be empty; it appears when it is whole.
    #[command(after_long_help = EXIT_CODES)]
    Unpack(UnpackArgs),

    /// Show what makes layer B another one than A: A path (added), C path (changed), D path (not there)
    ///
    /// Types, modes, owners, times of modification, extended attributes, links and content are compared, and markers,
    /// whichever format they are in. Exits with 1 if anything differs, as diff(1).
    #[command(after_long_help = EXIT_CODES)]
    Diff(DiffArgs),

    /// Make one layer of several
    ///
    /// What it shows and hides over any lower is what all of them did, the topmost first.
    #[command(after_long_help = EXIT_CODES)]
    Squash(SquashArgs),

    /// Look for what should not be in a layer, or cannot be read
    ///
    /// Markers in other formats than OCI's, markers beside what they hide, leftovers of union filesystems, unreadable
    /// entries; and with --lower, markers that hide nothing. Exits with 1 if anything is left to be said.
    #[command(after_long_help = EXIT_CODES)]
    Check(CheckArgs),
}

/// `plyfs layer pack`.
#[derive(Debug, Args)]
pub struct PackArgs {
    /// The directory; with several, the topmost first
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,

    /// Write here, to stdout with `-`; .tar.gz, .tgz and .tar.zst are compressed
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// How it is compressed [default: as the name of the file says]
    #[arg(long, value_enum)]
    pub compression: Option<Compression>,

    /// The upper's workdir, which knows names of hard-linked files that the upper has no entry for [default:
    /// .NAME.plyfs-work beside the first DIR, if it is there]
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,

    /// The layers below, topmost first: read only if the workdir notes such names
    #[arg(long = "lower", value_name = "DIR")]
    pub lowers: Vec<PathBuf>,

    /// Whose the files are.
    #[command(flatten)]
    pub owners: OwnersArgs,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs layer unpack`.
#[derive(Debug, Args)]
pub struct UnpackArgs {
    /// The archive, compressed or not; stdin with `-`
    #[arg(value_name = "FILE")]
    pub archive: PathBuf,

    /// The directory to make
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// What the archive's digest must be, or its diffID
    #[arg(long, value_name = "sha256:…")]
    pub digest: Option<String>,

    /// Whose the files are.
    #[command(flatten)]
    pub owners: OwnersArgs,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs layer diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The layer to compare with
    pub a: PathBuf,

    /// The layer to compare
    pub b: PathBuf,

    /// Print the differences as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs layer squash`.
#[derive(Debug, Args)]
pub struct SquashArgs {
    /// The layers, topmost first
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,

    /// The directory to make
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,

    /// Whose the files are.
    #[command(flatten)]
    pub owners: OwnersArgs,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `plyfs layer check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The layer
    pub dir: PathBuf,

    /// The layers below, topmost first: then markers that hide nothing are found, too
    #[arg(long = "lower", value_name = "DIR")]
    pub lowers: Vec<PathBuf>,

    /// Mend what can be mended without changing what shows
    #[arg(long)]
    pub repair: bool,

    /// Print what is found as JSON
    #[arg(long)]
    pub json: bool,
}
