//! How far has it come, and has somebody had enough?

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::error::{Error, Result};

/// So many bytes go by between two looks at the clock.
const STEP: u64 = 1 << 20;

/// A bar on stderr, if that is a terminal; and the signals that end a program, so that each step can clean up after
/// itself.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    interrupt: Interrupt,
    unsaid: Cell<u64>,
}

impl Progress {
    /// Listens to the signals from now on, and shows what is being done.
    ///
    /// # Errors
    /// Those of sigaction(2).
    pub fn begin(what: &str) -> Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&ended)).map_err(|error| Error::Io {
                what: "listen to signals",
                path: "plyfs".into(),
                error,
            })?;
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) =
            ProgressStyle::with_template("{spinner} {msg} {bytes} ({bytes_per_sec}, {elapsed})")
        {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Ok(Self { bar, interrupt: Interrupt(ended), unsaid: Cell::new(0) })
    }

    /// Shows what is being done now.
    pub fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// Takes note of bytes that were read or written.
    ///
    /// # Errors
    /// [`Error::Interrupted`] once a signal has come.
    pub fn advance(&self, bytes: u64) -> Result<()> {
        let unsaid = self.unsaid.get() + bytes;
        if unsaid < STEP {
            self.unsaid.set(unsaid);
        } else {
            self.bar.inc(unsaid);
            self.unsaid.set(0);
        }
        self.check()
    }

    /// An error if a signal has come.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn check(&self) -> Result<()> {
        self.interrupt.check()
    }

    /// The same question, for whoever shows nothing.
    #[must_use]
    pub fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }
}

/// Whether a signal has come.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// An error if one has.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
