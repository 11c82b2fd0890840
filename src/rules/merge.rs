//! What does a merged directory list?
//!
//! Each branch's own listing is laid under the ones above it. The result is in the order of a hash
//! of the names, which doubles as the entry's cookie: a reader that comes back with the cookie of the last
//! entry it saw gets every entry that was there all along exactly once, whatever came or went
//! between, and nobody has to remember the listing for it.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::BranchId;
use super::name::{Name, Spelling};

/// What a directory entry's type says, before anything is asked of the entry itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed<K> {
    /// A directory.
    Dir(K),
    /// Anything else.
    Leaf(K),
    /// A whiteout that is not spelt by its name: overlayfs' device 0:0.
    Whiteout,
}

/// One entry of a merged directory. `K` is whatever the branch knows of it besides the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedEntry<K> {
    /// Its position in the listing: greater than [`FIRST_COOKIE`], unique, the same in every listing.
    pub cookie: u64,
    /// The name.
    pub name: Name,
    /// The topmost branch that holds it.
    pub branch: BranchId,
    /// Whether a branch further down holds a directory of that name as well, and this is one.
    pub merges: bool,
    /// What that topmost branch knows of it.
    pub known: K,
}

/// What a branch supplies under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supply<K> {
    /// See [`MergedEntry::branch`].
    pub branch: BranchId,
    /// See [`MergedEntry::merges`].
    pub merges: bool,
    /// See [`MergedEntry::known`].
    pub known: K,
}

/// The merged listing of a directory, in the order of the cookies.
#[derive(Clone, Debug)]
pub struct MergedListing<K>(Vec<MergedEntry<K>>);

impl<K> MergedListing<K> {
    /// Everything after a cookie.
    #[must_use]
    pub fn after(&self, cookie: u64) -> &[MergedEntry<K>] {
        &self.0[self.0.partition_point(|entry| entry.cookie <= cookie)..]
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.0.iter().map(|entry| &entry.name)
    }

    /// Whether nothing shows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in what a name shows now: what merging all branches anew would come to.
    pub fn set(&mut self, name: &Name, supply: Option<Supply<K>>) {
        let mut cookie = cookie(name);
        let mut at = self.0.partition_point(|entry| entry.cookie < cookie);
        // Names of one hash stand one behind the other.
        while self.0.get(at).is_some_and(|entry| entry.cookie == cookie && entry.name != *name) {
            cookie += 1;
            at += 1;
        }
        let is_listed = self.0.get(at).is_some_and(|entry| entry.name == *name);
        match supply {
            Some(Supply { branch, merges, known }) => {
                let entry = MergedEntry { cookie, name: name.clone(), branch, merges, known };
                if is_listed {
                    self.0[at] = entry;
                } else {
                    self.0.insert(at, entry);
                }
            }
            None if is_listed => drop(self.0.remove(at)),
            None => {}
        }
    }
}

/// Cookies up to this one are free for the caller (`.` and `..`).
pub const FIRST_COOKIE: u64 = 16;

/// Builds a merged listing from the branches' own, topmost first.
///
/// The rows of all branches are sorted by name, so that what they say of one name stands together, from the
/// top down: each name is hashed once, and one branch alone costs no more than sorting it.
#[derive(Debug)]
pub struct Merge<K> {
    rows: Vec<Row<K>>,
    /// How many branches there are so far.
    depth: u16,
}

/// What a branch says of a name.
#[derive(Debug)]
struct Row<K> {
    cookie: u64,
    name: Name,
    /// How many branches are above.
    depth: u16,
    branch: BranchId,
    says: Listed<K>,
}

impl<K> Default for Merge<K> {
    fn default() -> Self {
        Self { rows: Vec::new(), depth: 0 }
    }
}

impl<K> Merge<K> {
    /// Lays the listing of the next branch down under what is there.
    pub fn add(&mut self, branch: BranchId, listing: impl IntoIterator<Item = (Spelling, Listed<K>)>) {
        for (spelling, listed) in listing {
            let (name, says) = match spelling {
                Spelling::Entry(name) => (name, listed),
                Spelling::Whiteout(name) => (name, Listed::Whiteout),
                Spelling::Opaque | Spelling::Reserved => continue,
            };
            self.rows.push(Row { cookie: cookie(&name), name, depth: self.depth, branch, says });
        }
        self.depth += 1;
    }

    /// The merged listing, in the order of the cookies.
    #[must_use]
    pub fn finish(self) -> MergedListing<K> {
        let mut rows = self.rows;
        // A whiteout comes after the entry beside it, which it does not hide.
        let order = |row: &Row<K>| (row.depth, matches!(row.says, Listed::Whiteout));
        rows.sort_unstable_by(|a, b| {
            (a.cookie, &a.name).cmp(&(b.cookie, &b.name)).then_with(|| order(a).cmp(&order(b)))
        });
        let mut entries: Vec<MergedEntry<K>> = Vec::with_capacity(rows.len());
        // The name that a whiteout has hidden last, and whether the last entry may still merge.
        let mut hidden: Option<Name> = None;
        let mut merging = false;
        for Row { cookie, name, branch, says, .. } in rows {
            if hidden.as_ref() == Some(&name) {
                continue;
            }
            match (says, entries.last_mut().filter(|above| above.name == name)) {
                (Listed::Dir(_), Some(above)) => above.merges |= merging,
                (Listed::Leaf(_) | Listed::Whiteout, Some(_)) => merging = false,
                (Listed::Whiteout, None) => hidden = Some(name),
                (Listed::Dir(known), None) => {
                    merging = true;
                    entries.push(MergedEntry { cookie, name, branch, merges: false, known });
                }
                (Listed::Leaf(known), None) => {
                    merging = false;
                    entries.push(MergedEntry { cookie, name, branch, merges: false, known });
                }
            }
        }
        // Two names of one hash are as good as impossible, but an entry must not get lost over it.
        for i in 1..entries.len() {
            entries[i].cookie = entries[i].cookie.max(entries[i - 1].cookie + 1);
        }
        MergedListing(entries)
    }
}

