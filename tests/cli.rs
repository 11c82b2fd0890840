//! The command line, run for real: what it says, what it mounts, how that ends.
//!
//! Needs root, /dev/fuse (0666, as udev sets it) and the package fuse3, and says so if one is
//! missing. Nothing here asks more of the union than a listing of its root.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

const PLYFS: &str = env!("CARGO_BIN_EXE_plyfs");
/// Far longer than anything here takes, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where a test plays: a directory of its own with the lowers l1 and l2, the upper u, the
/// workdir w and the mountpoint m. Dropped, nothing is mounted beneath it any more.
struct Stage {
    dir: TempDir,
}

/// What a command said, and how it ended.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    fn fails(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "no {part:?} in {self:?}");
        }
        self
    }
}

impl Stage {
    fn new() -> Self {
        let mode = fs::metadata("/dev/fuse").expect("these tests need /dev/fuse").mode();
        assert_eq!(mode & 0o666, 0o666, "these tests need `chmod 0666 /dev/fuse`");
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let dir = tempfile::Builder::new().prefix("plyfs-cli-").tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        for name in ["l1", "l2", "u", "w", "m"] {
            fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        for name in ["l1/one", "l2/two", "u/three"] {
            fs::write(dir.path().join(name), name).expect("write");
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().expect("the stage").join(name)
    }

    /// A command that starts on the stage, with relative paths.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).stdin(Stdio::null()).env_remove("RUST_LOG");
        command
    }

    /// plyfs with the words of `line`, in which `@` stands for the stage's own path.
    fn plyfs(&self, line: &str) -> Said {
        say(self.command(PLYFS).args(self.words(line)))
    }

    fn words(&self, line: &str) -> Vec<String> {
        let own = self.path("").to_str().expect("UTF-8").trim_end_matches('/').to_owned();
        line.split_whitespace().map(|word| word.replace('@', &own)).collect()
    }

    /// A shell script, `$PLYFS` is the program.
    fn shell(&self, script: &str) -> Said {
        say(self.command("sh").args(["-euc", script]).env("PLYFS", PLYFS))
    }

    /// The same in a mount namespace of its own.
    fn shell_in_namespace(&self, script: &str) -> Said {
        let mut command = self.command("unshare");
        say(command.args(["-m", "sh", "-euc", script]).env("PLYFS", PLYFS))
    }

    /// A daemon in the foreground, ready when this returns.
    fn foreground(&self, line: &str) -> Daemon {
        let child = self
            .command(PLYFS)
            .args(self.words(line))
            .args(["-f", "m"])
            .stderr(Stdio::inherit())
            .spawn()
            .expect("plyfs starts");
        let daemon = Daemon { child: Some(child) };
        until("the mount appears", || self.mounts().len() == 1);
        assert!(self.names_in("m").is_some(), "the mount answers");
        daemon
    }

    /// What a directory lists. By a process of its own: a descriptor of ours would be in every
    /// child that another test just forks, and keep the mount busy.
    fn names_in(&self, name: &str) -> Option<Vec<String>> {
        let said = say(self.command("ls").arg("-A").arg(self.path(name)));
        let names = said.out.lines().map(str::to_owned).collect();
        (said.code == Some(0)).then_some(names)
    }

    /// The lines of the mount table beneath the stage.
    fn mounts(&self) -> Vec<String> {
        let own = format!("{}/", self.path("").display().to_string().trim_end_matches('/'));
        let table = fs::read_to_string("/proc/self/mounts").expect("the mount table");
        let lines =
            table.lines().filter(|line| line.split(' ').nth(1).is_some_and(|at| at.starts_with(&own)));
        lines.map(str::to_owned).collect()
    }

    /// The daemon in the background, by this stage's name on its command line.
    fn daemon(&self) -> Option<Pid> {
        self.daemons().into_iter().next()
    }

    fn daemons(&self) -> Vec<Pid> {
        let own = self.path("").display().to_string();
        let own = own.trim_end_matches('/').as_bytes();
        let processes = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
        let pids = processes.filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let words = fs::read(process.path().join("cmdline")).ok()?;
            words.windows(own.len()).any(|part| part == own).then_some(pid)
        });
        pids.filter_map(Pid::from_raw).collect()
    }

    /// Every file and directory with what a change would change, but for the mounts.
    fn snapshot(&self) -> BTreeMap<PathBuf, (u32, u64, i64)> {
        fn walk(dir: &Path, all: &mut BTreeMap<PathBuf, (u32, u64, i64)>) {
            for entry in fs::read_dir(dir).expect("readable") {
                let path = entry.expect("an entry").path();
                let stat = fs::symlink_metadata(&path).expect("stat");
                all.insert(path.clone(), (stat.mode(), stat.size(), stat.ctime_nsec()));
                if stat.is_dir() {
                    walk(&path, all);
                }
            }
        }
        let mut all = BTreeMap::new();
        walk(self.dir.path(), &mut all);
        all
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for line in self.mounts().iter().rev() {
            let at = line.split(' ').nth(1).unwrap_or_default().replace("\\040", " ");
            if let Err(errno) = rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH) {
                eprintln!("{at} is left mounted: {errno}");
            }
        }
    }
}

