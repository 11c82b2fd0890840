//! What people do with a project all day.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Workload, exit_code, row};
use crate::Result;
use crate::candidate::{Candidate, Syncing};
use crate::corpus::{OTHER_BRANCH, git, warm};
use crate::ground::Ground;

/// Modules of the crate that is built.
const MODULES: usize = 40;

pub(super) fn workloads() -> Vec<Workload> {
    let mut all = vec![
        Workload::new(
            "git-status",
            "git status in the repository, with an index that was refreshed on an earlier mount",
            [row("git-status-cold").at_most(2.5), row("git-status-warm")],
            |ground, candidate| on_refreshed(ground, candidate, &["status", "--porcelain"], 2),
        ),
        Workload::new(
            "git-checkout",
            "git checkout of a branch that changes half of the files, the same way",
            [row("git-checkout").at_most(1.5)],
            |ground, candidate| on_refreshed(ground, candidate, &["checkout", "-q", OTHER_BRANCH], 1),
        ),
        Workload::new(
            "cargo-build",
            format!("cargo build of a crate of {MODULES} modules, and once more after a change"),
            [row("cargo-build"), row("cargo-rebuild")],
            |ground, candidate| {
                let source = ground.once("crate", a_crate)?;
                let mounted = ground.disk.mount(candidate, &source, Syncing::AsIs)?;
                let dir = mounted.path();
                let first = ground.disk.time(|| cargo_build(&dir))?;
                let changed = dir.join("src/m0.rs");
                fs::write(&changed, fs::read_to_string(&changed)? + "pub fn more() {}\n")?;
                Ok(vec![first, ground.disk.time(|| cargo_build(&dir))?])
            },
        ),
    ];
    // Root's toolchain is not for everybody to use.
    let can_build = cargo().is_some_and(|mut cargo| exit_code(cargo.arg("--version")).is_ok());
    all.retain(|workload| workload.name != "cargo-build" || can_build);
    all
}

/// Runs git so many times, on a mount that is not the one on which the index was refreshed.
fn on_refreshed(ground: &Ground, candidate: &Candidate, words: &[&str], times: usize) -> Result<Vec<f64>> {
    let repository = &ground.corpus.repository;
    warm(repository, true)?;
    let mut mounted = ground.disk.mount(candidate, repository, Syncing::AsIs)?;
    let path = mounted.path();
    git(&path, &["status", "--porcelain"])?;
    mounted.again()?;
    (0..times).map(|_| ground.disk.time(|| git(&path, words))).collect()
}

fn a_crate(dir: &Path) -> Result<()> {
    fs::create_dir(dir.join("src"))?;
    fs::write(
        dir.join("Cargo.toml"),
        "[package]\nname = \"built\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
    )?;
    let mut modules = String::new();
    for at in 0..MODULES {
        modules += &format!("pub mod m{at};\n");
        let functions: String =
            (0..20).map(|f| format!("pub fn f{f}(x: u64) -> u64 {{ x.pow({f}) }}\n")).collect();
        fs::write(dir.join(format!("src/m{at}.rs")), functions)?;
    }
    Ok(fs::write(dir.join("src/lib.rs"), modules)?)
}

/// cargo of the toolchain that scripts/bench names: its launcher looks for one in the home of whoever runs it.
fn cargo() -> Option<Command> {
    let programs = PathBuf::from(env::var_os("TOOLCHAIN")?).join("bin");
    let mut cargo = Command::new(programs.join("cargo"));
    cargo.env("RUSTC", programs.join("rustc"));
    Some(cargo)
}

fn cargo_build(dir: &Path) -> Result<()> {
    let mut build = cargo().ok_or("no TOOLCHAIN is given")?;
    build
        .args(["build", "--quiet", "--offline"])
        .current_dir(dir)
        .env("CARGO_TARGET_DIR", dir.join("target"));
    match exit_code(&mut build)? {
        0 => Ok(()),
        code => Err(format!("cargo ended with {code}").into()),
    }
}
