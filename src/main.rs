//! plyfs: parse, run, exit code.

use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
#[cfg(feature = "bench")]
use plyfs::bench::{self, BenchError};
#[cfg(feature = "run")]
use plyfs::cli::LookCommand;
use plyfs::cli::{BranchCommand, Cli, Command, MountArgs};
use plyfs::control::{self, Position};
use plyfs::exit::Exit;
#[cfg(feature = "look")]
use plyfs::look;
#[cfg(feature = "manual")]
use plyfs::manual;
use plyfs::mount::{self, MountError};
#[cfg(feature = "oci")]
use plyfs::oci;
use plyfs::options::{self, Wish};
#[cfg(feature = "run")]
use plyfs::run as runs;
use plyfs::shown::shown_lines;

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Mount(#[from] MountError),
    #[cfg(feature = "bench")]
    #[error(transparent)]
    Bench(#[from] BenchError),
    #[cfg(feature = "look")]
    #[error(transparent)]
    Look(#[from] look::Error),
    #[cfg(feature = "oci")]
    #[error(transparent)]
    Oci(#[from] oci::Error),
    #[cfg(feature = "run")]
    #[error(transparent)]
    Run(#[from] runs::Error),
}

impl Failure {
    fn exit(&self) -> ExitCode {
        match self {
            Self::Mount(error) => error.exit().into(),
            #[cfg(feature = "bench")]
            Self::Bench(error) => error.exit(),
            #[cfg(feature = "look")]
            Self::Look(error) => error.exit().into(),
            #[cfg(feature = "oci")]
            Self::Oci(error) => error.exit().into(),
            #[cfg(feature = "run")]
            Self::Run(error) => error.exit().into(),
        }
    }
}

fn main() -> ExitCode {
    if let Some(code) = mount::answer_if_sent() {
        return code;
    }
    let command = match Cli::try_parse() {
        Ok(cli) => cli.into_command(),
        // Clap exits with 0 for --help and --version, with 2 for a wrong line: our own codes.
        Err(error) => error.exit(),
    };
    match run(&command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("plyfs: {error}");
            match (&command, &error) {
                #[cfg(feature = "run")]
                (Command::Run(command), Failure::Run(error)) => runs::exit_code(command, error),
                _ => error.exit(),
            }
        }
    }
}

fn run(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Mount(args) => {
            log_to_stderr(level(args));
            if let Some(wishes) = options::parse_remount(args).map_err(MountError::from)? {
                let mountpoint = args.line.words.last().map(Path::new).unwrap_or(Path::new(""));
                change_stack(mountpoint, &wishes)?;
                return Ok(Exit::Success.into());
            }
            let (options, warnings) = options::parse(args).map_err(MountError::from)?;
            return Ok(mount::mount(&options, &warnings)?);
        }
        Command::Umount(args) => mount::umount(&args.mountpoint, args.lazy)?,
        Command::Branch(command) => match command {
            BranchCommand::List(args) => print(&mount::branches(&args.mountpoint)?)?,
            BranchCommand::Add(args) => {
                // Each comes on top of those that are named after it.
                let one = |dir: &PathBuf| Wish::Add(args.at, dir.clone());
                let wishes: Vec<_> = match args.at {
                    Position::Bottom => args.dirs.iter().map(one).collect(),
                    Position::Top | Position::Index(_) => args.dirs.iter().rev().map(one).collect(),
                };
                change_stack(&args.mountpoint, &wishes)?;
            }
            BranchCommand::Del(args) => {
                let wish = |dir: &PathBuf| Wish::Remove(dir.clone(), args.strict);
                change_stack(&args.mountpoint, &args.dirs.iter().map(wish).collect::<Vec<_>>())?;
            }
            BranchCommand::Move(args) => {
                change_stack(&args.mountpoint, &[Wish::Move(args.dir.clone(), args.to)])?;
            }
            BranchCommand::Change(args) => {
                let wishes = options::parse_changes(&args.words).map_err(MountError::from)?;
                change_stack(&args.mountpoint, &wishes)?;
            }
        },
        Command::Snapshot(args) => {
            // Its name.
            let name = change(&args.mountpoint, &[Wish::Snapshot(args.name.clone())])?;
            print(format!("{name}\n").as_bytes())?;
        }
        Command::Rewind(args) => drop(change(&args.mountpoint, &[Wish::Rewind(args.name.clone())])?),
        Command::Branches(args) => print(&mount::branches(&args.mountpoint)?)?,
        Command::Stats(args) => print(&mount::messages(&args.mountpoint)?)?,
        Command::Sync(args) => mount::sync(&args.mountpoint)?,
        #[cfg(feature = "look")]
        Command::Look(command) => {
            log_to_stderr("warn");
            #[cfg(feature = "run")]
            if let LookCommand::Diff(args) = command
                && let Some(code) = runs::diff(args)?
            {
                return Ok(code);
            }
            return Ok(look::run(command)?);
        }
        #[cfg(feature = "run")]
        Command::Run(command) => {
            log_to_stderr("warn");
            return Ok(runs::run(command)?);
        }
        #[cfg(feature = "manual")]
        Command::Completions(args) => {
            manual::completions(args.shell).map_err(|error| MountError::Process { what: "stdout", error })?
        }
        #[cfg(feature = "manual")]
        Command::Man(args) => manual::pages(&args.dir)
            .map_err(|error| MountError::Process { what: "cannot write the manual pages", error })?,
        #[cfg(feature = "bench")]
        Command::Bench(args) => bench::run(args)?,
        #[cfg(feature = "oci")]
        Command::Layer(command) => {
            log_to_stderr("warn");
            return Ok(oci::layer(command)?);
        }
        #[cfg(feature = "oci")]
        Command::Image(args) => {
            log_to_stderr("warn");
            return Ok(oci::image(
                args,
                &oci::Mounts { branches: &live_branches, snapshots: &snapshots_below },
            )?);
        }
    }
    Ok(Exit::Success.into())
}

/// Changes a live mount, or a run.
fn change(word: &Path, wishes: &[Wish]) -> Result<String, Failure> {
    #[cfg(feature = "run")]
    if let Some(note) = runs::change(word, wishes)? {
        return Ok(note);
    }
    Ok(mount::change(word, wishes)?)
}

fn change_stack(mountpoint: &Path, wishes: &[Wish]) -> Result<(), MountError> {
    let note = mount::change(mountpoint, wishes)?;
    if !note.is_empty() {
        eprintln!("plyfs: {}", shown_lines(&note));
    }
    Ok(())
}

/// The snapshots that an upper lies on, topmost first.
#[cfg(feature = "oci")]
fn snapshots_below(upper: &Path) -> Result<Vec<PathBuf>, String> {
    let found = mount::snapshots_below(upper).map_err(|error| error.to_string())?;
    Ok(found.into_iter().map(|found| found.path).collect())
}

/// What is mounted on a directory; None if that is no plyfs, or does not answer.
#[cfg(feature = "oci")]
fn live_branches(mountpoint: &Path) -> Option<oci::Branches> {
    let list = mount::branches(mountpoint).inspect_err(|error| log::debug!("{error}")).ok()?;
    let mut branches = oci::Branches::default();
    for (path, access) in control::parse_branches(&list) {
        match access {
            control::Access::Writable => branches.upper = Some(path),
            control::Access::ReadOnly => branches.lowers.push(path),
        }
    }
    Some(branches)
}

/// To a terminal without what would speak to it; into a pipe or a file as it is.
fn print(text: &[u8]) -> Result<(), MountError> {
    let mut out = std::io::stdout();
    let printed = if out.is_terminal() {
        write!(out, "{}", shown_lines(OsStr::from_bytes(text)))
    } else {
        out.write_all(text)
    };
    printed.map_err(|error| MountError::Process { what: "stdout", error })
}

/// Warnings by default.
fn level(args: &MountArgs) -> &'static str {
    if args.line.debug {
        "debug"
    } else if args.line.verbose {
        "info"
    } else {
        "warn"
    }
}

/// RUST_LOG says it more finely than the options.
fn log_to_stderr(level: &str) {
    // It says what its caller says better.
    let filter = format!("{level},rustls_platform_verifier=off");
    // A name in a message must not speak to the terminal.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter))
        .format(|out, record| {
            let (time, level, target) = (out.timestamp(), record.level(), record.target());
            writeln!(out, "[{time} {level:<5} {target}] {}", shown_lines(&record.args().to_string()))
        })
        .init();
}