/// A daemon in the foreground; dropped, it is killed and waited for.
struct Daemon {
    child: Option<Child>,
}

impl Daemon {
    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a running daemon");
        let pid = Pid::from_child(child);
        rustix::process::kill_process(pid, signal).expect("kill");
    }

    fn is_running(&mut self) -> bool {
        let child = self.child.as_mut().expect("a daemon");
        child.try_wait().expect("wait").is_none()
    }

    fn ends(mut self) -> ExitStatus {
        until("the daemon ends", || !self.is_running());
        let mut child = self.child.take().expect("a daemon");
        child.wait().expect("wait")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs a command to its end, and until nobody holds its stdout and stderr any more.
fn say(command: &mut Command) -> Said {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let pid = Pid::from_child(&child);
    let read = |mut pipe: Box<dyn Read + Send>| {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            pipe.read_to_end(&mut text).expect("a readable pipe");
            sender.send(String::from_utf8_lossy(&text).into_owned()).ok();
        });
        receiver
    };
    let out = read(Box::new(child.stdout.take().expect("stdout")));
    let err = read(Box::new(child.stderr.take().expect("stderr")));
    let finished = out.recv_timeout(DEADLINE).and_then(|out| Ok((out, err.recv_timeout(DEADLINE)?)));
    let Ok((out, err)) = finished else {
        rustix::process::kill_process_group(pid, Signal::KILL).ok();
        panic!("{command:?} does not end, or somebody keeps its output open");
    };
    Said { code: child.wait().expect("wait").code(), out, err }
}

#[test]
fn everybodys_lines_mount() {
    let all = ["one", "three", "two"];
    for (line, source, names) in [
        ("-o lowerdir=l1:l2,upperdir=u,workdir=w m", "plyfs", &all[..]),
        ("none m -o lowerdir=l1:l2 -o upperdir=u -oworkdir=w", "none", &all),
        ("-o lowerdir=l1 src -oupperdir=u,workdir=w,rw,dev,suid m", "src", &["one", "three"]),
        ("-o dirs=./u:./l2:./l1 none ./m", "none", &all),
        ("-o br:u=rw:l2=ro:l1=rr none m", "none", &all),
        ("-o dirs=l2=ro:l1 m", "plyfs", &["one", "two"]),
        ("mount --lower l1 --lower l2 --upper u --work w m", "plyfs", &all),
        ("mount -o lowerdir=l1,fsname=x -v m", "x", &["one"]),
        ("-s m -o lowerdir+=l1,lowerdir+=l2", "plyfs", &["one", "two"]),
        ("-o lowerdir=m/../l1:@/l2 m", "plyfs", &["one", "two"]),
    ] {
        let stage = Stage::new();
        let said = stage.plyfs(line).succeeds();
        assert_eq!(said.out, "", "{line}");
        assert_eq!(stage.names_in("m").expect(line), names, "{line}");
        let mounts = stage.mounts();
        let start = format!("{source} {} fuse.plyfs ", stage.path("m").display());
        assert!(mounts.len() == 1 && mounts[0].starts_with(&start), "{line}: {mounts:?}");
        stage.plyfs("umount m").succeeds();
        assert!(stage.mounts().is_empty(), "{line}");
    }
}

#[test]
fn mount_finds_us_as_a_helper() {
    let stage = Stage::new();
    let bin = Path::new(PLYFS).parent().expect("a directory");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
    let script = "mount.fuse3 none m -t plyfs -o lowerdir=l1,upperdir=u,workdir=w,rw,noatime";
    say(stage.command("sh").args(["-euc", script]).env("PATH", path)).succeeds();
    assert_eq!(stage.names_in("m").expect("a mount"), ["one", "three"]);
    assert!(stage.mounts()[0].contains(" fuse.plyfs rw,noatime,"), "{:?}", stage.mounts());
    stage.shell("umount m").succeeds();
}

#[test]
fn the_mount_table_says_what_was_asked_for() {
    for (options, flags) in [
        ("upperdir=u", "rw,relatime,user_id=0,group_id=0,default_permissions,allow_other 0 0"),
        ("ro,upperdir=u", "ro,relatime,user_id=0,"),
        ("rw", "ro,relatime,"),
        ("upperdir=u,nosuid,nodev,noexec,noatime", "rw,nosuid,nodev,noexec,noatime,"),
    ] {
        let stage = Stage::new();
        stage.plyfs(&format!("m -o lowerdir=l1,{options}")).succeeds();
        let mounts = stage.mounts();
        let options = mounts[0].splitn(4, ' ').nth(3).expect("options");
        assert!(options.starts_with(flags), "{options}");
    }
}

#[test]
fn the_mount_can_say_which_messages_it_has_had() {
    let stage = Stage::new();
    stage.plyfs("-o lowerdir=l1,upperdir=u,workdir=w m").succeeds();
    let said = || stage.plyfs("stats m").succeeds().out;
    let count = |kind: &str| -> u64 {
        let text = said();
        let found = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
        found.map_or(0, |count| count.parse().expect("a number"))
    };
    assert_eq!(count("MKDIR"), 0);
    std::fs::create_dir(stage.path("m/new")).unwrap();
    assert_eq!(count("MKDIR"), 1);
    let lookups = count("LOOKUP");
    assert!(stage.path("m/new").is_dir());
    assert_eq!(count("LOOKUP"), lookups, "what the kernel knows it does not ask for");
    let text = said();
    assert!(text.lines().all(|line| line.split(' ').count() == 2), "{text}");
    stage.plyfs("umount m").succeeds();
    stage.plyfs("stats m").fails(3, &["m is not the mountpoint of a plyfs"]);
}

