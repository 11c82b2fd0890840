//! What can be written on the command line?
//!
//! Only definitions: what the `-o` options mean is [`options`](crate::options)' business.

#[cfg(feature = "run")]
mod apply;
mod branch;
#[cfg(feature = "oci")]
mod image;
#[cfg(feature = "oci")]
mod layer;
#[cfg(feature = "look")]
mod look;
#[cfg(feature = "run")]
mod run;
mod snapshot;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::exit::EXIT_CODES;
#[cfg(feature = "bench")]
use crate::units::parse_size;
#[cfg(feature = "run")]
pub use apply::*;
pub use branch::*;
#[cfg(feature = "oci")]
pub use image::*;
#[cfg(feature = "oci")]
pub use layer::*;
#[cfg(feature = "look")]
pub use look::*;
#[cfg(feature = "run")]
pub use run::*;
pub use snapshot::*;

const ABOUT: &str = "\
A union filesystem in userspace: several directories (branches) shown as one.

Branch 0, the upper, is writable; all others, the lowers, are only ever read. The first write to \
a lower's file copies it up. A deletion is recorded in the upper as an OCI whiteout (.wh.NAME), \
so the upper is at any moment a valid layer of a container image.

Two command lines lead to a mount. `plyfs mount` has options of its own; and as everybody else's \
programs (mount(8), fstab, podman, containerd) write it, `plyfs [SOURCE] MOUNTPOINT -o OPTIONS`: \
any line that does not begin with one of the commands below.";

const EXAMPLES: &str = "\
Examples:
  plyfs mount --lower image2 --lower image1 --upper changes --work work merged
  plyfs -o lowerdir=image2:image1,upperdir=changes,workdir=work merged
  plyfs -o dirs=changes:image2:image1 none merged          (as AUFS has it)
  mount -t fuse.plyfs none merged -o lowerdir=/l,upperdir=/u,workdir=/w
  plyfs branches merged
  plyfs branch add merged image3
  plyfs branch del merged image1
  plyfs snapshot merged before-the-upgrade
  plyfs rewind merged before-the-upgrade
  plyfs show merged
  plyfs which merged/etc/passwd
  plyfs diff merged
  plyfs doctor upper work
  plyfs stats merged
  plyfs sync merged
  plyfs umount merged
  plyfs bench --max-size 64MiB --svg copy-up.svg
  plyfs layer pack changes -o layer.tar.gz
  plyfs image import nginx.tar && plyfs image mount --rw nginx merged";

