//! What do the words of a command line mean?
//!
//! Pure: from [`MountArgs`] to [`MountOptions`], no system call. Paths stay as they were given:
//! the kernel resolves them, nobody edits a `..` as text.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use rustix::mount::MountFlags;

use crate::cli::MountArgs;
use crate::rules::ids::{IdMap, IdMapError, IdMaps};
use crate::rules::override_stat::OverrideXattr;
use crate::shown::shown;
use crate::units::parse_size;

mod accepted;
mod changes;
mod escape;
mod print;
mod stack;

use accepted::{Class, Setting};
use stack::Stack;

/// The name of the source when the user gives none.
const DEFAULT_SOURCE: &str = "plyfs";
/// Event loops. Those without work cost nothing; one that copies a file up, or waits for a directory that is being
/// moved, is one less for everybody else.
const DEFAULT_THREADS: usize = 16;
const MAX_THREADS: usize = 64;

/// A mount as the user asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// The read-only branches, topmost first.
    pub lowers: Vec<PathBuf>,
    /// The writable branch. With [`Access::ReadOnly`] it is the topmost read-only one.
    pub upper: Option<PathBuf>,
    /// Where the upper's files are staged; None asks for the default beside the upper.
    pub work: Option<PathBuf>,
    /// What the mount table shows as the source.
    pub source: OsString,
    /// The directory to mount on.
    pub mountpoint: PathBuf,
    /// Whether the mount can change anything.
    pub access: Access,
    /// Who may look in.
    pub sharing: Sharing,
    /// nosuid, noatime and the like; never `RDONLY`, which [`access`](Self::access) says.
    pub flags: MountFlags,
    /// The flags that the user decided on, set or not: a branch's own do not change these.
    pub decided: MountFlags,
    /// SELinux' options as they were given, for the kernel.
    pub labels: Vec<OsString>,
    /// Skip every sync.
    pub volatile: bool,
    /// Overlayfs wrote the upper: its 0:0 devices are whiteouts.
    pub overlay_upper: bool,
    /// FUSE filesystems among the branches keep the numbers of their inodes.
    pub stable_inodes: bool,
    /// Records say whose the branches' files are, in this attribute.
    pub overrides: Option<OverrideXattr>,
    /// A lower ends where another filesystem is mounted in it.
    pub one_filesystem: bool,
    /// What of the lowers does not show.
    pub hide: Vec<PathBuf>,
    /// Directories of the lowers that show empty.
    pub empty: Vec<PathBuf>,
    /// What the mounter may not read of the lowers shows empty.
    pub empties_unreadable: bool,
    /// Records say whose the upper's files are, and none of the lowers'.
    pub plain_lowers: bool,
    /// What the upper changes is noted as it was before.
    pub bases: bool,
    /// How many ids, from 0, the user namespace of the mount has, besides the mounter's own.
    pub userns_ids: Option<u32>,
    /// How much data the upper may hold, in bytes of disk.
    pub size: Option<u64>,
    /// How many inodes the upper may hold.
    pub inodes: Option<u64>,
    /// Every directory shows one link.
    pub static_nlink: bool,
    /// For how long the kernel may remember what it was told, where the user says so.
    pub timeouts: Timeouts,
    /// Changes that others make in lowers show.
    pub watch: Option<Watch>,
    /// Which ids are shown for which.
    pub ids: IdMapping,
    /// How many event loops answer requests.
    pub threads: usize,
    /// Whether an event loop goes to the CPU of a caller who asks alone.
    pub follows_callers: bool,
    /// A file to hold a shared lock on for as long as the mount lives.
    pub hold: Option<PathBuf>,
    /// A socket to listen on for changes of the stack.
    pub control: Option<PathBuf>,
    /// Whoever hands a session over has mounted it with `default_permissions`.
    pub session_checks: bool,
    /// Stay in the foreground.
    pub foreground: bool,
}

/// Timeouts of the kernel's caches; None leaves one as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Of attributes.
    pub attr: Option<Duration>,
    /// Of names that lead somewhere.
    pub entry: Option<Duration>,
    /// Of names that lead nowhere.
    pub negative: Option<Duration>,
}

