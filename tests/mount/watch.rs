//! `-o watch`: what others change in lowers, behind the mount, shows. Nothing here asserts how soon.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{
    Branch, Dice, Mapping, Playground, Tmpfs, Union, eventually, exists, names, needs_root, overwrite,
    pattern, plyfs, program, refused, requests, say_not_played, sh, text,
};

/// A read at the beginning of an open file.
fn read(file: &File) -> io::Result<String> {
    let mut buffer = [0; 4096];
    let length = file.read_at(&mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// The content of a file, or the error's name.
fn content(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| format!("{:?}", error.kind()))
}

#[track_caller]
fn shows(path: impl AsRef<Path>, expected: &str) {
    let path = path.as_ref();
    for _ in 0..1000 {
        if content(path) == expected {
            return;
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{} shows {:?}, not {expected:?}", path.display(), content(path));
}

#[track_caller]
fn lists(path: impl AsRef<Path>, expected: &[&str]) {
    let path = path.as_ref();
    let listed = || {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let names =
            entries.map(|entries| entries.iter().map(|e| e.file_name().into_string().unwrap()).collect());
        names.map(|mut names: Vec<String>| {
            names.sort();
            names
        })
    };
    for _ in 0..1000 {
        if listed().is_ok_and(|names| names == expected) {
            return;
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{} lists {:?}, not {expected:?}", path.display(), listed());
}

/// A number in what the daemon says of itself.
fn status(union: &Union, name: &str) -> usize {
    let mut status = [0; 4096];
    let length = rustix::fs::getxattr(union.root(), "user.plyfs.status", &mut status[..]).unwrap();
    let status = String::from_utf8_lossy(&status[..length]).into_owned();
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    value.parse().unwrap()
}

/// Everything that a tree shows, by path.
fn look(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) => {
                seen.insert(dir.strip_prefix(root).unwrap().into(), format!("{:?}", error.kind()));
                continue;
            }
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    seen.insert(dir.strip_prefix(root).unwrap().join("?"), format!("{:?}", error.kind()));
                    break;
                }
            };
            let path = entry.path();
            let place = path.strip_prefix(root).unwrap().to_owned();
            let shown = match fs::symlink_metadata(&path) {
                Err(error) => format!("{:?}", error.kind()),
                Ok(stat) if stat.is_dir() => {
                    left.push(path);
                    format!("dir {:o}", stat.mode())
                }
                Ok(stat) if stat.is_symlink() => format!("link {:?}", fs::read_link(&path).ok()),
                Ok(stat) => format!("file {:o} {} {:?}", stat.mode(), stat.size(), content(&path)),
            };
            seen.insert(place, shown);
        }
    }
    seen
}

/// The mount shows what a new one of the branches as they are now would show.
#[track_caller]
fn ends_as_a_new_mount_begins(mut union: Union) {
    // What has been done last may still be on its way.
    thread::sleep(std::time::Duration::from_millis(300));
    let before = look(union.root());
    union.remount_as_changed();
    assert_eq!(before, look(union.root()), "what it has shown, and what a new mount shows");
}

fn over_two() -> Union {
    Union::builder()
        .lower(|b| b.file("d/f", "first\n").dir("d/inside").file("top", "top\n").symlink("s", "old"))
        .lower(|b| b.file("d/below", "below\n").file("e/g", "g\n"))
        .option("watch")
        .mount()
}

#[test]
fn files_that_are_edited_show() {
    let union = over_two();
    let f = union.lower_path(0).join("d/f");
    assert_eq!(text(union.at("d/f")), "first\n");
    fs::write(&f, "second, longer\n").unwrap();
    shows(union.at("d/f"), "second, longer\n");
    sh(union.lower_path(0), "echo more >>d/f");
    shows(union.at("d/f"), "second, longer\nmore\n");
    // The same length, and a time that the clock may not tell from the last one.
    sh(union.lower_path(0), "printf S | dd of=d/f conv=notrunc 2>/dev/null");
    shows(union.at("d/f"), "Second, longer\nmore\n");
    File::options().write(true).open(&f).unwrap().set_len(3).unwrap();
    shows(union.at("d/f"), "Sec");
    eventually(|| fs::metadata(union.at("d/f")).unwrap().len() == 3);
    fs::set_permissions(&f, fs::Permissions::from_mode(0o600)).unwrap();
    eventually(|| fs::metadata(union.at("d/f")).unwrap().mode() & 0o777 == 0o600);
    sh(union.lower_path(0), "touch -d @1000 d/f");
    eventually(|| fs::metadata(union.at("d/f")).unwrap().mtime() == 1000);
    ends_as_a_new_mount_begins(union);
}

