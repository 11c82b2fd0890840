//! Root's mount over branches in which users work, too: what they put in the place of what was shown is not acted on with
//! root's rights.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, setxattr, utimensat};
use rustix::io::Errno;

use crate::common::{
    ALICE, Branch, Snapshot, Union, as_user, exists, names, needs_root, stat, temp_dir, text,
};

const SECRET: &str = "root's secret";
/// As long as the secret at least: nobody reads beyond the length that he was shown.
const HERS: &str = "what is hers to read";

/// More directories than the daemon keeps open.
const OTHERS: usize = 80;
const FEW_DESCRIPTORS: &str = "ulimit -n 128";

/// A home directory of hers, in upper and lower.
fn home(b: Branch) -> Branch {
    b.dir("home").owner("home", ALICE, ALICE)
}

fn hers(b: Branch, path: &str, content: &str) -> Branch {
    b.file(path, content).owner(path, ALICE, ALICE)
}

/// What in the branches is root's and hers at once: a program that runs as root, or a file with her words.
fn roots_of_her_making(union: &Union) -> Vec<String> {
    let mut found = Vec::new();
    for place in [union.upper(""), union.work("")] {
        let branch = Snapshot::of(&place);
        for path in branch.paths().filter(|path| branch.field(path, "uid") == Some("0")) {
            let shown = place.join(path);
            let mode = u32::from_str_radix(branch.field(path, "mode").unwrap(), 8).unwrap();
            if mode & 0o6000 != 0 {
                found.push(format!("{} runs as root, whoever starts it", shown.display()));
            }
            if branch.field(path, "content").unwrap().contains("evil") {
                found.push(format!("{} is root's, with her content", shown.display()));
            }
        }
    }
    found
}

/// How somebody writes into a file that he was shown.
type Write = (&'static str, fn(&Path) -> io::Result<()>);

const WRITES: [Write; 3] = [
    ("truncate and write", |x| fs::write(x, "evil")),
    ("write", |x| File::options().write(true).open(x)?.write_all_at(b"evil", 0)),
    ("append", |x| io::Write::write_all(&mut File::options().append(true).open(x)?, b"evil")),
];

/// S1: a marker was made by root's daemon, and lies in her directory.
#[test]
fn a_marker_in_the_place_of_a_users_file_becomes_no_program_of_roots() {
    needs_root!("another user");
    for (how, write) in WRITES {
        let mut union = Union::builder()
            .option("allow_other")
            .upper(home)
            .lower(|b| hers(home(b), "home/a", "lower"))
            .mount();
        as_user(ALICE, || {
            fs::remove_file(union.at("home/a")).unwrap();
            fs::write(union.upper("home/x"), "").unwrap();
            assert!(stat(union.at("home/x")).is_file());
            fs::rename(union.upper("home/.wh.a"), union.upper("home/x")).unwrap();
            // Whether it is refused is not the question, nor with which error.
            drop(write(&union.at("home/x")));
            drop(fs::set_permissions(union.at("home/x"), Permissions::from_mode(0o4755)));
        });
        assert_eq!(roots_of_her_making(&union), [""; 0], "{how}");
        union.remount_as_changed();
    }
}

/// A marker never belongs to more than the owner of the directory in which it is.
#[test]
fn a_marker_belongs_to_its_directorys_owner() {
    needs_root!("another user");
    let mut union = Union::builder()
        .option("allow_other")
        .upper(home)
        .lower(|b| {
            let b = ["a", "b", "c", "d/f", "e/f", "m/f"]
                .into_iter()
                .fold(home(b), |b, name| hers(b, &format!("home/{name}"), "lower"));
            ["d", "e", "m"]
                .into_iter()
                .fold(b, |b, name| b.owner(&format!("home/{name}"), ALICE, ALICE))
                .file("roots", "")
        })
        .mount();
    as_user(ALICE, || {
        fs::remove_file(union.at("home/a")).unwrap();
        fs::rename(union.at("home/b"), union.at("home/moved")).unwrap();
        fs::remove_dir_all(union.at("home/d")).unwrap();
        fs::create_dir(union.at("home/d")).unwrap();
        fs::rename(union.at("home/m"), union.at("home/n")).unwrap();
    });
    // By root, in her directory.
    fs::remove_file(union.at("home/c")).unwrap();
    fs::remove_dir_all(union.at("home/e")).unwrap();
    fs::remove_file(union.at("roots")).unwrap();
    for marker in [".wh.a", ".wh.b", ".wh.c", ".wh.e", ".wh.m", "d/.wh..wh..opq", "n/.wh..wh..opq"] {
        let marker = format!("home/{marker}");
        assert!(exists(union.upper(&marker)), "{marker}: {:?}", union.in_upper());
        assert_eq!(stat(union.upper(&marker)).uid(), ALICE, "{marker}");
    }
    assert_eq!(stat(union.upper(".wh.roots")).uid(), 0);
    union.remount();
}

/// Where the file lies that is exchanged behind the union's back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Upper,
    Lower,
}

