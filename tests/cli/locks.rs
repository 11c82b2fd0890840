//! Who else may use the upper and the workdir of a live mount?

use std::fs;

use crate::stage::Stage;

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
