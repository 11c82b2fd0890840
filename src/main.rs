//! plyfs: parse, run, exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use plyfs::cli::{Cli, Command, MountArgs};
use plyfs::mount::{Exit, MountError};
use plyfs::{mount, options};

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.into_command(),
        // Clap exits with 0 for --help and --version, with 2 for a wrong line: our own codes.
        Err(error) => error.exit(),
    };
    match run(&command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("plyfs: {error}");
            error.exit().into()
        }
    }
}

fn run(command: &Command) -> Result<ExitCode, MountError> {
    match command {
        Command::Mount(args) => {
            log_to_stderr(args);
            let (options, warnings) = options::parse(args)?;
            return mount::mount(&options, &warnings);
        }
        Command::Umount(args) => mount::umount(&args.mountpoint, args.lazy)?,
        Command::Branches(args) => print(&mount::branches(&args.mountpoint)?)?,
        Command::Stats(args) => print(&mount::messages(&args.mountpoint)?)?,
    }
    Ok(Exit::Success.into())
}

fn print(text: &[u8]) -> Result<(), MountError> {
    std::io::stdout().write_all(text).map_err(|error| MountError::Process { what: "stdout", error })
}

/// Warnings by default; RUST_LOG says it more finely than the options.
fn log_to_stderr(args: &MountArgs) {
    let level = if args.line.debug {
        "debug"
    } else if args.line.verbose {
        "info"
    } else {
        "warn"
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).init();
}
