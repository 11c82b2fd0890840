//! Layers that the kernel's overlayfs left with `metacopy=on,redirect_dir=on`: an entry of such a layer may say only what
//! is different, and where the rest lies. It is followed there, or it is an error: never a hole, never an empty directory.

use std::fs;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::common::{Playground, exists, names, needs_root, overwrite, pattern, stat, text};

/// Row 6: two layers of one overlayfs, mounted by plyfs under an upper.
struct Layers {
    play: Playground,
}

impl Layers {
    /// `act` is what was done through the overlayfs.
    fn after(act: &str) -> Self {
        let play = Playground::new();
        play.sh("mkdir -p lower/dir/sub lower/other layer layer_work merged upper work mnt");
        fs::write(play.path("lower/big"), pattern(1, 100_000)).unwrap();
        fs::write(play.path("lower/dir/f"), "in dir").unwrap();
        fs::write(play.path("lower/dir/sub/g"), "deep").unwrap();
        play.sh(&format!(
            "mount -t overlay -o lowerdir=lower,upperdir=layer,workdir=layer_work,metacopy=on,redirect_dir=on none merged
             (cd merged; {act}); umount merged
             plyfs -o lowerdir=layer:lower,upperdir=upper,workdir=work mnt"
        ));
        Self { play }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.play.path("mnt").join(path)
    }

    /// What is there must be what was meant.
    #[track_caller]
    fn is_followed_or_refused(&self, path: &str, expected: &[u8]) {
        match fs::read(self.at(path)) {
            Ok(content) => assert!(content == expected, "{path}: {} bytes of other data", content.len()),
            Err(e) => assert_eq!(e.raw_os_error(), Some(Errno::IO.raw_os_error()), "{path}: {e}"),
        }
    }

    /// The directory has these entries, or nobody is told what it has.
    #[track_caller]
    fn is_listed_or_refused(&self, dir: &str, expected: &[&str]) {
        match fs::read_dir(self.at(dir)).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
            Ok(_) => assert_eq!(names(self.at(dir)), expected, "{dir}"),
            Err(e) => assert_eq!(e.raw_os_error(), Some(Errno::IO.raw_os_error()), "{dir}: {e}"),
        }
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        self.play.sh("umount mnt");
    }
}

#[test]
fn a_file_of_which_only_the_mode_was_copied_has_its_data() {
    needs_root!("an overlayfs");
    let layers = Layers::after("chmod 600 big; chmod 640 dir/f");
    assert!(stat(layers.play.path("layer/big")).is_file(), "overlayfs has made a copy");
    layers.is_followed_or_refused("big", &pattern(1, 100_000));
    layers.is_followed_or_refused("dir/f", b"in dir");
}

#[test]
fn a_file_that_moved_without_its_data_has_it() {
    needs_root!("an overlayfs");
    let layers = Layers::after("chmod 600 big; mv big other/moved; mv other/moved again");
    layers.is_followed_or_refused("again", &pattern(1, 100_000));
    assert!(!exists(layers.at("big")));
}

#[test]
fn a_file_without_its_data_is_copied_up_with_it() {
    needs_root!("an overlayfs");
    let layers = Layers::after("chmod 600 big");
    let mut expected = pattern(1, 100_000);
    expected[7] = b'X';
    let opened = fs::File::options().write(true).open(layers.at("big"));
    match opened.and_then(|file| std::os::unix::fs::FileExt::write_all_at(&file, b"X", 7)) {
        Ok(()) => assert!(fs::read(layers.at("big")).unwrap() == expected, "the copy is of other data"),
        Err(e) => {
            assert_eq!(e.raw_os_error(), Some(Errno::IO.raw_os_error()), "{e}");
            assert!(!exists(layers.play.path("upper/big")), "what cannot be read is not copied up");
        }
    }
    // It moves with its data, too.
    if fs::rename(layers.at("big"), layers.at("dir/moved")).is_ok() {
        layers.is_followed_or_refused("dir/moved", &expected);
    }
}

#[test]
fn a_directory_that_moved_without_its_content_has_it() {
    needs_root!("an overlayfs");
    let layers = Layers::after("mv dir moved");
    assert!(names(layers.play.path("layer/moved")).is_empty(), "overlayfs has moved nothing");
    layers.is_listed_or_refused("moved", &["f", "sub"]);
    layers.is_listed_or_refused("moved/sub", &["g"]);
    layers.is_followed_or_refused("moved/f", b"in dir");
    layers.is_followed_or_refused("moved/sub/g", b"deep");
    assert!(!exists(layers.at("dir")));
    assert!(fs::remove_dir(layers.at("moved")).is_err(), "it is not empty");
}

#[test]
fn a_directory_that_moved_to_another_one_has_its_content() {
    needs_root!("an overlayfs");
    let layers = Layers::after("mv dir other/moved; chmod 600 other/moved/sub/g; mv other/moved/sub top");
    layers.is_listed_or_refused("other/moved", &["f"]);
    layers.is_followed_or_refused("other/moved/f", b"in dir");
    layers.is_listed_or_refused("top", &["g"]);
    layers.is_followed_or_refused("top/g", b"deep");
}

/// What is done to it through plyfs leaves it whole.
#[test]
fn a_directory_that_moved_without_its_content_moves_on_with_it() {
    needs_root!("an overlayfs");
    let layers = Layers::after("mv dir moved");
    if fs::write(layers.at("moved/new"), "new").is_ok() {
        layers.is_listed_or_refused("moved", &["f", "new", "sub"]);
    }
    if fs::rename(layers.at("moved"), layers.at("again")).is_ok() {
        layers.is_followed_or_refused("again/f", b"in dir");
        layers.is_followed_or_refused("again/sub/g", b"deep");
    }
}

/// Where nothing was left out there is nothing to follow.
#[test]
fn what_overlayfs_copied_whole_is_shown_whole() {
    needs_root!("an overlayfs");
    let layers = Layers::after("echo more >> dir/f; rm big; mkdir made; echo made > made/f");
    assert_eq!(text(layers.at("dir/f")), "in dirmore\n");
    assert_eq!(names(layers.at("")), ["dir", "made", "other"]);
    overwrite(layers.at("made/f"), 0, "M");
    assert_eq!(text(layers.at("made/f")), "Made\n");
}