#[test]
fn the_mount_can_say_its_branches() {
    let list = |stage: &Stage, names: &[&str]| -> String {
        names
            .iter()
            .map(|name| format!("{}/{name}\n", stage.path("").display().to_string().trim_end_matches('/')))
            .collect()
    };
    for (line, names) in [
        ("-o dirs=./u:./l2:./l1 none ./m", &["u=rw", "l2=ro", "l1=ro"][..]),
        ("-o lowerdir=l1:l2,upperdir=u,ro m", &["u=ro", "l1=ro", "l2=ro"]),
        ("-o lowerdir=l1 m", &["l1=ro"]),
    ] {
        let stage = Stage::new();
        let verbose = stage.plyfs(&format!("-v {line}")).succeeds();
        assert_eq!(stage.plyfs("branches m").succeeds().out, list(&stage, names), "{line}");
        for name in names {
            assert!(verbose.err.contains(&format!("/{name}\n")), "{verbose:?}");
        }
    }
    let stage = Stage::new();
    stage.plyfs("branches m").fails(3, &["m is not the mountpoint of a plyfs"]);
    stage.plyfs("branches /proc").fails(3, &["/proc is not the mountpoint"]);
    stage.plyfs("branches nowhere").fails(3, &["nowhere is not the mountpoint"]);
}

#[test]
fn wrong_lines() {
    let stage = Stage::new();
    let before = stage.snapshot();
    for (line, code, parts) in [
        ("", 2, &["Usage:"][..]),
        ("mount", 2, &["Usage:"]),
        ("m", 2, &["no branches", "lowerdir="]),
        ("m -o", 2, &["-o"]),
        ("a b m -o lowerdir=l1", 2, &["m"]),
        ("--bogus m", 2, &["--bogus"]),
        ("m -o lowerdir=l1,allow_root", 2, &["allow_root", "use allow_other"]),
        ("m -o dirs=u:l1=rw", 2, &["l1=rw is not the first branch"]),
        ("m -o dirs=u=wo", 2, &["unknown permission `wo` of branch u"]),
        ("m -o lowerdir=l1,threads=0", 2, &["threads=0"]),
        ("m -o lowerdir=l1,uidmapping=1:2", 2, &["uidmapping", "on-disk:shown:length"]),
        ("umount", 2, &["MOUNTPOINT"]),
    ] {
        let said = stage.plyfs(line).fails(code, parts);
        assert_eq!(said.out, "", "{line}");
    }
    assert_eq!(stage.snapshot(), before);
    assert!(stage.mounts().is_empty());
    for line in ["--help", "-h", "--version", "help", "mount --help", "umount -h"] {
        let said = stage.plyfs(line).succeeds();
        assert!(said.out.contains("plyfs") && said.err.is_empty(), "{line}: {said:?}");
    }
    assert!(stage.plyfs("--help").out.contains("Exit codes:"));
}

#[test]
fn directories_that_make_no_union() {
    let stage = Stage::new();
    for name in ["l1/in", "u/in", "w/in", "m/in"] {
        fs::create_dir(stage.path(name)).expect("mkdir");
    }
    symlink("l1", stage.path("link")).expect("symlink");
    symlink("u/in", stage.path("deep")).expect("symlink");
    let before = stage.snapshot();
    for (line, parts) in [
        ("m -o lowerdir=no", &["lower no does not exist", "mkdir"][..]),
        ("m -o lowerdir=l1,upperdir=no", &["upper no does not exist"]),
        ("m -o lowerdir=l1,upperdir=u,workdir=no", &["workdir no does not exist"]),
        ("m -o lowerdir=l1/one", &["lower l1/one is not a directory"]),
        ("m -o lowerdir=l1,upperdir=u/three", &["upper u/three is not a directory"]),
        ("m -o lowerdir=l1:l2:l1", &["lower @/l1 and lower @/l1 are the same"]),
        ("m -o lowerdir=l1:link", &["@/l1 are the same directory"]),
        ("m -o lowerdir=l1,upperdir=link,workdir=w", &["upper @/l1 and lower @/l1 are the same"]),
        ("m -o lowerdir=l1,upperdir=u,workdir=u", &["upper @/u and workdir @/u are the same"]),
        ("m -o lowerdir=l1,upperdir=u,workdir=l1", &["workdir @/l1 and lower @/l1 are the same"]),
        ("m -o lowerdir=l1:l1/in", &["lower @/l1/in is inside lower @/l1"]),
        ("m -o lowerdir=l1/in:l2:l1", &["lower @/l1/in is inside lower @/l1"]),
        ("m -o lowerdir=l1,upperdir=l1/in,workdir=w", &["upper @/l1/in is inside lower @/l1"]),
        ("m -o lowerdir=deep,upperdir=u,workdir=w", &["lower @/u/in is inside upper @/u"]),
        ("m -o lowerdir=l1,upperdir=u,workdir=u/in", &["workdir @/u/in is inside upper @/u"]),
        ("m -o lowerdir=l1,upperdir=w/in,workdir=w", &["upper @/w/in is inside workdir @/w"]),
        ("m -o lowerdir=l1,upperdir=u,workdir=l1/in", &["workdir @/l1/in is inside lower @/l1"]),
        ("m -o lowerdir=w/in,upperdir=u,workdir=w", &["lower @/w/in is inside workdir @/w"]),
        ("m -o lowerdir=.:l1", &["lower @/l1 is inside lower @"]),
        ("m -o dirs=u/in:u", &["upper @/u/in is inside lower @/u"]),
        ("l1/in -o lowerdir=l1", &["mountpoint @/l1/in is inside lower @/l1", "somewhere else"]),
        ("u/in -o lowerdir=l1,upperdir=u", &["mountpoint @/u/in is inside upper @/u"]),
        ("w/in -o lowerdir=l1,upperdir=u,workdir=w", &["@/w/in is inside workdir @/w"]),
        ("deep -o lowerdir=u", &["mountpoint @/u/in is inside lower @/u"]),
        ("no -o lowerdir=l1", &["mountpoint no does not exist"]),
        ("l2/two -o lowerdir=l1", &["mountpoint l2/two is not a directory"]),
    ] {
        let parts = parts.iter().flat_map(|part| stage.words(&part.replace(' ', "\u{a0}")));
        let parts: Vec<String> = parts.map(|part| part.replace('\u{a0}', " ")).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let said = stage.plyfs(line).fails(3, &parts);
        assert!(said.err.starts_with("plyfs: "), "{line}: {said:?}");
        assert_eq!(said.err.lines().count(), 1, "{line}: {said:?}");
        assert_eq!(stage.snapshot(), before, "{line}");
        assert!(stage.mounts().is_empty(), "{line}");
    }
}

