//! How does a command run on a copy-on-write view of the whole system, and what becomes of its changes?
//!
//! A run is an upper over the real tree, mounted in a user and mount namespace of its own: the command sees everything, and
//! changes nothing outside. What it has changed can be looked at, made for real or dropped, and be taken back in steps while
//! the command goes on. All of it works without root.

mod about;
mod alone;
mod channel;
mod error;
mod ids;
mod inside;
mod launch;
mod list;
mod namespace;
mod place;
mod view;
mod wait;

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::XattrFlags;
use rustix::process::Pid;

use crate::apply::{self, RootIs};
use crate::cli::{ApplyArgs, DiffCommandArgs, DiscardArgs, RunArgs, RunCommand};
use crate::exit::Exit;
use crate::look;
use crate::mount;
use crate::options::Wish;
use crate::rules::override_stat::{OVERRIDE_STAT, OverrideStat};
pub use about::About;
pub use error::Error;
use error::Result;
use ids::Giver;
use inside::Program;
use launch::{Begun, Entered};
use place::{Place, Run, is_name};
use wait::{Ended, Signals};

/// The exit code of a command that could not be run, as of env(1).
const FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// How long a run may take to begin or to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Does what one of the commands says.
///
/// # Errors
/// See [`enum@Error`].
pub fn run(command: &RunCommand) -> Result<ExitCode> {
    match command {
        RunCommand::Run(args) => start(args),
        RunCommand::Runs(args) => list::list(args.json),
        RunCommand::Discard(args) => discard(args).map(|()| Exit::Success.into()),
        RunCommand::Apply(args) => make_real(args),
    }
}

/// The exit code of a command about runs that has failed.
#[must_use]
pub fn exit_code(command: &RunCommand, error: &Error) -> ExitCode {
    match (command, error) {
        (RunCommand::Run(_), Error::Command { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            NOT_FOUND.into()
        }
        (RunCommand::Run(_), Error::Command { .. }) => NOT_EXECUTABLE.into(),
        (RunCommand::Run(_), _) => FAILED.into(),
        _ => error.exit().into(),
    }
}

fn start(args: &RunArgs) -> Result<ExitCode> {
    let place = Place::open()?;
    if let Some(name) = args.name.as_deref().filter(|name| !is_name(name)) {
        return Err(Error::Name(name.to_owned()));
    }
    let found = args.name.as_deref().map(|name| place.run(name)).transpose()?.flatten();
    let directory = std::env::current_dir().map_err(Error::io("find", Path::new(".")))?;
    let is_new = found.is_none();
    let run = match found {
        Some(run) => {
            made_like(&run, args)?;
            run
        }
        None => make(&place, args, &directory)?,
    };
    let command = if args.command.is_empty() { vec![shell()] } else { args.command.clone() };
    let alone = if run.about.alone {
        let config = run.path("inside").join(alone::APT_CONFIG);
        fs::write(&config, alone::APT_SETTING).map_err(Error::io("write", &config))?;
        Some(place.path().to_owned())
    } else {
        None
    };
    let program = Program { command, directory, run: run.name.clone(), alone };
    let mut signals = Signals::catch()?;
    let live = live_process(&run)?;
    let ended = match live {
        Some(pid) => {
            let entered = launch::join(pid, run.about.net == crate::cli::Net::None, &program)?;
            follow(entered, None, &program, &mut signals)
        }
        None => match launch::begin(&place, &run, Some(&program)) {
            Ok(Begun { entered, daemon }) => {
                let daemon = wait::pidfd(Pid::from_child(&daemon))?;
                follow(entered, Some(&daemon), &program, &mut signals)
            }
            Err(e) => Err(e),
        },
    };
    match &ended {
        Err(_) if is_new => drop_if_empty(&run),
        Err(_) => {}
        Ok(Ended::WithDaemon) => eprintln!("plyfs: {}", Error::DaemonGone(run.name.clone())),
        // Whoever has begun it sees to it.
        Ok(_) if live.is_some() => {}
        Ok(_) => finish(&run, args),
    }
    ended.map(Ended::exit)
}

/// Waits for a command, and for the daemon to finish with the upper if nothing else is in the run.
fn follow(
    entered: Entered,
    daemon: Option<&std::os::fd::OwnedFd>,
    program: &Program,
    signals: &mut Signals,
) -> Result<Ended> {
    let become_it = entered.becomes(&program.command[0]);
    let ended = wait::wait(entered.pid, &entered.spaces, daemon, signals)?;
    if ended == Ended::WithDaemon {
        wait::kill_all(&entered.spaces);
        return Ok(ended);
    }
    if let Some(daemon) = daemon
        && entered.spaces.processes().is_empty()
        && !wait::wait_for_end(daemon)
    {
        log::warn!("the daemon of run {} has not ended yet", program.run);
    }
    become_it.map(|()| ended)
}

/// After a command: what there is to be done with the run, or to be said of it.
fn finish(run: &Run, args: &RunArgs) {
    let processes = if run.is_live().unwrap_or(false) { run.processes() } else { Vec::new() };
    if !processes.is_empty() {
        eprintln!(
            "plyfs: run {0} goes on: there are more processes in it ({1}); `plyfs run --name {0}` joins them",
            run.name,
            processes.len(),
        );
        return;
    }
    let is_unnamed = args.name.is_none() && is_unchanged(run);
    if args.discard || is_unnamed {
        if let Err(e) = remove(run) {
            eprintln!("plyfs: {e}");
        }
    } else if io::stderr().is_terminal() {
        eprintln!(
            "plyfs: the changes are in run {0}: plyfs diff {0}, plyfs apply {0}, plyfs discard {0}",
            run.name
        );
    }
}

fn is_unchanged(run: &Run) -> bool {
    let is_empty = |dir: &Path| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    run.layers().is_ok_and(|layers| layers.iter().all(|layer| is_empty(layer)))
}

/// A run that has come to nothing.
fn drop_if_empty(run: &Run) {
    let is_elsewhere = run.about.upper.parent() != Some(&run.dir);
    if (is_elsewhere || is_unchanged(run))
        && let Err(e) = remove(run)
    {
        log::debug!("{e}");
    }
}

fn shell() -> OsString {
    std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into())
}

