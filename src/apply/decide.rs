//! What is to become of one path?
//!
//! Pure. There are three of everything: what was there when the run first changed it (the base), what the run has, and
//! what is there by now. If one side only has changed, that side's change counts; if both have, it is a conflict, unless
//! they have come to the same.

use std::fmt;

/// What is known of a path. The run and the outside differ by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// The type of what was there.
    pub(super) base: Option<char>,
    /// The type of what the run has; None if it has deleted it.
    pub(super) run: Option<char>,
    /// The type of what is there by now.
    pub(super) now: Option<char>,
    /// What is there is what was there, or what it became by being made for real.
    pub(super) now_is_base: bool,
    /// What the run has is what was there, but for its time.
    pub(super) run_is_base: bool,
    /// What the run has was made for real before: it is the outside's business by now.
    pub(super) is_taken: bool,
    /// Of data, nothing has changed outside.
    pub(super) same_data: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The run's change is made.
    Make,
    /// The run has changed nothing of it.
    Leave,
    Conflict(Conflict),
}

/// What both have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Conflict {
    /// The run has made something where something else is.
    MadeTwice,
    /// The run has changed what is not there any more.
    Gone,
    /// The run has deleted what was changed outside.
    DeletedHere,
    /// The run has deleted a directory in which there is something new.
    New,
    /// It is of another type by now.
    Type,
    /// Its data was changed outside.
    Content,
    /// Owner, mode or attributes were.
    Metadata,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MadeTwice => "made in the run and outside",
            Self::Gone => "changed in the run, and deleted or renamed outside",
            Self::DeletedHere => "deleted in the run, and changed outside",
            Self::New => "new outside, in a directory that the run has deleted or replaced",
            Self::Type => "changed in the run, and something of another type outside",
            Self::Content => "changed in the run and outside",
            Self::Metadata => "changed in the run, and owner, mode or attributes outside",
        })
    }
}

/// What is to become of a path of which that is known.
pub(super) fn decide(facts: &Facts) -> Verdict {
    if facts.is_taken {
        return Verdict::Leave;
    }
    if facts.now_is_base {
        return Verdict::Make;
    }
    if facts.run_is_base && facts.base.is_some() {
        return Verdict::Leave;
    }
    let conflict = match (facts.base, facts.run, facts.now) {
        // Nobody has it, or the run alone.
        (None, _, None) | (Some(_), None, None) => return Verdict::Make,
        (Some(_), Some(_), None) => Conflict::Gone,
        (None, None, Some(_)) => Conflict::New,
        (None, Some(_), Some(_)) => Conflict::MadeTwice,
        (Some(_), None, Some(_)) => Conflict::DeletedHere,
        (Some(base), Some(_), Some(now)) if base != now => Conflict::Type,
        (Some(_), Some(_), Some(_)) if facts.same_data => Conflict::Metadata,
        (Some(_), Some(_), Some(_)) => Conflict::Content,
    };
    Verdict::Conflict(conflict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_its_verdict() {
        use Conflict::{Content, DeletedHere, Gone, MadeTwice, Metadata, New, Type};
        let conflict = Verdict::Conflict;
        let kinds = [None, Some('f'), Some('d')];
        let both = [false, true];
        let mut seen = 0;
        for (base, run, now) in kinds
            .into_iter()
            .flat_map(|base| kinds.map(|run| (base, run)))
            .flat_map(|(base, run)| kinds.map(|now| (base, run, now)))
        {
            for (now_is_base, run_is_base, same_data) in
                both.into_iter().flat_map(|a| both.map(|b| (a, b))).flat_map(|(a, b)| both.map(|c| (a, b, c)))
            {
                // What is another type is another thing.
                if run_is_base && run != base {
                    continue;
                }
                seen += 1;
                let facts = Facts { base, run, now, now_is_base, run_is_base, same_data, is_taken: false };
                assert_eq!(decide(&Facts { is_taken: true, ..facts }), Verdict::Leave);
                let expected = match facts {
                    Facts { now_is_base: true, .. } => Verdict::Make,
                    Facts { run_is_base: true, base: Some(_), .. } => Verdict::Leave,
                    Facts { now: None, base: None, .. } => Verdict::Make,
                    Facts { run: None, now: None, .. } => Verdict::Make,
                    Facts { now: None, .. } => conflict(Gone),
                    Facts { base: None, run: None, .. } => conflict(New),
                    Facts { base: None, .. } => conflict(MadeTwice),
                    Facts { run: None, .. } => conflict(DeletedHere),
                    Facts { base, now, .. } if base != now => conflict(Type),
                    Facts { same_data: true, .. } => conflict(Metadata),
                    _ => conflict(Content),
                };
                assert_eq!(decide(&facts), expected, "{facts:?}");
            }
        }
        assert!(seen > 50);
    }

    #[test]
    fn nothing_of_the_outside_is_lost_unseen() {
        // Whatever the run has: what was changed outside since is never replaced without a question.
        for run in [None, Some('f'), Some('d')] {
            for base in [None, Some('f')] {
                let facts = Facts {
                    base,
                    run,
                    now: Some('f'),
                    now_is_base: false,
                    run_is_base: false,
                    same_data: false,
                    is_taken: false,
                };
                assert!(matches!(decide(&facts), Verdict::Conflict(_)), "{facts:?}");
            }
        }
    }
}