#[test]
fn a_file_is_edited_by_another_of_its_names() {
    for option in ["ro", "rw"] {
        let play = Playground::new();
        play.sh(&format!(
            "chmod 700 .; mkdir -p low/d low/e up mnt; echo first >low/d/f; ln low/d/f low/e/g; ln low/d/f outside
             plyfs -o watch,lowerdir=low,upperdir=up,{option} mnt; cat mnt/d/f mnt/e/g"
        ));
        for (round, name) in ["low/e/g", "low/d/f", "outside", "low/e/g"].iter().enumerate() {
            let said = format!("{round}, as long\n");
            fs::write(play.path(name), &said).unwrap();
            shows(play.path("mnt/d/f"), &said);
            shows(play.path("mnt/e/g"), &said);
        }
        play.sh("rm low/e/g; ! cat low/e/g 2>/dev/null");
        shows(play.path("mnt/e/g"), "NotFound");
        eventually(|| fs::metadata(play.path("mnt/d/f")).unwrap().nlink() == 2);
        play.sh("plyfs umount mnt");
    }
}

/// Who edits while the mount is used by somebody who works in it: everybody's changes are there in the end.
#[test]
fn work_through_the_mount_and_behind_it_goes_together() {
    let union = Union::builder()
        .lower(|mut b| {
            for dir in 0..8 {
                for file in 0..8 {
                    b = b.file(&format!("d{dir}/s/f{file}"), "old\n");
                }
            }
            b
        })
        .option("watch")
        .mount();
    let lower = union.lower_path(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..5 {
                for dir in 0..4 {
                    // Whatever fails because the other was faster is tried again in the next round.
                    sh(
                        union.root(),
                        &format!("echo {round} >>d{dir}/s/f1; mv d{dir}/s d{dir}/t; mv d{dir}/t d{dir}/s"),
                    );
                    sh(
                        union.root(),
                        &format!("rm -f d{dir}/s/f2; echo mine >d{dir}/s/own; chmod 700 d{dir}/s/f3"),
                    );
                }
            }
        });
        for round in 0..20 {
            for dir in 4..8 {
                sh(&lower, &format!("echo {round} >d{dir}/s/f1; mv d{dir}/s d{dir}/t; mv d{dir}/t d{dir}/s"));
                sh(
                    &lower,
                    &format!("rm -f d{dir}/s/f2; echo {round} >d{dir}/s/n; mv d{dir}/s/n d{dir}/s/f4"),
                );
            }
        }
    });
    for dir in 4..8 {
        shows(union.at(format!("d{dir}/s/f1")), "19\n");
        shows(union.at(format!("d{dir}/s/f4")), "19\n");
        shows(union.at(format!("d{dir}/s/f2")), "NotFound");
        assert_eq!(text(union.at(format!("d{}/s/f1", dir - 4))), "old\n0\n1\n2\n3\n4\n");
    }
    ends_as_a_new_mount_begins(union);
}

#[test]
fn names_that_come_and_go_show() {
    let union = over_two();
    let lower = union.lower_path(0);
    assert_eq!(names(union.at("d")), ["below", "f", "inside"]);
    refused(fs::read(union.at("d/new")), Errno::NOENT);
    fs::write(lower.join("d/new"), "new\n").unwrap();
    shows(union.at("d/new"), "new\n");
    lists(union.at("d"), &["below", "f", "inside", "new"]);
    fs::remove_file(lower.join("d/new")).unwrap();
    shows(union.at("d/new"), "NotFound");
    lists(union.at("d"), &["below", "f", "inside"]);
    // From a lower that was hidden by another.
    fs::write(union.lower_path(1).join("top"), "lower\n").unwrap();
    fs::remove_file(lower.join("top")).unwrap();
    shows(union.at("top"), "lower\n");
    fs::write(lower.join("top"), "top again\n").unwrap();
    shows(union.at("top"), "top again\n");
    assert_eq!(fs::read_link(union.at("s")).unwrap(), Path::new("old"));
    sh(&lower, "ln -sfn new s");
    eventually(|| fs::read_link(union.at("s")).unwrap() == Path::new("new"));
    ends_as_a_new_mount_begins(union);
}

