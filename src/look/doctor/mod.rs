//! `plyfs doctor`: will a mount work here?
//!
//! First the facts are gathered (`machine`, `directory`), then they are judged, without looking again (`judge`).

mod directory;
mod judge;
mod machine;

use std::process::ExitCode;

use serde::Serialize;

use super::{Result, say};
use crate::cli::DoctorArgs;
use crate::exit::Exit;

/// What was found out about one thing.
#[derive(Debug, Serialize)]
struct Check {
    what: String,
    state: State,
    says: String,
    /// How to mend it.
    mend: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Good,
    /// It works, with less.
    Less,
    /// A mount will fail.
    Fails,
}

impl Check {
    fn new(what: impl Into<String>, state: State, says: impl Into<String>) -> Self {
        Self { what: what.into(), state, says: says.into(), mend: None }
    }

    fn mend(self, how: impl Into<String>) -> Self {
        Self { mend: Some(how.into()), ..self }
    }

    fn text(&self) -> String {
        let mark = match self.state {
            State::Good => "✓",
            State::Less => "!",
            State::Fails => "✗",
        };
        let mut text = format!("{mark} {}: {}\n", self.what, self.says);
        if let Some(mend) = &self.mend {
            text.push_str(&format!("    {mend}\n"));
        }
        text
    }
}

pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let mut checks = judge::machine(&machine::facts());
    for dir in &args.dirs {
        checks.extend(judge::directory(&directory::facts(dir)));
    }
    say(args.json, &checks, || checks.iter().map(Check::text).collect())?;
    let fails = checks.iter().any(|check| check.state == State::Fails);
    Ok(if fails { Exit::Failure } else { Exit::Success }.into())
}
