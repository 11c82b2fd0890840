//! Which exit code tells a script what kind of failure it was?

/// The exit codes, for the help texts. [`Exit`] is the same table for the program.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done; for a mount in the foreground, it ended cleanly
  1  something failed; of `layer diff`, there are differences; of `layer check`, something is left to be said
  2  the command line is wrong
  3  a branch, the workdir, the mountpoint or another directory is not as it must be
  4  in use: the upper or workdir by another mount, the mount by its users, a layer by who changes it
  5  FUSE is not available: no /dev/fuse, no fusermount3, or it refuses";

/// What the process tells its caller. Described in [`EXIT_CODES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Success = 0,
    /// Something failed, or differs.
    Failure = 1,
    /// The command line is wrong.
    CommandLine = 2,
    /// A directory is not as it must be.
    Setup = 3,
    /// Somebody else uses the upper, the workdir or the mount.
    InUse = 4,
    /// The machine or the user has no FUSE.
    NoFuse = 5,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_describes_every_code_once() {
        let codes = [Exit::Success, Exit::Failure, Exit::CommandLine, Exit::Setup, Exit::InUse, Exit::NoFuse];
        let described: Vec<&str> = EXIT_CODES.lines().skip(1).map(|line| &line[2..3]).collect();
        let expected: Vec<String> = codes.iter().map(|code| (*code as u8).to_string()).collect();
        assert_eq!(described, expected);
    }
}
