//! How do the definitions of the command line become manual pages and completions?

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory;

use crate::cli::{Cli, Shell};

/// Writes the completions for a shell to stdout.
///
/// # Errors
/// Those of writing.
pub fn completions(shell: Shell) -> io::Result<()> {
    let mut command = Cli::command();
    let mut text = Vec::new();
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    clap_complete::generate(shell, &mut command, "plyfs", &mut text);
    match io::Write::write_all(&mut io::stdout(), &text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes a manual page for plyfs and each of its commands into `DIR/man1`, and those of the helpers of mount(8), which
/// say the same, into `DIR/man8`.
///
/// # Errors
/// Those of making the directories and of writing.
pub fn pages(dir: &Path) -> io::Result<()> {
    let (commands, helpers) = (dir.join("man1"), dir.join("man8"));
    fs::create_dir_all(&commands)?;
    fs::create_dir_all(&helpers)?;
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), &commands)?;
    for page in fs::read_dir(&commands)? {
        let page = page?.path();
        // Tables of options and codes are to stay as they are written.
        let text = fs::read_to_string(&page)?.replace(".SH EXTRA\n", ".SH NOTES\n.nf\n");
        fs::write(page, text)?;
    }
    for name in ["mount.plyfs", "mount.fuse.plyfs"] {
        fs::write(helpers.join(format!("{name}.8")), ".so man1/plyfs.1\n")?;
    }
    Ok(())
}
