//! Do the dependencies between the parts still run one way, and is each format spelt in one place?
//!
//! `main → cli, mount → fuse → {sched, union → {rules, branch}}`. The rules import nothing but the standard library.

use std::fs;
use std::path::{Path, PathBuf};

/// For each part, the parts that it may name.
const MAY_NAME: [(&str, &[&str]); 12] = [
    ("rules", &["rules"]),
    ("error", &["rules"]),
    ("branch", &["branch", "error"]),
    ("union", &["union", "branch", "rules", "error"]),
    ("sched", &["sched"]),
    ("fuse", &["fuse", "sched", "union", "branch", "rules", "error"]),
    ("mount", &["mount", "fuse", "union", "branch", "rules", "error", "options"]),
    ("options", &["options", "cli", "rules"]),
    // It mounts as users do, from the outside: what is measured has no other way in.
    ("bench", &["bench", "cli", "mount"]),
    ("cli", &["cli", "mount", "bench"]),
    ("main", &["plyfs"]),
    ("lib", &[]),
];

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
fn unsafe_code_is_in_one_file() {
    let mut found = Vec::new();
    code_lines(&mut |file, _, line| {
        if line.contains("allow(unsafe_code)") {
            found.push(part_of(file) + "/" + file.file_name().unwrap().to_str().unwrap());
        }
    });
    assert_eq!(found, ["branch/caller.rs"]);
}