/// How many directories of lowers are watched at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// A share of what the system allows the user.
    Share,
    /// So many.
    Most(u32),
}

/// Whether a mount can change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every change is refused with EROFS.
    ReadOnly,
    /// Changes go to the upper.
    ReadWrite,
}

/// Who may use a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Everybody if root mounts, else the user who mounts.
    ByPrivilege,
    /// Everybody (`allow_other`).
    Everybody,
}

/// The id maps, still without the daemon's own ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMapping {
    uid: IdMap,
    gid: IdMap,
    squash_uid: Option<u32>,
    squash_gid: Option<u32>,
}

impl IdMapping {
    /// The maps of a daemon that runs as `uid` and `gid`.
    pub fn of_daemon(&self, uid: u32, gid: u32) -> IdMaps {
        let squash = |map: &IdMap, shown: Option<u32>, own| match shown {
            Some(shown) => map.clone().squashed(shown, own),
            None => map.clone(),
        };
        IdMaps { uid: squash(&self.uid, self.squash_uid, uid), gid: squash(&self.gid, self.squash_gid, gid) }
    }
}

/// Something in the options that does not stop the mount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// Neither ours nor a peer's.
    #[error("unknown option {} ignored", shown(.0))]
    Unknown(OsString),
    /// A workdir serves only an upper.
    #[error("workdir ignored: there is no upperdir")]
    WorkWithoutUpper,
}

/// Why a command line cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No branch at all.
    #[error("no branches to mount on {at}: give lowerdir=DIR[:DIR…] and, for a writable mount, upperdir= and workdir=; if `{at}` was to be a command, `plyfs --help` names them", at = shown(.0))]
    NoBranches(OsString),
    /// An option that needs a value has none.
    #[error("{option} needs a value: {option}={wants}")]
    NoValue {
        /// The option.
        option: &'static str,
        /// What the value is.
        wants: &'static str,
    },
    /// An option that takes no value has one.
    #[error("{0} takes no value: write it without `=`")]
    NeedlessValue(&'static str),
    /// Nothing between two colons.
    #[error(
        "{0} has an empty path between its colons: remove the colon, or write `\\:` for one that belongs to a name"
    )]
    EmptyPath(&'static str),
    /// `=rw` below the top.
    #[error("{}=rw is not the first branch: only the topmost can be writable, because a change there would be hidden by the branches above; put it first or make it =ro", shown(.0))]
    WritableBelowTop(PathBuf),
    /// An affinity other than caller and none.
    #[error("unknown affinity={}: it is affinity=caller or affinity=none", shown(.0))]
    Affinity(String),
    /// Something other than error and empty.
    #[error("unknown unreadable={}: it is unreadable=error or unreadable=empty", shown(.0))]
    Unreadable(String),
    /// A permission other than rw and ro.
    #[error("unknown permission `{}` of branch {}: it is =rw or =ro (for a name that contains `=`, add one of them)", shown(.permission), shown(.path))]
    Permission {
        /// What was written behind the `=`.
        permission: String,
        /// The branch.
        path: PathBuf,
    },
    /// The branches are given in two ways.
    #[error("branches are given both by {0} and by {1}: use one of them")]
    TwoStacks(&'static str, &'static str),
    /// An option whose promise nobody would keep.
    #[error("{} is not possible: {reason}", shown(.option))]
    Refused {
        /// The option, with its value.
        option: OsString,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// The kernel knows only everybody or nobody else.
    #[error("allow_root is not available: use allow_other (permissions are checked as on any disk)")]
    AllowRoot,
    /// A number out of range, or no number.
    #[error("{option}={} is not a number from {min} to {max}", shown(.value))]
    Number {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
        /// The least that is allowed.
        min: u32,
        /// The most that is allowed.
        max: u32,
    },
    /// Two ways in which changes of lowers show.
    #[error(
        "watch and timeouts do not go together: watch shows changes when they happen; leave out timeout= and its like"
    )]
    WatchAndTimeouts,
    /// Something other than AUFS' three words.
    #[error("unknown udba={}: it is udba=none, udba=reval or udba=notify", shown(.0))]
    Udba(String),
    /// No number of seconds.
    #[error("{option}={} is no time: write seconds, such as 0, 0.5 or 60", shown(.value))]
    Seconds {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
    },
    /// No amount, or nothing at all.
    #[error("{option}={} is no amount: write a number above 0, which may end in k, m or g (1,024 times each)", shown(.value))]
    Amount {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
    },
    /// No change of the stack.
    #[error("{} is no change: write add:INDEX:DIR, prepend:DIR, append:DIR, del:DIR or move:INDEX:DIR", shown(.0))]
    Change(OsString),
    /// AUFS could have several writable branches.
    #[error("{}={access}: a mount keeps its one writable branch; what comes into a live one is =ro", shown(.path))]
    LiveAccess {
        /// What was written behind the `=`.
        access: String,
        /// The branch.
        path: PathBuf,
    },
    /// Two things, of which one may fail when the other is done.
    #[error("change the stack and make the mount read-only one after the other")]
    ChangeAndReadOnly,
    /// A mapping of ids that is none.
    #[error("{option}: {error}")]
    Ids {
        /// uidmapping or gidmapping.
        option: &'static str,
        /// What is wrong with it.
        error: IdMapError,
    },
}

