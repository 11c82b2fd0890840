//! Do the few things that can be done to a small tree go together, in any order?
//!
//! Programs of two and three words over stacks of three and four branches, with markers in the middle and
//! entries two levels deep: all pairs of words, each over some of the stacks, and as many triples as there is
//! time for. What one word leaves in the upper is what the next one finds, in the mount's memory or after a
//! remount.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};
use rustix::fs::RenameFlags;
use tempfile::TempDir;

use super::flatten::{ZeroDevice, flatten};
use super::layer::{Folder, Opaque, Whiteout, folder, lay};
use super::name::{Name, Where, at};
use super::op::{Op, Step};
use super::play::Side;
use super::sequence::{Case, open_temp_dir, play};

/// Programs are played together, each in a directory of its own: mounting takes longer than most of them.
const TOGETHER: usize = 250;

/// On how many stacks together a program is played once, if there is little time.
const TURNS: usize = 8;

/// What the programs meet.
struct Stack {
    what: &'static str,
    upper: Folder,
    /// Topmost first.
    lowers: Vec<Folder>,
    /// Hard links in the topmost lower.
    twins: &'static [(&'static str, &'static str)],
}

/// Words, by their places in the vocabulary.
type Program = Vec<usize>;

/// When a program's mount is mounted anew.
#[derive(Clone, Copy, Debug)]
enum Remount {
    AfterEachWord,
    InTheEnd,
}

fn stacks() -> Vec<Stack> {
    let file = |folder: Folder, name| folder.file(name, 7);
    let with = |names: &[Name]| names.iter().fold(folder(), |folder, name| file(folder, name));
    let stack = |what, lowers| Stack { what, upper: folder(), lowers, twins: &[] };
    vec![
        stack(
            "merged over three branches",
            vec![
                folder().dir("a", folder().dir("b", with(&["c"]))),
                folder().dir("a", with(&["c"]).dir("b", with(&["a"]))),
                folder().dir("a", folder().dir("b", with(&["b"]))).dir("b", with(&["c"])),
            ],
        ),
        stack(
            "a whiteout in the middle",
            vec![
                folder().dir("a", folder().dir("b", with(&["c"]))),
                folder().gone("a", Whiteout::Oci).dir("b", folder().gone("c", Whiteout::Oci)),
                with(&["c"]).dir("a", with(&["c"]).dir("b", with(&["a", "b"]))).dir("b", with(&["c"])),
            ],
        ),
        stack(
            "an opaque directory in the middle, two levels deep",
            vec![
                folder().dir("a", folder().dir("b", with(&["c"]))),
                folder().dir("a", with(&["c"]).dir("b", with(&["a"]).opaque(Opaque::Oci))),
                with(&["b"]).dir("a", with(&["a"]).dir("b", with(&["b", "c"]))),
            ],
        ),
        stack(
            "a file between two directories",
            vec![
                folder().dir("a", folder().dir("b", with(&["c"]))),
                folder().dir("a", with(&["b", "c"])),
                folder().dir("a", folder().dir("b", with(&["a"]))).dir("b", with(&["a"])),
            ],
        ),
        stack(
            "whiteouts on top, and beside what they name",
            vec![
                folder().dir("a", folder().gone("b", Whiteout::Oci)).gone("c", Whiteout::Oci),
                with(&["c"]).dir("a", with(&["c"]).gone("c", Whiteout::Oci).dir("b", with(&["c"]))),
                folder()
                    .dir("a", folder().dir("b", with(&["a"])))
                    .dir("b", with(&["c"]))
                    .dir("c", with(&["a"])),
            ],
        ),
        stack(
            "overlayfs' markers in the middle",
            vec![
                folder().dir("a", with(&["c"])),
                folder().gone("b", Whiteout::Device).dir(
                    "a",
                    folder().dir("b", with(&["c"]).opaque(Opaque::Xattr("trusted.overlay.opaque"))),
                ),
                folder().dir("a", folder().dir("b", with(&["a", "c"]))).dir("b", with(&["c"])),
                with(&["c"]).dir("a", with(&["a"])),
            ],
        ),
        Stack {
            upper: folder().dir("a", folder().gone("c", Whiteout::Oci).dir("b", with(&["a"]))),
            ..stack(
                "an upper with a past, and markers in each lower",
                vec![
                    folder().dir("b", with(&["c"]).opaque(Opaque::Oci)),
                    folder()
                        .gone("b", Whiteout::Oci)
                        .dir("a", folder().dir("b", folder().opaque(Opaque::Oci))),
                    folder().dir("a", with(&["c"]).dir("b", with(&["b", "c"]))).dir("b", with(&["a", "b"])),
                ],
            )
        },
        Stack {
            upper: folder().gone("c", Whiteout::Device).dir(
                "a",
                folder().gone("c", Whiteout::Device).dir("b", with(&["a"]).gone("c", Whiteout::Device)),
            ),
            ..stack(
                "an upper that overlayfs wrote",
                vec![
                    folder().dir("b", with(&["c"]).gone("a", Whiteout::Device)),
                    with(&["c"])
                        .dir("a", folder().dir("b", with(&["b", "c"])).dir("c", with(&["a"])))
                        .dir("b", with(&["a"])),
                    folder().dir("a", with(&["c"])).dir("c", with(&["b"])),
                ],
            )
        },
        Stack {
            upper: folder()
                .gone("b", Whiteout::Device)
                .dir("a", folder().gone("b", Whiteout::Device).gone("c", Whiteout::Device)),
            ..stack(
                "an upper that overlayfs wrote, with directories that are gone",
                vec![
                    with(&["c"]).dir("a", with(&["c"]).dir("b", with(&["a", "c"]))),
                    folder().dir("b", with(&["c"])),
                ],
            )
        },
        Stack {
            twins: &[("a/b/c", "a/c"), ("a/b/c", "b"), ("a/b/a", "c")],
            ..stack(
                "hard links over markers",
                vec![
                    folder().dir("a", folder().dir("b", with(&["a", "c"]))),
                    folder().dir("a", folder().gone("c", Whiteout::Oci)).gone("c", Whiteout::Oci),
                    with(&["c"]).dir("a", with(&["a", "c"])).dir("b", with(&["c"])),
                ],
            )
        },
    ]
}

