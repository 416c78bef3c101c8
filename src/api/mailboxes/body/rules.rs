//! What the settings of a mailbox must satisfy.

use std::{net::Ipv6Addr, ops::RangeInclusive};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::super::super::extract::Mistakes;
use crate::{
    pop3::KeyPin,
    store::{
        mailboxes::{DeletePolicy, InitialSync, Settings, Tls},
        retention::Retention,
    },
};

/// Characters of a name, and of an external id.
pub(super) const MAX_NAME: usize = 200;

const MAX_HOST: usize = 253;
const MAX_USERNAME: usize = 500;
const MAX_PASSWORD: usize = 1000;
const MAX_CA_PEM: usize = 64 << 10;
const PORT: RangeInclusive<i32> = 1..=65535;
const POLL_INTERVAL_SECONDS: RangeInclusive<i32> = 1..=86_400;
const DELETE_AFTER_DAYS: RangeInclusive<i32> = 1..=3650;
const MESSAGES_PER_SESSION: RangeInclusive<i32> = 1..=100_000;

/// A message is held whole in memory and in one value of Postgres.
const MESSAGE_BYTES: RangeInclusive<i64> = 1 << 10..=256 << 20;
const BYTES_PER_SESSION: RangeInclusive<i64> = 1 << 10..=16 << 30;

const KEPT_DAYS: RangeInclusive<i32> = 1..=36_500;
const KEPT_MESSAGES: RangeInclusive<i64> = 1..=1_000_000_000;
const KEPT_BYTES: RangeInclusive<i64> = 1 << 10..=1 << 50;

/// Fields that a mailbox shows but nobody sets.
const READ_ONLY: [&str; 12] = [
    "id",
    "state",
    "last_sync_at",
    "last_success_at",
    "next_sync_at",
    "last_error",
    "message_count",
    "stored_bytes",
    "pending_remote_deletes",
    "capabilities",
    "created_at",
    "updated_at",
];

pub(super) fn why_refused(field: &str) -> Option<&'static str> {
    READ_ONLY
        .contains(&field)
        .then_some("is read-only; leave it out")
}

pub(super) fn check(settings: &Settings, mistakes: &mut Mistakes) {
    mistakes.check_text(&settings.name, MAX_NAME, "/name");
    if let Some(external_id) = &settings.external_id {
        mistakes.check_text(external_id, MAX_NAME, "/external_id");
    }
    check_host(&settings.host, mistakes);
    check_credential(&settings.username, MAX_USERNAME, "/username", mistakes);
    if let Some(pem) = &settings.tls_ca_pem {
        check_certificates(pem, mistakes);
    }
    within(settings.port, PORT, "/port", mistakes);
    within(
        settings.poll_interval_seconds,
        POLL_INTERVAL_SECONDS,
        "/poll_interval_seconds",
        mistakes,
    );
    within(
        settings.max_message_bytes,
        MESSAGE_BYTES,
        "/max_message_bytes",
        mistakes,
    );
    within(
        settings.max_messages_per_session,
        MESSAGES_PER_SESSION,
        "/max_messages_per_session",
        mistakes,
    );
    within(
        settings.max_bytes_per_session,
        BYTES_PER_SESSION,
        "/max_bytes_per_session",
        mistakes,
    );
    mistakes.check(
        settings.tls != Tls::None || settings.tls_pin_sha256.is_none(),
        "/tls_pin_sha256",
        "goes only with TLS; set `tls` to implicit or starttls",
    );
    check_delete_after(settings, mistakes);
    if let Some(retention) = &settings.retention {
        check_retention(retention, mistakes);
    }
    mistakes.check(
        settings.initial_sync != InitialSync::LastN(0),
        "/initial_sync",
        "last_n must be 1 or more; for no message at all say \"none\"",
    );
}

pub(super) fn check_password(password: &str, mistakes: &mut Mistakes) {
    check_credential(password, MAX_PASSWORD, "/password", mistakes);
}

fn within<T: PartialOrd + std::fmt::Display>(
    value: T,
    range: RangeInclusive<T>,
    pointer: &str,
    mistakes: &mut Mistakes,
) {
    let detail = format!("must be between {} and {}", range.start(), range.end());
    mistakes.check(range.contains(&value), pointer, detail);
}