#[test]
fn what_is_renamed_shows_under_its_new_name_alone() {
    let union = over_two();
    let lower = union.lower_path(0);
    fs::create_dir_all(lower.join("d/inside/deep")).unwrap();
    fs::write(lower.join("d/inside/deep/x"), "x\n").unwrap();
    shows(union.at("d/inside/deep/x"), "x\n");
    refused(fs::read(union.at("d/g")), Errno::NOENT);
    fs::rename(lower.join("d/f"), lower.join("d/g")).unwrap();
    shows(union.at("d/g"), "first\n");
    shows(union.at("d/f"), "NotFound");
    fs::rename(lower.join("d/inside"), lower.join("moved")).unwrap();
    shows(union.at("moved/deep/x"), "x\n");
    lists(union.at("d"), &["below", "g"]);
    // It is watched where it is by now.
    fs::write(lower.join("moved/deep/y"), "y\n").unwrap();
    shows(union.at("moved/deep/y"), "y\n");
    fs::write(lower.join("moved/deep/x"), "changed\n").unwrap();
    shows(union.at("moved/deep/x"), "changed\n");
    ends_as_a_new_mount_begins(union);
}

#[test]
fn a_directory_that_is_replaced_shows_what_is_in_the_new_one() {
    let union = over_two();
    let lower = union.lower_path(0);
    assert_eq!(text(union.at("d/f")), "first\n");
    sh(&lower, "mkdir n; echo other >n/f; echo more >n/more; mv d old; mv n d");
    shows(union.at("d/f"), "other\n");
    shows(union.at("d/more"), "more\n");
    lists(union.at("d"), &["below", "f", "more"]);
    lists(union.at("old"), &["f", "inside"]);
    // A directory, then a file, then nothing.
    sh(&lower, "rm -r d; echo file >d");
    shows(union.at("d"), "file\n");
    fs::remove_file(lower.join("d")).unwrap();
    lists(union.at("d"), &["below"]);
    sh(&lower, "mkdir d; echo again >d/f");
    shows(union.at("d/f"), "again\n");
    shows(union.at("d/below"), "below\n");
    ends_as_a_new_mount_begins(union);
}

#[test]
fn directories_made_in_one_go_show_whole() {
    let union = over_two();
    refused(fs::read(union.at("a/b/c/d/e/f")), Errno::NOENT);
    for round in 0..20 {
        sh(
            union.lower_path(round % 2),
            &format!("mkdir -p a{round}/b/c/d/e; echo {round} >a{round}/b/c/d/e/f"),
        );
        shows(union.at(format!("a{round}/b/c/d/e/f")), &format!("{round}\n"));
        sh(union.lower_path(0), &format!("mkdir -p a{round}/b/c; echo new >a{round}/b/c/g"));
        shows(union.at(format!("a{round}/b/c/g")), "new\n");
    }
    ends_as_a_new_mount_begins(union);
}

#[test]
fn a_directory_that_was_moved_merges_with_what_comes_to_be_there() {
    for option in ["watch", "watch=0", "timeout=0"] {
        let many = |mut b: Branch| {
            for dir in 0..100 {
                b = b.dir(&format!("many/{dir}/in"));
            }
            b
        };
        let union = Union::builder()
            .lower(|b| many(b.file("old/f", "f\n").dir("p")))
            .option(option)
            .setup("ulimit -n 120")
            .mount();
        sh(union.root(), "mkdir new; mv new p/moved; mv old p/taken; ls p/moved p/taken");
        refused(fs::read(union.at("p/moved/sub/x")), Errno::NOENT);
        refused(fs::read(union.at("p/taken/hidden")), Errno::NOENT);
        sh(
            union.lower_path(0),
            "mkdir -p p/moved/sub; echo below >p/moved/sub/x; mkdir p/taken; touch p/taken/hidden",
        );
        shows(union.at("p/moved/sub/x"), "below\n");
        lists(union.at("p/moved"), &["sub"]);
        fs::write(union.lower_path(0).join("p/moved/y"), "y\n").unwrap();
        shows(union.at("p/moved/y"), "y\n");
        // Its descriptor has gone from the daemon by now.
        fs::write(union.lower_path(0).join("p/moved/later"), "later\n").unwrap();
        sh(union.root(), "ls many/*/in");
        shows(union.at("p/moved/later"), "later\n");
        assert_eq!(text(union.at("p/taken/f")), "f\n");
        ends_as_a_new_mount_begins(union);
    }
}

