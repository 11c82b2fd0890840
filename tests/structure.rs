//! Do the dependencies between the parts still run one way, and is each format spelt in one place?
//!
//! `main → {cli, options, mount, bench, oci, run}`, `mount → fuse → {sched, union}`, `{union, oci} → layer → branch`. The rules import
//! nothing but the standard library.

use std::fs;
use std::path::{Path, PathBuf};

/// A part, and the other parts that it may name.
type Row = (&'static str, &'static [&'static str]);

/// For each part, the parts that it may name. Itself it may always name.
const MAY_NAME: [Row; 25] = [
    // Rooms that many may enter, and that enter none.
    ("exit", &[]),
    ("units", &[]),
    ("shown", &[]),
    ("say", &["shown"]),
    ("control", &[]),
    ("rules", &[]),
    ("error", &["rules", "shown"]),
    ("branch", &["rules", "error"]),
    ("bases", &["branch", "control"]),
    ("layer", &["branch", "rules", "error"]),
    ("union", &["bases", "layer", "branch", "rules", "error", "control"]),
    ("sched", &[]),
    ("fuse", &["sched", "union", "branch", "rules", "error", "control"]),
    ("cli", &["control", "exit", "units"]),
    ("options", &["cli", "control", "rules", "shown", "units"]),
    ("mount", &["fuse", "union", "branch", "rules", "error", "options", "control", "exit", "shown"]),
    // It mounts as users do, from the outside: what is measured has no other way in.
    ("bench", &["cli", "mount", "exit", "units", "shown"]),
    ("manual", &["cli"]),
    // It asks a live mount, and reads its branches.
    (
        "look",
        &[
            "cli", "mount", "options", "union", "layer", "branch", "rules", "error", "control", "exit",
            "say", "shown", "units",
        ],
    ),
    // It compares as `look` does, and asks `union` which hard links a workdir notes.
    (
        "apply",
        &[
            "cli", "look", "union", "bases", "layer", "branch", "rules", "error", "control", "exit", "say",
            "shown",
        ],
    ),
    (
        "run",
        &["cli", "apply", "look", "mount", "options", "rules", "control", "exit", "say", "shown", "units"],
    ),
    // Above layer and beside union, of which it asks what a workdir notes of hard links.
    ("oci", &["cli", "union", "layer", "branch", "rules", "error", "exit", "say", "units", "shown"]),
    ("main", &["plyfs"]),
    ("lib", &[]),
    ("plyfs", &[]),
];

/// A cycle in a table, as the parts on it; None if there is none: then the parts can be put in a row in which each
/// names only earlier ones.
fn cycle(table: &[Row]) -> Option<Vec<&'static str>> {
    let mut left: Vec<Row> = table.to_vec();
    loop {
        let names: Vec<_> = left.iter().map(|(name, _)| *name).collect();
        let before = left.len();
        // Whoever names nobody that is left can stand before all of them.
        left.retain(|(_, may)| may.iter().any(|named| names.contains(named)));
        match left.len() {
            0 => return None,
            now if now == before => return Some(names),
            _ => {}
        }
    }
}

#[test]
fn the_table_has_no_cycle() {
    assert_eq!(cycle(&MAY_NAME), None);
    for (part, may) in MAY_NAME {
        for named in may {
            assert!(
                MAY_NAME.iter().any(|(name, _)| name == named),
                "{part} may name {named}, which is no part"
            );
        }
    }
}

#[test]
fn a_cycle_is_noticed() {
    assert_eq!(cycle(&[("a", &["b"]), ("b", &[])]), None);
    assert_eq!(cycle(&[("a", &["a"])]), Some(vec!["a"]));
    // As it once was: each row looked right.
    let table: [Row; 4] =
        [("options", &["cli"]), ("cli", &["mount"]), ("mount", &["options", "error"]), ("error", &[])];
    assert_eq!(cycle(&table), Some(vec!["options", "cli", "mount"]));
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("src can be read") {
        let path = entry.expect("src can be read").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

/// The first component below `src`, without `.rs`.
fn part_of(path: &Path) -> String {
    let below = path.strip_prefix(root()).expect("a path below src");
    let first = below.iter().next().expect("a file").to_str().expect("a plain name");
    first.trim_end_matches(".rs").to_owned()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Each code line of each file: comments and unit tests left out.
fn code_lines(each: &mut dyn FnMut(&Path, usize, &str)) {
    let files = sources(&root());
    assert!(files.len() > 20, "these are not plyfs' sources");
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file can be read");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            if !line.trim_start().starts_with("//") {
                each(&file, number + 1, line);
            }
        }
    }
}

#[test]
fn dependencies_run_one_way() {
    let mut wrong = Vec::new();
    code_lines(&mut |file, number, line| {
        let part = part_of(file);
        let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == part) else {
            wrong.push(format!("{}: a part that no rule speaks of", file.display()));
            return;
        };
        for named in line.split("crate::").skip(1) {
            let named: String =
                named.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if named != part && !allowed.contains(&named.as_str()) {
                wrong.push(format!("{}:{number}: {part} names {named}", file.display()));
            }
        }
        let is_foreign =
            ["fuser::", "rustix::", "libc::", "parking_lot::"].iter().any(|library| line.contains(library));
        if part == "rules" && is_foreign {
            wrong.push(format!("{}:{number}: the rules are pure", file.display()));
        }
        if line.contains("fuser::") && part != "fuse" && part != "mount" {
            wrong.push(format!("{}:{number}: {part} names fuser", file.display()));
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_whiteout_format_is_spelt_once() {
    let mut wrong = Vec::new();
    code_lines(&mut |file, number, line| {
        if line.contains("\".wh.") && !file.ends_with("rules/name.rs") {
            wrong.push(format!("{}:{number}: {line}", file.display()));
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_in_seven_files() {
    let mut found = Vec::new();
    code_lines(&mut |file, _, line| {
        if line.contains("allow(unsafe_code)") {
            found.push(part_of(file) + "/" + file.file_name().unwrap().to_str().unwrap());
        }
    });
    found.sort();
    let files = [
        "branch/caller.rs",
        "branch/handle.rs",
        "mount/exchange.rs",
        "mount/inherited.rs",
        "mount/memory.rs",
        "run/namespace.rs",
        "sched/placement.rs",
    ];
    assert_eq!(found, files);
}

#[test]
fn no_message_to_people_prints_rust() {
    let mut wrong = Vec::new();
    code_lines(&mut |file, number, line| {
        let is_log = ["debug!", "info!", "assert", "panic!"].iter().any(|word| line.contains(word));
        if line.contains(":?}") && !is_log {
            wrong.push(format!("{}:{number}: {line}", file.display()));
        }
        // A raw name could speak to the terminal; the log escapes whole lines.
        if line.contains("#[error") && line.contains(".display()") {
            wrong.push(format!("{}:{number}: a name is shown by `shown`", file.display()));
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
