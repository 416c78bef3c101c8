//! Entity tags and the conditions on them (RFC 9110, sections 8.8.3 and 13).

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::problem::{Code, Problem};

/// A strong entity tag: the digest of what it stands for.
#[derive(Clone, Debug)]
pub(super) struct ETag(HeaderValue);

impl ETag {
    /// The tag for data with this SHA-256, in lower-case hex.
    pub(super) fn from_hex(sha256: &str) -> Self {
        let tag = HeaderValue::try_from(format!("\"{sha256}\""));
        Self(tag.unwrap_or_else(|_| HeaderValue::from_static("\"\"")))
    }

    pub(super) fn from_digest(sha256: &[u8]) -> Self {
        Self::from_hex(&hex(sha256))
    }

    pub(super) fn header(&self) -> (HeaderName, HeaderValue) {
        (header::ETAG, self.0.clone())
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The conditions of a request.
#[derive(Debug)]
pub(super) struct Conditions {
    if_match: Option<String>,
    if_none_match: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Conditions {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self {
            if_match: listed(&parts.headers, header::IF_MATCH),
            if_none_match: listed(&parts.headers, header::IF_NONE_MATCH),
        })
    }
}

impl Conditions {
    /// The answer where the client has this already.
    pub(super) fn not_modified(&self, tag: &ETag) -> Option<Response> {
        // Weak comparison: `W/` does not count.
        let has_it = self
            .if_none_match
            .as_deref()
            .is_some_and(|tags| matches(tags, tag, true));
        has_it.then(|| (StatusCode::NOT_MODIFIED, [tag.header()]).into_response())
    }

    /// Refuses to change what is no longer as the client saw it.
    pub(super) fn guard<T: Serialize>(&self, current: &T) -> Result<(), Problem> {
        match &self.if_match {
            Some(tags) if !matches(tags, &tagged(current).0, false) => Err(Problem::new(
                Code::PreconditionFailed,
                "It was changed since. Read it again and repeat the change with its new ETag.",
            )),
            _ => Ok(()),
        }
    }

    /// A resource as JSON with its tag, unless the client has it already.
    pub(super) fn json<T: Serialize>(&self, resource: &T) -> Response {
        let (tag, body) = tagged(resource);
        self.not_modified(&tag)
            .unwrap_or_else(|| json_response(StatusCode::OK, &tag, body))
    }
}

/// A resource as JSON with its tag.
pub(super) fn json<T: Serialize>(status: StatusCode, resource: &T) -> Response {
    let (tag, body) = tagged(resource);
    json_response(status, &tag, body)
}

fn json_response(status: StatusCode, tag: &ETag, body: Vec<u8>) -> Response {
    let content_type = (
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    (status, [content_type, tag.header()], Body::from(body)).into_response()
}

fn tagged<T: Serialize>(resource: &T) -> (ETag, Vec<u8>) {
    let body = serde_json::to_vec(resource).expect("resources are plain data with string keys");
    (ETag::from_digest(&Sha256::digest(&body)), body)
}

fn listed(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let values: Vec<_> = values.collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn matches(tags: &str, tag: &ETag, weakly: bool) -> bool {
    tags.trim() == "*"
        || tags.split(',').map(str::trim).any(|candidate| {
            let strong = candidate
                .strip_prefix("W/")
                .filter(|_| weakly)
                .unwrap_or(candidate);
            strong.as_bytes() == tag.0.as_bytes()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_match_in_lists_and_by_star() {
        let tag = ETag::from_hex("ab");
        assert!(matches("\"cd\", \"ab\"", &tag, false));
        assert!(matches("*", &tag, false));
        assert!(matches("W/\"ab\"", &tag, true));
        assert!(!matches("W/\"ab\"", &tag, false));
        assert!(!matches("ab", &tag, true));
    }
}
