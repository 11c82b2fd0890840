//! How is a registry talked to?
//!
//! By `oci-client`, on a runtime of its own that nobody else sees. Source of the protocol: OCI distribution-spec 1.1.
//! What a registry sends is bounded, and verified by its digest.

mod credentials;
mod failure;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use oci_client::client::{BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};

use super::digest::{Digest, Hasher};
use super::error::{Error, Result};
use super::progress::{Interrupt, Progress};
use crate::cli::RegistryArgs;
use crate::shown::shown;
use failure::{Failure, told};

/// What is asked for: manifests and indexes, in OCI's words and in docker's.
const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may come.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// No manifest is longer: 4 MiB, as registries have it.
const LONGEST_MANIFEST: usize = 4 << 20;
/// What is sent at once.
const CHUNK: usize = 8 << 20;
/// How often something is attempted that a network may be to blame for, and how long is waited before.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(200), Duration::from_secs(1)];
/// How often is looked whether somebody has had enough.
const TICK: Duration = Duration::from_millis(100);

/// What is done with a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Pull,
    Push,
}

/// A manifest or an index, as it came.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) bytes: Vec<u8>,
    pub(super) media_type: String,
}

/// One repository of a registry.
pub(super) struct Registry {
    runtime: tokio::runtime::Runtime,
    client: Client,
    /// For manifests, whose length oci-client does not bound.
    http: reqwest::Client,
    reference: Reference,
    auth: RegistryAuth,
    scheme: &'static str,
    interrupt: Interrupt,
}

impl Registry {
    /// Prepares to talk to the registry of `name`, `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`.
    ///
    /// # Errors
    /// What is wrong with the name or with a file that was named.
    pub(super) fn connect(
        name: &str,
        args: &RegistryArgs,
        access: Access,
        progress: &Progress,
    ) -> Result<Self> {
        let name = name.strip_prefix("docker://").unwrap_or(name);
        let reference: Reference = name.parse().map_err(|_| {
            Error::Usage(format!(
                "`{}` is no name in a registry: write [HOST[:PORT]/]NAME[:TAG][@DIGEST], such as \
                 registry.example.org/nginx:1.27",
                shown(name)
            ))
        })?;
        if let Some(digest) = reference.digest() {
            Digest::parse(digest)?;
            if access == Access::Push {
                return Err(Error::Usage(format!(
                    "`{}`: a digest cannot be pushed to: give a tag",
                    shown(name)
                )));
            }
        }
        let auth = credentials::find(args.authfile.as_deref(), reference.registry(), reference.repository())?;
        let mut config = ClientConfig {
            protocol: if args.plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("plyfs/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .https_only(!args.plain_http)
            .user_agent(config.user_agent);
        if let Some(path) = &args.ca {
            let unfit = |why: String| Error::Setup(format!("--ca {}: {why}", shown(path)));
            let pem = std::fs::read(path).map_err(|error| unfit(error.to_string()))?;
            let parsed = reqwest::Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|bundle| !bundle.is_empty())
                .ok_or_else(|| unfit("it is no certificate in PEM".to_owned()))?;
            http = http.tls_certs_merge(parsed);
            config
                .extra_root_certificates
                .push(Certificate { encoding: CertificateEncoding::Pem, data: pem });
        }
        let failed = |error: &dyn std::fmt::Display| Error::Remote(format!("TLS cannot be used: {error}"));
        let http = http.build().map_err(|error| failed(&error))?;
        let client = Client::try_from(config).map_err(|error| failed(&error))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::Io { what: "start", path: "the network's runtime".into(), error })?;
        let scheme = if args.plain_http { "http" } else { "https" };
        Ok(Self { runtime, client, http, reference, auth, scheme, interrupt: progress.interrupt() })
    }

    /// The whole name, for messages.
    pub(super) fn reference(&self) -> String {
        self.reference.to_string()
    }

    fn failed(&self, what: &str, failure: &Failure) -> Error {
        Error::Remote(told(&self.reference, what, failure))
    }