/// A process in a run, if it is live. One that is just beginning or ending has a moment.
fn live_process(run: &Run) -> Result<Option<i32>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if !run.is_live()? {
            return Ok(None);
        }
        match run.spaces().entrance() {
            Some(pid) => return Ok(Some(pid)),
            None if Instant::now() > deadline => return Err(Error::Between(run.name.clone())),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// What was asked for must be what the run has.
fn made_like(run: &Run, args: &RunArgs) -> Result<()> {
    let otherwise = |how, option| Err(Error::MadeOtherwise { name: run.name.clone(), how, option });
    if !args.lowers.is_empty() {
        return otherwise("with its lowers", "--lower");
    }
    if args.upper.is_some() {
        return otherwise("with its upper", "--upper");
    }
    if !args.pass.is_empty() {
        return otherwise("with what it passes", "--pass");
    }
    if !args.hide.is_empty() {
        return otherwise("with what it hides", "--hide");
    }
    if args.root && !run.about.root {
        return otherwise("as yourself", "--root");
    }
    if args.net == crate::cli::Net::None && run.about.net == crate::cli::Net::Host {
        return otherwise("with the system's network", "--net none");
    }
    Ok(())
}

fn make(place: &Place, args: &RunArgs, directory: &Path) -> Result<Run> {
    let real = |what: &'static str| {
        move |path: &PathBuf| {
            path.canonicalize().map_err(|error| Error::Path { what, path: path.clone(), error })
        }
    };
    let lowers = args.lowers.iter().map(real("--lower")).collect::<Result<Vec<_>>>()?;
    let upper = args.upper.as_ref().map(real("--upper")).transpose()?.unwrap_or_default();
    let work = match (upper.parent(), upper.file_name()) {
        (Some(parent), Some(name)) => {
            let mut own = OsString::from(".");
            own.push(name);
            own.push(".plyfs-work");
            let work = parent.join(own);
            match fs::create_dir(&work) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(Error::io("make", &work))?,
            }
            work
        }
        _ => PathBuf::new(),
    };
    let hide = args.hide.iter().map(|path| {
        // What is not there yet is hidden when it comes.
        let path = std::path::absolute(path).map_err(Error::io("find", path))?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(path.clone()) };
        let parent = parent.to_owned();
        match path.canonicalize() {
            Ok(path) => Ok(path),
            Err(_) => real("--hide")(&parent).map(|parent| parent.join(name)),
        }
    });
    let hide = hide.collect::<Result<Vec<_>>>()?;
    let pass = args.pass.iter().map(real("--pass")).collect::<Result<Vec<_>>>()?;
    if pass.iter().any(|path| path == Path::new("/")) {
        let error = io::Error::other("then nothing would be kept apart");
        return Err(Error::Path { what: "--pass", path: "/".into(), error });
    }
    let root = args.root || rustix::process::geteuid().is_root();
    let ids = Giver::this().ids(root);
    let about = About {
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        command: args.command.clone(),
        directory: directory.to_owned(),
        lowers,
        upper,
        work,
        pass,
        hide,
        root,
        alone: root && ids.are_one(),
        // Root of the system gives its files their owners.
        records: !ids.are_all(),
        net: args.net,
    };
    let run = place.make(args.name.as_deref(), about)?;
    take_on_root(&run)?;
    Ok(run)
}

