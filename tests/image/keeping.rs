//! What does the store keep, for how long, and for whom?

use std::fs;

use crate::stage::{NONE, Stage};

#[test]
fn its_folders_read_like_overlay2s() {
    let stage = Stage::new();
    stage.image("import nginx.tar").succeeds();
    let top = stage.image("inspect -f {{.GraphDriver.Data.UpperDir}} nginx:1").succeeds().out;
    stage.shell(&format!(
        r#"
        cd {}/..
        [ -f diff/docker-entrypoint.sh ]; [ "$(ls | xargs)" = "diff link lower size work" ]
        [ "$(wc -c < link)" = 26 ]; cd ..
        [ "$(ls l | wc -l)" = 2 ]
        for short in l/*; do [ -d "$short/" ]; [ "$(readlink $short)" = "../$(basename $(dirname $(realpath $short)))/diff" ]; done
        "#,
        top.trim()
    ));
    // Other tools may read it as an OCI layout.
    let index = fs::read_to_string(stage.path("data/plyfs/index.json")).expect("the index");
    assert!(index.contains("\"nginx:1\"") && stage.path("data/plyfs/oci-layout").is_file(), "{index}");
}

#[test]
fn what_is_removed_is_kept_for_as_long_as_a_mount_shows_it() {
    let stage = Stage::new();
    stage.image("import nginx.tar").succeeds();
    stage.image("mount nginx:1 m").succeeds();
    stage.image("rm nginx:1").succeeds();
    stage.image("gc").succeeds();
    assert_eq!(stage.stored("layers").len(), 3, "two layers and l");
    stage.shell("[ \"$(cat m/etc/passwd)\" = root ]; [ -e m/docker-entrypoint.sh ]");
    stage.plyfs("umount m").succeeds();
    stage.image("gc").succeeds();
    assert_eq!(stage.stored("layers"), ["l"]);
    assert_eq!(stage.stored("blobs/sha256"), NONE);
}

#[test]
fn what_was_changed_stays_until_it_is_removed() {
    let stage = Stage::new();
    stage.image("import nginx.tar").succeeds();
    let id = stage.image("mount --rw nginx:1 m").succeeds().out.trim().to_owned();
    stage.shell("echo mine > m/mine");
    stage.plyfs("umount m").succeeds();
    stage.image("rm nginx:1").succeeds();
    stage.image("gc").succeeds();
    stage.image(&format!("mount {id} m")).succeeds();
    stage.shell("[ \"$(cat m/mine)\" = mine ]; [ -e m/docker-entrypoint.sh ]");
    stage.plyfs("umount m").succeeds();
    stage.image(&format!("rm {id}")).succeeds();
    stage.image("gc").succeeds();
    assert_eq!(stage.stored("layers"), ["l"]);
}

#[test]
fn two_images_share_what_they_have_in_common() {
    let stage = Stage::new();
    stage.image("import nginx.tar").succeeds();
    stage.shell("mkdir up; echo x > up/x");
    stage.image("commit --from nginx:1 up nginx:2").succeeds();
    assert_eq!(stage.stored("layers").len(), 4);
    stage.image("rm nginx:1").succeeds();
    stage.image("gc").succeeds();
    assert_eq!(stage.stored("layers").len(), 4, "the second needs all");
    // The same image once more is the same.
    stage.image("import nginx.tar").succeeds();
    assert_eq!(stage.stored("layers").len(), 4);
    assert_eq!(stage.names(), ["nginx:1", "nginx:2"]);
}

#[test]
fn a_name_that_is_given_anew_leaves_the_other_image() {
    let stage = Stage::new();
    stage.image("import nginx.tar").succeeds();
    stage.shell("mkdir up; echo x > up/x");
    stage.image("commit --from nginx:1 up nginx:1").succeeds();
    assert_eq!(stage.names(), ["nginx:1"]);
    assert_eq!(stage.image("history nginx:1 --json").succeeds().json().as_array().map(Vec::len), Some(3));
}

#[test]
fn an_image_is_found_by_the_beginning_of_its_id() {
    let stage = Stage::new();
    stage.image("import nginx.tar").succeeds();
    let id = stage.image("inspect -f {{.Id}} nginx:1").succeeds().out;
    let short = &id.trim()["sha256:".len()..][..12];
    assert_eq!(stage.image(&format!("inspect -f {{{{.Id}}}} {short}")).succeeds().out, id);
    stage.image("inspect nothing").fails(2, &["nothing", "image ls"]);
    stage.image("inspect -f {{.Nothing}} nginx:1").fails(2, &["--format", ".Nothing"]);
    stage.image(&format!("rm {short}")).succeeds();
    stage.image("rm nginx:1").fails(2, &["nginx:1"]);
}

#[test]
fn a_store_that_others_could_write_is_refused() {
    let stage = Stage::new();
    stage.shell("mkdir -m 777 open; mkdir theirs; chown 5 theirs; mkdir full; touch full/x; touch file");
    stage.image("--store open ls").fails(3, &["open", "nobody else may write"]);
    stage.image("--store theirs ls").fails(3, &["theirs"]);
    stage.image("--store full ls").fails(3, &["no store of images"]);
    assert_ne!(stage.image("--store file ls").code, Some(0));
    assert_eq!(fs::read_dir(stage.path("full")).expect("there").count(), 1, "nothing was made in it");
    stage.shell("[ -z \"$(ls open theirs | grep -v :)\" ]");
}

#[test]
fn a_mount_that_fails_leaves_nothing() {
    let stage = Stage::new();
    stage.image("import nginx.tar").succeeds();
    stage.image("mount --rw nginx:1 nowhere").fails(3, &["nowhere"]);
    stage.image("mount --rw nginx:1 -o uidmapping=x m").fails(2, &["uidmapping"]);
    assert_eq!(stage.stored("mounts"), NONE);
    assert_eq!(stage.stored("layers").len(), 3);
}