#[test]
fn the_words_of_a_message_survive_the_background() {
    let stage = Stage::new();
    let line = "m -o lowerdir=no,bogus=1";
    let background = stage.plyfs(line).fails(3, &["warning: unknown option bogus=1 ignored\n"]);
    let foreground = stage.plyfs(&format!("-f {line}")).fails(3, &[]);
    assert_eq!(background.err, foreground.err);
}

#[test]
fn an_unknown_option_is_only_a_warning() {
    let stage = Stage::new();
    let said = stage.plyfs("m -o lowerdir=l1,bogus").succeeds();
    assert_eq!(said.err, "plyfs: warning: unknown option bogus ignored\n");
    let stage = Stage::new();
    let known = "xino=off,index=off,metacopy=on,cow,udba=none,auto_unmount,x-systemd.automount";
    let said = stage.plyfs(&format!("none m -o lowerdir=l1,{known}")).succeeds();
    assert_eq!(said.err, "");
}

#[test]
fn disks_that_do_not_fit() {
    for (script, code, part) in [
        (
            "mount --bind -o ro u u; $PLYFS m -o lowerdir=l1,upperdir=u,workdir=w",
            3,
            "u is on a read-only filesystem: mount with -o ro",
        ),
        ("mount --bind -o ro u u; $PLYFS m -o lowerdir=l1,upperdir=u,ro; umount m", 0, ""),
        (
            "mount -t tmpfs none w; $PLYFS m -o lowerdir=l1,upperdir=u,workdir=w",
            3,
            "are not on the same mounted filesystem",
        ),
        (
            "mount --bind w w; $PLYFS m -o lowerdir=l1,upperdir=u,workdir=w",
            3,
            "are not on the same mounted filesystem",
        ),
        (
            "mount -t tmpfs none u; $PLYFS m -o lowerdir=l1,upperdir=u",
            3,
            "it is the root of a mounted filesystem): give workdir=DIR",
        ),
        (
            "mkdir -m 0777 .u.plyfs-work; $PLYFS m -o lowerdir=l1,upperdir=u",
            3,
            "others can write to .u.plyfs-work): give workdir=DIR",
        ),
        ("mount -t tmpfs none /dev; $PLYFS -f m -o lowerdir=l1", 5, "modprobe fuse"),
        ("mount --bind l1 m; $PLYFS l2 -o lowerdir=l1:m", 3, "are the same directory"),
    ] {
        let said = Stage::new().shell_in_namespace(script);
        assert_eq!(said.code, Some(code), "{script}: {said:?}");
        assert!(said.err.contains(part), "{script}: {said:?}");
    }
}

#[test]
fn a_workdir_is_made_where_none_is_given() {
    let stage = Stage::new();
    for _ in ["made", "found again"] {
        stage.plyfs("-o dirs=u:l1 none m").succeeds();
        let work = fs::metadata(stage.path(".u.plyfs-work")).expect("a default workdir");
        assert_eq!(work.mode() & 0o7777, 0o700);
        stage.plyfs("umount m").succeeds();
    }
    assert_eq!(stage.names_in("u").expect("the upper"), ["three"]);
}