const OPTIONS: &str = "\
Options for -o, comma-separated; `\\,` `\\:` and `\\\\` stand for the character itself:
  lowerdir=A:B:C         the lowers, topmost first
  lowerdir+=A            one lower, below those before; instead of lowerdir, for names with colons:
                         only `\\,` and `\\\\` are escapes in it, as it has no list to split
  upperdir=DIR           the writable branch; without it the mount is read-only
  workdir=DIR            where files are staged: an empty directory beside the upper, on its
                         filesystem (default: .NAME.plyfs-work beside the upper). plyfs keeps
                         what it needs in the directory `plyfs` in it
  dirs=A[=rw]:B[=ro]:C   the same as AUFS has it; also br:A:B and br=A:B. The first is
                         writable unless it says =ro, the others are read-only
  ro, rw                 read-only although there is an upper; writable (default)
  volatile, fsync=0      do not sync: faster, but unsafe when the machine crashes
  timeout=SECONDS        how long the kernel need not ask again what it knows (default: a day); also
                         attr_timeout=, entry_timeout=, negative_timeout=. With 0 a change of a
                         lower behind the mount shows at the next look
  watch, watch=N         what others change in lowers shows when it happens: the directories that the
                         kernel knows are watched by inotify, N at most (default: half of what
                         /proc/sys/fs/inotify/max_user_watches allows); others are looked at each time
  udba=none|reval|notify AUFS' words: the default, timeout=0, watch
  static_nlink           every directory shows one link
  allow_other            other users may look in (root's mounts: always so)
  nosuid, nodev, noexec, nosymfollow, noatime, relatime, …   as for mount(8); what the mount of
                         a branch forbids, the union forbids, unless suid, dev, exec ask otherwise
                         (not as the last words, where mount(8) puts them by itself)
  context=, fscontext=, defcontext=, rootcontext=   for SELinux, where the kernel has it
  fsname=NAME            what mount(8) shows as the source (default: SOURCE, else plyfs)
  uidmapping=D:S:N[:…]   show the N ids from D on disk as those from S; also gidmapping=
  squash_to_root         show everything as root's; also squash_to_uid=N, squash_to_gid=N
  xattr_permissions=2    owner, mode and type of a file are those in its attribute
                         user.containers.override_stat, and the file itself is the mounter's:
                         for many owners without root; =1 in one that only root may set
  size=N, inodes=N       how much data and how many files the upper may hold, those that it has by
                         now included; df(1) shows it. N may end in k, m or g
  xdev                   a lower ends where another filesystem is mounted in it, as with overlayfs:
                         the directory shows empty. Without it, what is mounted there shows
  hide=PATH              what the lowers hold there does not show, nor what comes to be there later
  empty=DIR              that directory of a lower shows empty
  unreadable=empty       what the mounter may not read of a lower shows empty instead of an error
  plain_lowers           with xattr_permissions=2: records count in the upper only
  bases                  note what everything that is changed was before, for `plyfs apply`
  userns_ids=N           the mount is in a user namespace that has the ids below N and the mounter's
                         own: others are shown so that he may do with their files what he may do
  upper_from_overlayfs   the upper was written by overlayfs: a 0:0 device in it is a whiteout
  stable_inodes          branches on FUSE keep their inode numbers over a remount: then hard links of
                         their files stay together when one is written
  threads=N              how many requests are answered at once, 1 to 64 (default 16)
  affinity=caller|none   answer a caller who asks alone on its own CPU (default), or let the kernel
                         choose: for measuring
What fuse-overlayfs, overlayfs, AUFS, unionfs-fuse, libfuse and mount(8) know beyond these is
accepted if leaving it out weakens nothing and changes nothing that is shown, and refused with
a reason if not; what nobody knows is ignored with a warning.";

/// plyfs' command line.
#[derive(Debug, Parser)]
#[command(
    name = "plyfs",
    version,
    about = "A union filesystem in userspace",
    long_about = ABOUT,
    after_help = "See --help for the -o options, examples and exit codes.",
    after_long_help = format!("{OPTIONS}\n\n{EXAMPLES}\n\n{EXIT_CODES}"),
    override_usage = "plyfs <COMMAND> …\n       plyfs [SOURCE] MOUNTPOINT -o OPTIONS",
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    /// One of plyfs' own commands.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Everybody else's line.
    #[command(flatten)]
    pub line: Option<MountLine>,
}

/// plyfs' own commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a union of directories
    ///
    /// Returns when the mount answers, and leaves a daemon behind that ends with the mount.
    /// SIGTERM, SIGINT and SIGHUP to the daemon unmount cleanly.
    #[command(
        arg_required_else_help = true,
        after_help = "See --help for the -o options, examples and exit codes.",
        after_long_help = format!("{OPTIONS}\n\n{EXAMPLES}\n\n{EXIT_CODES}"),
        override_usage = "plyfs mount [--lower DIR]... [--upper DIR] [-o OPTIONS] [SOURCE] MOUNTPOINT"
    )]
    Mount(MountArgs),

    /// Unmount, and wait until the daemon has finished with the upper
    ///
    /// Only what was there when the command began is taken away, and only a plyfs. A daemon that does not answer within
    /// 10 s is not waited for.
    #[command(visible_alias = "unmount", after_long_help = EXIT_CODES)]
    Umount(UmountArgs),

    /// Show the branches of a live mount, one PATH=rw or PATH=ro a line, topmost first
    ///
    /// A newline in a path is written as \012 and a backslash as \134, as in /proc/mounts. To a terminal, other control
    /// characters are written as \x1b; into a pipe or a file, bytes are as they are. A daemon that does not answer
    /// within 10 s is an error.
    #[command(after_long_help = EXIT_CODES)]
    Branches(BranchesArgs),

    /// Change the branches of a live mount: add, remove and move lowers while programs use it
    ///
    /// For the user who has mounted, and for root. A change is done for all when the command returns, or not at all.
    #[command(subcommand)]
    Branch(BranchCommand),

    /// Freeze the upper of a live mount as a lower, and go on with an empty one
    ///
    /// Takes milliseconds, however large the upper is, and nothing changes for the programs that use the mount. The
    /// snapshots of an upper NAME are beside it, in NAME.snapshots; each is a layer. The next mount of the upper finds them.
    #[command(after_long_help = EXIT_CODES)]
    Snapshot(SnapshotArgs),

    /// Go back to a snapshot: what was changed since is gone, unless it is in another snapshot
    ///
    /// Later snapshots are kept, and can be gone to in the same way. To keep what has changed since the last one, take a
    /// snapshot first.
    #[command(after_long_help = EXIT_CODES)]
    Rewind(RewindArgs),

    /// Show how many requests of each kind the kernel has sent to a live mount, one NAME COUNT a line
    ///
    /// Counted since it was mounted, by the names of the FUSE protocol. A workload that the kernel serves from
    /// its caches sends none. FORGET counts nodes, which the kernel gives back in batches.
    #[command(after_long_help = EXIT_CODES)]
    Stats(StatsArgs),

    /// Wait until everything that was written through a live mount is on disk
    ///
    /// syncfs(2), which `sync -f` calls, never reaches a filesystem in userspace: without this, what was made lately can
    /// be lost in a crash of the machine. Waits for as long as the disk needs, without a bound, and takes write
    /// permission on the mountpoint. fsync(2) of one file works as on any disk.
    #[command(after_long_help = EXIT_CODES)]
    Sync(SyncArgs),

    /// Commands that only look.
    #[cfg(feature = "look")]
    #[command(flatten)]
    Look(LookCommand),

    /// Commands about runs.
    #[cfg(feature = "run")]
    #[command(flatten)]
    Run(RunCommand),

    /// Measure what copy-up costs on this machine
    ///
    /// Mounts unions in a temporary folder, writes 4 KiB into the middle of lower files of growing size (open,
    /// write, close), once and once more, and shows how long both take: with syncs, and with -o volatile. The
    /// first write copies the file up. Everything that it makes it removes again.
    #[cfg(feature = "bench")]
    #[command(after_long_help = EXIT_CODES)]
    Bench(BenchArgs),

    /// Write completions for a shell to stdout
    ///
    /// Packages install them. By hand: `plyfs completions bash > ~/.local/share/bash-completion/completions/plyfs`.
    #[cfg(feature = "manual")]
    Completions(CompletionsArgs),

    /// Write manual pages into a directory
    #[cfg(feature = "manual")]
    #[command(hide = true)]
    Man(ManArgs),

    /// Pack, unpack, compare, squash and check layers: directories as they lie on the disk
    #[cfg(feature = "oci")]
    #[command(subcommand)]
    Layer(LayerCommand),

    /// Import, mount, commit, push and pull container images, without an engine and without root
    ///
    /// They are kept in a directory that is an OCI image layout, and beside that holds every layer unpacked, in
    /// folders that read like those of docker's overlay2.
    #[cfg(feature = "oci")]
    Image(ImageArgs),
}

