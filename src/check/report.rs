//! What a check tells.

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::Evidence;
use crate::pop3::{
    CertificateFacts, Error, Phase, Server, Tls, TlsFacts, Transcript, TranscriptRecord,
};

/// What was found out about a POP3 server.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = CheckReport)]
pub struct Report {
    /// A sync with these settings would work.
    pub ok: bool,
    /// Host as asked for.
    pub host: String,
    /// Port as asked for.
    pub port: u16,
    /// The address that was connected to.
    pub address: Option<String>,
    /// What was done, in order, and how long each step took.
    pub steps: Vec<Step>,
    /// The step that failed, and why; null when all went well.
    pub error: Option<Failure>,
    /// What TLS agreed on; null before that, and without TLS.
    pub tls: Option<TlsReport>,
    /// What the server announces (CAPA, RFC 2449).
    pub capabilities: Vec<String>,
    /// Messages in the maildrop.
    pub messages: Option<u64>,
    /// Their octets, as the server counts them.
    pub octets: Option<u64>,
    /// Whether a second login found the same unique-ids; null where that could not be seen.
    pub uidl_stable: Option<bool>,
    /// What is odd about this server, and what that means.
    pub quirks: Vec<Quirk>,
    /// What users of this provider have to know, if it is a known one.
    pub hint: Option<&'static str>,
    /// What was said, without credentials.
    pub transcript: TranscriptRecord,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = CheckStep)]
pub struct Step {
    /// `resolve`, `connect`, `tls`, `greeting`, `capabilities`, `starttls`, `login`, `listing`,
    /// `quit`; or `settings`, where these already were of no use.
    pub step: &'static str,
    /// Which connection it belongs to, from 1.
    pub connection: u32,
    /// It went well.
    pub ok: bool,
    /// Milliseconds that it took.
    pub elapsed_ms: u64,
}

/// Why a check went no further.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = CheckError)]
pub struct Failure {
    /// The step that failed.
    pub step: &'static str,
    /// Stable machine word, as in a mailbox's `last_error`.
    pub code: &'static str,
    /// What happened and what to change.
    pub detail: String,
}

/// Something odd about a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = CheckQuirk)]
pub struct Quirk {
    /// Stable machine word.
    pub code: &'static str,
    /// What it means.
    pub detail: String,
}

/// What a TLS handshake agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = CheckTls)]
pub struct TlsReport {
    /// Such as `TLSv1.3`.
    pub version: String,
    /// Such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher_suite: String,
    /// What the server presented, its own certificate first.
    pub certificates: Vec<Certificate>,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = CheckCertificate)]
pub struct Certificate {
    /// Whose it is.
    pub subject: String,
    /// Who vouches for it.
    pub issuer: String,
    /// Host names and addresses that it is valid for.
    pub names: Vec<String>,
    /// Valid from.
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    /// Valid until.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// What a mailbox's `tls_pin_sha256` would be to trust this key.
    pub pin_sha256: Option<String>,
}

impl Report {
    pub(super) fn new(
        server: &Server,
        error: Option<Error>,
        evidence: Evidence,
        quirks: Vec<Quirk>,
        hint: Option<&'static str>,
        transcript: &Transcript,
    ) -> Self {
        let steps = steps(transcript, error.is_some(), evidence.second.is_some());
        let failed = steps.last().map_or("settings", |step| step.step);
        let entries = evidence.listing.as_ref().map(|listing| &listing.entries);
        Self {
            ok: error.is_none(),
            host: server.host.clone(),
            port: server.port,
            address: transcript.address().map(|address| address.to_string()),
            error: error.map(|error| Failure {
                step: failed,
                code: error.code(),
                detail: error.to_string(),
            }),
            steps,
            tls: transcript
                .tls()
                .filter(|_| server.tls != Tls::None)
                .map(Into::into),
            capabilities: evidence
                .capabilities
                .map_or_else(Vec::new, |found| found.lines),
            messages: entries.map(|entries| entries.len() as u64),
            octets: entries.map(|entries| {
                let sizes = entries.iter().map(|entry| entry.octets);
                sizes.fold(0, u64::saturating_add)
            }),
            uidl_stable: evidence.uidl_stable,
            quirks,
            hint,
            transcript: transcript.record(),
        }
    }
}

/// The steps with their times; the last one is the one that failed, if any did.
fn steps(transcript: &Transcript, failed: bool, second_failed: bool) -> Vec<Step> {
    let steps = transcript.steps();
    let ends = steps.iter().skip(1).map(|next| next.at);
    let ends = ends.chain([transcript.elapsed()]);
    let (mut connection, last) = (0, steps.len().saturating_sub(1));
    let timed = steps.iter().zip(ends).enumerate();
    timed
        .map(|(index, (step, end))| {
            connection += u32::from(step.phase == Phase::Resolve);
            Step {
                step: name(step.phase),
                connection,
                ok: index < last || !(failed || second_failed),
                elapsed_ms: milliseconds(end.saturating_sub(step.at)),
            }
        })
        .collect()
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Resolve => "resolve",
        Phase::Connect => "connect",
        Phase::Tls => "tls",
        Phase::Greeting => "greeting",
        Phase::Capabilities | Phase::SessionCapabilities => "capabilities",
        Phase::Starttls => "starttls",
        Phase::Login => "login",
        Phase::Listing | Phase::Retrieve => "listing",
        Phase::Delete | Phase::Quit => "quit",
    }
}

impl From<TlsFacts> for TlsReport {
    fn from(facts: TlsFacts) -> Self {
        Self {
            version: facts.version,
            cipher_suite: facts.cipher_suite,
            certificates: facts.certificates.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<CertificateFacts> for Certificate {
    fn from(facts: CertificateFacts) -> Self {
        Self {
            subject: facts.subject,
            issuer: facts.issuer,
            names: facts.names,
            not_before: facts.not_before,
            not_after: facts.not_after,
            pin_sha256: facts.key_pin.map(|pin| pin.to_string()),
        }
    }
}