#[test]
fn a_live_upper_or_workdir_serves_one_mount_only() {
    let stage = Stage::new();
    for name in ["m2", "u2", "w2"] {
        fs::create_dir(stage.path(name)).expect("mkdir");
    }
    stage.plyfs("m -o lowerdir=l1,upperdir=u,workdir=w").succeeds();
    let in_use = |dir: &str| format!("{} is in use by another mount", stage.path(dir).display());
    for (line, part) in [
        ("m2 -o lowerdir=l1,upperdir=u,workdir=w2", in_use("u")),
        ("m2 -o lowerdir=l1,upperdir=u2,workdir=w", in_use("w")),
        ("m2 -o lowerdir=l1,upperdir=u", in_use("u")),
        ("m2 -o lowerdir=l1,upperdir=u,ro", in_use("u")),
    ] {
        stage.plyfs(line).fails(4, &[&part]);
    }
    assert!(!stage.path(".u.plyfs-work").exists(), "a failed mount makes no workdir");
    stage.plyfs("m2 -o lowerdir=l1,upperdir=u2,workdir=w2").succeeds();
    for at in ["m", "m2"] {
        stage.plyfs(&format!("umount {at}")).succeeds();
    }
    stage.plyfs("m2 -o lowerdir=l1,upperdir=u,workdir=w").succeeds();
}

#[test]
fn a_mount_may_cover_its_own_branch() {
    for (line, names) in [
        ("l1 -o lowerdir=l1:l2", &["one", "two"][..]),
        ("u -o lowerdir=l1,upperdir=u,workdir=w", &["one", "three"]),
    ] {
        let stage = Stage::new();
        stage.plyfs(line).succeeds();
        let at = line.split(' ').next().expect("a mountpoint");
        assert_eq!(stage.names_in(at).expect("a mount"), names, "{line}");
        stage.plyfs(&format!("umount {at}")).succeeds();
    }
}

#[test]
fn names_that_need_escapes() {
    let stage = Stage::new();
    for (from, to) in [("l1", "l:1"), ("l2", "l,2"), ("u", r"u\x"), ("m", "m p\\")] {
        fs::rename(stage.path(from), stage.path(to)).expect("rename");
    }
    let options = r"lowerdir=l\:1:l\,2,upperdir=u\\x,workdir=w,fsname=a b\,c";
    say(stage.command(PLYFS).args(["-o", options, "m p\\"])).succeeds();
    assert_eq!(stage.names_in("m p\\").expect("a mount"), ["one", "three", "two"]);
    assert!(stage.mounts()[0].starts_with("a\\040b,c "), "{:?}", stage.mounts());
    say(stage.command(PLYFS).args(["umount", "m p\\"])).succeeds();
    assert!(stage.mounts().is_empty());
}

#[test]
fn paths_are_the_kernels() {
    let stage = Stage::new();
    fs::create_dir_all(stage.path("far/away")).expect("mkdir");
    symlink("far/away", stage.path("s")).expect("symlink");
    fs::rename(stage.path("l1"), stage.path("far/l1")).expect("rename");
    // As text, s/../l1 would be l1, which is not there.
    stage.plyfs("m -o lowerdir=s/../l1").succeeds();
    assert_eq!(stage.names_in("m").expect("a mount"), ["one"]);
    let list = stage.plyfs("branches m").succeeds().out;
    assert_eq!(list, format!("{}=ro\n", stage.path("far/l1").display()));
}

#[test]
fn six_hundred_lowers_under_a_low_limit() {
    let stage = Stage::new();
    let mut list = String::from("lowerdir=l1");
    for number in 0..600 {
        fs::create_dir(stage.path(&format!("n{number}"))).expect("mkdir");
        list += &format!(":n{number}");
    }
    let line = format!("prlimit --nofile=256:4096 $PLYFS m -o {list}");
    stage.shell(&line).succeeds();
    assert_eq!(stage.plyfs("branches m").succeeds().out.lines().count(), 601);
}

#[test]
fn the_daemon_keeps_nothing_of_its_caller() {
    let stage = Stage::new();
    // The command substitution ends only when nobody holds its pipe.
    let said = stage.shell("x=$($PLYFS $PWD/m -o lowerdir=l1 2>&1); echo \"[$x]\"").succeeds();
    assert_eq!(said.out, "[]\n");
    let daemon = stage.daemon().expect("a daemon");
    let proc = PathBuf::from(format!("/proc/{}", daemon.as_raw_nonzero()));
    for fd in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(fs::read_link(proc.join(fd)).expect(fd), Path::new("/dev/null"));
    }
    assert_eq!(fs::read_link(proc.join("cwd")).expect("cwd"), Path::new("/"));
    assert_eq!(fs::read_to_string(proc.join("comm")).expect("comm"), "plyfs\n");
    let stat = fs::read_to_string(proc.join("stat")).expect("stat");
    let session = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(3));
    assert_eq!(session, Some(daemon.as_raw_nonzero().to_string().as_str()));
    stage.plyfs("umount m").succeeds();
    until("the daemon ends", || stage.daemon().is_none());
}