    /// Does something over the network, until a signal comes.
    fn wait<T>(
        &self,
        what: &str,
        progress: Option<(&Progress, &AtomicU64)>,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Result<T, Failure>> {
        self.runtime.block_on(async {
            let mut work = pin!(work);
            let mut told = 0;
            loop {
                match tokio::time::timeout(TICK, &mut work).await {
                    Ok(Err(Failure::Ours(error))) => return Err(error),
                    Ok(done) => {
                        if let Err(failure) = &done {
                            log::debug!("{what}: {}", told_short(failure));
                        }
                        return Ok(done);
                    }
                    Err(_) => {
                        self.interrupt.check()?;
                        if let Some((progress, done)) = progress {
                            let now = done.load(Ordering::Relaxed);
                            progress.advance(now - told)?;
                            told = now;
                        }
                    }
                }
            }
        })
    }

    /// Attempts something until it works or it is clear that it will not.
    fn attempt<T>(
        &self,
        what: &str,
        progress: Option<(&Progress, &AtomicU64)>,
        mut work: impl AsyncFnMut() -> Result<T, Failure>,
    ) -> Result<T> {
        let mut last = None;
        for pause in PAUSES {
            std::thread::sleep(pause);
            match self.wait(what, progress, work())? {
                Ok(done) => return Ok(done),
                Err(failure) if failure.may_pass() => last = Some(failure),
                Err(failure) => return Err(self.failed(what, &failure)),
            }
        }
        Err(match last {
            Some(failure) => self.failed(what, &failure),
            None => crate::error::Error::Bug("nothing was attempted").into(),
        })
    }

    /// The manifest of the tag or digest in the name.
    ///
    /// # Errors
    /// The registry does not have it, or does not say so.
    pub(super) fn manifest(&self) -> Result<Manifest> {
        self.get_manifest(&self.reference)
    }

    /// A manifest that an index names.
    ///
    /// # Errors
    /// As [`Self::manifest`]; [`Error::Digest`] if it is another.
    pub(super) fn manifest_by_digest(&self, digest: &Digest) -> Result<Manifest> {
        let reference = Reference::with_digest(
            self.reference.registry().to_owned(),
            self.reference.repository().to_owned(),
            digest.to_string(),
        );
        self.get_manifest(&reference)
    }

    fn get_manifest(&self, reference: &Reference) -> Result<Manifest> {
        let wanted = reference.digest().map(Digest::parse).transpose()?;
        let which = wanted.as_ref().map_or_else(|| reference.tag().unwrap_or("latest"), Digest::as_str);
        let url = format!(
            "{}://{}/v2/{}/manifests/{which}",
            self.scheme,
            reference.resolve_registry(),
            reference.repository()
        );
        let manifest = self.attempt("the manifest", None, async || self.get(&url).await)?;
        if let Some(wanted) = wanted {
            let found = Digest::of(&manifest.bytes);
            if found != wanted {
                return Err(Error::Digest {
                    what: format!("the manifest of {}", self.reference),
                    found: found.to_string(),
                    expected: wanted.to_string(),
                });
            }
        }
        Ok(manifest)
    }

    async fn get(&self, url: &str) -> Result<Manifest, Failure> {
        let token = self.authenticate(RegistryOperation::Pull).await?;
        let mut request = self.http.get(url).header(reqwest::header::ACCEPT, ACCEPTED.join(", "));
        request = match (&token, &self.auth) {
            (Some(token), _) => request.bearer_auth(token),
            (None, RegistryAuth::Basic(user, password)) => request.basic_auth(user, Some(password)),
            (None, _) => request,
        };
        let mut response = request.send().await.map_err(OciDistributionError::from)?;
        if !response.status().is_success() {
            return Err(Failure::Status(response.status().as_u16()));
        }
        let media_type = response.headers().get(reqwest::header::CONTENT_TYPE).and_then(|t| t.to_str().ok());
        let media_type =
            media_type.unwrap_or(ACCEPTED[0]).split(';').next().unwrap_or_default().trim().to_owned();
        let mut bytes = Vec::new();
        while let Some(part) = response.chunk().await.map_err(OciDistributionError::from)? {
            if bytes.len() + part.len() > LONGEST_MANIFEST {
                return Err(Failure::TooLong("a manifest of more than 4 MiB"));
            }
            bytes.extend_from_slice(&part);
        }
        Ok(Manifest { bytes, media_type })
    }

    /// Fetches content into a file, which may hold its beginning already.
    ///
    /// # Errors
    /// The registry does not have it; [`Error::Digest`] if it is something else: then the file is empty.
    pub(super) fn pull_blob(
        &self,
        digest: &Digest,
        size: u64,
        file: &mut File,
        progress: &Progress,
    ) -> Result<()> {
        let io = Error::io("write", std::path::Path::new("what was pulled"));
        let done = AtomicU64::new(0);
        let has = |file: &File| file.metadata().map(|stat| stat.len()).map_err(&io);
        if has(file)? > size {
            file.set_len(0).map_err(&io)?;
        }
        if has(file)? < size {
            let descriptor =
                OciDescriptor { digest: digest.to_string(), size: size as i64, ..OciDescriptor::default() };
            self.attempt("a blob", Some((progress, &done)), async || {
                self.authenticate(RegistryOperation::Pull).await?;
                self.get_blob(&descriptor, size, file, &done).await
            })?;
        }
        let found = hash(file).map_err(&io)?;
        if found == *digest {
            return Ok(());
        }
        // It is of no use to the next attempt.
        file.set_len(0).map_err(&io)?;
        Err(Error::Digest {
            what: format!("a blob of {}", self.reference),
            found: found.to_string(),
            expected: digest.to_string(),
        })
    }

    /// Answers the token, if the registry gives one. oci-client does not bound how long that is: time does.
    async fn authenticate(&self, operation: RegistryOperation) -> Result<Option<String>, Failure> {
        let asked = self.client.auth(&self.reference, &self.auth, operation);
        match tokio::time::timeout(CONNECT_TIMEOUT, asked).await {
            Ok(token) => Ok(token?),
            Err(_) => Err(Failure::Broken("it does not answer in time".to_owned())),
        }
    }

    async fn get_blob(
        &self,
        descriptor: &OciDescriptor,
        size: u64,
        file: &mut File,
        done: &AtomicU64,
    ) -> Result<(), Failure> {
        let io = |error| Failure::Ours(Error::Io { what: "write", path: "what was pulled".into(), error });
        let begin = file.metadata().map_err(io)?.len();
        let response = self.client.pull_blob_stream_partial(&self.reference, descriptor, begin, None).await?;
        let (mut at, stream) = match response {
            // The registry begins anew.
            BlobResponse::Full(stream) => (0, stream),
            BlobResponse::Partial(stream) => (begin, stream),
        };
        file.set_len(at).and_then(|()| file.seek(SeekFrom::Start(at))).map_err(io)?;
        let mut stream = stream.stream;
        while let Some(part) = stream.next().await {
            let part = match part {
                // All of it is here; what oci-client says of its digest is found out below, too.
                Err(_) if at == size => break,
                part => part.map_err(|error| Failure::Broken(error.to_string()))?,
            };
            at += part.len() as u64;
            if at > size {
                return Err(Failure::TooLong("more of a blob than its size is"));
            }
            file.write_all(&part).map_err(io)?;
            done.fetch_add(part.len() as u64, Ordering::Relaxed);
        }
        if at < size {
            return Err(Failure::Broken("the connection ended in the middle".to_owned()));
        }
        Ok(())
    }

    /// Whether the registry has content already.
    ///
    /// # Errors
    /// It does not say.
    pub(super) fn has_blob(&self, digest: &Digest) -> Result<bool> {
        self.attempt("a blob", None, async || {
            self.authenticate(RegistryOperation::Push).await?;
            Ok(self.client.blob_exists(&self.reference, digest.as_str()).await?)
        })
    }

    /// Sends content, piece by piece.
    ///
    /// # Errors
    /// The registry does not take it.
    pub(super) fn push_blob(
        &self,
        digest: &Digest,
        size: u64,
        file: &mut File,
        progress: &Progress,
    ) -> Result<()> {
        let done = Arc::new(AtomicU64::new(0));
        self.attempt("a blob", Some((progress, &done)), async || {
            let io = |error| Failure::Ours(Error::Io { what: "read", path: "a blob".into(), error });
            let mut file = file.try_clone().map_err(io)?;
            file.rewind().map_err(io)?;
            self.authenticate(RegistryOperation::Push).await?;
            let parts = parts(file, Arc::clone(&done));
            self.client.push_blob_stream(&self.reference, parts, digest.as_str(), Some(size)).await?;
            Ok(())
        })
    }

    /// Gives what was sent its name.
    ///
    /// # Errors
    /// The registry does not take it.
    pub(super) fn push_manifest(&self, bytes: &[u8], media_type: &str) -> Result<()> {
        let kind = media_type
            .parse()
            .map_err(|_| Error::Invalid(format!("`{}` is no media type", shown(media_type))))?;
        self.attempt("the manifest", None, async || {
            self.authenticate(RegistryOperation::Push).await?;
            let bytes = Bytes::copy_from_slice(bytes);
            let kind: reqwest::header::HeaderValue = Clone::clone(&kind);
            self.client.push_manifest_raw(&self.reference, bytes, kind).await?;
            Ok(())
        })
    }
}

/// A file in chunks.
fn parts(
    file: File,
    done: Arc<AtomicU64>,
) -> impl futures_util::Stream<Item = Result<Bytes, OciDistributionError>> + Send + 'static {
    futures_util::stream::unfold((file, done), |(mut file, done)| async {
        let mut chunk = Vec::new();
        match Read::by_ref(&mut file).take(CHUNK as u64).read_to_end(&mut chunk) {
            Ok(0) => None,
            Ok(read) => {
                done.fetch_add(read as u64, Ordering::Relaxed);
                Some((Ok(Bytes::from(chunk)), (file, done)))
            }
            Err(error) => Some((Err(error.into()), (file, done))),
        }
    })
}

fn hash(file: &mut File) -> std::io::Result<Digest> {
    file.rewind()?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.digest()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn told_short(failure: &Failure) -> String {
    shown(&failure.to_string()).to_string()
}