/// 62 bits: below `i64::MAX`, as directory offsets must be, with room above for the step aside
/// in [`Merge::finish`].
fn cookie(name: &Name) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    (hasher.finish() >> 2) + FIRST_COOKIE + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    /// A branch's listing, by names as they are on disk.
    type Rows<'a> = &'a [(&'a str, Listed<()>)];

    fn list(branches: &[Rows<'_>]) -> Vec<(String, u16, bool)> {
        let mut merge = Merge::default();
        for (index, listing) in branches.iter().enumerate() {
            merge.add(
                BranchId(index as u16),
                listing.iter().map(|(name, listed)| (Spelling::of(OsStr::new(name)), *listed)),
            );
        }
        let mut names: Vec<_> = merge
            .finish()
            .0
            .into_iter()
            .map(|e| (e.name.as_os_str().to_str().unwrap().to_owned(), e.branch.0, e.merges))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn branches_are_laid_one_under_the_other() {
        use Listed::{Dir, Leaf, Whiteout};
        type Expected<'a> = &'a [(&'a str, u16, bool)];
        let rows: &[(&str, &[Rows<'_>], Expected<'_>)] = &[
            ("the upper's entry wins", &[&[("f", Leaf(()))], &[("f", Leaf(()))]], &[("f", 0, false)]),
            ("directories merge", &[&[("d", Dir(()))], &[("d", Dir(()))]], &[("d", 0, true)]),
            (
                "a file over a directory does not",
                &[&[("d", Leaf(()))], &[("d", Dir(()))]],
                &[("d", 0, false)],
            ),
            (
                "a file between two directories keeps them apart",
                &[&[("d", Dir(()))], &[("d", Leaf(()))], &[("d", Dir(()))]],
                &[("d", 0, false)],
            ),
            (
                "a whiteout between two directories too",
                &[&[("d", Dir(()))], &[(".wh.d", Leaf(())), ("e", Leaf(()))], &[("d", Dir(()))]],
                &[("d", 0, false), ("e", 1, false)],
            ),
            ("a whiteout hides what is below", &[&[(".wh.f", Leaf(()))], &[("f", Leaf(()))]], &[]),
            ("a device 0:0 too", &[&[("f", Whiteout)], &[("f", Leaf(()))]], &[]),
            ("not what is beside", &[&[(".wh.f", Leaf(())), ("f", Leaf(()))]], &[("f", 0, false)]),
            ("not what is above", &[&[("f", Leaf(()))], &[(".wh.f", Leaf(()))]], &[("f", 0, false)]),
            ("in a middle branch", &[&[], &[(".wh.f", Leaf(()))], &[("f", Leaf(()))]], &[]),
            (
                "markers never show",
                &[&[(".wh..wh..opq", Leaf(())), (".wh..wh.plnk", Dir(())), (".wh.", Leaf(()))]],
                &[],
            ),
            ("dots never show", &[&[(".", Dir(())), ("..", Dir(()))]], &[]),
        ];
        for (what, branches, expected) in rows {
            let expected: Vec<_> = expected.iter().map(|(n, b, m)| ((*n).to_owned(), *b, *m)).collect();
            assert_eq!(list(branches), expected, "{what}");
        }
    }

    #[test]
    fn a_change_that_is_taken_in_is_as_good_as_a_new_merge() {
        let name = |i: usize| Name::new(OsStr::new(&format!("file{i}"))).unwrap();
        let merge = |keep: &dyn Fn(usize) -> bool, branch| {
            let mut merge = Merge::default();
            let listing = (0..500).filter(|i| keep(*i));
            merge.add(branch, listing.map(|i| (Spelling::Entry(name(i)), Listed::Leaf(()))));
            merge.finish()
        };
        let mut listing = merge(&|i| i % 2 == 0, BranchId(1));
        for i in 0..500 {
            let supply = Supply { branch: BranchId(0), merges: false, known: () };
            listing.set(&name(i), (i % 3 == 0).then_some(supply));
        }
        assert_eq!(listing.0, merge(&|i| i % 3 == 0, BranchId(0)).0);
    }

    #[test]
    fn cookies_rise_and_stay() {
        let names: Vec<String> = (0..2000).map(|i| format!("file{i}")).collect();
        let build = |keep: &dyn Fn(usize) -> bool| {
            let mut merge = Merge::default();
            let listing = names.iter().enumerate().filter(|(i, _)| keep(*i));
            merge.add(BranchId(1), listing.map(|(_, n)| (Spelling::of(OsStr::new(n)), Listed::Leaf(()))));
            merge.finish().0
        };
        let all = build(&|_| true);
        assert!(all.windows(2).all(|w| w[0].cookie < w[1].cookie));
        assert!(all.iter().all(|e| e.cookie > FIRST_COOKIE && e.cookie < i64::MAX as u64));
        for entry in build(&|i| i % 3 == 0) {
            let same = all.iter().find(|e| e.name == entry.name).unwrap();
            assert_eq!(same.cookie, entry.cookie, "a cookie must not depend on the neighbours");
        }
    }
}