/// All words, at work where `at` leads.
fn vocabulary(at: impl Fn(&str) -> Where) -> Vec<Vec<Op>> {
    let write = |path| vec![Op::Write { path: at(path), offset: 3, len: 5 }];
    let chmod = |path| vec![Op::Chmod { path: at(path), mode: 0o711 }];
    let create = |path| {
        let (path, slot) = (at(path), 0);
        vec![Op::Create { path, mode: 0o644, umask: 0o022, exclusive: true, slot }, Op::Close(slot)]
    };
    let mkdir = |path| vec![Op::Mkdir { path: at(path), mode: 0o755, umask: 0o022 }];
    let link = |from, to| vec![Op::Link { from: at(from), to: at(to) }];
    let with = |from, to, flags| vec![Op::Rename { from: at(from), to: at(to), flags }];
    let rename = |from, to| with(from, to, RenameFlags::empty());
    let exchange = |one, other| with(one, other, RenameFlags::EXCHANGE);
    // rm -r, in a tree whose directories are `a`, `b` and `a/b`, wherever they are now.
    let remove = |path: &str| {
        let inner =
            |names: &[&str]| names.iter().map(|name| at(&format!("{path}/{name}"))).collect::<Vec<_>>();
        let files = inner(&["b/a", "b/b", "b/c", "a", "b", "c"]).into_iter().chain([at(path)]);
        let dirs = inner(&["b"]).into_iter().chain([at(path)]);
        files.map(Op::Unlink).chain(dirs.map(Op::Rmdir)).collect::<Vec<_>>()
    };
    vec![
        write("a/b/c"),
        write("a/c"),
        write("b"),
        chmod("a/b"),
        vec![Op::Unlink(at("a/b/c"))],
        vec![Op::Unlink(at("a/c"))],
        remove("a"),
        remove("b"),
        remove("a/b"),
        mkdir("a"),
        mkdir("b"),
        mkdir("a/b"),
        create("a/b/c"),
        create("a/b"),
        create("b"),
        rename("a/b/c", "c"),
        rename("a/c", "a/b/c"),
        rename("c", "a/c"),
        rename("a", "c"),
        rename("c", "a"),
        rename("a/b", "b"),
        rename("b", "a/b"),
        link("a/b/c", "c"),
        link("a/c", "a/b/b"),
        exchange("a/b", "a/c"),
        exchange("a", "b"),
        exchange("a/b", "b"),
    ]
}