/// Reads a command line.
///
/// # Errors
/// Every way in which it can be wrong, see [`OptionError`].
pub fn parse(args: &MountArgs) -> Result<(MountOptions, Vec<Warning>), OptionError> {
    let mut reader = Reader::new();
    let lists = args.line.options.iter();
    let given: Vec<&[u8]> = lists.flat_map(|list| escape::split_options(list.as_bytes())).collect();
    let users_own = given.len() - added_by_mount8(&given);
    for (index, option) in given.into_iter().enumerate() {
        reader.by_user = index < users_own;
        reader.option(option)?;
    }
    for dir in &args.lowers {
        reader.stack.add_lower("--lower", dir.clone())?;
    }
    if let Some(dir) = &args.upper {
        reader.stack.set_upper("--upper", dir.clone())?;
    }
    if args.work.is_some() {
        reader.work.clone_from(&args.work);
    }
    reader.finish(args)
}

/// How many words at the end are from mount(8)'s helper for FUSE: it ends every line of root's with `dev` and
/// `suid`, but for those that the line speaks against. They say nothing of what the user wants.
fn added_by_mount8(given: &[&[u8]]) -> usize {
    let contains = |word: &[u8]| given.contains(&word);
    match given {
        [.., b"dev", b"suid"] => 2,
        [.., b"dev"] if contains(b"nosuid") => 1,
        [.., b"suid"] if contains(b"nodev") => 1,
        _ => 0,
    }
}

/// What has been read so far. A later option wins over an earlier one, as in mount(8).
#[derive(Debug)]
struct Reader {
    stack: Stack,
    work: Option<PathBuf>,
    fsname: Option<OsString>,
    access: Access,
    sharing: Sharing,
    flags: MountFlags,
    decided: MountFlags,
    labels: Vec<OsString>,
    /// Whether the option at hand is the user's own.
    by_user: bool,
    volatile: bool,
    overlay_upper: bool,
    stable_inodes: bool,
    overrides: Option<OverrideXattr>,
    one_filesystem: bool,
    hide: Vec<PathBuf>,
    empty: Vec<PathBuf>,
    empties_unreadable: bool,
    plain_lowers: bool,
    bases: bool,
    userns_ids: Option<u32>,
    size: Option<u64>,
    inodes: Option<u64>,
    static_nlink: bool,
    timeouts: Timeouts,
    watch: Option<Watch>,
    ids: IdMapping,
    threads: Option<usize>,
    follows_callers: bool,
    warnings: Vec<Warning>,
}

