//! Who asks, and whether they may: a handler names its scope in the type of its first argument.

use std::{fmt, marker::PhantomData};

use axum::{
    extract::FromRequestParts,
    http::{HeaderValue, header, request::Parts},
};
use serde::Deserialize;
use subtle::ConstantTimeEq;
use utoipa::IntoParams;
use uuid::Uuid;

use super::{
    ApiState,
    extract::Ids,
    keys::{self, Scope},
    problem::{Code, Problem},
};
use crate::store;

/// Octets of a key at most.
const MAX_KEY: usize = 512;

/// Stands for a scope in the type of a handler.
pub(super) trait Requires {
    /// The scope.
    const SCOPE: Scope;
}

macro_rules! requirements {
    ($($name:ident),* $(,)?) => {
        $(
            #[doc = concat!("Requires [`Scope::", stringify!($name), "`].")]
            pub(super) enum $name {}

            impl Requires for $name {
                const SCOPE: Scope = Scope::$name;
            }
        )*
    };
}

requirements!(
    MailboxesRead,
    MailboxesWrite,
    MessagesRead,
    MessagesWrite,
    MessagesDelete,
    WebhooksRead,
    WebhooksWrite,
);

/// The holder of a key that has the scope `S`.
pub(super) struct Access<S> {
    mailbox_ids: Vec<Uuid>,
    scope: PhantomData<fn() -> S>,
}

impl<S> Access<S> {
    /// The only mailboxes that the key may touch; empty: all.
    pub(super) fn mailbox_ids(&self) -> &[Uuid] {
        &self.mailbox_ids
    }

    /// Whether the key may touch all of these mailboxes, where none stand for all there are.
    pub(super) fn covers(&self, mailbox_ids: &[Uuid]) -> bool {
        self.mailbox_ids.is_empty()
            || !mailbox_ids.is_empty() && mailbox_ids.iter().all(|id| self.mailbox_ids.contains(id))
    }
}

/// As [`Access`], and the mailbox in the path is one that the key may touch.
pub(super) struct MailboxAccess<S> {
    /// The mailbox in the path. It need not exist.
    pub(super) mailbox_id: Uuid,
    scope: PhantomData<fn() -> S>,
}

/// The mailbox of a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct MailboxIds {
    /// Id of the mailbox.
    pub(super) mailbox_id: Uuid,
}

impl<S: Requires> FromRequestParts<ApiState> for Access<S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let hash = keys::hash(bearer(parts)?);
        if let Some(admin) = &state.admin_key_hash
            && bool::from(admin.ct_eq(&hash))
        {
            return Ok(Self {
                mailbox_ids: Vec::new(),
                scope: PhantomData,
            });
        }
        let key = state
            .store
            .use_api_key(&hash)
            .await
            .map_err(|error| match error {
                store::Error::NotFound => unauthorized(
                    "The API key is unknown or has expired.",
                    "Bearer realm=\"popbridge\", error=\"invalid_token\"",
                ),
                error => error.into(),
            })?;
        if !key.scopes.iter().any(|scope| scope == S::SCOPE.as_str()) {
            return Err(insufficient_scope(S::SCOPE));
        }
        Ok(Self {
            mailbox_ids: key.mailbox_ids,
            scope: PhantomData,
        })
    }
}

impl<S: Requires> FromRequestParts<ApiState> for MailboxAccess<S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let access = Access::<S>::from_request_parts(parts, state).await?;
        let Ids(MailboxIds { mailbox_id }) = Ids::from_request_parts(parts, state).await?;
        if !access.covers(&[mailbox_id]) {
            return Err(Problem::not_found());
        }
        Ok(Self {
            mailbox_id,
            scope: PhantomData,
        })
    }
}

impl<S> fmt::Debug for Access<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("mailbox_ids", &self.mailbox_ids)
            .finish_non_exhaustive()
    }
}

/// The key of the header `Authorization: Bearer KEY` (RFC 6750, section 2.1).
fn bearer(parts: &Parts) -> Result<&str, Problem> {
    let mut given = parts.headers.get_all(header::AUTHORIZATION).iter();
    let key = match (given.next(), given.next()) {
        (Some(value), None) => value
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, key)| key.trim()),
        _ => None,
    };
    key.filter(|key| (1..=MAX_KEY).contains(&key.len()))
        .ok_or_else(|| {
            unauthorized(
                "Send an API key in the header `Authorization: Bearer KEY`.",
                "Bearer realm=\"popbridge\"",
            )
        })
}

fn unauthorized(detail: &'static str, challenge: &'static str) -> Problem {
    Problem::new(Code::Unauthorized, detail).with_header(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static(challenge),
    )
}

fn insufficient_scope(scope: Scope) -> Problem {
    let challenge =
        format!("Bearer realm=\"popbridge\", error=\"insufficient_scope\", scope=\"{scope}\"");
    let challenge = HeaderValue::try_from(challenge).expect("scope words are plain ASCII");
    Problem::new(
        Code::InsufficientScope,
        format!("This needs an API key with the scope `{scope}`."),
    )
    .with_header(header::WWW_AUTHENTICATE, challenge)
}