/// How much is played over each of the stacks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// Besides the pairs.
    pub(crate) triples: usize,
    /// All pairs over each stack, with a remount after each word and with none; otherwise they take turns.
    pub(crate) thorough: bool,
}

/// Plays programs whose every word does something; the others are shorter ones.
pub(crate) fn check(extent: Extent, seed: &[u8]) -> Result<(), String> {
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, seed);
    for (number, stack) in stacks().into_iter().enumerate() {
        let turn = |place: usize| extent.thorough || (place + number).is_multiple_of(TURNS);
        let (even, odd): (Vec<_>, Vec<_>) = programs(&stack, turn, extent.triples, &mut rng)
            .into_iter()
            .enumerate()
            .partition(|(place, _)| place.is_multiple_of(2));
        for (remount, these, others) in
            [(Remount::AfterEachWord, &even, &odd), (Remount::InTheEnd, &odd, &even)]
        {
            let others = others.iter().filter(|_| extent.thorough);
            let programs: Vec<_> = these.iter().chain(others).map(|(_, program)| program.clone()).collect();
            for programs in programs.chunks(TOGETHER) {
                let case = together(&stack, programs, remount);
                play(&case).map_err(|why| explain(&stack, programs, remount, &why))?;
            }
        }
    }
    Ok(())
}

/// All pairs whose turn it is, and some of the triples that begin so, or all if there are no more.
fn programs(stack: &Stack, turn: impl Fn(usize) -> bool, triples: usize, rng: &mut TestRng) -> Vec<Program> {
    let words = vocabulary(at).len();
    let dry = DryRun::of(stack);
    let longer = |program: Program| (0..words).map(move |word| [&*program, &[word]].concat());
    let singles = longer(Program::new()).filter(|single| dry.does_something(single));
    let pairs = singles.flat_map(longer).enumerate().filter(|(place, _)| turn(*place)).map(|(_, pair)| pair);
    let pairs = pairs.filter(|pair| dry.does_something(pair));
    let mut all: Vec<Program> = pairs.collect();
    let mut longer: Vec<Program> = all.iter().cloned().flat_map(longer).collect();
    let mut left = triples;
    while left > 0 && !longer.is_empty() {
        let triple = longer.swap_remove(rng.random_range(0..longer.len()));
        if dry.does_something(&triple) {
            all.push(triple);
            left -= 1;
        }
    }
    all
}

/// A stack on the disk and no mount.
struct DryRun {
    dir: TempDir,
    branches: Vec<PathBuf>,
}

impl DryRun {
    fn of(stack: &Stack) -> Self {
        let dir = open_temp_dir();
        let folders: Vec<_> = [&stack.upper].into_iter().chain(&stack.lowers).collect();
        let branches: Vec<_> = (0..folders.len()).map(|i| dir.path().join(i.to_string())).collect();
        for (branch, folder) in branches.iter().zip(folders) {
            fs::create_dir(branch).expect("a directory");
            lay(branch, folder);
        }
        Self { dir, branches }
    }

