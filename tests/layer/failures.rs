//! What is left when it does not go well: nothing, or after a kill -9 what has a name that says whose it is.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::archive::{Header, Tar};
use crate::needs_root;
use crate::stand::{As, PATIENCE, Said, Stand, finish};

/// A small filesystem that goes with the test.
struct Tmpfs<'a>(&'a Stand);

impl<'a> Tmpfs<'a> {
    fn new(stand: &'a Stand, options: &str) -> Self {
        stand.sh(&format!("mkdir small; mount -t tmpfs -o {options},mode=0755 small small"));
        Self(stand)
    }

    fn names(&self) -> Vec<String> {
        let name =
            |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().to_string_lossy().into_owned();
        fs::read_dir(self.0.path("small")).unwrap().map(name).collect()
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        self.0.sh("umount -l small");
    }
}

#[test]
fn a_full_disk_leaves_nothing() {
    needs_root!("mounts a small disk");
    let stand = Stand::new();
    let big = "x".repeat(3 << 20);
    stand.write("big.tar", Tar::new().file("first", "x").file("big", &big).end());
    let many = (0..100).fold(Tar::new(), |t, n| t.file(&format!("f{n}"), ""));
    stand.write("many.tar", many.end());
    stand.sh("mkdir a; head -c 3000000 /dev/urandom >a/big");
    for (options, archive, entry) in [("size=1m", "big.tar", "`big`"), ("nr_inodes=40", "many.tar", "`f3")] {
        let small = Tmpfs::new(&stand, options);
        stand.layer(&format!("unpack {archive} small/out")).fails(1, &[entry, "space"]);
        assert_eq!(small.names(), Vec::<String>::new());
        drop(small);
        stand.sh("rmdir small");
    }
    let small = Tmpfs::new(&stand, "size=1m");
    for end in ["tar", "tar.gz", "tar.zst"] {
        stand.layer(&format!("pack a -o small/a.{end}")).fails(1, &["space"]);
        stand.layer("squash a -o small/one").fails(1, &["`big`", "space"]);
        assert_eq!(small.names(), Vec::<String>::new(), "{end}");
    }
}

/// `unpack -` that has been given some of an archive, and waits for more.
struct Waiting {
    child: Child,
    files: (File, File),
}

impl Waiting {
    /// Given so much, it has made a directory for it.
    fn in_the_middle(stand: &Stand) -> Self {
        let mut command = stand.command(As::Tester, "unpack - out");
        let files = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        command.stdin(Stdio::piped());
        command.stdout(files.0.try_clone().unwrap()).stderr(files.1.try_clone().unwrap());
        let mut child = command.spawn().expect("plyfs starts");
        let begun = Tar::new().file("f", "x").raw(Header::new(b'0', b"g").size(1 << 30), &[b'x'; 600 * 1024]);
        child.stdin.as_mut().unwrap().write_all(&begun.0).expect("it reads");
        let staged = || {
            let name = stand.names().into_iter().find(|name| name.starts_with(".out.plyfs-unpack."))?;
            fs::metadata(stand.path(name).join("g")).ok()
        };
        until("something is unpacked", || staged().is_some());
        Self { child, files }
    }

    fn end_by(self, signal: Signal) -> Said {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
        // Its stdin stays open until it has ended.
        finish(self.child, self.files.0, self.files.1, Duration::from_secs(20))
    }
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_signal_ends_it_and_leaves_nothing() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let stand = Stand::new();
        let said = Waiting::in_the_middle(&stand).end_by(signal);
        let said = said.fails(1, &["interrupted"]);
        assert_eq!((stand.names(), said.out), (vec![], String::new()));
    }
}

#[test]
fn a_kill_leaves_only_what_was_staged() {
    let stand = Stand::new();
    let said = Waiting::in_the_middle(&stand).end_by(Signal::KILL);
    assert_eq!(said.signal, Some(9));
    let names = stand.names();
    assert!(names.len() == 1 && names[0].starts_with(".out.plyfs-unpack."), "{names:?}");
    // It is in nobody's way.
    stand.write("a.tar", Tar::new().file("f", "x").end());
    stand.layer("unpack a.tar out").succeeds();
}

