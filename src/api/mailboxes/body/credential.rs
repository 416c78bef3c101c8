//! What logs in, as users send it: a password, or a grant of OAuth 2.0.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;
use url::Url;
use utoipa::ToSchema;

use super::{MailboxBody, rules};
use crate::{
    api::extract::{Field, Mistakes},
    oauth,
    store::{
        credentials::{Credential, CredentialKind, Grant},
        mailboxes::{Auth, Mailbox, Settings, Tls},
    },
};

const MAX_URL: usize = 2000;
const MAX_CLIENT: usize = 2000;
const MAX_TOKEN: usize = 16 << 10;
const MAX_SCOPE: usize = 2000;

/// A grant of OAuth 2.0: with it popbridge fetches access tokens (RFC 6749, section 6). Given
/// whole: it replaces the one that was there.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[schema(as = OAuth2)]
pub(super) struct OAuth2Body {
    /// The token endpoint: https, or http on a loopback address.
    #[schema(value_type = String, required, max_length = 2000, format = "uri",
        example = "https://oauth2.googleapis.com/token")]
    #[serde(default)]
    token_url: Field<String>,
    /// The client that the user consented to.
    #[schema(value_type = String, required, min_length = 1, max_length = 2000)]
    #[serde(default)]
    client_id: Field<String>,
    /// Public clients have none.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 2000, format = Password)]
    #[serde(default)]
    client_secret: Field<Option<String>>,
    /// What the token endpoint gave when the user consented. Where it gives another with an access
    /// token, that one is kept instead.
    #[schema(value_type = String, required, min_length = 1, max_length = 16384, format = Password)]
    #[serde(default)]
    refresh_token: Field<String>,
    /// Asked for with each access token; null: what the user consented to.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 2000,
        example = "https://mail.google.com/")]
    #[serde(default)]
    scope: Field<Option<String>>,
    #[serde(flatten)]
    #[schema(ignore)]
    unknown: BTreeMap<String, Value>,
}

impl MailboxBody {
    /// What is given to log in with, if anything.
    pub(super) fn take_credential(&mut self, mistakes: &mut Mistakes) -> Option<Credential> {
        let (password, oauth2) = (&self.password, &self.oauth2);
        if !password.is_absent() && !oauth2.is_absent() {
            mistakes.add("/oauth2", "goes not with `password`; give one of the two");
        }
        let password = self.take_password(mistakes).map(Credential::Password);
        let grant = self.take_grant(mistakes).map(Credential::OAuth2);
        grant.or(password)
    }

    fn take_password(&mut self, mistakes: &mut Mistakes) -> Option<SecretString> {
        let password = std::mem::take(&mut self.password);
        let password = take_secret(password, "/password", mistakes)?;
        rules::check_password(&password, mistakes);
        Some(password.into())
    }

    fn take_grant(&mut self, mistakes: &mut Mistakes) -> Option<Grant> {
        match std::mem::take(&mut self.oauth2) {
            // serde's words would repeat the value.
            Field::Wrong(_) => {
                mistakes.check(false, "/oauth2", "must be an object");
                None
            }
            given => given.take("/oauth2", mistakes)?.into_grant(mistakes),
        }
    }
}

impl OAuth2Body {
    fn into_grant(self, mistakes: &mut Mistakes) -> Option<Grant> {
        mistakes.refuse(&self.unknown, "/oauth2", |_| None);
        for (pointer, absent) in [
            ("/oauth2/token_url", self.token_url.is_absent()),
            ("/oauth2/client_id", self.client_id.is_absent()),
            ("/oauth2/refresh_token", self.refresh_token.is_absent()),
        ] {
            mistakes.check(!absent, pointer, "is required");
        }
        let token_url = self.token_url.take("/oauth2/token_url", mistakes);
        let client_id = self.client_id.take("/oauth2/client_id", mistakes);
        let pointer = "/oauth2/client_secret";
        let client_secret = take_secret(self.client_secret, pointer, mistakes).flatten();
        let refresh_token = take_secret(self.refresh_token, "/oauth2/refresh_token", mistakes);
        let scope = self.scope.take("/oauth2/scope", mistakes).flatten();

        if let Some(url) = &token_url {
            check_url(url, mistakes);
        }
        for (text, max, pointer) in [
            (&client_id, MAX_CLIENT, "/oauth2/client_id"),
            (&client_secret, MAX_CLIENT, "/oauth2/client_secret"),
            (&refresh_token, MAX_TOKEN, "/oauth2/refresh_token"),
            (&scope, MAX_SCOPE, "/oauth2/scope"),
        ] {
            if let Some(text) = text {
                check_visible(text, max, pointer, mistakes);
            }
        }
        Some(Grant {
            token_url: token_url?,
            client_id: client_id?,
            client_secret: client_secret.map(SecretString::from),
            refresh_token: refresh_token?.into(),
            scope,
        })
    }
}

