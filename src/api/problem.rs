//! Problem details (RFC 9457): the one shape of every error.
//!
//! A handler returns a `Problem`; it travels in the response's extensions until
//! `layers` writes it out with the id of the request.

use std::{borrow::Cow, sync::Arc};

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::store;

/// `type` is this with the code behind it: a name, not an address (RFC 9457, section 3.1.1).
const TYPE_PREFIX: &str = "urn:popbridge:problem:";

/// Mistakes shown at most in one problem.
const MAX_MISTAKES: usize = 100;

/// Every kind of problem. The words are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ProblemCode)]
pub enum Code {
    /// The request cannot be understood as HTTP or as what this route takes.
    BadRequest,
    /// A query parameter is unknown or has a wrong value.
    InvalidQuery,
    /// The cursor did not come from `next_cursor` of the same list.
    InvalidCursor,
    /// The body is not JSON.
    MalformedJson,
    /// No API key, or one that is unknown or has expired.
    Unauthorized,
    /// The key lacks the scope that this route needs.
    InsufficientScope,
    /// The key is bound to certain mailboxes, and this reaches beyond them.
    MailboxBoundKey,
    /// No such resource, or none that the key may see.
    NotFound,
    /// The message is known, but its octets are not stored.
    RawNotStored,
    /// The route knows no such method.
    MethodNotAllowed,
    /// Another mailbox has this `external_id`.
    ExternalIdTaken,
    /// The mailbox is paused.
    MailboxPaused,
    /// A sync of the mailbox runs, and a maildrop has one session at a time.
    SyncRunning,
    /// The octets that this needs are not stored.
    NothingToParse,
    /// The resource was changed by somebody else at the same time.
    ChangedMeanwhile,
    /// The resource is no longer as `If-Match` says.
    PreconditionFailed,
    /// The body is larger than this route takes.
    BodyTooLarge,
    /// The body is not `application/json`.
    UnsupportedMediaType,
    /// The body is JSON, but not what this route takes; `errors` says where.
    ValidationFailed,
    /// As many servers are being verified as may be at once.
    TooManyVerifications,
    /// The maildrop could not be looked at; the detail begins with the code of the error.
    DryRunFailed,
    /// A fault of popbridge; the log has the cause under the request id.
    InternalError,
    /// Postgres does not answer.
    DatabaseUnavailable,
    /// The request took too long.
    RequestTimeout,
}

impl Code {
    /// Status and title.
    const fn facts(self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest => (StatusCode::BAD_REQUEST, "Bad request"),
            Self::InvalidQuery => (StatusCode::BAD_REQUEST, "Invalid query parameter"),
            Self::InvalidCursor => (StatusCode::BAD_REQUEST, "Invalid cursor"),
            Self::MalformedJson => (StatusCode::BAD_REQUEST, "Malformed JSON"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "API key needed"),
            Self::InsufficientScope => (StatusCode::FORBIDDEN, "Scope missing"),
            Self::MailboxBoundKey => (StatusCode::FORBIDDEN, "Key bound to mailboxes"),
            Self::NotFound => (StatusCode::NOT_FOUND, "Not found"),
            Self::RawNotStored => (StatusCode::NOT_FOUND, "Octets not stored"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"),
            Self::ExternalIdTaken => (StatusCode::CONFLICT, "External id taken"),
            Self::MailboxPaused => (StatusCode::CONFLICT, "Mailbox paused"),
            Self::SyncRunning => (StatusCode::CONFLICT, "Sync running"),
            Self::NothingToParse => (StatusCode::CONFLICT, "Nothing to parse"),
            Self::ChangedMeanwhile => (StatusCode::CONFLICT, "Changed meanwhile"),
            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "Precondition failed"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Body too large"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported media type")
            }
            Self::ValidationFailed => (StatusCode::UNPROCESSABLE_ENTITY, "Validation failed"),
            Self::TooManyVerifications => (StatusCode::TOO_MANY_REQUESTS, "Too many verifications"),
            Self::DryRunFailed => (StatusCode::BAD_GATEWAY, "Dry run failed"),
            Self::InternalError => (StatusCode::INTERNAL_SERVER_ERROR, "Internal error"),
            Self::DatabaseUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "Database unavailable"),
            Self::RequestTimeout => (StatusCode::SERVICE_UNAVAILABLE, "Request timed out"),
        }
    }

    /// The HTTP status that goes with it.
    pub const fn status(self) -> StatusCode {
        self.facts().0
    }
}