/// What comes behind the end of an archive may never end.
#[test]
fn what_is_behind_the_end_can_be_interrupted() {
    let stand = Stand::new();
    stand.write("a.tar", Tar::new().file("f", "x").end());
    let mut command = stand.command(As::Tester, "unpack - out");
    let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdin(Stdio::piped()).stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
    let mut child = command.spawn().expect("plyfs starts");
    let mut stdin = child.stdin.take().unwrap();
    let archive = fs::read(stand.path("a.tar")).unwrap();
    let feeding = thread::spawn(move || {
        // Ends when nobody reads any more.
        let mut fed = stdin.write_all(&archive);
        while fed.is_ok() {
            fed = stdin.write_all(&[0; 64 * 1024]);
        }
    });
    until("it is unpacked", || {
        let staged = stand.names().into_iter().find(|name| name.starts_with(".out."));
        staged.is_some_and(|name| stand.path(name).join("f").exists())
    });
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    finish(child, out, err, Duration::from_secs(20)).fails(1, &["interrupted"]);
    feeding.join().unwrap();
    assert_eq!(stand.names(), ["a.tar"]);
}

#[test]
fn packing_can_be_interrupted() {
    let stand = Stand::new();
    stand.sh("mkdir a; truncate -s 20G a/zeros; touch a/zz");
    for end in ["tar.gz", "tar.zst"] {
        let mut command = stand.command(As::Tester, &format!("pack a -o a.{end}"));
        let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        command.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
        let child = command.spawn().expect("plyfs starts");
        until("something is written", || {
            let staged = stand.names().into_iter().find(|name| name.starts_with(".plyfs-layer-"));
            staged.is_some_and(|name| fs::metadata(stand.path(name)).is_ok_and(|file| file.len() > 0))
        });
        kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
        finish(child, out, err, Duration::from_secs(30)).fails(1, &["interrupted"]);
        assert_eq!(stand.names(), ["a"]);
    }
}

/// The writer counts in two files, one after the other: at any moment they are equal, or the first is one ahead.
#[test]
fn a_directory_that_changes_is_packed_as_it_was_or_not_at_all() {
    let stand = Stand::new();
    stand.sh("mkdir a; echo 0 >a/first; echo 0 >a/second; head -c 300000 /dev/urandom >a/middle");
    let stop = AtomicBool::new(false);
    let (mut packed, mut refused) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for count in 1_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                // Bursts, so that it is quiet at times.
                for name in ["first", "second"] {
                    fs::write(stand.path("a").join(name), format!("{count}\n")).unwrap();
                    thread::sleep(Duration::from_millis(if count % 8 == 0 { 150 } else { 2 }));
                }
            }
        });
        // Whatever fails in here must not keep the writer writing.
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..12 {
                let said = stand.layer("pack a -o a.tar");
                match said.code {
                    Some(4) => {
                        said.fails(4, &["changes"]);
                        assert!(!stand.path("a.tar").exists());
                        refused += 1;
                    }
                    _ => {
                        said.succeeds();
                        stand.layer("unpack a.tar out --owners ours").succeeds();
                        let count = |name: &str| -> Option<u64> {
                            fs::read_to_string(stand.path("out").join(name)).unwrap().trim().parse().ok()
                        };
                        // A file that is written anew is empty for a moment.
                        if let (Some(first), Some(second)) = (count("first"), count("second")) {
                            assert!(first == second || first == second + 1, "{first}, {second}");
                        }
                        packed += 1;
                        stand.sh("rm -rf out a.tar");
                    }
                }
            }
        }));
        stop.store(true, Ordering::Relaxed);
        played.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    crate::stand::say(&format!("a changing directory: {packed} times packed, {refused} times refused"));
}