/// A secret of the wrong type is told without serde's words, which would repeat it.
fn take_secret<T>(field: Field<T>, pointer: &str, mistakes: &mut Mistakes) -> Option<T> {
    match field {
        Field::Wrong(_) => {
            mistakes.add(pointer, "must be a string");
            None
        }
        field => field.take(pointer, mistakes),
    }
}

fn check_url(text: &str, mistakes: &mut Mistakes) {
    let pointer = "/oauth2/token_url";
    let Ok(url) = Url::parse(text) else {
        mistakes.add(pointer, "is not a URL");
        return;
    };
    let detail = if text.len() > MAX_URL {
        "must have at most 2000 characters"
    } else if !oauth::is_secure(&url) {
        "must begin with https:// (http:// only on a loopback address)"
    } else if !url.username().is_empty() || url.password().is_some() {
        "must not have a user name or password in it"
    } else if url.fragment().is_some() {
        "must not have a fragment"
    } else {
        return;
    };
    mistakes.check(false, pointer, detail);
}

/// What OAuth 2.0 is made of (RFC 6749, appendix A).
fn check_visible(text: &str, max: usize, pointer: &str, mistakes: &mut Mistakes) {
    mistakes.check(
        (1..=max).contains(&text.len()),
        pointer,
        format!("must have 1 to {max} characters"),
    );
    mistakes.check(
        text.bytes().all(|c| (b' '..=b'~').contains(&c)),
        pointer,
        "must have no other characters than visible ASCII and spaces",
    );
}

/// A mechanism sends a password or a token, not either.
pub(super) fn check_login(settings: &Settings, kind: CredentialKind, mistakes: &mut Mistakes) {
    let fits = match settings.auth {
        Auth::Auto => true,
        Auth::UserPass | Auth::Plain | Auth::Apop => kind == CredentialKind::Password,
        Auth::Xoauth2 | Auth::Oauthbearer => kind == CredentialKind::OAuth2,
    };
    let needed = match kind {
        CredentialKind::Password => "needs `oauth2`, not a password; else use `auto`",
        CredentialKind::OAuth2 => "needs `password`, not `oauth2`; else use `auto`",
    };
    mistakes.check(fits, "/auth", needed);
    mistakes.check(
        kind == CredentialKind::Password || !settings.username.contains('\x01'),
        "/username",
        "must not contain ^A, which ends fields of OAUTHBEARER and XOAUTH2",
    );
}

/// A stored credential goes only where whoever gave it meant it to go: else everybody who may
/// change a mailbox could have it sent to a server of their own.
pub(super) fn check_same_server(before: &Mailbox, after: &Settings, mistakes: &mut Mistakes) {
    let now = &before.settings;
    let changed = if !after.host.eq_ignore_ascii_case(&now.host) {
        "host"
    } else if after.tls == Tls::None && now.tls != Tls::None {
        "tls"
    } else if after.tls == Tls::None && after.port != now.port {
        "port"
    } else {
        return;
    };
    let (pointer, name) = match before.credential {
        CredentialKind::Password => ("/password", "password"),
        CredentialKind::OAuth2 => ("/oauth2", "oauth2"),
    };
    let detail = format!(
        "is required with this change of `{changed}`: the stored {name} is not sent elsewhere, or \
         in the clear, than it was given for"
    );
    mistakes.check(false, pointer, detail);
}