/// What she puts in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Substitute {
    /// A file, or a directory, of root's that nobody else may look into.
    Roots,
    /// A symbolic link to one, outside the branches.
    Symlink,
}

const SWAPS: [(Place, Substitute); 4] = [
    (Place::Upper, Substitute::Roots),
    (Place::Upper, Substitute::Symlink),
    (Place::Lower, Substitute::Roots),
    (Place::Lower, Substitute::Symlink),
];

/// A union in which `home/x` and `home/d` are hers and one of them was exchanged, and what she may not see.
struct Swapped {
    union: Union,
    /// Root's file and root's directory, where they are after the swap.
    file: PathBuf,
    dir: PathBuf,
    before: [Snapshot; 2],
    /// So that something may be outside.
    _outside: tempfile::TempDir,
}

fn roots(b: Branch, file: &str, dir: &str) -> Branch {
    b.file(file, SECRET)
        .mode(file, 0o600)
        .xattr(file, "user.note", SECRET)
        .file(&format!("{dir}/secret_name"), SECRET)
        .file(&format!("{dir}/x"), SECRET)
        .mode(dir, 0o700)
}

impl Swapped {
    fn new(place: Place, substitute: Substitute, name: &str) -> Self {
        let outside = temp_dir();
        roots(Branch::at(outside.path()), "file", "dir");
        let fill = |b: Branch| {
            let b = hers(hers(home(b), "home/x", HERS), "home/d/x", HERS).owner("home/d", ALICE, ALICE);
            match substitute {
                Substitute::Roots => roots(b, "home/roots_file", "home/roots_dir"),
                Substitute::Symlink => b,
            }
        };
        let others = |b| (0..OTHERS).fold(b, |b: Branch, index| b.dir(&format!("others/{index}")));
        let builder =
            Union::builder().setup(FEW_DESCRIPTORS).option("allow_other").upper(others).lower(others);
        let union = match place {
            Place::Upper => builder.upper(fill).lower(|b| b),
            Place::Lower => builder.upper(home).lower(fill),
        }
        .mount();
        let branch = match place {
            Place::Upper => union.upper("home"),
            Place::Lower => union.lower_path(1).join("home"),
        };
        let (mut file, mut dir) = match substitute {
            Substitute::Roots => (branch.join("roots_file"), branch.join("roots_dir")),
            Substitute::Symlink => (outside.path().join("file"), outside.path().join("dir")),
        };
        as_user(ALICE, || {
            // They are looked at, and not opened.
            assert!(stat(union.at("home/x")).is_file() && stat(union.at("home/d")).is_dir());
            assert!(stat(union.at("home/d/x")).is_file());
            // Nor does the daemon have them open any more.
            (0..OTHERS).for_each(|index| assert!(names(union.at(format!("others/{index}"))).is_empty()));
            let roots = if name == "x" { &file } else { &dir };
            fs::rename(branch.join(name), branch.join("old")).unwrap();
            match substitute {
                Substitute::Roots => fs::rename(roots, branch.join(name)).unwrap(),
                Substitute::Symlink => symlink(roots, branch.join(name)).unwrap(),
            }
        });
        if substitute == Substitute::Roots {
            *(if name == "x" { &mut file } else { &mut dir }) = branch.join(name);
        }
        let before = Self::look(&file, &dir);
        Self { union, file, dir, before, _outside: outside }
    }

