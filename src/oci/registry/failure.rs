//! Why did a registry not do what it was asked to, and what can the user do about it?

use std::error::Error as _;

use oci_client::Reference;
use oci_client::errors::{OciDistributionError, OciErrorCode};

use super::super::error::Error;
use crate::shown::shown;

/// So much of what a registry says is passed on.
const LONGEST: usize = 300;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It says so, or is not there.
    #[error(transparent)]
    Client(#[from] OciDistributionError),
    /// An HTTP status.
    #[error("it answers with the status {0}")]
    Status(u16),
    /// The connection broke.
    #[error("{0}")]
    Broken(String),
    /// It sends what nobody asked for.
    #[error("it sends {0}")]
    TooLong(&'static str),
    /// It is not the registry's fault.
    #[error(transparent)]
    Ours(Error),
}

impl Failure {
    /// The HTTP status, if it is one.
    fn status(&self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(*status),
            Self::Client(OciDistributionError::ServerError { code, .. }) => Some(*code),
            Self::Client(OciDistributionError::UnauthorizedError { .. }) => Some(401),
            Self::Client(OciDistributionError::AuthenticationFailure(_)) => Some(401),
            Self::Client(OciDistributionError::ImageManifestNotFoundError(_)) => Some(404),
            Self::Client(OciDistributionError::RegistryError { envelope, .. }) => {
                envelope.errors.first().and_then(|error| match error.code {
                    OciErrorCode::Unauthorized => Some(401),
                    OciErrorCode::Denied => Some(403),
                    OciErrorCode::NotFound
                    | OciErrorCode::NameUnknown
                    | OciErrorCode::BlobUnknown
                    | OciErrorCode::ManifestUnknown => Some(404),
                    OciErrorCode::Toomanyrequests => Some(429),
                    _ => None,
                })
            }
            Self::Client(OciDistributionError::RequestError(error)) => {
                error.status().map(|status| status.as_u16())
            }
            _ => None,
        }
    }

    /// Whether another attempt may do better.
    pub(super) fn may_pass(&self) -> bool {
        match (self, self.status()) {
            (Self::Broken(_), _) => true,
            (_, Some(status)) => status >= 500 || status == 429,
            (Self::Client(OciDistributionError::RequestError(error)), None) => {
                !error.is_builder() && !error.is_redirect() && !causes(error).contains("certificate")
            }
            _ => false,
        }
    }
}

/// All that is said on the way down.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// In plain words: which registry, what was asked of it, what it answered, what to do.
pub(super) fn told(reference: &Reference, what: &str, failure: &Failure) -> String {
    let registry = reference.registry();
    let why = match failure.status() {
        Some(401) => {
            "it does not let you in: log in (podman login, docker login), or name a file with the password by --authfile"
                .to_owned()
        }
        Some(403) => "it does not allow that: log in as somebody who may".to_owned(),
        Some(404) => "it has no such image".to_owned(),
        Some(429) => "it is asked too often: try again later".to_owned(),
        _ => match failure {
            Failure::Client(OciDistributionError::RequestError(error)) => request_failed(error),
            Failure::Client(OciDistributionError::RegistryError { envelope, .. }) => {
                let messages: Vec<&str> = envelope.errors.iter().map(|error| &*error.message).collect();
                format!("it says: {}", cut(&messages.join("; ")))
            }
            Failure::Client(OciDistributionError::ServerError { code, message, .. }) => {
                format!("it answers with the status {code}: {}", cut(message))
            }
            Failure::Client(error) => cut(&causes(error)),
            other => other.to_string(),
        },
    };
    format!("{} at {}: {what}: {why}", shown(reference.repository()), shown(registry))
}

fn request_failed(error: &reqwest::Error) -> String {
    let causes = causes(error);
    let hint = if causes.contains("certificate") {
        ": trust its certificate authority with --ca FILE"
    } else if causes.contains("InvalidContentType") || causes.contains("corrupt message") {
        ": it does not speak TLS; if that is meant to be so, --plain-http"
    } else if error.is_timeout() {
        ": it does not answer"
    } else if error.is_connect() {
        ": it cannot be reached"
    } else {
        ""
    };
    // The first part names a URL, which says nothing new.
    let cause = error.source().map_or_else(|| error.to_string(), self::causes);
    format!("{}{hint}", cut(cause.trim_start_matches("client error (Connect): ")))
}

/// As much of it as people read, and nothing that speaks to their terminal.
fn cut(text: &str) -> String {
    let text = text.trim();
    let end = text.char_indices().nth(LONGEST).map_or(text.len(), |(at, _)| at);
    shown(&text[..end]).to_string()
}
