//! Which steps does an operation need, and in which order?
//!
//! A [`Plan`] is a list of steps on the upper. After every prefix of them, and so after a crash
//! there, users see either what was before or what is after. Three facts carry every order below:
//!
//! - A real entry beats a whiteout beside it, so a whiteout that is made first shows nothing yet.
//! - A whiteout hides the branches below, so a directory with a whiteout beside it merges with
//!   nothing: its own markers may come and go unseen. This is why a directory made over a deleted
//!   one is opaque from the moment it appears, and why a whiteout is cleared last.
//! - A copy-up in place shows what showed before.

use std::fmt;

use super::name::Name;
use super::resolve::{EntryStack, Found, Resolution};

/// Which of an operation's two names a step is about. Operations on one name use `Target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The name that is moved or linked from.
    Source,
    /// The name that is made, removed or moved to.
    Target,
}

/// One change of the upper, visible all at once or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Bring the entry into the upper, as it is: a file with its data, a directory without its
    /// children.
    CopyUp(Side),
    /// Bring everything that lowers supply beneath the directory into the upper, then make it
    /// opaque.
    CopyUpTree(Side),
    /// Make `.wh.NAME`.
    Whiteout(Side),
    /// Remove `.wh.NAME`.
    ClearWhiteout(Side),
    /// Make the new entry.
    Create(Side),
    /// Put the opaque marker into the directory.
    MarkOpaque(Side),
    /// Remove every marker from the directory, which holds nothing else.
    ClearMarkers(Side),
    /// Remove the non-directory.
    Unlink(Side),
    /// Remove the directory, which is empty on disk.
    RemoveDir(Side),
    /// Give the source's file the target's name too.
    Link,
    /// Move the source to the target, in place of what is there.
    Rename,
    /// Swap source and target.
    Exchange,
}

impl Step {
    /// Whether the step prepares the upper without changing what users see: it may be done
    /// ahead, outside the directory locks, and the rest planned anew.
    #[must_use]
    pub fn is_preparation(self) -> bool {
        matches!(self, Self::CopyUp(_) | Self::CopyUpTree(_))
    }
}

/// The steps that an operation needs, in crash-safe order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan(Vec<Step>);

impl Plan {
    /// The steps, first to last. Preparations come first.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    fn push(&mut self, step: Step) {
        self.0.push(step);
    }
}

/// Why an operation may not be done. Nothing has been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// There is no such name.
    NotFound,
    /// The name is taken.
    Exists,
    /// A directory is needed.
    NotADirectory,
    /// A directory will not do.
    IsADirectory,
    /// The directory has visible entries.
    NotEmpty,
    /// The name must be hidden from the lowers, and is too long for a whiteout.
    WhiteoutTooLong,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "there is no such name",
            Self::Exists => "the name is taken",
            Self::NotADirectory => "it is not a directory",
            Self::IsADirectory => "it is a directory",
            Self::NotEmpty => "the directory is not empty",
            Self::WhiteoutTooLong => "the name leaves no room for a whiteout",
        })
    }
}

/// One name of an operation: how it is spelt and what the branches say of it.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// The name.
    pub name: &'a Name,
    /// What the branches say of it.
    pub stack: &'a EntryStack,
}

/// Whether a directory that users see has anything in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// Nothing, or the name is not a directory.
    Empty,
    /// At least one visible entry.
    Occupied,
}

/// What a new entry is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NewEntry {
    /// A file, symbolic link, device, fifo or socket.
    Leaf,
    /// A directory.
    Dir,
}

/// Whether a rename may replace what has the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Replace {
    /// As rename(2) does.
    Allowed,
    /// `RENAME_NOREPLACE`.
    Refused,
}