#[test]
fn markers_that_appear_are_honoured() {
    let union = over_two();
    let lower = union.lower_path(0);
    assert_eq!(names(union.at("d")), ["below", "f", "inside"]);
    assert_eq!(text(union.at("e/g")), "g\n");
    fs::write(lower.join("d/.wh.below"), "").unwrap();
    shows(union.at("d/below"), "NotFound");
    lists(union.at("d"), &["f", "inside"]);
    fs::remove_file(lower.join("d/.wh.below")).unwrap();
    shows(union.at("d/below"), "below\n");
    fs::write(lower.join("d/.wh..wh..opq"), "").unwrap();
    shows(union.at("d/below"), "NotFound");
    lists(union.at("d"), &["f", "inside"]);
    fs::remove_file(lower.join("d/.wh..wh..opq")).unwrap();
    shows(union.at("d/below"), "below\n");
    lists(union.at("d"), &["below", "f", "inside"]);
    fs::write(lower.join(".wh.e"), "").unwrap();
    shows(union.at("e/g"), "NotFound");
    lists(union.root(), &["d", "s", "top"]);
    fs::remove_file(lower.join(".wh.e")).unwrap();
    shows(union.at("e/g"), "g\n");
    // In the root of the branch.
    fs::write(lower.join(".wh..wh..opq"), "").unwrap();
    shows(union.at("e/g"), "NotFound");
    shows(union.at("d/below"), "NotFound");
    fs::remove_file(lower.join(".wh..wh..opq")).unwrap();
    shows(union.at("e/g"), "g\n");
    shows(union.at("d/below"), "below\n");
    sh(&lower, "setfattr -n user.overlay.opaque -v y d");
    shows(union.at("d/below"), "NotFound");
    sh(&lower, "setfattr -x user.overlay.opaque d");
    shows(union.at("d/below"), "below\n");
    ends_as_a_new_mount_begins(union);
}

#[test]
fn an_open_file_follows_edits_and_stays_what_it_was() {
    let union = over_two();
    let lower = union.lower_path(0);
    let file = File::open(union.at("d/f")).unwrap();
    assert_eq!(read(&file).unwrap(), "first\n");
    fs::write(lower.join("d/f"), "edited\n").unwrap();
    eventually(|| read(&file).unwrap() == "edited\n");
    sh(&lower, "echo new >d/n; mv d/n d/f");
    shows(union.at("d/f"), "new\n");
    let was_or_stale = |file: &File| match read(file) {
        Ok(text) => assert_eq!(text, "edited\n"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(Errno::STALE.raw_os_error())),
    };
    was_or_stale(&file);
    let top = File::open(union.at("top")).unwrap();
    assert_eq!(read(&top).unwrap(), "top\n");
    fs::remove_file(lower.join("top")).unwrap();
    shows(union.at("top"), "NotFound");
    assert_eq!(read(&top).unwrap(), "top\n");
    was_or_stale(&file);
    drop((file, top));
    ends_as_a_new_mount_begins(union);
}

/// What has been put there is not hidden by a copy of what was there before.
#[test]
fn a_write_to_a_file_that_was_replaced_copies_nothing_up() {
    for waits in [true, false] {
        let union = over_two();
        let lower = union.lower_path(0);
        let file = File::options().read(true).write(true).open(union.at("d/f")).unwrap();
        assert_eq!(read(&file).unwrap(), "first\n");
        sh(&lower, "echo replaced >d/n; mv d/n d/f");
        if waits {
            shows(union.at("d/f"), "replaced\n");
        }
        match file.write_at(b"X", 0) {
            // As a file that was removed.
            Ok(_) => assert_eq!(read(&file).unwrap(), "Xirst\n"),
            Err(error) => assert_eq!(error.raw_os_error(), Some(Errno::STALE.raw_os_error())),
        }
        drop(file);
        shows(union.at("d/f"), "replaced\n");
        assert!(!exists(union.upper("d/f")), "waits: {waits}");
        overwrite(union.at("d/f"), 0, "W");
        shows(union.at("d/f"), "Weplaced\n");
        // From now on the upper's counts.
        fs::write(lower.join("d/f"), "not seen\n").unwrap();
        fs::write(lower.join("d/after"), "after\n").unwrap();
        shows(union.at("d/after"), "after\n");
        assert_eq!(text(union.at("d/f")), "Weplaced\n");
        ends_as_a_new_mount_begins(union);
    }
}