/// The upper's root looks like the lower's.
fn take_on_root(run: &Run) -> Result<()> {
    let upper = &run.about.upper;
    if !is_unchanged(run) {
        return Ok(());
    }
    let stat = fs::metadata(run.target()).map_err(Error::io("look at", run.target()))?;
    if run.about.records {
        let said = OverrideStat::of((stat.uid(), stat.gid()), stat.mode(), (0, 0)).value();
        if let Err(errno) = rustix::fs::setxattr(upper, OVERRIDE_STAT, said.as_bytes(), XattrFlags::empty()) {
            log::debug!("{}: setxattr: {errno}", upper.display());
        }
        return Ok(());
    }
    let failed = Error::io("change", upper);
    std::os::unix::fs::chown(upper, Some(stat.uid()), Some(stat.gid())).map_err(&failed)?;
    fs::set_permissions(upper, stat.permissions()).map_err(&failed)
}

fn discard(args: &DiscardArgs) -> Result<()> {
    let place = Place::find()?;
    for name in &args.names {
        let half = place.path().join(name);
        match place.run(name)? {
            Some(run) => remove(&run)?,
            None if is_name(name) && half.is_dir() => remove_tree(&half)?,
            None => return Err(Error::Unknown(name.clone())),
        }
    }
    Ok(())
}

/// Removes a run that is not live.
fn remove(run: &Run) -> Result<()> {
    let _held = run.hold()?.ok_or_else(|| Error::Applied(run.name.clone()))?;
    let Some(_lock) = run.lock()? else {
        return Err(Error::Live { name: run.name.clone(), pids: run.processes() });
    };
    if run.about.upper.parent() != Some(&run.dir) {
        // What the user keeps elsewhere is his.
        remove_tree(&run.about.work)?;
    }
    // It is none from here on, whatever becomes of the rest.
    let about = run.path("about");
    fs::remove_file(&about).map_err(Error::io("remove", &about))?;
    remove_tree(&run.dir)
}

/// Removes a tree, whatever modes are in it.
fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => open_up(path),
        removed => return removed.map_err(Error::io("remove", path)),
    }
    fs::remove_dir_all(path).map_err(Error::io("remove", path))
}

/// Lets its owner into every directory.
fn open_up(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(stat) = fs::symlink_metadata(path) else { return };
    if !stat.is_dir() {
        return;
    }
    let mode = fs::Permissions::from_mode(stat.mode() & 0o7777 | 0o700);
    if let Err(e) = fs::set_permissions(path, mode) {
        log::debug!("{}: {e}", path.display());
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        open_up(&entry.path());
    }
}

/// The run that a word on a command line means; None if it is a path to something.
fn meant(word: &Path) -> Result<Option<Run>> {
    match word.to_str() {
        Some(name) if is_name(name) && mount::find(word).is_err() => match Place::find()?.run(name) {
            // A mount that is not for us to look into, and no place of runs either.
            Err(_) if word.exists() => Ok(None),
            found => found,
        },
        _ => Ok(None),
    }
}

/// Changes the stack of the run of that name, if it is one: takes a snapshot of it, or goes back to one.
///
/// # Errors
/// See [`enum@Error`].
pub fn change(word: &Path, wishes: &[Wish]) -> Result<Option<String>> {
    let Some(run) = meant(word)? else { return Ok(None) };
    if run.is_live()? {
        return Ok(Some(mount::change_by_socket(&run.path("control"), wishes)?));
    }
    let Begun { entered, mut daemon } = launch::begin(&Place::open()?, &run, None)?;
    let changed = mount::change_by_socket(&run.path("control"), wishes);
    let pid = entered.pid;
    // Nobody listens any more: it ends, and with it the mount and the daemon.
    drop(entered);
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
        .map_err(Error::process("wait"))?;
    daemon.wait().map_err(Error::process("wait"))?;
    Ok(Some(changed?))
}

/// Lists what a run has changed, if that is what is meant.
///
/// # Errors
/// See [`enum@Error`].
pub fn diff(args: &DiffCommandArgs) -> Result<Option<ExitCode>> {
    let Some(run) = meant(&args.dir)? else { return Ok(None) };
    let lowers =
        if run.about.lowers.is_empty() { vec![PathBuf::from("/")] } else { run.about.lowers.clone() };
    Ok(Some(look::diff_layers(args, &run.layers()?, &lowers, run.about.records, root_of(&run))?))
}

/// Who root in a run is outside.
fn root_of(run: &Run) -> Option<RootIs> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    (run.about.root && run.about.records).then_some(RootIs { uid, gid, anybody: run.about.alone })
}

fn make_real(args: &ApplyArgs) -> Result<ExitCode> {
    let run = Place::find()?.known(&args.name)?;
    let _held = run.hold()?.ok_or_else(|| Error::Applied(run.name.clone()))?;
    let source = apply::Source {
        layers: run.layers()?,
        records: run.about.records,
        root: root_of(&run),
        bases: run.about.work.join("plyfs/bases"),
        work: run.about.work.clone(),
        target: run.target().to_owned(),
        name: run.name,
    };
    Ok(apply::apply(&source, args)?)
}