#[test]
fn signals_unmount_cleanly() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let stage = Stage::new();
        let daemon = stage.foreground("-o lowerdir=l1,upperdir=u,workdir=w");
        daemon.signal(signal);
        assert_eq!(daemon.ends().code(), Some(0), "{signal:?}");
        assert!(stage.mounts().is_empty(), "{signal:?}");
        assert!(stage.names_in("m").expect("an ordinary directory").is_empty());
    }
    let stage = Stage::new();
    stage.plyfs("@/m -o lowerdir=l1").succeeds();
    rustix::process::kill_process(stage.daemon().expect("a daemon"), Signal::TERM).expect("kill");
    until("the daemon ends", || stage.daemon().is_none());
    assert!(stage.mounts().is_empty());
}

#[test]
fn a_signal_waits_for_the_last_user() {
    let stage = Stage::new();
    let mut daemon = stage.foreground("-o lowerdir=l1,upperdir=u,workdir=w");
    let user = rustix::fs::open(
        stage.path("m"),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .expect("open");
    daemon.signal(Signal::TERM);
    until("the mount vanishes", || stage.mounts().is_empty());
    assert!(daemon.is_running());
    assert!(rustix::fs::Dir::read_from(&user).expect("a listing").count() > 0);
    assert!(daemon.is_running());
    drop(user);
    assert_eq!(daemon.ends().code(), Some(0));
}

#[test]
fn a_second_signal_waits_for_nobody() {
    let stage = Stage::new();
    let daemon = stage.foreground("-o lowerdir=l1,upperdir=u,workdir=w");
    let user = fs::File::open(stage.path("m")).expect("open");
    daemon.signal(Signal::TERM);
    until("the mount vanishes", || stage.mounts().is_empty());
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ends().code(), Some(0));
    drop(user);
}

#[test]
fn the_daemon_ends_with_its_mount() {
    for script in ["umount m", "umount -l m", "fusermount3 -u m", "$PLYFS umount m"] {
        let stage = Stage::new();
        let daemon = stage.foreground("-o lowerdir=l1,upperdir=u,workdir=w");
        stage.shell(script).succeeds();
        assert_eq!(daemon.ends().code(), Some(0), "{script}");
        assert!(stage.mounts().is_empty(), "{script}");
    }
}

/// A daemon that unmounts its path when it ends takes its successor's mount away.
#[test]
fn a_successors_mount_survives() {
    // With an upper, its lock lets one daemon wait for the other; without, they race.
    for options in ["lowerdir=l1:l2", "lowerdir=l1:l2,upperdir=u,workdir=w"] {
        let stage = Stage::new();
        let line = format!("@/m -o {options}");
        for cycle in 0..120 {
            stage.plyfs(&line).succeeds();
            assert_eq!(stage.mounts().len(), 1, "cycle {cycle}");
            let flags = rustix::mount::UnmountFlags::empty();
            rustix::mount::unmount(stage.path("m"), flags)
                .unwrap_or_else(|errno| panic!("cycle {cycle}: {errno}"));
        }
        stage.plyfs(&line).succeeds();
        until("the last daemon is alone", || stage.daemons().len() == 1);
        let names = stage.names_in("m").expect("the last mount");
        assert!(names.contains(&"two".to_owned()), "{names:?}");
    }
}

#[test]
fn a_signal_does_not_take_a_successors_mount_away() {
    let stage = Stage::new();
    let daemon = stage.foreground("-o lowerdir=l1");
    let user = fs::File::open(stage.path("m")).expect("open");
    stage.shell("umount -l m").succeeds();
    stage.plyfs("m -o lowerdir=l2").succeeds();
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::INT);
    assert_eq!(daemon.ends().code(), Some(0));
    drop(user);
    assert_eq!(stage.names_in("m").expect("the successor"), ["two"]);
}

/// `umount -f` cuts the connection even if it then finds the mount in use.
#[test]
fn a_cut_connection_leaves_no_dead_mount() {
    let stage = Stage::new();
    let daemon = stage.foreground("-o lowerdir=l1,upperdir=u,workdir=w");
    let user = fs::File::open(stage.path("m")).expect("open");
    let force = rustix::mount::UnmountFlags::FORCE;
    // Busy, or gone already, if the daemon was faster.
    rustix::mount::unmount(stage.path("m"), force).expect_err("the mount is in use");
    assert_eq!(daemon.ends().code(), Some(0));
    assert!(stage.mounts().is_empty());
    drop(user);
}

#[test]
fn a_caller_that_cannot_be_told_has_no_mount() {
    let stage = Stage::new();
    let full = fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let mut child = stage
        .command(PLYFS)
        .args(["m", "-o", "lowerdir=l1"])
        .env("PLYFS_BACKGROUND_PARENT", std::process::id().to_string())
        .stdout(full)
        .stderr(Stdio::null())
        .spawn()
        .expect("plyfs starts");
    assert_eq!(child.wait().expect("wait").code(), Some(1));
    assert!(stage.mounts().is_empty());
}

#[test]
fn an_inherited_variable_makes_nobody_the_daemon() {
    let stage = Stage::new();
    stage.shell("PLYFS_BACKGROUND_PARENT=1 $PLYFS m -o lowerdir=l1").succeeds();
    stage.plyfs("umount m").succeeds();
}

#[test]
fn two_signals_at_once_end_cleanly() {
    let stage = Stage::new();
    let daemon = stage.foreground("-o lowerdir=l1,upperdir=u,workdir=w");
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::HUP);
    assert_eq!(daemon.ends().code(), Some(0));
    assert!(stage.mounts().is_empty());
}

