//! Which user name and password does a registry get?
//!
//! Those of `podman login` and `docker login`. Source: containers-auth.json(5); docker's documentation, "Credential
//! stores".

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oci_client::secrets::RegistryAuth;
use serde_json::Value;

use super::super::error::{Error, Result};
use crate::shown::shown;

/// No such file is longer.
const LONGEST: u64 = 4 << 20;
/// How long a helper may think: it may ask for a finger.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where docker keeps those of its own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Finds them for a repository of a registry. No file that is not there is an error, but for one that was named.
pub(super) fn find(named: Option<&Path>, registry: &str, repository: &str) -> Result<RegistryAuth> {
    for (path, is_named) in files(named) {
        let mut text = String::new();
        match File::open(&path).and_then(|file| file.take(LONGEST).read_to_string(&mut text)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => continue,
            read => read.map_err(|error| Error::Setup(format!("{}: {error}", shown(&path))))?,
        };
        let config: Value = serde_json::from_str(&text)
            .map_err(|error| Error::Setup(format!("{} cannot be read: {error}", shown(&path))))?;
        if let Some(found) = look_up(&config, registry, repository)
            .map_err(|why| Error::Setup(format!("{}: {why}", shown(&path))))?
        {
            return Ok(found);
        }
    }
    Ok(RegistryAuth::Anonymous)
}

/// Where they may be, and whether the user has named the file.
fn files(named: Option<&Path>) -> Vec<(PathBuf, bool)> {
    if let Some(named) = named {
        return vec![(named.to_owned(), true)];
    }
    let variable =
        |name: &str| std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    if let Some(file) = variable("REGISTRY_AUTH_FILE") {
        return vec![(file, true)];
    }
    let home = variable("HOME");
    let config = variable("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    let docker = variable("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));
    [
        variable("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        config.map(|dir| dir.join("containers/auth.json")),
        docker.map(|dir| dir.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .map(|path| (path, false))
    .collect()
}

fn look_up(config: &Value, registry: &str, repository: &str) -> Result<Option<RegistryAuth>, String> {
    let helper =
        config.pointer("/credHelpers").and_then(|helpers| helpers.get(registry)).and_then(Value::as_str);
    if let Some(helper) = helper {
        return ask(helper, registry);
    }
    let auths = config.get("auths");
    // The most specific first: host/a/b, host/a, host.
    let mut key = format!("{registry}/{repository}");
    loop {
        if let Some(entry) = auths.and_then(|auths| auths.get(&key)).filter(|entry| has_secret(entry)) {
            return decode(entry).map(Some);
        }
        match key.rfind('/') {
            Some(slash) => key.truncate(slash),
            None => break,
        }
    }
    let is_hub = matches!(registry, "docker.io" | "index.docker.io");
    let others =
        [format!("https://{registry}"), format!("https://{registry}/v1/"), format!("http://{registry}")];
    let hub = [DOCKER_HUB.to_owned(), "docker.io".to_owned()];
    for key in others.iter().chain(hub.iter().filter(|_| is_hub)) {
        if let Some(entry) = auths.and_then(|auths| auths.get(key)).filter(|entry| has_secret(entry)) {
            return decode(entry).map(Some);
        }
    }
    match config.get("credsStore").and_then(Value::as_str) {
        Some(helper) => ask(helper, if is_hub { DOCKER_HUB } else { registry }),
        None => Ok(None),
    }
}

/// An empty entry says that a helper has them.
fn has_secret(entry: &Value) -> bool {
    entry.get("auth").is_some() || entry.get("identitytoken").is_some()
}

fn decode(entry: &Value) -> Result<RegistryAuth, String> {
    let wrong = || "an `auth` is not USER:PASSWORD in base 64: log in once more".to_owned();
    let text = entry.get("auth").and_then(Value::as_str).ok_or_else(wrong)?;
    let bytes = from_base64(text).ok_or_else(wrong)?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let (user, password) = text.split_once(':').ok_or_else(wrong)?;
    Ok(RegistryAuth::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// RFC 4648, section 4.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

/// Asks `docker-credential-HELPER`; None if it knows none.
fn ask(helper: &str, server: &str) -> Result<Option<RegistryAuth>, String> {
    if !helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
        return Err("names a credential helper that is no name".to_owned());
    }
    let program = format!("docker-credential-{helper}");
    let failed = |error: std::io::Error| format!("its credential helper {program}: {error}");
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(server.as_bytes()).map_err(failed)?;
    }
    let deadline = Instant::now() + PATIENCE;
    let stdout = child.stdout.take();
    let reading = std::thread::spawn(move || {
        let mut said = Vec::new();
        stdout.map(|stdout| stdout.take(LONGEST).read_to_end(&mut said)).transpose().map(|_| said)
    });
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill().and_then(|()| child.wait()).map_err(failed)?;
                return Err(format!("its credential helper {program} does not answer"));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    if !status.success() {
        // As it says that it knows none.
        return Ok(None);
    }
    let said = reading
        .join()
        .map_err(|_| format!("its credential helper {program} was not heard"))?
        .map_err(failed)?;
    let answer: Value = serde_json::from_slice(&said)
        .map_err(|_| format!("its credential helper {program} answers with what is no JSON"))?;
    let word = |key: &str| answer.get(key).and_then(Value::as_str).map(str::to_owned);
    Ok(match (word("Username"), word("Secret")) {
        (Some(user), Some(secret)) => Some(RegistryAuth::Basic(user, secret)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_most_specific_entry_counts() {
        // user:one, user:two, hub:x
        let config = json!({ "auths": {
            "host:5000": { "auth": "dXNlcjpvbmU=" },
            "host:5000/team": { "auth": "dXNlcjp0d28=" },
            "https://index.docker.io/v1/": { "auth": "aHViOng=" },
            "empty": {},
        }});
        let basic =
            |user: &str, password: &str| Some(RegistryAuth::Basic(user.to_owned(), password.to_owned()));
        for (registry, repository, found) in [
            ("host:5000", "a/b", basic("user", "one")),
            ("host:5000", "team/b", basic("user", "two")),
            ("host:5000", "teamwork", basic("user", "one")),
            ("docker.io", "library/nginx", basic("hub", "x")),
            ("empty", "a", None),
            ("other", "a", None),
        ] {
            assert_eq!(look_up(&config, registry, repository), Ok(found), "{registry}/{repository}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_without_the_secret() {
        for auth in [json!("%%%"), json!("bm9jb2xvbg=="), json!(5)] {
            let config = json!({ "auths": { "host": { "auth": auth } } });
            let error = look_up(&config, "host", "a").expect_err("no credentials");
            assert!(error.contains("log in") && !error.contains("bm9j"), "{error}");
        }
        let config = json!({ "credHelpers": { "host": "../evil" } });
        assert!(look_up(&config, "host", "a").is_err());
    }
}
