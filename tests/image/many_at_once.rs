//! Several processes at once, and processes that end in the middle: the store stays whole.

use std::process::Stdio;
use std::time::Duration;

use crate::stage::{NONE, PLYFS, Stage};

/// Every image there is can be mounted, and its content is what its digests say.
fn everything_is_whole(stage: &Stage) {
    for name in stage.names() {
        stage.image(&format!("mount {name} m")).succeeds();
        stage.shell("[ \"$(cat m/etc/passwd)\" = root ]; [ \"$(stat -c %u:%g m/cache)\" = 101:102 ]");
        stage.plyfs("umount m").succeeds();
        stage.shell("rm -rf verified verified.store");
        stage.image(&format!("push {name} oci:verified:x")).succeeds();
        stage.image("--store verified.store pull oci:verified:x").succeeds();
    }
}

#[test]
fn several_processes_work_on_one_store() {
    let stage = Stage::new();
    stage.image("import nginx.tar --name base").succeeds();
    stage.shell("for n in 1 2 3 4; do mkdir up$n; echo $n > up$n/n; done");
    let children: Vec<_> = (1..=4)
        .map(|n| {
            let script = format!(
                r#"
                for round in 1 2 3 4 5; do
                    $PLYFS image import nginx.tar --name img{n}:$round
                    $PLYFS image commit --from base up{n} img{n}:c$round
                    $PLYFS image gc
                    $PLYFS image ls
                    $PLYFS image rm img{n}:$round
                done >/dev/null
                "#
            );
            stage.command("sh").args(["-euc", &script]).env("PLYFS", PLYFS).spawn().expect("sh")
        })
        .collect();
    for mut child in children {
        assert!(child.wait().expect("sh").success());
    }
    assert_eq!(stage.names().len(), 21);
    everything_is_whole(&stage);
    stage.image("gc").succeeds();
    assert_eq!(stage.stored("tmp"), NONE);
    assert_eq!(stage.stored("layers").len(), 1 + 2 + 4, "each once");
}

#[test]
fn a_process_that_is_killed_leaves_a_store_that_works() {
    let stage = Stage::new();
    // Long enough to be killed in the middle of it.
    stage.shell("dd if=/dev/urandom of=system/big bs=1M count=20 status=none");
    let layers = [stage.pack("system"), stage.pack("nginx")];
    stage.save("nginx.tar", "nginx:1", &layers, |_| {});
    for round in 0..24 {
        let mut child = stage
            .command(PLYFS)
            .args(["image", "import", "nginx.tar"])
            .stdout(Stdio::null())
            .spawn()
            .expect("plyfs");
        std::thread::sleep(Duration::from_millis(40 * round));
        child.kill().expect("kill");
        child.wait().expect("wait");
        // It is there, or it is not.
        if stage.names() == ["nginx:1"] {
            stage.image("mount nginx:1 m").succeeds();
            stage.shell("cmp m/big system/big; [ \"$(stat -c %u:%g m/cache)\" = 101:102 ]");
            stage.plyfs("umount m").succeeds();
            stage.image("rm nginx:1").succeeds();
        }
        stage.image("gc").succeeds();
        assert_eq!(stage.stored("tmp"), NONE);
        assert_eq!(stage.stored("layers"), ["l"]);
    }
    stage.image("import nginx.tar").succeeds();
    everything_is_whole(&stage);
}