impl Reader {
    fn new() -> Self {
        Self {
            stack: Stack::default(),
            work: None,
            fsname: None,
            access: Access::ReadWrite,
            sharing: Sharing::ByPrivilege,
            flags: MountFlags::empty(),
            decided: MountFlags::empty(),
            labels: Vec::new(),
            by_user: true,
            volatile: false,
            overlay_upper: false,
            stable_inodes: false,
            overrides: None,
            one_filesystem: false,
            hide: Vec::new(),
            empty: Vec::new(),
            empties_unreadable: false,
            plain_lowers: false,
            bases: false,
            userns_ids: None,
            size: None,
            inodes: None,
            static_nlink: false,
            timeouts: Timeouts::default(),
            watch: None,
            ids: IdMapping::default(),
            threads: None,
            follows_callers: true,
            warnings: Vec::new(),
        }
    }

    /// One option, its escapes still in it.
    fn option(&mut self, option: &[u8]) -> Result<(), OptionError> {
        if let Some(branches) = option.strip_prefix(b"br:") {
            return self.stack.set_aufs("br:", branches);
        }
        let (name, value) = match option.iter().position(|&byte| byte == b'=') {
            Some(equals) => (&option[..equals], Some(&option[equals + 1..])),
            None => (option, None),
        };
        match name {
            b"lowerdir" => self.stack.set_lowers(needed("lowerdir", value, "DIR[:DIR…]")?),
            b"lowerdir+" => {
                // One directory, as it is written: a colon needs no escape, as with the kernel.
                let dir = escape::unescape_option(needed("lowerdir+", value, "DIR")?);
                self.stack.add_lower("lowerdir+", OsString::from_vec(dir).into())
            }
            b"upperdir" => self.stack.set_upper("upperdir", path(needed("upperdir", value, "DIR")?)),
            b"workdir" => {
                self.work = Some(path(needed("workdir", value, "DIR")?));
                Ok(())
            }
            b"dirs" => self.stack.set_aufs("dirs", needed("dirs", value, "DIR[:DIR…]")?),
            b"br" => self.stack.set_aufs("br", needed("br", value, "DIR[:DIR…]")?),
            b"fsname" => {
                let name = escape::unescape(needed("fsname", value, "NAME")?);
                self.fsname = Some(OsString::from_vec(name));
                Ok(())
            }
            b"uidmapping" => {
                self.ids.uid = id_map("uidmapping", value)?;
                Ok(())
            }
            b"gidmapping" => {
                self.ids.gid = id_map("gidmapping", value)?;
                Ok(())
            }
            b"squash_to_uid" => {
                self.ids.squash_uid = Some(number("squash_to_uid", value, 0, u32::MAX - 1)?);
                Ok(())
            }
            b"squash_to_gid" => {
                self.ids.squash_gid = Some(number("squash_to_gid", value, 0, u32::MAX - 1)?);
                Ok(())
            }
            b"xattr_permissions" => {
                self.overrides = match number("xattr_permissions", value, 0, 2)? {
                    0 => None,
                    1 => Some(OverrideXattr::Privileged),
                    _ => Some(OverrideXattr::User),
                };
                Ok(())
            }
            b"hide" => {
                self.hide.push(path(needed("hide", value, "PATH")?));
                Ok(())
            }
            b"empty" => {
                self.empty.push(path(needed("empty", value, "DIR")?));
                Ok(())
            }
            b"unreadable" => {
                self.empties_unreadable = match needed("unreadable", value, "error|empty")? {
                    b"error" => false,
                    b"empty" => true,
                    other => {
                        return Err(OptionError::Unreadable(String::from_utf8_lossy(other).into_owned()));
                    }
                };
                Ok(())
            }
            b"userns_ids" => {
                self.userns_ids = Some(number("userns_ids", value, 0, u32::MAX)?);
                Ok(())
            }
            b"size" => {
                self.size = Some(amount("size", value)?);
                Ok(())
            }
            b"inodes" => {
                self.inodes = Some(amount("inodes", value)?);
                Ok(())
            }
            b"fsync" => {
                self.volatile = number("fsync", value, 0, 1)? == 0;
                Ok(())
            }
            b"timeout" => {
                let all = Some(seconds("timeout", value)?);
                self.timeouts = Timeouts { attr: all, entry: all, negative: all };
                Ok(())
            }
            b"attr_timeout" => {
                self.timeouts.attr = Some(seconds("attr_timeout", value)?);
                Ok(())
            }
            b"entry_timeout" => {
                self.timeouts.entry = Some(seconds("entry_timeout", value)?);
                Ok(())
            }
            b"negative_timeout" => {
                self.timeouts.negative = Some(seconds("negative_timeout", value)?);
                Ok(())
            }
            b"watch" => {
                self.watch = Some(match value {
                    None => Watch::Share,
                    Some(_) => Watch::Most(number("watch", value, 0, u32::MAX)?),
                });
                Ok(())
            }
            b"udba" => {
                let always = Some(Duration::ZERO);
                let asks = Timeouts { attr: always, entry: always, negative: always };
                (self.timeouts, self.watch) = match needed("udba", value, "none|reval|notify")? {
                    b"none" => (Timeouts::default(), None),
                    b"reval" => (asks, None),
                    b"notify" | b"inotify" => (Timeouts::default(), Some(Watch::Share)),
                    other => return Err(OptionError::Udba(String::from_utf8_lossy(other).into_owned())),
                };
                Ok(())
            }
            b"threads" => {
                let threads = number("threads", value, 1, MAX_THREADS as u32)?;
                self.threads = Some(threads as usize);
                Ok(())
            }
            b"affinity" => {
                self.follows_callers = match needed("affinity", value, "caller|none")? {
                    b"caller" => true,
                    b"none" => false,
                    other => return Err(OptionError::Affinity(String::from_utf8_lossy(other).into_owned())),
                };
                Ok(())
            }
            b"allow_root" => Err(OptionError::AllowRoot),
            _ => self.flag(option, name, value),
        }
    }