fn check_retention(retention: &Retention, mistakes: &mut Mistakes) {
    if let Some(days) = retention.max_age_days {
        within(days, KEPT_DAYS, "/retention/max_age_days", mistakes);
    }
    for (limit, range, pointer) in [
        (
            retention.max_messages,
            KEPT_MESSAGES,
            "/retention/max_messages",
        ),
        (retention.max_bytes, KEPT_BYTES, "/retention/max_bytes"),
    ] {
        if let Some(limit) = limit {
            within(limit, range, pointer, mistakes);
        }
    }
}

fn check_delete_after(settings: &Settings, mistakes: &mut Mistakes) {
    let pointer = "/delete_after_days";
    match (settings.delete_policy, settings.delete_after_days) {
        (DeletePolicy::AfterDays, None) => {
            mistakes.check(
                false,
                pointer,
                "is required with the delete_policy `after_days`",
            );
        }
        (DeletePolicy::AfterDays, Some(days)) => within(days, DELETE_AFTER_DAYS, pointer, mistakes),
        (_, Some(_)) => {
            mistakes.check(
                false,
                pointer,
                "goes only with the delete_policy `after_days`",
            );
        }
        (_, None) => {}
    }
}

fn check_host(host: &str, mistakes: &mut Mistakes) {
    let colons = host.matches(':').count();
    let detail = if host.is_empty() {
        "must not be empty"
    } else if host.len() > MAX_HOST {
        "is longer than a host name can be"
    } else if host.contains("://") {
        "must be a host name alone, without a scheme such as pop3://"
    } else if host.starts_with('[') {
        "must be without brackets; put a port in `port`"
    } else if colons == 1 {
        "must be without a port; put it in `port`"
    } else if colons > 1 && host.parse::<Ipv6Addr>().is_err() {
        "is neither a host name nor an IPv6 address"
    } else if host
        .chars()
        .any(|c| c.is_whitespace() || c.is_control() || "/@?#\\".contains(c))
    {
        "must be a host name alone"
    } else {
        return;
    };
    mistakes.check(false, "/host", detail);
}

/// People write a pin in several ways; one of them is kept.
pub(super) fn normalise_pin(settings: &mut Settings, mistakes: &mut Mistakes) {
    let Some(text) = &settings.tls_pin_sha256 else {
        return;
    };
    match text.parse::<KeyPin>() {
        Ok(pin) => settings.tls_pin_sha256 = Some(pin.to_string()),
        Err(invalid) => {
            mistakes.check(false, "/tls_pin_sha256", invalid.to_string());
        }
    }
}

/// CR or LF would begin another command; NUL ends strings in some servers (and in SASL PLAIN).
fn check_credential(text: &str, max: usize, pointer: &str, mistakes: &mut Mistakes) {
    let length = text.chars().count();
    mistakes.check(
        (1..=max).contains(&length),
        pointer,
        format!("must have 1 to {max} characters"),
    );
    mistakes.check(
        !text.contains(['\r', '\n', '\0']),
        pointer,
        "must not contain CR, LF or NUL",
    );
}

fn check_certificates(pem: &str, mistakes: &mut Mistakes) {
    let detail = if pem.len() > MAX_CA_PEM {
        format!("must not be longer than {MAX_CA_PEM} octets")
    } else {
        match read_certificates(pem) {
            Ok(()) => return,
            Err(detail) => detail,
        }
    };
    mistakes.check(false, "/tls_ca_pem", detail);
}

fn read_certificates(pem: &str) -> Result<(), String> {
    if pem.contains('\0') {
        return Err("must be PEM text".to_owned());
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("is not PEM: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("has a certificate that cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        return Err("has no `-----BEGIN CERTIFICATE-----`".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_host(host: &str) -> bool {
        let mut mistakes = Mistakes::default();
        check_host(host, &mut mistakes);
        mistakes.into_result(()).is_ok()
    }

    #[test]
    fn host_is_a_name_or_an_address_alone() {
        for host in [
            "pop.example.com",
            "localhost",
            "192.0.2.1",
            "2001:db8::1",
            "bücher.example",
        ] {
            assert!(is_host(host), "{host}");
        }
        for host in [
            "",
            "pop3://example.com",
            "example.com:995",
            "[::1]",
            "a b",
            "user@host",
            "host/path",
            "a:b:c",
            "line\nbreak",
        ] {
            assert!(!is_host(host), "{host}");
        }
    }
}
