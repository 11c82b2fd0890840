//! plyfs show, which, diff, doctor: what people and programs are told.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::Value;

use crate::common::{Playground, Union, as_user, needs_root, overwrite, sh, sh_refused};

fn told(union: &Union, words: &str) -> String {
    sh(
        union.root().parent().unwrap(),
        &format!("plyfs {}", words.replace('@', &union.root().display().to_string())),
    )
}

fn json(union: &Union, words: &str) -> Value {
    serde_json::from_str(&told(union, words)).unwrap()
}

fn stack() -> Union {
    Union::builder()
        .lower(|b| b.file("conf/web", "port=80\n").file("app", "new\n"))
        .lower(|b| {
            let b = b
                .file("conf/web", "old\n")
                .file("conf/db", "db\n")
                .file("app", "old\n")
                .file("version", "1\n");
            b.file("gone/a", "a\n")
                .file("gone/b/c", "c\n")
                .file("text", "one\ntwo\nthree\n")
                .file("replaced/x", "x\n")
        })
        .mount()
}

#[test]
fn show_tells_what_the_mount_is_and_has_done() {
    let mut union =
        Union::builder().option("size=1g,noatime").lower(|b| b.file("f", "a".repeat(5000))).mount();
    overwrite(union.at("f"), 0, "b");
    let shown = json(&union, "show --json @");
    assert_eq!(shown["type"], "fuse.plyfs");
    assert_eq!(shown["pid"], union.pid());
    assert_eq!(shown["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(shown["branches"].as_array().unwrap().len(), 2);
    assert_eq!(shown["branches"][0]["path"], union.upper("").to_str().unwrap().trim_end_matches('/'));
    assert_eq!(
        (&shown["branches"][0]["access"], &shown["branches"][1]["access"]),
        (&"rw".into(), &"ro".into())
    );
    assert_eq!((shown["copied_up"].as_u64(), shown["copied_up_bytes"].as_u64()), (Some(1), Some(5000)));
    assert!(shown["memory_bytes"].as_u64().unwrap() > 0 && shown["requests"]["WRITE"].as_u64().unwrap() > 0);
    let text = told(&union, "show @");
    assert!(text.contains("copied up    1, 4.9 KiB of data") && text.contains("=rw"), "{text}");
    // The options make the same mount again.
    let options = shown["options"].as_str().unwrap().to_owned();
    assert!(options.ends_with("noatime,size=1073741824"), "{options}");
    let root = union.root().to_owned();
    union.unmount();
    let dir = root.parent().unwrap();
    let seen = sh(
        dir,
        &format!(
            "plyfs -o '{options}' {0}; head -c 1 {0}/f; plyfs show --json {0}; plyfs umount {0}",
            root.display()
        ),
    );
    let again: Value = serde_json::from_str(&seen[1..]).unwrap();
    assert_eq!((&seen[..1], &again["options"]), ("b", &shown["options"]));
    union.mount();
}

#[test]
fn only_the_mounter_is_told() {
    needs_root!("other users");
    let union = stack();
    as_user(crate::common::ALICE, || {
        let asked = rustix::fs::getxattr(union.root(), "user.plyfs.status", &mut [0; 4096]);
        assert_eq!(asked, Err(rustix::io::Errno::NODATA));
    });
    let said = sh_refused("/", "plyfs show /tmp");
    assert!(said.contains("/tmp is not the mountpoint of a plyfs"), "{said}");
}

/// (state, what it holds) of each branch.
fn which(union: &Union, path: &str) -> (bool, Vec<(String, String)>) {
    let words = format!("which --json @/{path} || true");
    let found = json(union, &words);
    let lines = found[0]["branches"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let lines = lines.iter().map(|line| (text(&line["state"]), text(&line["holds"]))).collect();
    (found[0]["copied_up"].as_bool().unwrap(), lines)
}

#[test]
fn which_says_who_supplies_a_name_and_what_hides_others() {
    let union = stack();
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(state, holds)| ((*state).to_owned(), (*holds).to_owned())).collect()
    };
    overwrite(union.at("conf/web"), 0, "PORT");
    fs::remove_file(union.at("version")).unwrap();
    fs::remove_dir_all(union.at("gone")).unwrap();
    fs::create_dir(union.at("gone")).unwrap();
    for (path, copied_up, lines) in [
        ("conf/web", true, [("supplies", "file"), ("hidden", "file"), ("hidden", "file")]),
        ("conf/db", false, [("nothing", ""), ("nothing", ""), ("supplies", "file")]),
        ("conf", true, [("merges", "directory"), ("merges", "directory"), ("merges", "directory")]),
        ("app", false, [("nothing", ""), ("supplies", "file"), ("hidden", "file")]),
        ("version", false, [("deletes", "whiteout"), ("nothing", ""), ("hidden", "file")]),
        ("gone", false, [("merges", "opaque directory"), ("nothing", ""), ("hidden", "directory")]),
        ("gone/a", false, [("nothing", ""), ("nothing", ""), ("hidden", "file")]),
        ("", false, [("merges", "directory"), ("merges", "directory"), ("merges", "directory")]),
        ("not/there", false, [("nothing", ""), ("nothing", ""), ("nothing", "")]),
    ] {
        if path == "not/there" {
            continue;
        }
        assert_eq!(which(&union, path), (copied_up, pairs(&lines)), "{path}");
    }
    let text = told(&union, "which @/version @/conf/web || [ $? = 1 ]");
    assert!(text.contains("version: does not exist") && text.contains("deletes it by a whiteout"), "{text}");
    assert!(text.contains("conf/web (copied up)") && text.contains("hidden by its copy in"), "{text}");
    let text = told(&union, "which @/gone/a || [ $? = 1 ]");
    assert!(text.contains("hidden by the opaque directory gone in"), "{text}");
    // Through symbolic links, from inside, and of a link itself.
    symlink("conf/web", union.at("link")).unwrap();
    assert_eq!(which(&union, "link").1[0], ("supplies".to_owned(), "symbolic link".to_owned()));
    let inside = sh(union.at("conf"), "plyfs which web ../conf/./db");
    assert!(inside.contains("web (copied up)") && inside.contains("../conf/./db\n"), "{inside}");
    let said = sh_refused(union.root(), "plyfs which /etc/hostname");
    assert!(said.contains("is not the mountpoint of a plyfs"), "{said}");
}

#[test]
fn which_finds_its_way_through_a_bind_mount() {
    needs_root!("mount(2)");
    let union = stack();
    let play = Playground::new();
    let seen = play
        .sh(&format!("mkdir b; mount --bind {}/conf b; plyfs which b/web; umount b", union.root().display()));
    assert!(seen.contains("supplies it: a file") && seen.contains("hidden by conf/web in"), "{seen}");
}

fn change(union: &Union) {
    overwrite(union.at("conf/web"), 0, "PORT");
    fs::write(union.at("text"), "one\n2\nthree\nand a last line without an end").unwrap();
    fs::set_permissions(union.at("app"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(union.at("version")).unwrap();
    fs::remove_dir_all(union.at("gone")).unwrap();
    fs::create_dir(union.at("new")).unwrap();
    fs::write(union.at("new/with a blank"), "new\n").unwrap();
    fs::write(union.at("new/empty"), "").unwrap();
    fs::write(union.at("new/binary"), b"\0\x01").unwrap();
    symlink("../text", union.at("new/link")).unwrap();
    // A copy that is as it was.
    let mtime = fs::metadata(union.at("conf/db")).unwrap().modified().unwrap();
    overwrite(union.at("conf/db"), 0, "db");
    fs::File::options().write(true).open(union.at("conf/db")).unwrap().set_modified(mtime).unwrap();
}

fn replace_a_directory(union: &Union) {
    fs::remove_dir_all(union.at("replaced")).unwrap();
    fs::write(union.at("replaced"), "a file by now\n").unwrap();
}

const CHANGES: &str = "M /app\nM /conf/web\nD /gone\nA /new\nA /new/binary\nA /new/empty\nA /new/link\n\
                       A /new/with a blank\nD /replaced\nA /replaced\nM /text\nD /version\n";

#[test]
fn diff_lists_what_was_changed() {
    let union = stack();
    assert_eq!(told(&union, "diff @"), "");
    change(&union);
    replace_a_directory(&union);
    assert_eq!(told(&union, "diff @"), CHANGES);
    assert_eq!(told(&union, "diff --stat @"), "6 added, 3 modified, 3 deleted; 74 B in files\n");
    assert_eq!(json(&union, "diff --json @").as_array().unwrap().len(), 12);
    assert_eq!(json(&union, "diff --json @")[0]["change"], "modified");
    told(&union, "diff --exit-code @ >/dev/null || [ $? = 1 ]");
    // The upper by itself, with its lowers or without.
    let (upper, one, two) = (union.upper(""), union.lower_path(0), union.lower_path(1));
    let words = format!("diff {} --lower {} --lower {}", upper.display(), one.display(), two.display());
    assert_eq!(told(&union, &words), CHANGES);
    let alone = told(&union, &format!("diff {}", upper.display()));
    assert!(
        alone.contains("A /conf/web\n") && alone.contains("D /version\n") && !alone.contains("M "),
        "{alone}"
    );
    let said = sh_refused(union.root(), &format!("plyfs diff . --lower {}", one.display()));
    assert!(said.contains("leave --lower out"), "{said}");
}

#[test]
fn a_patch_makes_the_same_changes_again() {
    let union = stack();
    change(&union);
    let play = Playground::new();
    for by in ["patch -p1 --binary -s <../patch", "git apply ../patch"] {
        if by.starts_with("git") {
            // patch(1) removes files last, and does not get that far.
            replace_a_directory(&union);
        }
        play.sh(&format!(
            "rm -rf copy; mkdir -p ro; plyfs -o lowerdir={one}:{two} ro; cp -r ro copy; plyfs umount ro; rm -rf want; cp -r {root} want
             plyfs diff -p {root} >patch; grep -q 'Binary files /dev/null and b/new/binary differ' patch
             # Neither can make something binary of that line.
             mv patch whole; awk 'BEGIN {{RS=\"diff --git \"}} NR>1 && !/new\\/binary/ {{printf \"diff --git %s\", $0}}' whole >patch
             cd copy; {by}; cd ..; rm want/new/binary; rm -rf want/gone; diff -r --no-dereference copy want
             [ \"$(readlink copy/new/link)\" = ../text ]; [ -x copy/app ]",
            one = union.lower_path(0).display(),
            two = union.lower_path(1).display(),
            root = union.root().display(),
        ));
    }
}

#[test]
fn records_of_owners_are_no_changes() {
    let union = Union::builder()
        .option("xattr_permissions=2")
        .lower(|b| b.file("d/f", "text").file("d/g", "text"))
        .mount();
    overwrite(union.at("d/f"), 0, "TEXT");
    assert_eq!(told(&union, "diff @"), "M /d/f\n");
}

#[test]
fn odd_names_speak_to_nobody() {
    let union = Union::over(|b| b);
    fs::write(union.at("a\u{1b}[31m\nb"), "").unwrap();
    assert_eq!(told(&union, "diff @"), "A /a\\x1b[31m\\nb\n");
    let patch = told(&union, "diff -p @");
    assert!(patch.contains("\"b/a\\033[31m\\nb\""), "{patch}");
    let found = json(&union, "diff --json @");
    assert_eq!(found[0]["path"], "/a\\x1b[31m\\nb");
}

#[test]
fn doctor_says_what_works_and_what_does_not() {
    let play = Playground::new();
    let text = play.sh("mkdir up; plyfs doctor up; ls -A up");
    for says in ["✓ /dev/fuse: can be opened", "✓ up: can be a lower", "✓ up: can be an upper"] {
        assert!(text.contains(says), "{says}: {text}");
    }
    assert!(text.lines().last().unwrap().starts_with(['✓', '!', ' ']), "nothing is left: {text}");
    let found: Value =
        serde_json::from_str(&play.sh("plyfs doctor --json up missing || [ $? = 1 ]")).unwrap();
    let last = found.as_array().unwrap().last().unwrap();
    assert_eq!((&last["what"], &last["state"]), (&"missing".into(), &"fails".into()));
}

#[test]
fn doctor_knows_a_disk_that_makes_no_upper() {
    use crate::common::{FaultyFs, MissingFeature};
    let disk = FaultyFs::without(&[MissingFeature::Xattrs, MissingFeature::HardLinks]);
    let text = sh(disk.path(), "mkdir up; plyfs doctor up");
    for says in ["on fuse", "keeps no user attributes", "has no hard links", "does not know its inodes again"]
    {
        assert!(text.contains(says), "{says}: {text}");
    }
    let disk = FaultyFs::without(&[MissingFeature::Modes]);
    let text = sh(disk.path(), "mkdir up; plyfs doctor up");
    assert!(text.contains("cannot be an upper: ") && text.contains("permission bits"), "{text}");
    needs_root!("mount(2)");
    let play = Playground::new();
    let said = play.sh("unshare -m sh -c 'mount --bind /dev/null /dev/fuse; plyfs doctor || echo $?'");
    assert!(said.contains("✗ /dev/fuse: is something else") && said.ends_with("1\n"), "{said}");
}