    /// An option that is only there or not there.
    fn flag(&mut self, option: &[u8], name: &[u8], value: Option<&[u8]>) -> Result<(), OptionError> {
        let bare = |flag| match value {
            None => Ok(()),
            Some(_) => Err(OptionError::NeedlessValue(flag)),
        };
        match name {
            b"ro" => bare("ro").map(|()| self.access = Access::ReadOnly),
            b"rw" => bare("rw").map(|()| self.access = Access::ReadWrite),
            b"volatile" => bare("volatile").map(|()| self.volatile = true),
            b"allow_other" => bare("allow_other").map(|()| self.sharing = Sharing::Everybody),
            b"upper_from_overlayfs" => bare("upper_from_overlayfs").map(|()| self.overlay_upper = true),
            b"stable_inodes" => bare("stable_inodes").map(|()| self.stable_inodes = true),
            b"xdev" => bare("xdev").map(|()| self.one_filesystem = true),
            b"plain_lowers" => bare("plain_lowers").map(|()| self.plain_lowers = true),
            b"bases" => bare("bases").map(|()| self.bases = true),
            b"static_nlink" => bare("static_nlink").map(|()| self.static_nlink = true),
            b"squash_to_root" => bare("squash_to_root").map(|()| {
                self.ids.squash_uid = Some(0);
                self.ids.squash_gid = Some(0);
            }),
            _ => {
                let owned = || OsStr::from_bytes(option).to_owned();
                match accepted::class(name, value) {
                    Some(Class::Flag(flags, setting)) => {
                        self.flags.set(flags, setting == Setting::Set);
                        if self.by_user {
                            self.decided |= flags;
                        }
                    }
                    Some(Class::Label) => self.labels.push(owned()),
                    Some(Class::Refused(reason)) => {
                        return Err(OptionError::Refused { option: owned(), reason });
                    }
                    Some(Class::Accepted) => {}
                    None => self.warnings.push(Warning::Unknown(owned())),
                }
                Ok(())
            }
        }
    }

