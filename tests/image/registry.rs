//! A registry that does not do what it should: what it sends is bounded, verified, and asked for again.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::stage::{NONE, Stage};

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// As it should.
    Honest,
    /// A manifest without an end.
    EndlessManifest,
    /// More of a blob than its size.
    LongBlob,
    /// Another blob, of the same size.
    OtherBlob,
    /// The status 503, twice of three times.
    Busy,
    /// The connection ends in the middle of a blob, until the rest is asked for.
    Broken,
    /// To somewhere else, and from there back, for ever.
    Circle,
}

/// Serves the blobs and manifests of an OCI layout on loopback, for as long as the test runs. Answers its address.
fn serve(layout: PathBuf, manifest: String, manner: Manner) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let asked = Arc::new(AtomicU32::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (layout, manifest, asked) = (layout.clone(), manifest.clone(), Arc::clone(&asked));
            std::thread::spawn(move || {
                // The other side may have had enough.
                answer(stream, &layout, &manifest, manner, &asked).unwrap_or_default();
            });
        }
    });
    address
}

fn answer(
    mut stream: TcpStream,
    layout: &Path,
    manifest: &str,
    manner: Manner,
    asked: &AtomicU32,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut from = 0;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().unwrap_or(0);
        }
        if line.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let mut send = |status: &str, length: Option<usize>, body: &[u8]| {
        let length = length.map(|length| format!("Content-Length: {length}\r\n")).unwrap_or_default();
        write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: ")?;
        write!(stream, "application/vnd.oci.image.manifest.v1+json\r\n{length}\r\n")?;
        stream.write_all(body)
    };
    if path == "/v2/" {
        return send("200 OK", Some(2), b"{}");
    }
    if manner == Manner::Busy && !asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
        return send("503 Service Unavailable", Some(4), b"oops");
    }
    let blob =
        |digest: &str| fs::read(layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:")));
    let is_manifest = path.contains("/manifests/");
    let name = if is_manifest { manifest } else { path.rsplit('/').next().unwrap_or_default() };
    let mut body = blob(name)?;
    match manner {
        Manner::EndlessManifest if is_manifest => {
            send("200 OK", None, b"{")?;
            loop {
                stream.write_all(&[b' '; 65536])?;
            }
        }
        Manner::LongBlob if !is_manifest => {
            body.extend_from_slice(&[0; 100_000]);
            send("200 OK", Some(body.len()), &body)
        }
        Manner::OtherBlob if !is_manifest => {
            body.fill(b'x');
            send("200 OK", Some(body.len()), &body)
        }
        Manner::Circle if !is_manifest => {
            write!(stream, "HTTP/1.1 307 Elsewhere\r\nLocation: {path}\r\nContent-Length: 0\r\n\r\n")
        }
        Manner::Broken if !is_manifest && from == 0 && body.len() > 10 => {
            send("200 OK", Some(body.len()), &body[..body.len() / 2])
        }
        _ if from > 0 && from < body.len() => {
            send("206 Partial Content", Some(body.len() - from), &body[from..])
        }
        _ => send("200 OK", Some(body.len()), &body),
    }
}

#[test]
fn what_a_registry_sends_is_bounded_verified_and_asked_for_again() {
    let stage = Stage::new();
    stage.image("import nginx.tar").succeeds();
    let manifest = stage.image("inspect -f {{.Digest}} nginx:1").succeeds().out.trim().to_owned();
    let layout = stage.path("data/plyfs");
    let rows: [(Manner, Option<&str>); 7] = [
        (Manner::Honest, None),
        (Manner::Busy, None),
        (Manner::Broken, None),
        (Manner::EndlessManifest, Some("more than 4 MiB")),
        (Manner::LongBlob, Some("more of a blob")),
        (Manner::OtherBlob, Some("digest")),
        (Manner::Circle, Some("redirects")),
    ];
    for (manner, refused) in rows {
        let address = serve(layout.clone(), manifest.clone(), manner);
        let pull = |address: &str| {
            stage.image(&format!("--store {manner:?} pull --plain-http {address}/a/nginx:1 --name nginx:1"))
        };
        let said = pull(&address);
        match refused {
            None => {
                said.succeeds();
            }
            Some(why) => {
                said.fails(1, &[why]);
                let list = stage.image(&format!("--store {manner:?} ls --json")).succeeds().json();
                assert_eq!(list["images"].as_array().map(Vec::len), Some(0), "{manner:?}");
                // What came of it is in nobody's way.
                pull(&serve(layout.clone(), manifest.clone(), Manner::Honest)).succeeds();
            }
        }
        let digest =
            stage.image(&format!("--store {manner:?} inspect -f {{{{.Digest}}}} nginx:1")).succeeds().out;
        assert_eq!(digest.trim(), manifest, "{manner:?}");
        stage.image(&format!("--store {manner:?} gc")).succeeds();
        let left: Vec<_> = fs::read_dir(stage.path(&format!("{manner:?}/tmp"))).expect("the store").collect();
        assert_eq!(left.len(), NONE.len(), "{manner:?}");
    }
}

#[test]
fn a_registry_that_is_not_there_is_told() {
    let stage = Stage::new();
    stage.image("import nginx.tar").succeeds();
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound").to_string()
    };
    stage.image(&format!("pull --plain-http {address}/a")).fails(1, &["cannot be reached", &address]);
    stage.image(&format!("push --plain-http nginx:1 {address}/a")).fails(1, &["cannot be reached"]);
    stage.image("pull Bad//name").fails(2, &["Bad//name"]);
    stage.image("pull --authfile none.json host.invalid/a").fails(3, &["none.json"]);
    stage.image("pull --ca nginx.tar host.invalid/a").fails(3, &["--ca", "PEM"]);
    stage.image(&format!("push nginx:1 host/a@sha256:{}", "0".repeat(64))).fails(2, &["digest"]);
}
