//! Programs that people run on such a mount, each on a union with a lower to write over.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::common::{Branch, Union, exists, names, program, sh, stat, temp_dir, text};

/// git without the configuration of whoever runs the tests.
const GIT: &str = "
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
git() { command git -c user.name=tester -c user.email=tester@example.org -c init.defaultBranch=main \
    -c safe.directory='*' -c core.fsync=all \"$@\"; }
";

#[test]
fn git_starts_a_repository_and_works_in_it() {
    let mut union = Union::over(|b| b.file("project/README", "hello\n"));
    let log = sh(
        union.at("project"),
        &format!(
            "{GIT}
            git init -q .
            git add README; git commit -qm first
            git checkout -qb topic
            echo more >> README; mkdir src; echo 'fn main() {{}}' > src/main.rs
            git add -A; git commit -qm second
            git checkout -q main; [ ! -e src ]
            git merge -q topic; [ -e src/main.rs ]
            git gc -q --prune=now
            git fsck --strict
            git status --porcelain
            git log --format=%s"
        ),
    );
    assert_eq!(log, "second\nfirst\n");
    union.remount();
    let status = format!("{GIT} git status --porcelain; git fsck --strict; git log --format=%s");
    assert_eq!(sh(union.at("project"), &status), "second\nfirst\n");
    assert_eq!(text(union.at("project/README")), "hello\nmore\n");
}

#[test]
fn git_works_in_a_repository_that_lies_in_a_lower() {
    let place = temp_dir();
    sh(
        place.path(),
        &format!(
            "{GIT} git init -q repo; cd repo
            for i in $(seq 40); do mkdir -p d$((i % 7)); echo $i > d$((i % 7))/f$i; done
            git add -A; git commit -qm base; git tag base
            git mv d1 moved; git rm -rqf d2; echo x >> d3/f3; git commit -qam change"
        ),
    );
    let mut union = Union::builder().lower_at(place.path().join("repo")).mount();
    let script = format!(
        "{GIT} git status --porcelain
        git checkout -q base; [ -d d1 ]; [ -d d2 ]; [ ! -e moved ]
        git checkout -q main; [ ! -e d1 ]; [ ! -e d2 ]; [ -d moved ]
        git stash list; echo dirty >> d4/f4; git stash -q; git stash pop -q
        git status --porcelain; git checkout -q -- .; git clean -fdxq
        git clone -q . elsewhere; git -C elsewhere fsck --strict --no-dangling; rm -rf elsewhere
        git status --porcelain"
    );
    for _ in 0..2 {
        assert_eq!(sh(union.root(), &script), " M d4/f4\n");
        union.remount();
    }
}

#[test]
fn a_tree_goes_through_tar_and_comes_back_the_same() {
    let fill = |b: Branch| {
        b.file("in/lower", "text")
            .mode("in/lower", 0o640)
            .link("in/lower", "in/hard")
            .symlink("in/soft", "lower")
            .sparse("in/sparse", 5_000_000, &[(2_500_000, b"data")])
            .fifo("in/fifo")
            .mode("in/fifo", 0o600)
            .xattr("in/lower", "user.note", "kept")
            .mtime("in/lower", 1_000_000_000, 123_456_789)
            .dir("in/empty")
            .mtime("in/empty", 1_100_000_000, 5)
            .mtime("in/sparse", 1_200_000_000, 0)
            .mtime("in/fifo", 1_200_000_000, 0)
            .mtime("in/soft", 1_200_000_000, 0)
            .mtime("in", 1_300_000_000, 0)
    };
    let original = temp_dir();
    fill(Branch::at(original.path()));
    let union = Union::over(fill);
    sh(
        union.root(),
        "tar --format=posix --xattrs --acls -S -C in -cpf all.tar .
         mkdir out; tar --xattrs --acls -C out -xpf all.tar
         rm -rf in; mkdir in; tar --xattrs --acls -C in -xpf all.tar",
    );
    for dir in ["in", "out"] {
        let source = format!("{}/in/", original.path().display());
        let target = format!("{}/", union.at(dir).display());
        let differences = program(union.root(), &["rsync", "-niaHAXc", "--delete", &source, &target]);
        assert_eq!(differences, "", "{dir}");
        assert!(stat(union.upper(dir).join("sparse")).blocks() * 512 < 1_000_000);
    }
}

#[test]
fn rsync_finds_nothing_to_do_after_it_was_done() {
    let source = temp_dir();
    sh(
        source.path(),
        "for i in $(seq 60); do mkdir -p d$((i % 5))/e$((i % 3)); echo $i > d$((i % 5))/e$((i % 3))/f$i; done
         ln d0/e0/f15 d0/hard; ln -s ../d1 d0/soft; chmod 2750 d3; setfattr -n user.a -v 1 d4/e1/f4",
    );
    let mut union = Union::over(|b| {
        b.file("d0/e0/f15", "of another size")
            .file("d1/superfluous/x", "")
            .file("d2", "a file here")
            .dir("d3/e0/f3")
    });
    let (from, to) = (format!("{}/", source.path().display()), format!("{}/", union.root().display()));
    for round in 0..2 {
        program(union.root(), &["rsync", "-aHAX", "--delete", &from, &to]);
        let left = program(union.root(), &["rsync", "-niaHAXc", "--delete", &from, &to]);
        assert_eq!(left, "", "round {round}");
        union.remount();
    }
    program(union.root(), &["diff", "-r", &from, &to]);
}

#[test]
fn sqlite_keeps_its_promises_in_wal_mode() {
    let place = temp_dir();
    sh(
        place.path(),
        "sqlite3 data.db \"create table t(id integer primary key, x); insert into t(x) values('lower')\"",
    );
    let mut union = Union::builder().lower_at(place.path().to_owned()).mount();
    assert_eq!(sh(union.root(), "sqlite3 data.db 'pragma journal_mode=wal'"), "wal\n");
    sh(
        union.root(),
        "for writer in 1 2 3 4; do
            for i in $(seq 25); do
                echo \".timeout 20000
insert into t(x) values('$writer-$i');\"
            done | sqlite3 data.db &
            writers=\"${writers:-} $!\"
         done
         for writer in $writers; do wait $writer; done",
    );
    for _ in 0..2 {
        let check = "sqlite3 data.db 'pragma integrity_check; select count(*) from t'";
        assert_eq!(sh(union.root(), check), "ok\n101\n");
        union.remount();
    }
    sh(
        union.root(),
        "sqlite3 data.db \"pragma journal_mode=delete; begin; delete from t; rollback; vacuum\"",
    );
    assert_eq!(sh(union.root(), "sqlite3 data.db 'select count(*) from t'"), "101\n");
    assert_eq!(names(union.root()), ["data.db"]);
}

#[test]
fn editors_save_in_their_several_ways() {
    let mut union =
        Union::over(|b| b.file("vim", "1\n").file("atomic", "1\n").file("sed", "1\n").mode("sed", 0o640));
    // vim with backupcopy=no: the file becomes the backup, a new one takes its place.
    sh(union.root(), "mv vim vim~; echo 2 > vim; sync vim; rm vim~");
    // A new file that takes over the name in one step.
    sh(
        union.root(),
        "echo 2 > .atomic.tmp; chmod --reference=atomic .atomic.tmp; sync .atomic.tmp; mv .atomic.tmp atomic",
    );
    sh(union.root(), "sed -i s/1/2/ sed");
    for _ in 0..2 {
        assert_eq!(names(union.root()), ["atomic", "sed", "vim"]);
        for name in names(union.root()) {
            assert_eq!(text(union.at(&name)), "2\n", "{name}");
        }
        assert_eq!(crate::common::mode(union.at("sed")), 0o640);
        union.remount();
    }
    assert_eq!(union.in_upper(), ["atomic", "sed", "vim"]);
}

#[test]
fn cargo_builds_and_rebuilds_a_crate() {
    let union = Union::over(|b| {
        b.file("Cargo.toml", "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2021\"\n")
            .file("src/main.rs", "fn main() { println!(\"one\"); }\n")
    });
    let build = |expected: &str| {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let output = Command::new(cargo)
            .args(["build", "--offline", "--quiet"])
            .env("CARGO_TARGET_DIR", "target")
            .current_dir(union.root())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(program(union.root(), &["target/debug/hello"]), expected);
    };
    build("one\n");
    sh(union.root(), "sed -i s/one/two/ src/main.rs");
    build("two\n");
    fs::remove_dir_all(union.at("target")).unwrap();
    build("two\n");
}

#[test]
fn locks_keep_two_programs_apart() {
    let union = Union::over(|b| b.file("counter", "0\n").file("lock", ""));
    sh(
        union.root(),
        "for worker in 1 2 3 4; do
            (for i in $(seq 10); do
                flock lock sh -c 'n=$(cat counter); echo $((n + 1)) > counter'
            done) &
            workers=\"${workers:-} $!\"
         done
         for worker in $workers; do wait $worker; done",
    );
    assert_eq!(text(union.at("counter")), "40\n");
}

#[test]
fn coreutils_move_copy_and_remove_trees() {
    let mut union = Union::builder()
        .upper(|b| b.file("tree/upper", "u"))
        .lower(|b| b.file("tree/a/b/c", "1").symlink("tree/s", "a").link("tree/a/b/c", "tree/h"))
        .lower(|b| b.file("tree/a/d", "2"))
        .mount();
    sh(
        union.root(),
        "cp -a tree copy; diff -r tree copy
         mv tree moved; diff -r moved copy
         find copy -delete
         install -D -m 750 moved/a/d deep/down/d
         truncate -s 10 moved/a/d; dd if=/dev/zero of=moved/h bs=1 count=1 conv=notrunc status=none
         touch -d '2001-02-03 04:05:06.789' moved/upper
         rm -rf moved/a/b",
    );
    for _ in 0..2 {
        assert_eq!(names(union.root()), ["deep", "moved"]);
        assert_eq!(names(union.at("moved")), ["a", "h", "s", "upper"]);
        assert_eq!(text(union.at("moved/h")), "\0");
        assert_eq!(stat(union.at("moved/h")).nlink(), 1);
        assert!(!exists(union.at("tree")) && !exists(union.at("copy")));
        union.remount();
    }
}