/// What every command line that mounts can have.
#[derive(Debug, Default, Args)]
pub struct MountLine {
    /// Mount options, comma-separated; can be repeated
    #[arg(short = 'o', value_name = "OPTIONS", allow_hyphen_values = true)]
    pub options: Vec<OsString>,

    /// Stay in the foreground and log to stderr (RUST_LOG sets the level)
    #[arg(short, long)]
    pub foreground: bool,

    /// Answer one request at a time, the same as -o threads=1
    #[arg(short)]
    pub single_threaded: bool,

    /// Stay in the foreground and log every request
    #[arg(short, long)]
    pub debug: bool,

    /// Say which branches are mounted, and how
    #[arg(short, long)]
    pub verbose: bool,

    /// The directory to mount on, or /dev/fd/N for an open /dev/fuse that you have mounted with; a word before it is what
    /// mount(8) shows as the source
    #[arg(value_name = "MOUNTPOINT", num_args = 1..=2, required = true)]
    pub words: Vec<OsString>,
}

/// `plyfs mount`.
#[derive(Debug, Default, Args)]
pub struct MountArgs {
    /// A branch that is only read; repeat it, topmost first
    #[arg(long = "lower", value_name = "DIR")]
    pub lowers: Vec<PathBuf>,

    /// The branch that takes every change; without it the mount is read-only
    #[arg(long, value_name = "DIR")]
    pub upper: Option<PathBuf>,

    /// Where files are staged, on the upper's filesystem
    ///
    /// An empty directory that belongs to this mount alone, outside every branch. By default
    /// .NAME.plyfs-work beside the upper, made when it is missing.
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,

    /// Refuse every change, although there is an upper
    #[arg(long)]
    pub read_only: bool,

    /// Skip every sync: faster, but a crash of the machine may lose copied files
    #[arg(long)]
    pub volatile: bool,

    /// Hold a shared lock on this file for as long as the mount lives: for `plyfs image mount`
    #[arg(long, hide = true, value_name = "FILE")]
    pub hold: Option<PathBuf>,

    /// Make a socket in this place, and change the stack for whoever asks there: for `plyfs run`
    #[arg(long, hide = true, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// The session that is handed over has `default_permissions`, though its mount cannot be seen: for `plyfs run`
    #[arg(long, hide = true)]
    pub session_checks: bool,