#[test]
fn a_copy_of_a_file_that_is_edited_meanwhile_is_no_mixture() {
    const SIZE: usize = 24 << 20;
    let union = Union::builder().lower(|b| b.file("big", vec![b'a'; SIZE])).option("watch").mount();
    let big = union.lower_path(0).join("big");
    let target = union.at("big");
    let writer = thread::spawn(move || overwrite(target, 0, "#"));
    for letter in [b'b', b'c'] {
        let file = File::options().write(true).open(&big).unwrap();
        for block in 0..SIZE >> 16 {
            file.write_all_at(&[letter; 1 << 16], (block << 16) as u64).unwrap();
        }
    }
    writer.join().unwrap();
    let seen = fs::read(union.upper("big")).unwrap();
    let letters: std::collections::BTreeSet<u8> = seen[1..].iter().copied().collect();
    // Whoever edits needs longer than one copy takes, and less than all that are tried.
    assert!(seen[0] == b'#' && seen.len() == SIZE && letters.len() == 1, "{letters:?}");
    ends_as_a_new_mount_begins(union);
}

#[test]
fn a_mapping_shows_what_is_written_to_the_lower() {
    let union = Union::builder().lower(|b| b.file("f", vec![b'.'; 20_000])).option("watch").mount();
    let file = File::open(union.at("f")).unwrap();
    let mapping = Mapping::of(&file, 20_000, Mapping::READ);
    assert_eq!(mapping.bytes()[5000], b'.');
    overwrite(union.lower_path(0).join("f"), 5000, "written");
    eventually(|| &mapping.bytes()[5000..5007] == b"written");
    // A store into a mapping of the lower's file shows when that is closed.
    let lower = File::options().read(true).write(true).open(union.lower_path(0).join("f")).unwrap();
    let mut behind = Mapping::of(&lower, 20_000, Mapping::SHARED);
    behind.store(9000, b"stored");
    drop((behind, lower));
    eventually(|| &mapping.bytes()[9000..9006] == b"stored");
    drop(mapping);
    drop(file);
    ends_as_a_new_mount_begins(union);
}

#[test]
fn a_thousand_files_at_once_show() {
    let union = Union::builder().lower(|b| b.dir("d")).option("watch").mount();
    let lower = union.lower_path(0).join("d");
    for round in 0..3 {
        for file in 0..1000 {
            let name = format!("{file}");
            if round == 1 {
                fs::remove_file(lower.join(name))
            } else {
                fs::write(lower.join(name), format!("{round}"))
            }
            .unwrap();
            if file % 100 == 0 {
                // Whoever looks meanwhile finds the old or the new.
                names(union.at("d"));
                content(union.at(format!("d/{}", file + 50)));
            }
        }
        for file in 0..1000 {
            let expected = if round == 1 { "NotFound".to_owned() } else { format!("{round}") };
            shows(union.at(format!("d/{file}")), &expected);
        }
    }
    ends_as_a_new_mount_begins(union);
}

