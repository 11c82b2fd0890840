//! What does `plyfs bench` do, and what does it leave behind?

use std::fs;
use std::process::Stdio;

use rustix::process::Signal;

use crate::stage::{Daemon, PLYFS, Stage, as_nobody, until};

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
