//! Which small stacks are there?
//!
//! All speak of the same few names: the files `a`, `b`, `d/x`, `d/y`, the symbolic link `l`, the directories `d`,
//! `d/s`, `e`. What is in which branch, and beside which markers, is what differs.

use super::layer::{Item, device, dir, fifo, file, link_to, name_of, opaque, sparse, whiteout};
use super::operation::Operation;

/// Some branches, and what has been done to the union of them.
#[derive(Clone, Debug)]
pub struct Stack {
    pub name: &'static str,
    pub upper: Vec<Item>,
    /// Topmost first.
    pub lowers: Vec<Vec<Item>>,
    pub overlay_upper: bool,
    /// Names of a lower's files outside of the branch: of which, and under which name.
    pub outside: Vec<(usize, &'static str)>,
    /// What an earlier mount has done.
    pub history: Vec<Operation>,
    /// Whether it is always played on a real disk, too.
    pub on_disk: bool,
}

/// Root opens what nobody may write. An ordinary user's mount lends itself the right for a moment, in two changes of
/// the mode: an end between them leaves it, which is known.
fn read_only() -> u32 {
    if rustix::process::geteuid().is_root() { 0o400 } else { 0o600 }
}

/// Everything that a lower can have, once.
fn rich() -> Vec<Item> {
    vec![
        file("a", "lower a").mode(0o4755).owner(1000).xattr("user.old", "old"),
        file("b", "lower b").mode(read_only()),
        link_to("l", "a").owner(1000),
        dir("d").mode(0o2775).owner(1000).xattr("user.old", "old"),
        file("d/x", "lower x").xattr("user.old", "old"),
        sparse("d/y"),
        dir("d/s").mode(0o1777),
        fifo("d/s/q"),
        dir("e").mode(0o700),
    ]
}

fn linked() -> Vec<Item> {
    vec![
        file("a", "one file").xattr("user.old", "old"),
        name_of("b", "a"),
        dir("d"),
        name_of("d/x", "a"),
        file("d/y", "lower y"),
        link_to("l", "a"),
        dir("e"),
    ]
}

pub fn all() -> Vec<Stack> {
    let stack = |name, upper: Vec<Item>, lowers: Vec<Vec<Item>>| Stack {
        name,
        upper,
        lowers,
        overlay_upper: false,
        outside: Vec::new(),
        history: Vec::new(),
        on_disk: false,
    };
    vec![
        Stack { ..stack("everything in the lower", vec![], vec![rich()]) },
        stack("everything in the upper", rich(), vec![vec![]]),
        stack(
            "two lowers merge",
            vec![],
            vec![
                vec![
                    file("a", "upper lower a"),
                    dir("d"),
                    file("d/x", "upper lower x"),
                    dir("d/s"),
                    whiteout("b"),
                ],
                rich(),
            ],
        ),
        Stack {
            ..stack(
                "the upper merges",
                vec![
                    dir("d").mode(0o750),
                    file("d/x", "upper x").xattr("user.old", "old"),
                    dir("d/s"),
                    dir("e"),
                    file("e/f", "in e"),
                ],
                vec![rich()],
            )
        },
        stack(
            "deleted names",
            vec![whiteout("a"), dir("d"), whiteout("d/x"), whiteout("e"), whiteout("l")],
            vec![rich()],
        ),
        stack("a deleted directory", vec![whiteout("d"), whiteout("b")], vec![rich()]),
        Stack {
            on_disk: true,
            ..stack(
                "a directory that is empty by whiteouts",
                vec![
                    dir("d"),
                    whiteout("d/x"),
                    whiteout("d/y"),
                    whiteout("d/s"),
                    dir("e"),
                    whiteout("b"),
                    file("b", "upper b"),
                ],
                vec![rich()],
            )
        },
        stack(
            "opaque directories",
            vec![dir("d"), opaque("d"), file("d/y", "upper y"), dir("d/s"), dir("e"), opaque("e")],
            vec![rich()],
        ),
        stack(
            "entries beside their whiteouts",
            vec![
                file("a", "upper a"),
                whiteout("a"),
                dir("d"),
                whiteout("d"),
                file("d/x", "upper x"),
                dir("e"),
                whiteout("e"),
            ],
            vec![rich()],
        ),
        stack(
            "markers between the lowers",
            vec![],
            vec![
                vec![
                    whiteout("a"),
                    dir("d"),
                    opaque("d"),
                    file("d/x", "upper lower x"),
                    dir("e"),
                    whiteout("e"),
                    device("l"),
                ],
                vec![
                    file("a", "gone"),
                    file("b", "lower b"),
                    dir("d"),
                    file("d/x", "gone"),
                    file("d/y", "gone"),
                    dir("e"),
                    file("e/f", "gone"),
                    file("l", "gone"),
                ],
            ],
        ),
        stack(
            "other types in the upper",
            vec![dir("a"), file("d", "a file now"), dir("l"), file("e", "")],
            vec![rich()],
        ),
        Stack {
            overlay_upper: true,
            ..stack(
                "an upper from overlayfs",
                vec![device("a"), dir("d"), device("d/x"), device("d/y"), device("d/s"), device("e")],
                vec![rich()],
            )
        },
        Stack { on_disk: true, ..stack("hard links in the lower", vec![], vec![linked()]) },
        stack("hard links under an upper directory", vec![dir("d"), whiteout("b")], vec![linked()]),
        Stack {
            history: vec![Operation::Write("b", 0)],
            ..stack("hard links that were written", vec![], vec![linked()])
        },
        Stack {
            history: vec![Operation::Write("a", 0), Operation::Unlink("a"), Operation::Unlink("d/x")],
            ..stack("hard links that were written, of which one name is left", vec![], vec![linked()])
        },
        Stack {
            history: vec![
                Operation::Write("b", 0),
                Operation::Rename("d", "c", plyfs::union::RenameMode::Replace),
                Operation::Rename("c", "d", plyfs::union::RenameMode::Replace),
            ],
            ..stack("hard links in a directory that was moved", vec![], vec![linked()])
        },
        Stack { outside: vec![(0, "a")], ..stack("hard links outside the branch", vec![], vec![linked()]) },
        stack(
            "hard links in the upper",
            linked(),
            vec![vec![file("a", "lower a"), dir("d"), file("d/x", "lower x")]],
        ),
        stack(
            "hard links of a symbolic link and a fifo",
            vec![],
            vec![vec![
                link_to("a", "t"),
                name_of("l", "a"),
                dir("d"),
                name_of("d/x", "a"),
                fifo("b"),
                name_of("d/y", "b"),
                dir("e"),
            ]],
        ),
        stack(
            "one file in two lowers by two names",
            vec![],
            vec![
                vec![file("a", "one"), name_of("b", "a")],
                vec![
                    file("a", "hidden"),
                    dir("d"),
                    name_of("d/x", "a"),
                    name_of("d/y", "a"),
                    link_to("l", "a"),
                ],
            ],
        ),
    ]
}