fn signal(union: &Union, signal: Signal) {
    kill_process(Pid::from_raw(union.pid().try_into().unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn more_changes_than_can_be_queued_show() {
    let union = over_two();
    let lower = union.lower_path(0);
    assert_eq!(text(union.at("d/f")), "first\n");
    refused(fs::read(union.at("d/inside/new")), Errno::NOENT);
    assert_eq!(names(union.at("d/inside")), [""; 0]);
    let most: usize = text("/proc/sys/fs/inotify/max_queued_events").trim().parse().unwrap();
    if most > 100_000 {
        return say_not_played("fs.inotify.max_queued_events is too large to be used up");
    }
    signal(&union, Signal::STOP);
    for event in 0..=most / 2 {
        // Two events each that are not the same as the one before.
        let name = lower.join(format!("e{}", event % 2));
        fs::write(&name, "").unwrap();
        fs::remove_file(&name).unwrap();
    }
    fs::write(lower.join("d/f"), "second\n").unwrap();
    fs::write(lower.join("d/inside/new"), "new\n").unwrap();
    fs::write(lower.join("d/.wh.below"), "").unwrap();
    sh(&lower, "ln -sfn new s");
    signal(&union, Signal::CONT);
    shows(union.at("d/f"), "second\n");
    shows(union.at("d/inside/new"), "new\n");
    shows(union.at("d/below"), "NotFound");
    lists(union.at("d/inside"), &["new"]);
    eventually(|| fs::read_link(union.at("s")).unwrap() == Path::new("new"));
    // And it goes on.
    fs::write(lower.join("d/f"), "third\n").unwrap();
    shows(union.at("d/f"), "third\n");
    ends_as_a_new_mount_begins(union);
}

#[test]
fn directories_that_are_one_too_many_to_be_watched_are_looked_at_each_time() {
    for most in [0, 1, 3] {
        let union = Union::builder()
            .lower(|b| {
                b.file("a/f", "a\n")
                    .file("b/f", "b\n")
                    .file("c/deep/f", "c\n")
                    .file("d/f", "d\n")
                    .symlink("d/s", "old")
            })
            .lower(|b| b.file("c/deep/below", "below\n").file("d/below", "below\n"))
            .option(&format!("watch={most}"))
            .mount();
        let lower = union.lower_path(0);
        look(union.root());
        for dir in ["a", "b", "c/deep", "d"] {
            refused(fs::read(union.at(dir).join("new")), Errno::NOENT);
        }
        assert!(status(&union, "watches") <= most);
        // A directory of the upper that gets a part in a lower.
        fs::create_dir_all(union.at("a/own/sub")).unwrap();
        refused(fs::read(union.at("a/own/sub/x")), Errno::NOENT);
        sh(&lower, "mkdir -p a/own/sub; echo x >a/own/sub/x");
        assert_eq!(text(union.at("a/own/sub/x")), "x\n");
        for dir in ["a", "b", "c/deep", "d"] {
            let (there, shown) = (lower.join(dir), union.at(dir));
            fs::write(there.join("f"), "changed\n").unwrap();
            fs::write(there.join("new"), "new\n").unwrap();
            shows(shown.join("f"), "changed\n");
            shows(shown.join("new"), "new\n");
            eventually(|| names(&shown).contains(&"new".to_owned()));
            fs::write(there.join("f"), "Changed\n").unwrap();
            shows(shown.join("f"), "Changed\n");
            fs::remove_file(there.join("new")).unwrap();
            shows(shown.join("new"), "NotFound");
            eventually(|| !names(&shown).contains(&"new".to_owned()));
        }
        sh(&lower, "ln -sfn new d/s; mkdir n; echo n >n/f; mv d old; mv n d");
        shows(union.at("d/f"), "n\n");
        shows(union.at("d/below"), "below\n");
        fs::write(lower.join("d/.wh..wh..opq"), "").unwrap();
        shows(union.at("d/below"), "NotFound");
        fs::remove_dir_all(lower.join("c")).unwrap();
        lists(union.at("c/deep"), &["below"]);
        ends_as_a_new_mount_begins(union);
    }
}

/// Changes of an overlay's layers are not seen in the overlay: such a lower is looked at each time.
#[test]
fn a_lower_whose_changes_cannot_be_seen_is_looked_at_each_time() {
    needs_root!("to mount an overlay");
    let play = Playground::new();
    play.sh("chmod 700 .; mkdir one two over up mnt; echo first >one/f; echo two >two/g; ln -s old one/s
         mount -t overlay -o lowerdir=one:two plyfs-test over");
    let mounted = |script: &str| {
        play.sh(&format!(
            "trap 'umount over' EXIT; plyfs -o watch,lowerdir=over,upperdir=up mnt
             trap 'plyfs umount mnt; umount over' EXIT; {script}"
        ))
    };
    let seen = mounted(
        "cat mnt/f; readlink mnt/s; ls mnt; getfattr --only-values -n user.plyfs.status mnt | grep watches
         echo second >over/x 2>/dev/null || true; echo changed >one/f; cat mnt/f",
    );
    assert!(seen.starts_with("first\nold\nf\ng\ns\nwatches 0\n"), "{seen}");
    assert!(seen.ends_with("changed\n"), "{seen}");
}

#[test]
fn watches_go_with_what_the_kernel_forgets() {
    let union = Union::builder()
        .lower(|mut b| {
            for dir in 0..200 {
                b = b.file(&format!("d/{dir}/f"), "");
            }
            b
        })
        .option("watch")
        .mount();
    look(union.root());
    assert_eq!(status(&union, "watches"), 202);
    fs::remove_dir_all(union.lower_path(0).join("d")).unwrap();
    fs::create_dir(union.lower_path(0).join("d")).unwrap();
    lists(union.at("d"), &[]);
    eventually(|| status(&union, "watches") <= 2);
    ends_as_a_new_mount_begins(union);
}

#[test]
fn what_is_known_costs_no_message_until_it_changes() {
    let union = over_two();
    // What was told twice has been told.
    look(union.root());
    look(union.root());
    let before: u64 = ["LOOKUP", "READDIRPLUS", "READDIR"].iter().map(|kind| requests(&union, kind)).sum();
    for _ in 0..5 {
        look(union.root());
        refused(fs::read(union.at("nothing")), Errno::NOENT);
    }
    let after: u64 = ["LOOKUP", "READDIRPLUS", "READDIR"].iter().map(|kind| requests(&union, kind)).sum();
    assert!(after <= before + 1, "{before} and {after}");
    ends_as_a_new_mount_begins(union);
}

#[test]
fn branches_that_come_are_watched_and_those_that_go_are_not() {
    let play = Playground::new();
    play.sh(
        "chmod 700 .; mkdir -p one/d two/d three/d up mnt; echo one >one/d/f; echo two >two/d/g; echo three >three/d/h
         plyfs -o watch,lowerdir=one:two,upperdir=up mnt; ls mnt/d >/dev/null; plyfs branch add --at top mnt three",
    );
    lists(play.path("mnt/d"), &["f", "g", "h"]);
    fs::write(play.path("three/d/new"), "new\n").unwrap();
    shows(play.path("mnt/d/new"), "new\n");
    fs::write(play.path("three/d/f"), "three\n").unwrap();
    shows(play.path("mnt/d/f"), "three\n");
    fs::write(play.path("three/d/.wh..wh..opq"), "").unwrap();
    lists(play.path("mnt/d"), &["f", "h", "new"]);
    play.sh("plyfs branch del mnt \"$PWD/three\"");
    lists(play.path("mnt/d"), &["f", "g"]);
    fs::write(play.path("three/d/gone"), "").unwrap();
    fs::write(play.path("two/d/f2"), "f2\n").unwrap();
    shows(play.path("mnt/d/f2"), "f2\n");
    shows(play.path("mnt/d/gone"), "NotFound");
    play.sh("plyfs umount mnt");
}

#[test]
fn a_lower_that_goes_away_as_a_whole_is_no_reason_to_end() {
    needs_root!("to mount a tmpfs");
    let tmpfs = Tmpfs::of_kib(256);
    let union = Union::builder()
        .lower(|b| b.dir("sub").file("f", "f\n"))
        .lower_at(tmpfs.path().to_owned())
        .option("watch")
        .mount();
    fs::write(union.lower_path(1).join("t"), "t\n").unwrap();
    shows(union.at("t"), "t\n");
    sh(union.lower_path(0), "rm -r sub f");
    lists(union.root(), &["t"]);
    sh(union.lower_path(1), "rm t; mkdir -p x/y; echo z >x/y/z");
    shows(union.at("x/y/z"), "z\n");
    ends_as_a_new_mount_begins(union);
}

/// One step of somebody who edits branches without care.
fn edit(dice: &mut Dice, lowers: &[PathBuf], roots: bool) {
    let mut path = || {
        let depth = 1 + dice.throw(3);
        (0..depth).map(|_| ["a", "b", "c"][dice.throw(3)]).collect::<PathBuf>()
    };
    let (path, other) = (path(), path());
    let lower = &lowers[dice.throw(lowers.len())];
    let at = lower.join(&path);
    let marker = |name: String| at.parent().unwrap().join(name);
    // Whatever cannot be done is left.
    let _done: io::Result<()> = match dice.throw(14) {
        0..=2 => fs::write(&at, pattern(dice.throw(200) as u8, dice.throw(300))),
        3..=4 => fs::create_dir_all(&at),
        5 => fs::remove_file(&at),
        6 => fs::remove_dir_all(&at),
        7 => fs::rename(&at, lower.join(&other)),
        8 => fs::write(marker(format!(".wh.{}", at.file_name().unwrap().display())), ""),
        9 => fs::remove_file(marker(format!(".wh.{}", at.file_name().unwrap().display()))),
        // A marker in a root is not looked for each time.
        10 if path.parent() == Some(Path::new("")) && !roots => Ok(()),
        10 => fs::write(marker(".wh..wh..opq".to_owned()), ""),
        11 => fs::remove_file(marker(".wh..wh..opq".to_owned())),
        12 => fs::set_permissions(&at, fs::Permissions::from_mode(0o700 | dice.throw(64) as u32)),
        _ => std::os::unix::fs::symlink(format!("{}", dice.throw(9)), &at),
    };
}

/// Lowers that are edited at random while others look, against mounts that were made when all was still.
fn random_edits(option: &str, rounds: u64) {
    for seed in 0..3 {
        let union = Union::builder()
            .lower(|b| b.file("a/b/c", "0"))
            .lower(|b| b.file("a/b/d", "1"))
            .lower(|b| b.file("b/b/d", "2"))
            .read_only()
            .option(option)
            .mount();
        let play = Playground::new();
        fs::create_dir(play.path("new")).unwrap();
        let lowers: Vec<PathBuf> = (0..3).map(|lower| union.lower_path(lower)).collect();
        let line = lowers.iter().map(|path| path.to_str().unwrap()).collect::<Vec<_>>().join(":");
        let line = format!("lowerdir={line}");
        let mut dice = Dice::new(seed);
        for round in 0..rounds {
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        look(union.root());
                    }
                });
                for _ in 0..dice.throw(60) {
                    edit(&mut dice, &lowers, option == "watch");
                    if dice.throw(8) == 0 {
                        thread::sleep(std::time::Duration::from_millis(dice.throw(20) as u64));
                    }
                }
                over.store(true, Ordering::Relaxed);
            });
            program(play.path(""), &[plyfs().to_str().unwrap(), "-o", &line, "new"]);
            let expected = look(&play.path("new"));
            // A child that another test has just forked may hold something of it until it execs.
            program(play.path(""), &[plyfs().to_str().unwrap(), "umount", "--lazy", "new"]);
            let mut seen = look(union.root());
            for _ in 0..500 {
                if seen == expected {
                    break;
                }
                thread::sleep(std::time::Duration::from_millis(10));
                seen = look(union.root());
            }
            assert_eq!(seen, expected, "seed {seed}, round {round}");
        }
        ends_as_a_new_mount_begins(union);
    }
}