    /// Whether a plain directory takes each word.
    fn does_something(&self, program: &Program) -> bool {
        let plain = self.dir.path().join("plain");
        fs::create_dir(&plain).expect("a directory");
        let stack: Vec<_> = self.branches.iter().map(|branch| (&**branch, ZeroDevice::Whiteout)).collect();
        flatten(&stack, &plain);
        let mut side = Side::new(plain.clone());
        let mut takes = |op: Op| side.play(&Step { user: 0, op }, 0).is_ok();
        let done = program.iter().all(|word| {
            vocabulary(at).swap_remove(*word).into_iter().map(&mut takes).fold(false, |any, one| any | one)
        });
        fs::remove_dir_all(plain).expect("our own directory");
        done
    }
}

/// One case of many programs: each has the whole stack in a directory of its own.
fn together(stack: &Stack, programs: &[Program], remount: Remount) -> Case {
    let dirs = &directories()[..programs.len()];
    let inside = |dir: Name, path: &str| Where([vec![dir], at(path).0].concat());
    let copies = |one: &Folder| dirs.iter().fold(folder(), |all, dir| all.dir(dir, one.clone()));
    let twins = |dir: Name| stack.twins.iter().map(move |(from, to)| (inside(dir, from), inside(dir, to)));
    let word = |(program, dir): (&Program, &Name), place: usize| {
        let word = program.get(place).map(|word| vocabulary(|path| inside(dir, path)).swap_remove(*word));
        word.unwrap_or_default()
    };
    let all = || programs.iter().zip(dirs);
    let longest = programs.iter().map(Vec::len).max().unwrap_or_default();
    let ops: Vec<Op> = match remount {
        Remount::AfterEachWord => (0..longest)
            .flat_map(|place| all().flat_map(move |program| word(program, place)).chain([Op::Remount]))
            .collect(),
        Remount::InTheEnd => {
            all().flat_map(|program| (0..longest).flat_map(move |place| word(program, place))).collect()
        }
    };
    let ops = without_last_remount(ops);
    Case {
        upper: if stack.upper.is_bare() { folder() } else { copies(&stack.upper) },
        lowers: stack.lowers.iter().map(copies).collect(),
        twins: dirs.iter().flat_map(|dir| twins(dir)).collect(),
        volatile: true,
        steps: ops.into_iter().map(|op| Step { user: 0, op }).collect(),
    }
}

/// A program by itself, as it may be written down among the regressions.
fn alone(stack: &Stack, program: &Program, remount: Remount) -> Case {
    let words = program.iter().map(|word| vocabulary(at).swap_remove(*word));
    let ops = words.flat_map(|mut ops| {
        if matches!(remount, Remount::AfterEachWord) {
            ops.push(Op::Remount);
        }
        ops
    });
    let ops = without_last_remount(ops.collect());
    Case {
        upper: stack.upper.clone(),
        lowers: stack.lowers.clone(),
        twins: stack.twins.iter().map(|(from, to)| (at(from), at(to))).collect(),
        volatile: true,
        steps: ops.into_iter().map(|op| Step { user: 0, op }).collect(),
    }
}

/// Whoever plays a case mounts anew in its end.
fn without_last_remount(mut ops: Vec<Op>) -> Vec<Op> {
    if ops.last() == Some(&Op::Remount) {
        ops.pop();
    }
    ops
}

/// Which of the programs it was that failed.
fn explain(stack: &Stack, programs: &[Program], remount: Remount, why: &str) -> String {
    let cases = programs.iter().map(|program| alone(stack, program, remount));
    let mut failing =
        cases.filter_map(|case| play(&case).err().map(|why| format!("{why}\n\nby itself:\n{case}")));
    match failing.next() {
        Some(first) => format!("{}: {first}\nand {} programs more", stack.what, failing.count()),
        None => format!("{}, {remount:?}, only together: {why}", stack.what),
    }
}

fn directories() -> &'static [Name] {
    static ALL: OnceLock<Vec<Name>> = OnceLock::new();
    // A name lives as long as the program that is tested with it: to the end.
    ALL.get_or_init(|| (0..TOGETHER).map(|i| &*Box::leak(format!("{i:04}").into_boxed_str())).collect())
}
