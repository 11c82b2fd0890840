//! Images that are not whole, or say what cannot be: nothing of them becomes an image, and nothing else is touched.

use std::fs;

use serde_json::json;

use crate::stage::{NONE, Stage};

/// Nothing is called anything, and after gc nothing is left.
fn nothing_came_of_it(stage: &Stage) {
    assert_eq!(stage.names(), NONE);
    stage.image("gc").succeeds();
    for folder in ["blobs/sha256", "layers/l", "mounts", "tmp"] {
        assert_eq!(stage.stored(folder), NONE, "{folder}");
    }
    assert_eq!(stage.stored("layers"), ["l"]);
}

#[test]
fn what_a_saved_image_says_is_verified() {
    let stage = Stage::new();
    let layers = [stage.pack("system"), stage.pack("nginx")];
    type Twist = fn(&mut serde_json::Value);
    let rows: [(&str, Twist, &[&str]); 9] = [
        (
            "a file outside",
            |i| i["manifest.json"][0]["Config"] = json!("../../etc/passwd"),
            &["../../etc/passwd"],
        ),
        (
            "a layer outside",
            |i| i["manifest.json"][0]["Layers"][0] = json!("/../../etc/passwd"),
            &["etc/passwd"],
        ),
        ("a layer that is not there", |i| i["manifest.json"][0]["Layers"][1] = json!("x.tar"), &["x.tar"]),
        ("fewer layers", |i| i["manifest.json"][0]["Layers"] = json!(["system.layer"]), &["1 layers"]),
        (
            "another diffID",
            |i| i["config.json"]["rootfs"]["diff_ids"][1] = i["config.json"]["rootfs"]["diff_ids"][0].clone(),
            &["digest", "nginx.layer"],
        ),
        ("a diffID that is none", |i| i["config.json"]["rootfs"]["diff_ids"][0] = json!("../x"), &["../x"]),
        ("no layers at all", |i| i["config.json"]["rootfs"] = json!({}), &["rootfs"]),
        ("no list", |i| i["manifest.json"] = json!({"Config": 1}), &["manifest.json"]),
        ("a name that is none", |i| i["manifest.json"][0]["RepoTags"] = json!(["../../x"]), &["../../x"]),
    ];
    for (what, twist, parts) in rows {
        stage.save("bad.tar", "bad:1", &layers, twist);
        let said = stage.image("import bad.tar");
        assert!(matches!(said.code, Some(1 | 2)), "{what}: {said:?}");
        let code = said.code.unwrap_or_default();
        said.fails(code, parts);
        nothing_came_of_it(&stage);
    }
}

#[test]
fn what_is_cut_short_is_no_image() {
    let stage = Stage::new();
    let whole = fs::read(stage.path("nginx.tar")).expect("the archive");
    for part in 1..8 {
        fs::write(stage.path("cut.tar"), &whole[..whole.len() * part / 8]).expect("write");
        stage.image("import cut.tar").fails(1, &[]).fails(1, &["plyfs: "]);
        nothing_came_of_it(&stage);
    }
    fs::write(stage.path("cut.tar"), b"").expect("write");
    assert_ne!(stage.image("import cut.tar").code, Some(0));
    fs::write(stage.path("cut.tar"), vec![b'x'; 100_000]).expect("write");
    stage.image("import cut.tar").fails(1, &["archive"]);
    stage.image("import nothing.tar").fails(3, &["nothing.tar"]);
    stage.image("import m").fails(3, &["no image"]);
    nothing_came_of_it(&stage);
}

#[test]
fn a_layout_whose_content_is_not_what_its_digest_says_is_refused() {
    let stage = Stage::new();
    stage.image("--store other import nginx.tar").succeeds();
    stage.image("--store other push nginx:1 oci:layout:one").succeeds();
    let blobs: Vec<_> = fs::read_dir(stage.path("layout/blobs/sha256"))
        .expect("the layout")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert_eq!(blobs.len(), 4);
    for blob in blobs {
        let whole = fs::read(&blob).expect("a blob");
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        for spoilt in [&changed[..], &whole[..whole.len() - 1]] {
            fs::write(&blob, spoilt).expect("write");
            stage.image("pull oci:layout:one").fails(1, &["digest"]);
            stage.image("import layout").fails(1, &["digest"]);
            nothing_came_of_it(&stage);
        }
        fs::write(&blob, whole).expect("write");
    }
    stage.image("pull oci:layout:one").succeeds();
    assert_eq!(stage.names(), ["layout:one"]);
}

#[test]
fn a_link_in_a_layout_is_not_followed() {
    let stage = Stage::new();
    stage.image("--store other import nginx.tar").succeeds();
    stage.image("--store other push nginx:1 oci:layout:one").succeeds();
    stage.shell("mv layout/blobs/sha256 elsewhere; ln -s ../../elsewhere layout/blobs/sha256");
    assert_ne!(stage.image("pull oci:layout:one").code, Some(0));
    nothing_came_of_it(&stage);
}

#[test]
fn an_index_that_leads_in_a_circle_or_nowhere_ends() {
    let stage = Stage::new();
    stage.image("--store other import nginx.tar").succeeds();
    stage.image("--store other push nginx:1 oci:layout:one").succeeds();
    let index = |text: &str| fs::write(stage.path("layout/index.json"), text).expect("write");
    let nothing = format!("sha256:{}", "0".repeat(64));
    for digest in [&*nothing, "sha256:../../../x", "sha512:00", ""] {
        let entry = json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 5,
            "annotations": { "org.opencontainers.image.ref.name": "one" } });
        index(&json!({ "schemaVersion": 2, "manifests": [entry] }).to_string());
        let said = stage.image("pull oci:layout:one");
        assert_ne!(said.code, Some(0), "{said:?}");
        nothing_came_of_it(&stage);
    }
    index(&format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", " ".repeat(5 << 20)));
    stage.image("pull oci:layout:one").fails(1, &["4 MiB"]);
    index("{");
    stage.image("pull oci:layout:one").fails(1, &["index.json"]);
    stage.image("pull oci:layout:other").fails(1, &["index.json"]);
    nothing_came_of_it(&stage);
}
