//! What is odd about a server, from what was seen of it. No I/O.

use time::{Duration, OffsetDateTime};

use super::{Evidence, Quirk};
use crate::pop3::{Expire, Server, Tls, Transcript, UniqueIds};

/// Certificates that end within this are mentioned.
const SOON: Duration = Duration::days(14);

pub(super) fn find(server: &Server, evidence: &Evidence, transcript: &Transcript) -> Vec<Quirk> {
    let mut quirks = Vec::new();
    let mut add = |code, detail: String| quirks.push(Quirk { code, detail });
    of_the_line(server, transcript, &mut add);
    of_the_capabilities(evidence, &mut add);
    of_the_listing(evidence, &mut add);
    quirks
}

fn of_the_line(
    server: &Server,
    transcript: &Transcript,
    add: &mut impl FnMut(&'static str, String),
) {
    if server.tls == Tls::None {
        add(
            "plain_text",
            "Without TLS the password and all mail can be read on the way.".into(),
        );
    }
    if transcript.bare_lf() {
        add(
            "bare_lf",
            "The server ends its lines with LF alone; popbridge reads them that way.".into(),
        );
    }
    let tls = transcript.tls();
    let certificate = tls.as_ref().and_then(|tls| tls.certificates.first());
    if let Some(certificate) = certificate
        && certificate.not_after < OffsetDateTime::now_utc() + SOON
    {
        add(
            "certificate_ends_soon",
            format!(
                "The server's certificate is valid until {} only.",
                certificate.not_after.date()
            ),
        );
    }
}

fn of_the_capabilities(evidence: &Evidence, add: &mut impl FnMut(&'static str, String)) {
    let Some(found) = &evidence.capabilities else {
        if evidence.listing.is_some() {
            add(
                "no_capa",
                "The server has no CAPA, so that popbridge sends one command at a time.".into(),
            );
        }
        return;
    };
    let listed = evidence.listing.is_some();
    if listed && !found.pipelining {
        add(
            "no_pipelining",
            "The server does not announce PIPELINING: each message costs a round trip.".into(),
        );
    }
    if listed && !found.top {
        add(
            "no_top",
            "The server does not announce TOP: of messages over max_message_bytes nothing may be \
             kept but their size."
                .into(),
        );
    }
    if let Some(delay) = found.login_delay.filter(|delay| !delay.is_zero()) {
        add(
            "login_delay",
            format!(
                "The server asks for {} s between logins: set poll_interval_seconds to no less.",
                delay.as_secs()
            ),
        );
    }
    match found.expire {
        Some(Expire::Days(0)) => add(
            "expire_0",
            "The server may delete what was fetched (EXPIRE 0), whatever the delete_policy.".into(),
        ),
        Some(Expire::Days(days)) => add(
            "expire",
            format!("The server keeps mail for {days} days only, whatever the delete_policy."),
        ),
        Some(Expire::Never) | None => {}
    }
}

fn of_the_listing(evidence: &Evidence, add: &mut impl FnMut(&'static str, String)) {
    let Some(listing) = &evidence.listing else {
        return;
    };
    let announced = evidence.capabilities.as_ref().map(|found| found.uidl);
    match listing.source {
        UniqueIds::Digests => add(
            "no_uidl",
            "The server has no UIDL: popbridge tells messages apart by digests, which costs a TOP \
             or RETR of each message in each sync. A delete_policy keeps the maildrop small."
                .into(),
        ),
        UniqueIds::Uidl if announced == Some(false) && !listing.entries.is_empty() => add(
            "uidl_not_announced",
            "The server has UIDL but does not announce it; that is no problem.".into(),
        ),
        UniqueIds::Uidl => {}
    }
    if let Some(fault) = listing.fault {
        add(
            "incomplete_listing",
            format!("{fault}: popbridge fetches what it can, and deletes nothing."),
        );
    }
    if evidence.uidl_stable == Some(false) {
        add(
            "unstable_unique_ids",
            "The unique-ids changed between two logins: each sync would fetch all mail again. Ask \
             the mail provider for unique-ids that last."
                .into(),
        );
    }
    if let Some(error) = &evidence.quit {
        add(
            "quit_unanswered",
            format!(
                "QUIT had no good reply ({error}): popbridge looks again whether mail is gone."
            ),
        );
    }
    if let Some(error) = &evidence.second {
        add(
            "second_login",
            format!("A second login right after the first one failed ({error})."),
        );
    }
}