#[test]
fn random_edits_show_in_the_end() {
    random_edits("watch", 25);
}

#[test]
fn random_edits_show_in_the_end_with_few_watches() {
    random_edits("watch=4", 15);
}

#[test]
fn random_edits_show_in_the_end_without_any_watch() {
    random_edits("watch=0", 10);
}

#[test]
fn random_edits_show_at_once_with_a_timeout_of_zero() {
    random_edits("timeout=0", 10);
}

/// The same while somebody changes the same names through the mount: what it shows in the end is what is on the disk.
#[test]
fn random_edits_and_random_work_show_in_the_end() {
    for seed in 0..6 {
        let union = Union::builder()
            .lower(|b| b.file("a/b/c", "0"))
            .lower(|b| b.file("a/b/d", "1"))
            .option(["watch", "watch=3"][seed as usize % 2])
            .mount();
        let lowers: Vec<PathBuf> = (0..2).map(|lower| union.lower_path(lower)).collect();
        let root = [union.root().to_owned()];
        for round in 0..4 {
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        look(union.root());
                    }
                });
                let work = scope.spawn(|| {
                    let mut dice = Dice::new(1000 * round + seed);
                    (0..200).for_each(|_| edit(&mut dice, &root, false));
                });
                let mut dice = Dice::new(100 * round + seed);
                for _ in 0..100 {
                    edit(&mut dice, &lowers, false);
                    thread::sleep(std::time::Duration::from_micros(dice.throw(2000) as u64));
                }
                work.join().unwrap();
                over.store(true, Ordering::Relaxed);
            });
        }
        ends_as_a_new_mount_begins(union);
    }
}