/// create, mkdir, mknod, symlink.
///
/// # Errors
/// [`Refusal::Exists`]; [`Refusal::WhiteoutTooLong`] over a whiteout that has the name itself.
pub fn create(target: At<'_>, new: NewEntry) -> Result<Plan, Refusal> {
    refuse_existing(target)?;
    let mut plan = Plan::default();
    let has_whiteout = free_name(&mut plan, target)?;
    plan.push(Step::Create(Side::Target));
    if new == NewEntry::Dir && target.stack.lowers.is_dir() {
        // The name is deleted, so its whiteout stands beside the new directory until the marker
        // inside has taken over.
        plan.push(Step::MarkOpaque(Side::Target));
    }
    clear_whiteout(&mut plan, has_whiteout);
    Ok(plan)
}

/// unlink.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::IsADirectory`], [`Refusal::WhiteoutTooLong`].
pub fn unlink(target: At<'_>) -> Result<Plan, Refusal> {
    match target.stack.visible() {
        Resolution::Absent => return Err(Refusal::NotFound),
        Resolution::Merged(_) => return Err(Refusal::IsADirectory),
        Resolution::Leaf(_) => {}
    }
    let mut plan = Plan::default();
    whiteout_if_lowers_show(&mut plan, target, Side::Target)?;
    if target.stack.upper.found.is_some() {
        plan.push(Step::Unlink(Side::Target));
    }
    Ok(plan)
}

/// rmdir.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::NotADirectory`], [`Refusal::NotEmpty`],
/// [`Refusal::WhiteoutTooLong`].
pub fn rmdir(target: At<'_>, content: Content) -> Result<Plan, Refusal> {
    match target.stack.visible() {
        Resolution::Absent => return Err(Refusal::NotFound),
        Resolution::Leaf(_) => return Err(Refusal::NotADirectory),
        Resolution::Merged(_) => {}
    }
    if content == Content::Occupied {
        return Err(Refusal::NotEmpty);
    }
    let mut plan = Plan::default();
    whiteout_if_lowers_show(&mut plan, target, Side::Target)?;
    if target.stack.upper.found.is_some() {
        // Cut off from the lowers by now, so what the markers hid stays hidden.
        plan.push(Step::ClearMarkers(Side::Target));
        plan.push(Step::RemoveDir(Side::Target));
    }
    Ok(plan)
}

/// link.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::IsADirectory`] for the source, [`Refusal::Exists`] and
/// [`Refusal::WhiteoutTooLong`] for the target.
pub fn link(source: At<'_>, target: At<'_>) -> Result<Plan, Refusal> {
    let mut plan = Plan::default();
    match source.stack.visible() {
        Resolution::Absent => return Err(Refusal::NotFound),
        Resolution::Merged(_) => return Err(Refusal::IsADirectory),
        Resolution::Leaf(_) => bring_up(&mut plan, source, Side::Source),
    }
    refuse_existing(target)?;
    let has_whiteout = free_name(&mut plan, target)?;
    plan.push(Step::Link);
    clear_whiteout(&mut plan, has_whiteout);
    Ok(plan)
}

/// rename, without and with `RENAME_NOREPLACE`. `content` is the target's.
///
/// Source and target must not be names of one inode: then rename(2) does nothing, and the kernel does not
/// even ask.
///
/// # Errors
/// As rename(2) has them for types and emptiness; [`Refusal::WhiteoutTooLong`].
pub fn rename(source: At<'_>, target: At<'_>, content: Content, replace: Replace) -> Result<Plan, Refusal> {
    let old = source.stack.visible();
    let new = target.stack.visible();
    if old.is_absent() {
        return Err(Refusal::NotFound);
    }
    if replace == Replace::Refused {
        refuse_existing(target)?;
    }
    match (old.is_dir(), &new) {
        (_, Resolution::Absent) => {}
        (true, Resolution::Leaf(_)) => return Err(Refusal::NotADirectory),
        (false, Resolution::Merged(_)) => return Err(Refusal::IsADirectory),
        (true, Resolution::Merged(_)) if content == Content::Occupied => {
            return Err(Refusal::NotEmpty);
        }
        (_, _) => {}
    }

    let mut plan = Plan::default();
    bring_up(&mut plan, source, Side::Source);
    opaque_for(&mut plan, source, Side::Source, target);
    let mut target_whiteout = free_name(&mut plan, target)?;
    if let Some(Found::Dir { .. }) = target.stack.upper.found {
        // rename(2) replaces a directory only if it is empty on disk. A whiteout beside it takes
        // over what its markers do; over a lower leaf they do nothing.
        if target.stack.lowers.is_dir() {
            target_whiteout |= whiteout_if_lowers_show(&mut plan, target, Side::Target)?;
        }
        plan.push(Step::ClearMarkers(Side::Target));
    }
    whiteout_if_lowers_show(&mut plan, source, Side::Source)?;
    plan.push(Step::Rename);
    clear_whiteout(&mut plan, target_whiteout);
    Ok(plan)
}