    fn finish(mut self, args: &MountArgs) -> Result<(MountOptions, Vec<Warning>), OptionError> {
        let (source, mountpoint) = match args.line.words.as_slice() {
            [mountpoint] => (None, mountpoint),
            [source, mountpoint, ..] => (Some(source.clone()), mountpoint),
            [] => unreachable!("clap requires a mountpoint"),
        };
        if self.watch.is_some() && self.timeouts != Timeouts::default() {
            return Err(OptionError::WatchAndTimeouts);
        }
        let (upper, lowers) = self.stack.into_branches();
        if upper.is_none() && lowers.is_empty() {
            return Err(OptionError::NoBranches(mountpoint.clone()));
        }
        if upper.is_none() && self.work.is_some() {
            self.warnings.push(Warning::WorkWithoutUpper);
        }
        let read_only = args.read_only || upper.is_none();
        let threads = if args.line.single_threaded { 1 } else { DEFAULT_THREADS };
        let options = MountOptions {
            lowers,
            work: self.work.filter(|_| upper.is_some()),
            upper,
            source: self.fsname.or(source).unwrap_or_else(|| DEFAULT_SOURCE.into()),
            mountpoint: mountpoint.into(),
            access: if read_only { Access::ReadOnly } else { self.access },
            sharing: self.sharing,
            flags: self.flags,
            decided: self.decided,
            labels: self.labels,
            volatile: self.volatile || args.volatile,
            overlay_upper: self.overlay_upper,
            stable_inodes: self.stable_inodes,
            overrides: self.overrides,
            one_filesystem: self.one_filesystem,
            hide: self.hide,
            empty: self.empty,
            empties_unreadable: self.empties_unreadable,
            plain_lowers: self.plain_lowers,
            bases: self.bases,
            userns_ids: self.userns_ids,
            size: self.size,
            inodes: self.inodes,
            static_nlink: self.static_nlink,
            timeouts: self.timeouts,
            watch: self.watch,
            ids: self.ids,
            threads: self.threads.unwrap_or(threads),
            follows_callers: self.follows_callers,
            hold: args.hold.clone(),
            control: args.control.clone(),
            session_checks: args.session_checks,
            foreground: args.line.foreground || args.line.debug,
        };
        Ok((options, self.warnings))
    }
}

/// The value of an option that cannot do without one.
fn needed<'a>(
    option: &'static str,
    value: Option<&'a [u8]>,
    wants: &'static str,
) -> Result<&'a [u8], OptionError> {
    value.filter(|value| !value.is_empty()).ok_or(OptionError::NoValue { option, wants })
}

fn path(escaped: &[u8]) -> PathBuf {
    OsString::from_vec(escape::unescape(escaped)).into()
}

fn number(option: &'static str, value: Option<&[u8]>, min: u32, max: u32) -> Result<u32, OptionError> {
    let text = String::from_utf8_lossy(needed(option, value, "N")?);
    match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(OptionError::Number { option, value: text.into_owned(), min, max }),
    }
}

/// Seconds, with or without a fraction.
fn seconds(option: &'static str, value: Option<&[u8]>) -> Result<Duration, OptionError> {
    let text = String::from_utf8_lossy(needed(option, value, "SECONDS")?);
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| OptionError::Seconds { option, value: text.into_owned() })
}

/// A number that may end in k, m or g, as tmpfs has it.
fn amount(option: &'static str, value: Option<&[u8]>) -> Result<u64, OptionError> {
    let text = String::from_utf8_lossy(needed(option, value, "N[k|m|g]")?);
    match parse_size(&text) {
        Ok(amount) if amount > 0 => Ok(amount),
        _ => Err(OptionError::Amount { option, value: text.into_owned() }),
    }
}

fn id_map(option: &'static str, value: Option<&[u8]>) -> Result<IdMap, OptionError> {
    let text = String::from_utf8_lossy(needed(option, value, "ON-DISK:SHOWN:LENGTH[:…]")?);
    IdMap::parse(&text).map_err(|error| OptionError::Ids { option, error })
}

pub use accepted::names_of;
pub use changes::{Wish, parse_changes, parse_remount};
pub use print::escaped;

#[cfg(test)]
mod tests;
