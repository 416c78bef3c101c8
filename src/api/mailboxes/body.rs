//! What users send of a mailbox, and how it becomes settings.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use self::credential::OAuth2Body;
use super::super::{
    document,
    extract::{Field, Mistakes},
    problem::Problem,
};
use crate::store::{
    credentials::Credential,
    mailboxes::{Auth, DeletePolicy, InitialSync, Mailbox, Settings, Tls},
    retention::Retention,
};

mod credential;
mod rules;

/// A mailbox as users send it, whole or in part. All fields are optional to serde, so that all
/// mistakes can be told at once.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub(super) struct MailboxBody {
    /// For people; `username@host` where none is given.
    #[schema(value_type = String, min_length = 1, max_length = 200)]
    #[serde(default)]
    name: Field<String>,
    /// The id that your own system has for it; unique.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    #[serde(default)]
    external_id: Field<Option<String>>,
    /// Host name or address of the POP3 server, alone.
    #[schema(value_type = String, required, min_length = 1, max_length = 253, example = "pop.example.com")]
    #[serde(default)]
    host: Field<String>,
    /// TCP port; 995 for `implicit`, 110 for the others where none is given.
    #[schema(value_type = u16, minimum = 1, maximum = 65535)]
    #[serde(default)]
    port: Field<i32>,
    /// How the connection is protected.
    #[schema(value_type = Tls, default = "implicit")]
    #[serde(default)]
    tls: Field<Tls>,
    /// Certificates in PEM that alone are trusted for this server; null: the system's.
    #[schema(value_type = Option<String>, max_length = 65536)]
    #[serde(default)]
    tls_ca_pem: Field<Option<String>>,
    /// SHA-256 of the server's public key (SPKI), in base64 or hexadecimal; null: any key. Without
    /// `tls_ca_pem` this key alone is trusted, whatever the certificate says around it; with it,
    /// both have to be right.
    #[schema(value_type = Option<String>, max_length = 128, example = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")]
    #[serde(default)]
    tls_pin_sha256: Field<Option<String>>,
    /// Who logs in.
    #[schema(value_type = String, required, min_length = 1, max_length = 500, example = "anna@example.com")]
    #[serde(default)]
    username: Field<String>,
    /// How to log in.
    #[schema(value_type = Auth, default = "auto")]
    #[serde(default)]
    auth: Field<Auth>,
    /// This or `oauth2` is required to register a mailbox, and again with a new `host`, a change of
    /// `tls` to `none`, or there a new `port`. Stored encrypted; it never comes back.
    #[schema(value_type = String, write_only, min_length = 1, max_length = 1000, format = Password)]
    #[serde(default)]
    password: Field<String>,
    /// Instead of a password. Stored encrypted; it never comes back.
    #[schema(value_type = OAuth2Body, write_only)]
    #[serde(default)]
    oauth2: Field<OAuth2Body>,
    /// Seconds between two syncs.
    #[schema(value_type = i32, minimum = 1, maximum = 86400, default = 60)]
    #[serde(default)]
    poll_interval_seconds: Field<i32>,
    /// When messages are deleted from the server.
    #[schema(value_type = DeletePolicy, default = "never")]
    #[serde(default)]
    delete_policy: Field<DeletePolicy>,
    /// For `after_days`, and only there.
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 3650)]
    #[serde(default)]
    delete_after_days: Field<Option<i32>>,
    /// What the first sync does with the mail that is already there.
    #[schema(value_type = InitialSync, default = "all")]
    #[serde(default)]
    initial_sync: Field<InitialSync>,
    /// Whether webhooks hear of the mail that was there at the first sync.
    #[schema(value_type = bool, default = false)]
    #[serde(default)]
    notify_backlog: Field<bool>,
    /// Octets; of longer messages only the head is fetched.
    #[schema(value_type = i64, minimum = 1024, maximum = 268435456, default = 52428800)]
    #[serde(default)]
    max_message_bytes: Field<i64>,
    /// New messages that one session fetches at most.
    #[schema(value_type = i32, minimum = 1, maximum = 100000, default = 500)]
    #[serde(default)]
    max_messages_per_session: Field<i32>,
    /// Octets of new messages that one session fetches at most.
    #[schema(value_type = i64, minimum = 1024, maximum = 17179869184i64, default = 209715200)]
    #[serde(default)]
    max_bytes_per_session: Field<i64>,
    /// How much of the stored mail is kept; null: all of it.
    #[schema(value_type = Option<RetentionBody>)]
    #[serde(default)]
    retention: Field<Option<RetentionBody>>,
    /// Not synced while true.
    #[schema(value_type = bool, default = false)]
    #[serde(default)]
    paused: Field<bool>,
    #[serde(flatten)]
    #[schema(ignore)]
    unknown: BTreeMap<String, Value>,
}

/// How much of a mailbox's stored mail is kept. The oldest is removed first, and is not fetched
/// again; on the server it stays for as long as the delete policy says.
#[derive(Clone, Debug, Deserialize, ToSchema)]
struct RetentionBody {
    /// Days since a message was stored; null: any.
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 36500)]
    #[serde(default)]
    max_age_days: Field<Option<i32>>,
    /// Messages; null: any number.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 1000000000)]
    #[serde(default)]
    max_messages: Field<Option<i64>>,
    /// Octets of stored messages; null: any number.
    #[schema(value_type = Option<i64>, minimum = 1024, maximum = 1125899906842624i64)]
    #[serde(default)]
    max_bytes: Field<Option<i64>>,
    #[serde(flatten)]
    #[schema(ignore)]
    unknown: BTreeMap<String, Value>,
}