    /// What it shares with everybody else's line.
    #[command(flatten)]
    pub line: MountLine,
}

/// `plyfs umount`.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Take the mount away now, even if it is in use; its users go on until they close their files
    #[arg(short = 'z', long)]
    pub lazy: bool,

    /// Where the union is mounted
    pub mountpoint: PathBuf,
}

/// `plyfs branches`.
#[derive(Debug, Args)]
pub struct BranchesArgs {
    /// Where the union is mounted
    pub mountpoint: PathBuf,
}

/// `plyfs stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Where the union is mounted
    pub mountpoint: PathBuf,
}

/// `plyfs sync`.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// Where the union is mounted
    pub mountpoint: PathBuf,
}

/// `plyfs completions`.
#[cfg(feature = "manual")]
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// The shells that there are completions for.
#[cfg(feature = "manual")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// `plyfs man`.
#[cfg(feature = "manual")]
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where `man1` and `man8` are made
    pub dir: PathBuf,
}

/// `plyfs bench`.
#[cfg(feature = "bench")]
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Where to measure: the temporary folder is made in here
    #[arg(value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,

    /// The largest file, such as 64KiB, 16MiB or 1GiB (a bare number is bytes)
    ///
    /// The sizes go from 4 KiB up to this one, each four times the last. A size of which the disk cannot hold three
    /// copies is skipped.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    pub max_size: u64,

    /// Write the results here as JSON; sizes are in bytes, times in seconds
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Draw the results here as SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

impl Cli {
    /// What the line asks for: everybody else's line is a `mount` with fewer options.
    pub fn into_command(self) -> Command {
        self.command.unwrap_or_else(|| {
            Command::Mount(MountArgs { line: self.line.unwrap_or_default(), ..MountArgs::default() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_a_line_that_begins_with_a_command_is_ours() {
        let command = |line: &str| {
            let cli = Cli::try_parse_from(line.split(' ')).expect(line);
            match cli.into_command() {
                Command::Mount(args) => args.line.words,
                Command::Umount(_) => vec!["(umount)".into()],
                Command::Branches(_) => vec!["(branches)".into()],
                Command::Branch(_) => vec!["(branch)".into()],
                Command::Snapshot(_) | Command::Rewind(_) => vec!["(snapshot)".into()],
                Command::Stats(_) => vec!["(stats)".into()],
                Command::Sync(_) => vec!["(sync)".into()],
                #[cfg(feature = "look")]
                Command::Look(_) => vec!["(look)".into()],
                #[cfg(feature = "run")]
                Command::Run(_) => vec!["(run)".into()],
                #[cfg(feature = "manual")]
                Command::Completions(_) | Command::Man(_) => vec!["(manual)".into()],
                #[cfg(feature = "bench")]
                Command::Bench(_) => vec!["(bench)".into()],
                #[cfg(feature = "oci")]
                Command::Layer(_) => vec!["(layer)".into()],
                #[cfg(feature = "oci")]
                Command::Image(_) => vec!["(image)".into()],
            }
        };
        assert_eq!(command("plyfs umount m"), ["(umount)"]);
        assert_eq!(command("plyfs branches m"), ["(branches)"]);
        assert_eq!(command("plyfs branch add m d"), ["(branch)"]);
        assert_eq!(command("plyfs snapshot m"), ["(snapshot)"]);
        assert_eq!(command("plyfs rewind m 1"), ["(snapshot)"]);
        assert_eq!(command("plyfs stats m"), ["(stats)"]);
        assert_eq!(command("plyfs sync m"), ["(sync)"]);
        #[cfg(feature = "bench")]
        assert_eq!(command("plyfs bench"), ["(bench)"]);
        #[cfg(feature = "look")]
        assert_eq!(command("plyfs diff m"), ["(look)"]);
        #[cfg(feature = "run")]
        for line in ["plyfs run -- ls -l", "plyfs run", "plyfs runs", "plyfs discard x"] {
            assert_eq!(command(line), ["(run)"], "{line}");
        }
        #[cfg(feature = "manual")]
        assert_eq!(command("plyfs completions fish"), ["(manual)"]);
        #[cfg(feature = "oci")]
        assert_eq!(command("plyfs layer diff a b"), ["(layer)"]);
        #[cfg(feature = "oci")]
        assert_eq!(command("plyfs image ls"), ["(image)"]);
        assert_eq!(command("plyfs mount m"), ["m"]);
        assert_eq!(command("plyfs -o lowerdir=a umount"), ["umount"]);
        assert_eq!(command("plyfs none mount -olowerdir=a"), ["none", "mount"]);
    }
}
