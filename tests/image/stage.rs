//! Where do the tests play, and how does an image come about?

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// No names.
pub(crate) const NONE: [&str; 0] = [];

pub(crate) const PLYFS: &str = env!("CARGO_BIN_EXE_plyfs");

/// A directory of its own with a mountpoint m and the image nginx.tar, as `docker save` writes it: two layers, in
/// which many own something. Dropped, nothing is mounted beneath it any more.
pub(crate) struct Stage {
    dir: TempDir,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    pub(crate) fn fails(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "no {part:?} in {self:?}");
        }
        assert!(!self.err.contains("panicked"), "{self:?}");
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Stage {
    pub(crate) fn new() -> Self {
        let mode = fs::metadata("/dev/fuse").expect("these tests need /dev/fuse").mode();
        assert_eq!(mode & 0o666, 0o666, "these tests need `chmod 0666 /dev/fuse`");
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let dir = tempfile::Builder::new().prefix("plyfs-image-").tempdir().expect("a directory");
        let stage = Self { dir };
        stage.shell(
            r#"
            mkdir -p m system/etc system/dir nginx/etc/nginx nginx/cache
            echo root > system/etc/passwd; echo low > system/dir/low; ln system/dir/low system/dir/other
            ln -s ../dir system/etc/link; chown -h 7:8 system/etc/link
            echo "listen 80;" > nginx/etc/nginx/conf; printf '#!/bin/sh\n' > nginx/docker-entrypoint.sh
            chmod 4755 nginx/docker-entrypoint.sh; chown -R 101:102 nginx/cache; touch nginx/.wh.gone
            "#,
        );
        let layers = [stage.pack("system"), stage.pack("nginx")];
        stage.save("nginx.tar", "nginx:1", &layers, |_| {});
        stage
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().expect("the stage").join(name)
    }

    /// Packs a folder as NAME.layer, and answers its diffID.
    pub(crate) fn pack(&self, name: &str) -> (String, String) {
        let file = format!("{name}.layer");
        let said = self.plyfs(&format!("layer pack {name} -o {file} --json")).succeeds();
        (file, said.json()["diffID"].as_str().expect("a diffID").to_owned())
    }

    /// Writes an image as `docker save` does; `twist` may spoil it.
    pub(crate) fn save(
        &self,
        file: &str,
        name: &str,
        layers: &[(String, String)],
        twist: impl FnOnce(&mut Value),
    ) {
        let step =
            |(file, _): &(String, String)| json!({ "created": "2024-10-03T00:00:00Z", "created_by": file });
        let mut image = json!({
            "config.json": {
                "architecture": "amd64",
                "os": "linux",
                "created": "2024-10-03T00:00:00Z",
                "config": { "Cmd": ["nginx"], "SomethingNew": { "kept": true } },
                "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|(_, id)| id).collect::<Vec<_>>() },
                "history": layers.iter().map(step).collect::<Vec<_>>(),
            },
            "manifest.json": [{
                "Config": "config.json",
                "RepoTags": [name],
                "Layers": layers.iter().map(|(file, _)| file).collect::<Vec<_>>(),
            }],
        });
        twist(&mut image);
        for name in ["config.json", "manifest.json"] {
            fs::write(self.path(name), image[name].to_string()).expect("write");
        }
        let members: Vec<&str> = layers.iter().map(|(file, _)| &**file).collect();
        self.shell(&format!("tar cf {file} {} config.json manifest.json", members.join(" ")));
    }

    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).stdin(Stdio::null()).env_remove("RUST_LOG");
        command.env_remove("SOURCE_DATE_EPOCH").env("XDG_DATA_HOME", self.path("data"));
        command
    }

    /// plyfs with these words.
    pub(crate) fn plyfs(&self, line: &str) -> Said {
        say(self.command(PLYFS).args(line.split_whitespace()))
    }

    /// `plyfs image` with these words.
    pub(crate) fn image(&self, line: &str) -> Said {
        self.plyfs(&format!("image {line}"))
    }

    /// A shell script that succeeds, `$PLYFS` is the program.
    pub(crate) fn shell(&self, script: &str) -> Said {
        say(self.command("sh").args(["-euc", script]).env("PLYFS", PLYFS)).succeeds()
    }

    /// The names of all images.
    pub(crate) fn names(&self) -> Vec<String> {
        let list = self.image("ls --json").succeeds().json();
        let images = list["images"].as_array().expect("images");
        let name = |image: &Value| {
            format!(
                "{}:{}",
                image["repository"].as_str().unwrap_or("-"),
                image["tag"].as_str().unwrap_or("-")
            )
        };
        images.iter().map(name).collect()
    }

    /// What is in a folder of the store.
    pub(crate) fn stored(&self, name: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path("data/plyfs").join(name))
            .expect("the store")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let own = format!("{}/", self.path("").display().to_string().trim_end_matches('/'));
        let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for at in table.lines().filter_map(|line| line.split(' ').nth(1)).filter(|at| at.starts_with(&own)) {
            if let Err(errno) = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH) {
                eprintln!("{at} is left mounted: {errno}");
            }
        }
    }
}

pub(crate) fn say(command: &mut Command) -> Said {
    let output = command.output().expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}
