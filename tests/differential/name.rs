//! Which names and paths are there to be played with?
//!
//! So few that operations meet each other all the time.

use std::fmt::{self, Debug, Formatter};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

/// One component.
pub(crate) type Name = &'static str;

/// The ordinary ones.
pub(crate) const ORDINARY: [Name; 3] = ["a", "b", "c"];
/// 252 bytes: too long for a whiteout.
pub(crate) const LONG: Name = concat!(
    "long-long-long-long-long-long-long-long-long-long-long-long-long-",
    "long-long-long-long-long-long-long-long-long-long-long-long-long-",
    "long-long-long-long-long-long-long-long-long-long-long-long-long-",
    "long-long-long-long-long-long-long-long-long-long-long-la",
);
/// Reserved: the whiteout of one of the others.
pub(crate) const RESERVED: Name = ".wh.a";

/// A path from the root; the root itself if it is empty.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Where(pub(crate) Vec<Name>);

impl Where {
    pub(crate) fn under(&self, root: &Path) -> PathBuf {
        root.join(self.0.join("/"))
    }

    pub(crate) fn has_reserved(&self) -> bool {
        self.0.contains(&RESERVED)
    }

    pub(crate) fn ends_long(&self) -> bool {
        self.0.last() == Some(&LONG)
    }
}

/// `at("a/b")`; `LONG` stands for the long name.
pub(crate) fn at(path: &str) -> Where {
    let known = |part: &str| {
        let all = [ORDINARY.as_slice(), &[RESERVED]].concat();
        if part == "LONG" { LONG } else { all.into_iter().find(|name| *name == part).expect("a known name") }
    };
    Where(path.split('/').filter(|part| !part.is_empty()).map(known).collect())
}

impl Debug for Where {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "at({:?})", self.0.join("/").replace(LONG, "LONG"))
    }
}

/// A name that a branch may hold.
pub(crate) fn any_name() -> impl Strategy<Value = Name> {
    // Mostly the same one: what meets nothing tells nothing.
    prop_oneof![24 => Just("a"), 12 => Just("b"), 5 => Just("c"), 1 => Just(LONG)]
}

/// Anything but the root.
pub(crate) fn any_entry() -> impl Strategy<Value = Where> {
    let name = || any_name().prop_map(|name| vec![name]);
    let two = || (any_name(), any_name()).prop_map(|(a, b)| vec![a, b]);
    let three = || (any_name(), any_name(), any_name()).prop_map(|(a, b, c)| vec![a, b, c]);
    let reserved = any_entry_parent().prop_map(|mut parent| {
        parent.push(RESERVED);
        parent
    });
    prop_oneof![30 => name(), 36 => two(), 14 => three(), 1 => reserved].prop_map(Where)
}

fn any_entry_parent() -> impl Strategy<Value = Vec<Name>> {
    prop::collection::vec(any_name(), 0..2)
}

/// The root too.
pub(crate) fn anywhere() -> impl Strategy<Value = Where> {
    prop_oneof![1 => Just(Where(Vec::new())), 12 => any_entry()]
}