/// rename with `RENAME_EXCHANGE`.
///
/// # Errors
/// [`Refusal::NotFound`].
pub fn exchange(source: At<'_>, target: At<'_>) -> Result<Plan, Refusal> {
    if source.stack.visible().is_absent() || target.stack.visible().is_absent() {
        return Err(Refusal::NotFound);
    }
    let mut plan = Plan::default();
    bring_up(&mut plan, source, Side::Source);
    bring_up(&mut plan, target, Side::Target);
    opaque_for(&mut plan, source, Side::Source, target);
    opaque_for(&mut plan, target, Side::Target, source);
    plan.push(Step::Exchange);
    Ok(plan)
}

fn refuse_existing(at: At<'_>) -> Result<(), Refusal> {
    if at.stack.visible().is_absent() { Ok(()) } else { Err(Refusal::Exists) }
}

/// Whatever moves is in the upper first, a directory with all that is in it.
fn bring_up(plan: &mut Plan, at: At<'_>, side: Side) {
    match at.stack.visible() {
        Resolution::Leaf(branch) if !branch.is_upper() => plan.push(Step::CopyUp(side)),
        Resolution::Merged(branches) if branches.iter().any(|b| !b.is_upper()) => {
            plan.push(Step::CopyUpTree(side));
        }
        _ => {}
    }
}

/// A directory that moves to a place where a lower directory would show must not merge with it.
fn opaque_for(plan: &mut Plan, moving: At<'_>, side: Side, place: At<'_>) {
    let already = moving.stack.upper.found == Some(Found::Dir { opaque: true })
        || plan.0.contains(&Step::CopyUpTree(side));
    if moving.stack.visible().is_dir() && place.stack.lowers.is_dir() && !already {
        plan.push(Step::MarkOpaque(side));
    }
}

/// A marker is written only where a lower really holds the name. Says whether one is.
fn whiteout_if_lowers_show(plan: &mut Plan, at: At<'_>, side: Side) -> Result<bool, Refusal> {
    if !at.stack.lowers_show() || at.stack.upper.whiteout {
        return Ok(false);
    }
    if at.name.whiteout().is_none() {
        return Err(Refusal::WhiteoutTooLong);
    }
    plan.push(Step::Whiteout(side));
    Ok(true)
}

/// A whiteout as overlayfs makes it has the name itself. `.wh.NAME` takes over what it does, and it goes; what is
/// made of the name is then made as over any whiteout. Says whether `.wh.NAME` stands by then.
fn free_name(plan: &mut Plan, target: At<'_>) -> Result<bool, Refusal> {
    let mut has_whiteout = target.stack.upper.whiteout;
    if target.stack.upper.whiteout_inode {
        has_whiteout |= whiteout_if_lowers_show(plan, target, Side::Target)?;
        plan.push(Step::Unlink(Side::Target));
    }
    Ok(has_whiteout)
}

fn clear_whiteout(plan: &mut Plan, has_whiteout: bool) {
    if has_whiteout {
        plan.push(Step::ClearWhiteout(Side::Target));
    }
}
