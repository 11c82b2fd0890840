//! What does a live mount say of itself?

use crate::stage::Stage;

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
