//! What was found once, must not come back.

use rustix::fs::RenameFlags;

use super::layer::{Attr, Folder, folder};
use super::name::at;
use super::op::{Mode, Op, SetTime, Step};
use super::sequence::{Case, play};
use super::times::TIMES;

const USER: u32 = 1000;

fn cases() -> Vec<(&'static str, Case)> {
    let create = |path| Op::Create { path: at(path), mode: 0o644, umask: 0o022, exclusive: true, slot: 0 };
    let link = |from, to| Op::Link { from: at(from), to: at(to) };
    let rename = |from, to, flags| Op::Rename { from: at(from), to: at(to), flags };
    let mkdir = |path| Op::Mkdir { path: at(path), mode: 0o755, umask: 0o022 };
    vec![
        (
            "a link to a file whose first name was removed",
            case(vec![folder()], [create("a"), link("a", "b"), Op::Unlink(at("a")), link("b", "c")]),
        ),
        (
            "a link to a file whose first name was given to another",
            case(
                vec![folder()],
                [
                    create("a"),
                    link("a", "b"),
                    create("c"),
                    rename("c", "a", RenameFlags::empty()),
                    link("b", "c"),
                ],
            ),
        ),
        (
            "a directory moved over a lower's place keeps its times",
            case(
                vec![folder().dir("a", folder())],
                [
                    mkdir("c"),
                    Op::Utimens { path: at("c"), time: SetTime::To(TIMES[1]), follow: true },
                    rename("c", "a", RenameFlags::EXCHANGE),
                    Op::Compare,
                ],
            ),
        ),
        (
            "a directory that was removed with its markers keeps its times",
            case(
                vec![folder().dir("a", folder().file("b", 7))],
                [
                    Op::Unlink(at("a/b")),
                    Op::Utimens { path: at("a"), time: SetTime::To(TIMES[1]), follow: true },
                    Op::Open { path: at("a"), how: Mode::Directory, slot: 0 },
                    Op::Rmdir(at("a")),
                    Op::FdStat(0),
                ],
            ),
        ),
        (
            "a lower's directory that was removed can be changed by whoever has it open",
            case(
                vec![folder().dir("a", folder())],
                [
                    Op::Open { path: at("a"), how: Mode::Directory, slot: 0 },
                    Op::Rmdir(at("a")),
                    Op::FdChmod { slot: 0, mode: 0o700 },
                    Op::FdStat(0),
                ],
            ),
        ),
        ("copy-up keeps setgid, whoever wrote before", setgid()),
    ]
}

/// The daemon's threads remember what the last caller was allowed, and a write that goes there is likely to be
/// served by the same thread.
fn setgid() -> Case {
    let group = |mode| Attr { mode, owner: USER, ..folder().attr };
    let shared = Folder { attr: group(0o2775), ..folder() }.file("a", 7).file("b", 7);
    let open = Folder { attr: group(0o777), ..folder() };
    let write = |path, user| Step { user, op: Op::Write { path: at(path), offset: 0, len: 5 } };
    let create = Op::Create { path: at("b/a"), mode: 0o644, umask: 0, exclusive: true, slot: 0 };
    let mut steps = vec![Step { user: USER, op: create }];
    steps.extend((0..20).map(|_| write("b/a", USER)));
    steps.extend([write("a/a", 0), Step { user: 0, op: Op::Remount }]);
    let lowers = vec![folder().dir("a", shared).dir("b", open)];
    Case { upper: folder(), lowers, twins: Vec::new(), volatile: true, steps }
}

fn case(lowers: Vec<Folder>, ops: impl IntoIterator<Item = Op>) -> Case {
    let steps = ops.into_iter().map(|op| Step { user: 0, op }).collect();
    Case { upper: folder(), lowers, twins: Vec::new(), volatile: true, steps }
}

#[test]
fn what_was_found_once_stays_repaired() {
    let failures: Vec<_> = cases()
        .into_iter()
        .filter_map(|(name, case)| play(&case).err().map(|e| format!("{name}: {e}")))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