document::request_body! {
    /// A mailbox to register.
    CreateMailbox = closed(MailboxBody);
    /// Settings of a mailbox to change.
    UpdateMailbox = patch(MailboxBody);
}

impl MailboxBody {
    /// The settings of a mailbox to register, and what logs in.
    pub(super) fn into_new(mut self) -> Result<(Settings, Credential), Problem> {
        let mut mistakes = Mistakes::default();
        for (field, absent) in [
            ("/host", self.host.is_absent()),
            ("/username", self.username.is_absent()),
        ] {
            mistakes.check(!absent, field, "is required");
        }
        if self.password.is_absent() && self.oauth2.is_absent() {
            match self.auth {
                Field::Given(Auth::Xoauth2 | Auth::Oauthbearer) => {
                    mistakes.add("/oauth2", "is required");
                }
                _ => mistakes.add("/password", "is required, or else `oauth2`"),
            }
        }
        let (no_name, no_port) = (self.name.is_absent(), self.port.is_absent());
        let credential = self.take_credential(&mut mistakes);
        let mut settings = self.apply(DEFAULTS, &mut mistakes);
        if no_port {
            settings.port = match settings.tls {
                Tls::Implicit => 995,
                Tls::Starttls | Tls::None => 110,
            };
        }
        if no_name {
            let name = format!("{}@{}", settings.username, settings.host);
            // What is wrong with the username is told there, not here again.
            let name = name.chars().filter(|c| !c.is_control());
            settings.name = name.take(rules::MAX_NAME).collect();
        }
        rules::check(&settings, &mut mistakes);
        if let Some(credential) = &credential {
            credential::check_login(&settings, credential.kind(), &mut mistakes);
        }
        let credential = credential.unwrap_or_else(|| Credential::from(""));
        mistakes.into_result((settings, credential))
    }

    /// The settings of `mailbox` with what this changes, and what logs in where that is new.
    pub(super) fn into_changed(
        mut self,
        mailbox: &Mailbox,
    ) -> Result<(Settings, Option<Credential>), Problem> {
        let mut mistakes = Mistakes::default();
        let given = !self.password.is_absent() || !self.oauth2.is_absent();
        let credential = self.take_credential(&mut mistakes);
        let mut current = mailbox.settings.clone();
        if let Field::Given(policy) = self.delete_policy
            && policy != DeletePolicy::AfterDays
        {
            // They went with the policy that is no more.
            current.delete_after_days = None;
        }
        let settings = self.apply(current, &mut mistakes);
        rules::check(&settings, &mut mistakes);
        if !given {
            credential::check_same_server(mailbox, &settings, &mut mistakes);
        }
        let kind = credential
            .as_ref()
            .map_or(mailbox.credential, Credential::kind);
        credential::check_login(&settings, kind, &mut mistakes);
        mistakes.into_result((settings, credential))
    }

    fn apply(self, mut settings: Settings, mistakes: &mut Mistakes) -> Settings {
        mistakes.refuse(&self.unknown, "", rules::why_refused);
        macro_rules! put {
            ($($field:ident),* $(,)?) => {
                $(self.$field.put(
                    &mut settings.$field,
                    concat!("/", stringify!($field)),
                    mistakes,
                );)*
            };
        }
        put!(
            name,
            external_id,
            host,
            port,
            tls,
            tls_ca_pem,
            tls_pin_sha256,
            username,
            auth,
            poll_interval_seconds,
            delete_policy,
            delete_after_days,
            initial_sync,
            notify_backlog,
            max_message_bytes,
            max_messages_per_session,
            max_bytes_per_session,
            paused,
        );
        match self.retention.take("/retention", mistakes) {
            None => {}
            Some(None) => settings.retention = None,
            Some(Some(retention)) => {
                let current = settings.retention.unwrap_or_default();
                let changed = retention.apply(current, mistakes);
                settings.retention = Some(changed).filter(|kept| *kept != Retention::default());
            }
        }
        rules::normalise_pin(&mut settings, mistakes);
        settings
    }
}

impl RetentionBody {
    fn apply(self, mut retention: Retention, mistakes: &mut Mistakes) -> Retention {
        mistakes.refuse(&self.unknown, "/retention", |_| None);
        let days = "/retention/max_age_days";
        self.max_age_days
            .put(&mut retention.max_age_days, days, mistakes);
        let messages = "/retention/max_messages";
        self.max_messages
            .put(&mut retention.max_messages, messages, mistakes);
        let bytes = "/retention/max_bytes";
        self.max_bytes
            .put(&mut retention.max_bytes, bytes, mistakes);
        retention
    }
}

/// What a mailbox is where its user does not say; the rest is required or follows from it.
const DEFAULTS: Settings = Settings {
    name: String::new(),
    external_id: None,
    host: String::new(),
    port: 995,
    tls: Tls::Implicit,
    tls_ca_pem: None,
    tls_pin_sha256: None,
    username: String::new(),
    auth: Auth::Auto,
    poll_interval_seconds: 60,
    delete_policy: DeletePolicy::Never,
    delete_after_days: None,
    initial_sync: InitialSync::All,
    notify_backlog: false,
    max_message_bytes: 50 << 20,
    max_messages_per_session: 500,
    max_bytes_per_session: 200 << 20,
    retention: None,
    paused: false,
};