#[test]
fn unmounting_what_is_in_use() {
    let stage = Stage::new();
    let daemon = stage.foreground("-o lowerdir=l1,upperdir=u,workdir=w");
    let user = fs::File::open(stage.path("m")).expect("open");
    stage.plyfs("umount m").fails(4, &["m is in use", "--lazy"]);
    assert_eq!(stage.mounts().len(), 1);
    stage.plyfs("umount --lazy m").succeeds();
    assert!(stage.mounts().is_empty());
    drop(user);
    assert_eq!(daemon.ends().code(), Some(0));
    stage.plyfs("umount m").fails(3, &["m is not the mountpoint of a plyfs"]);
    stage.plyfs("umount /proc").fails(3, &["/proc is not the mountpoint of a plyfs"]);
}

#[test]
fn unmounting_waits_for_the_daemon() {
    let stage = Stage::new();
    for _ in 0..20 {
        stage.plyfs("m -o lowerdir=l1,upperdir=u,workdir=w").succeeds();
        stage.plyfs("umount m").succeeds();
        let upper = fs::File::open(stage.path("u")).expect("open");
        rustix::fs::flock(&upper, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .expect("the upper is free");
    }
}

#[test]
fn a_dead_mount_can_be_removed() {
    let stage = Stage::new();
    let daemon = stage.foreground("-o lowerdir=l1");
    daemon.signal(Signal::KILL);
    assert_eq!(daemon.ends().code(), None);
    let path = stage.path("m");
    let advice = format!("plyfs umount {}", path.display());
    stage.plyfs("@/m -o lowerdir=l1").fails(3, &["dead mount", &advice]);
    stage.plyfs("umount m").succeeds();
    stage.plyfs("m -o lowerdir=l1").succeeds();
}

#[test]
fn root_of_a_user_namespace() {
    let stage = Stage::new();
    let script = "$PLYFS m -o lowerdir=l1,upperdir=u,workdir=w; ls m; grep fuse.plyfs /proc/self/mounts; $PLYFS umount m";
    let mut command = stage.command("unshare");
    let said = say(command.args(["-Urm", "sh", "-euc", script]).env("PLYFS", PLYFS)).succeeds();
    assert!(said.out.starts_with("one\nthree\n"), "{said:?}");
    assert!(said.out.contains("user_id=0,group_id=0,default_permissions,allow_other"), "{said:?}");
}

/// The stage belongs to nobody, and so does a copy of the program: ours may lie in a directory
/// that is not everybody's.
fn as_nobody(script: &str) -> (Stage, Said) {
    let stage = Stage::new();
    // By a process of its own: our descriptor, inherited by a fork, would make the text busy.
    say(stage.command("cp").args([PLYFS, "plyfs"])).succeeds();
    for name in ["", "l1", "l2", "u", "w", "m", "u/three"] {
        std::os::unix::fs::chown(stage.path(name), Some(65534), Some(65534)).expect("chown");
    }
    let mut command = stage.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-euc", script]);
    let said = say(command.env("PLYFS", stage.path("plyfs")));
    (stage, said)
}

#[test]
fn an_ordinary_user() {
    let (stage, said) = as_nobody("$PLYFS none m -o lowerdir=l1,upperdir=u,workdir=w,noatime; ls m");
    assert_eq!(said.succeeds().out, "one\nthree\n");
    let mounts = stage.mounts();
    assert!(mounts[0].starts_with("none "), "{mounts:?}");
    assert!(mounts[0].contains(" fuse.plyfs rw,nosuid,nodev,noatime,user_id=65534,"), "{mounts:?}");
    assert!(mounts[0].contains(",default_permissions") && !mounts[0].contains("allow_other"));
    // Root may not look in, but it may unmount.
    stage.plyfs("umount m").succeeds();
    assert!(stage.mounts().is_empty());
}

#[test]
fn an_ordinary_user_unmounts() {
    let mount = "$PLYFS $PWD/m -o lowerdir=l1,upperdir=u,workdir=w";
    let (stage, said) = as_nobody(&format!("{mount}; $PLYFS umount m"));
    said.succeeds();
    assert!(stage.mounts().is_empty());

    let (stage, said) = as_nobody(&format!("{mount}; cd m; ! $PLYFS umount ../m; $PLYFS umount -z ../m"));
    said.succeeds().fails(0, &["is in use", "--lazy"]);
    assert!(stage.mounts().is_empty());

    let (stage, said) = as_nobody(mount);
    said.succeeds();
    rustix::process::kill_process(stage.daemon().expect("a daemon"), Signal::TERM).expect("kill");
    until("the daemon ends", || stage.daemon().is_none());
    assert!(stage.mounts().is_empty());
}

#[test]
fn what_an_ordinary_user_may_not() {
    for (script, code, parts) in [
        ("chmod 0 l1; $PLYFS m -o lowerdir=l1", 3, &["l1 cannot be read", "permission"][..]),
        ("chmod 0500 u; $PLYFS m -o lowerdir=l1,upperdir=u,workdir=w", 3, &["u cannot be written"]),
        ("chmod 0500 .; $PLYFS m -o lowerdir=l1,upperdir=u", 3, &["give workdir=DIR"]),
        ("chmod 0500 m; $PLYFS m -o lowerdir=l1", 5, &["fusermount3 refuses", "write access"]),
        ("PATH=/nowhere; $PLYFS m -o lowerdir=l1", 5, &["install the package fuse3"]),
    ] {
        let (stage, said) = as_nobody(script);
        said.fails(code, parts);
        assert!(stage.mounts().is_empty(), "{script}");
    }
    let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if !conf.lines().any(|line| line.trim() == "user_allow_other") {
        let (_stage, said) = as_nobody("$PLYFS m -o lowerdir=l1,allow_other");
        said.fails(5, &["user_allow_other", "/etc/fuse.conf"]);
    }
}

/// A union keeps the names of whiteouts to itself, so another one in it could delete nothing.
#[test]
fn an_upper_inside_a_union_is_refused_before_anything_is_written() {
    let stage = Stage::new();
    fs::create_dir(stage.path("m2")).expect("mkdir");
    stage.plyfs("m -o lowerdir=l2,upperdir=u,workdir=w").succeeds();
    for name in ["m/up", "m/work"] {
        fs::create_dir(stage.path(name)).expect("mkdir");
    }
    stage.plyfs("m2 -o lowerdir=l1,upperdir=m/up,workdir=m/work").fails(3, &["a union itself"]);
    for name in ["m/up", "m/work"] {
        assert_eq!(stage.names_in(name), Some(Vec::new()), "{name}");
    }
    stage.plyfs("umount m").succeeds();
}

#[test]
fn bench_measures_and_leaves_nothing() {
    let stage = Stage::new();
    let before = stage.snapshot();
    let said = stage.plyfs("bench --max-size 64KiB --json out.json --svg out.svg l1").succeeds();
    for row in ["4 KiB ", "16 KiB ", "64 KiB "] {
        assert_eq!(said.out.lines().filter(|line| line.starts_with(row)).count(), 1, "{said:?}");
    }
    assert_eq!(said.err, "");
    let json = fs::read_to_string(stage.path("out.json")).expect("JSON");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let sizes: Vec<_> =
        json["sizes"].as_array().expect("sizes").iter().map(|at| at["size"].as_u64()).collect();
    assert_eq!(sizes, [Some(4096), Some(16384), Some(65536)]);
    for write in ["first", "second"] {
        let time = &json["sizes"][2]["volatile"][write];
        let [least, median, most] = ["least", "median", "most"].map(|name| time[name].as_f64().expect(name));
        assert!(0.0 < least && least <= median && median <= most, "{time}");
        assert!(time["runs"].as_u64() > Some(2), "{time}");
    }
    assert!(json["reflink"].is_boolean() && json["skipped"].as_array().is_some_and(Vec::is_empty));
    assert!(fs::read_to_string(stage.path("out.svg")).expect("SVG").contains("first write, volatile"));
    for name in ["out.json", "out.svg"] {
        fs::remove_file(stage.path(name)).expect("rm");
    }
    assert_eq!(stage.snapshot().keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert!(stage.mounts().is_empty() && stage.daemons().is_empty());
}

#[test]
fn bench_says_what_is_wrong_before_it_measures() {
    let stage = Stage::new();
    for (line, code, parts) in [
        ("bench no", 3, &["no does not exist", "mkdir"][..]),
        ("bench l1/one", 3, &["l1/one is not a directory"]),
        ("bench --max-size 64Q", 2, &["`64Q` is not a size", "64KiB"]),
        ("bench --max-size 1KiB", 2, &["1 KiB is less", "4 KiB or more"]),
        ("bench --json no/out l1", 3, &["no/out cannot be written"]),
        ("bench --svg l2 l1", 3, &["l2 cannot be written"]),
        ("bench a b", 2, &["unexpected argument"]),
    ] {
        let said = stage.plyfs(line).fails(code, parts);
        assert_eq!(said.out, "", "{line}");
    }
    let (stage, said) = as_nobody("chmod 0500 u; $PLYFS bench u");
    said.fails(3, &["no temporary folder can be made in u", "may write"]);
    assert!(stage.mounts().is_empty());
}

#[test]
fn bench_is_for_ordinary_users_too() {
    let (stage, said) =
        as_nobody("$PLYFS bench --max-size 4k u && ls -A u && ! PATH=/nowhere $PLYFS bench u");
    let said = said.succeeds();
    assert!(said.out.contains("4 KiB") && said.out.ends_with("\nthree\n"), "{said:?}");
    said.fails(0, &["could not be mounted", "install the package fuse3"]);
    assert!(stage.mounts().is_empty());
}

#[test]
fn an_interrupted_bench_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM] {
        let stage = Stage::new();
        let mut command = stage.command(PLYFS);
        let child = command.args(["bench", "u"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let bench = Daemon { child: Some(child.expect("plyfs starts")) };
        until("two mounts appear", || stage.mounts().len() == 2);
        bench.signal(signal);
        assert_eq!(bench.ends().code(), Some(1), "{signal:?}");
        assert_eq!(stage.names_in("u"), Some(vec!["three".to_owned()]), "{signal:?}");
        assert!(stage.mounts().is_empty(), "{signal:?}");
    }
}