/// Why a request was not done.
#[derive(Clone, Debug)]
pub(super) struct Problem(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    code: Code,
    detail: Cow<'static, str>,
    errors: Vec<Mistake>,
    header: Option<(HeaderName, HeaderValue)>,
    cause: Option<Arc<store::Error>>,
}

/// One mistake in a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ProblemError)]
pub(super) struct Mistake {
    /// JSON pointer (RFC 6901) of the field, or the query parameter in the same way.
    #[schema(example = "/port")]
    pub(super) pointer: String,
    /// What is wrong with it.
    #[schema(example = "must be between 1 and 65535")]
    pub(super) detail: String,
}

/// Problem details (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Document {
    /// Identifies the kind of problem.
    #[serde(rename = "type")]
    #[schema(format = "uri")]
    kind: String,
    /// The kind of problem in words.
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What happened and what to do.
    detail: String,
    /// Id of the request, as in the header `x-request-id`.
    instance: String,
    /// Stable machine word.
    code: Code,
    /// What is wrong where; only for mistakes in the query or the body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<Mistake>,
}

impl Problem {
    pub(super) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            header: None,
            cause: None,
        }))
    }

    pub(super) fn not_found() -> Self {
        Self::new(
            Code::NotFound,
            "There is nothing at this address, or nothing that this key may see.",
        )
    }

    /// The problem for a bare error status from a library.
    pub(super) fn from_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::not_found(),
            StatusCode::METHOD_NOT_ALLOWED => Self::new(
                Code::MethodNotAllowed,
                "This address does not take this method; the header `allow` names those it does.",
            ),
            StatusCode::PAYLOAD_TOO_LARGE => {
                Self::new(Code::BodyTooLarge, "The body is larger than 256 KiB.")
            }
            StatusCode::SERVICE_UNAVAILABLE => Self::new(
                Code::RequestTimeout,
                "The request took too long. Try it again.",
            )
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("5")),
            status if status.is_client_error() => {
                Self::new(Code::BadRequest, "The request cannot be understood.")
            }
            _ => Self::internal(),
        }
    }

    pub(super) fn internal() -> Self {
        Self::new(
            Code::InternalError,
            "Something went wrong in popbridge. Its log has the cause under this request's id.",
        )
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.header = Some((name, value));
        self
    }

    pub(super) fn with_errors(mut self, mut errors: Vec<Mistake>) -> Self {
        errors.truncate(MAX_MISTAKES);
        self.0.errors = errors;
        self
    }

    /// One mistake in the query or the body.
    pub(super) fn at(self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.with_errors(vec![Mistake {
            pointer: pointer.into(),
            detail: detail.into(),
        }])
    }

    pub(super) fn status(&self) -> StatusCode {
        self.0.code.status()
    }

    pub(super) fn code(&self) -> Code {
        self.0.code
    }

    /// What the client is not told.
    pub(super) fn cause(&self) -> Option<&store::Error> {
        self.0.cause.as_deref()
    }

    pub(super) fn into_document(self, instance: String) -> Document {
        let Inner {
            code,
            detail,
            errors,
            ..
        } = *self.0;
        let (status, title) = code.facts();
        let word = serde_json::to_value(code).unwrap_or_default();
        Document {
            kind: format!("{TYPE_PREFIX}{}", word.as_str().unwrap_or_default()),
            title,
            status: status.as_u16(),
            detail: detail.into_owned(),
            instance,
            code,
            errors,
        }
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        let mut problem = match &error {
            store::Error::NotFound => return Self::not_found(),
            store::Error::Conflict { constraint } if constraint == "mailboxes_external_id_key" => {
                return Self::new(
                    Code::ExternalIdTaken,
                    "Another mailbox has this `external_id`.",
                )
                .at("/external_id", "is taken by another mailbox");
            }
            store::Error::Refused(_) => Self::new(
                Code::DatabaseUnavailable,
                "The database answers but does not store mail: its disk may be full, or it is for \
                reading only. The log has its words.",
            )
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("5")),
            error if error.is_unavailable() => Self::new(
                Code::DatabaseUnavailable,
                "The database does not answer. Nothing was changed; try again.",
            )
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("5")),
            _ => Self::internal(),
        };
        problem.0.cause = Some(Arc::new(error));
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        if let Some((name, value)) = &self.0.header {
            response.headers_mut().insert(name, value.clone());
        }
        response.extensions_mut().insert(self);
        response
    }
}