    fn look(file: &Path, dir: &Path) -> [Snapshot; 2] {
        let name = file.file_name().unwrap();
        let beside = Snapshot::of(file.parent().unwrap());
        [beside.part(|path| path == Path::new(name)), Snapshot::of(dir)]
    }

    /// What has happened to what is root's, and what is known of it that must not be.
    fn harm(&self) -> Vec<String> {
        let mut harm = roots_of_her_making(&self.union);
        for (before, after) in self.before.iter().zip(Self::look(&self.file, &self.dir)) {
            let differences = before.differences(&after, &["atime"]);
            if !differences.is_empty() {
                harm.push(differences);
            }
        }
        // A copy of it is hers to read, or was given to her.
        let upper = Snapshot::of(&self.union.upper(""));
        let is_roots = |path: &Path| path == self.file || path.starts_with(&self.dir);
        for path in upper.paths().filter(|path| !is_roots(&self.union.upper(path))) {
            if upper.field(path, "content").unwrap().contains(SECRET) {
                harm.push(format!("{} has the secret", path.display()));
            }
        }
        harm
    }
}

/// What she does with a name of hers; what it tells her, if it does.
type Deed = (&'static str, fn(&Path) -> io::Result<String>);

const DEEDS_TO_A_FILE: [Deed; 12] = [
    ("read", |x| fs::read_to_string(x)),
    ("getxattr", |x| {
        let mut value = [0; 64];
        let len = rustix::fs::getxattr(x, "user.note", &mut value[..])?;
        Ok(String::from_utf8_lossy(&value[..len]).into_owned())
    }),
    ("write", |x| File::options().write(true).open(x)?.write_all_at(b"evil", 0).map(|()| String::new())),
    ("append", |x| {
        io::Write::write_all(&mut File::options().append(true).open(x)?, b"evil").map(|()| String::new())
    }),
    ("truncate and write", |x| fs::write(x, "evil").map(|()| String::new())),
    ("truncate", |x| File::options().write(true).open(x)?.set_len(2).map(|()| String::new())),
    ("chmod", |x| fs::set_permissions(x, Permissions::from_mode(0o4777)).map(|()| String::new())),
    ("chown", |x| chown(x, Some(ALICE), Some(ALICE)).map(|()| String::new())),
    ("setxattr", |x| Ok(setxattr(x, "user.note", b"evil", XattrFlags::empty()).map(|()| String::new())?)),
    ("removexattr", |x| Ok(rustix::fs::removexattr(x, "user.note").map(|()| String::new())?)),
    ("touch", |x| {
        let time = Timespec { tv_sec: 7, tv_nsec: 7 };
        let times = Timestamps { last_access: time, last_modification: time };
        Ok(utimensat(CWD, x, &times, AtFlags::empty()).map(|()| String::new())?)
    }),
    ("link", |x| {
        fs::hard_link(x, x.with_file_name("link"))?;
        Ok(fs::read_to_string(x.with_file_name("link")).unwrap_or_default())
    }),
];

const DEEDS_IN_A_DIRECTORY: [Deed; 9] = [
    ("list", |d| {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        Ok(fs::read_dir(d)?.map(name).collect::<io::Result<Vec<_>>>()?.join(" "))
    }),
    ("read in it", |d| fs::read_to_string(d.join("x"))),
    ("create", |d| fs::write(d.join("new"), "evil").map(|()| String::new())),
    ("mkdir", |d| fs::create_dir(d.join("new")).map(|()| String::new())),
    ("symlink", |d| symlink("evil", d.join("new")).map(|()| String::new())),
    ("link", |d| fs::hard_link(d.with_file_name("x"), d.join("new")).map(|()| String::new())),
    ("unlink", |d| fs::remove_file(d.join("x")).map(|()| String::new())),
    ("move into it", |d| fs::rename(d.with_file_name("x"), d.join("new")).map(|()| String::new())),
    ("chmod", |d| fs::set_permissions(d, Permissions::from_mode(0o777)).map(|()| String::new())),
];

/// Every deed in every place, each on a union of its own; all that goes wrong is told at once.
#[track_caller]
fn nothing_is_harmed(deeds: &[Deed], name: &str) {
    let mut harm = Vec::new();
    for (place, substitute) in SWAPS {
        for (what, act) in deeds {
            let mut swapped = Swapped::new(place, substitute, name);
            let told = as_user(ALICE, || act(&swapped.union.at("home").join(name)));
            let case = format!("{what}, {substitute:?} in the {place:?}");
            if let Ok(told) = told
                && (told.contains(SECRET) || told.contains("secret_name"))
            {
                harm.push(format!("{case}: she is told {told:?}"));
            }
            harm.extend(swapped.harm().into_iter().map(|harm| format!("{case}: {harm}")));
            swapped.union.remount_as_changed();
        }
    }
    assert!(harm.is_empty(), "{}", harm.join("\n"));
}

#[test]
fn a_file_of_roots_in_the_place_of_a_users_is_neither_read_nor_changed() {
    needs_root!("another user");
    nothing_is_harmed(&DEEDS_TO_A_FILE, "x");
}

#[test]
fn a_directory_of_roots_in_the_place_of_a_users_is_neither_read_nor_changed() {
    needs_root!("another user");
    nothing_is_harmed(&DEEDS_IN_A_DIRECTORY, "d");
}

/// A handle from before the swap is on her own file.
#[test]
fn a_handle_from_before_a_swap_stays_on_its_own_file() {
    needs_root!("another user");
    for in_lower in [false, true] {
        let fill =
            |b: Branch| hers(home(b), "home/x", "hers").file("home/roots", SECRET).mode("home/roots", 0o600);
        let builder = Union::builder().option("allow_other");
        let mut union =
            if in_lower { builder.upper(home).lower(fill) } else { builder.upper(fill).lower(|b| b) }.mount();
        let branch = if in_lower { union.lower_path(0) } else { union.upper("") };
        let (handle, told) = as_user(ALICE, || {
            let handle = File::options().read(true).write(true).open(union.at("home/x")).unwrap();
            fs::rename(branch.join("home/roots"), branch.join("home/x")).unwrap();
            let mut told = [0; 13];
            let read = handle.read_at(&mut told, 0).unwrap_or(0);
            drop(handle.write_all_at(b"evil", 0));
            (handle, String::from_utf8_lossy(&told[..read]).into_owned())
        });
        drop(handle);
        assert!(!told.contains("secret"), "in a lower: {in_lower}: {told}");
        assert_eq!(text(branch.join("home/x")), SECRET, "in a lower: {in_lower}");
        union.remount_as_changed();
    }
}

/// What was shown is no more: who asks again finds what is there now.
fn again_if_stale<T>(act: impl Fn() -> io::Result<T>) -> T {
    match act() {
        Err(e) if e.raw_os_error() == Some(Errno::STALE.raw_os_error()) => act(),
        outcome => outcome,
    }
    .unwrap()
}

/// Nothing of it is too strict: she works on in her home.
#[test]
fn a_file_that_its_owner_exchanged_himself_is_used_as_it_is_now() {
    needs_root!("another user");
    let mut union = Union::builder()
        .option("allow_other")
        .upper(|b| hers(home(b), "home/x", "hers"))
        .lower(|b| b)
        .mount();
    as_user(ALICE, || {
        assert!(stat(union.at("home/x")).is_file());
        // As an editor saves.
        fs::write(union.upper("home/new"), "hers again").unwrap();
        fs::rename(union.upper("home/new"), union.upper("home/x")).unwrap();
        assert_eq!(again_if_stale(|| fs::read_to_string(union.at("home/x"))), "hers again");
        again_if_stale(|| File::options().write(true).open(union.at("home/x"))?.write_all_at(b"HERS", 0));
    });
    assert_eq!(text(union.upper("home/x")), "HERS again");
    union.remount_as_changed();
}
