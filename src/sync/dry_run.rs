//! A session that only counts what a pass would do: it lists and compares, and changes nothing on
//! either side.

use std::collections::HashSet;

use super::{
    error::Error,
    login::Login,
    plan::{Entry, Situation, deletions, plan},
};
use crate::{
    connection,
    pop3::{Connector, Transcript},
    store::{
        Store,
        dry_runs::DryRun,
        leases::Claim,
        mailboxes::{DeletePolicy, Mailbox, Settings},
    },
};

/// Lists the maildrop and counts. Also returns what the server announced after login.
pub(super) async fn dry_run(
    store: &Store,
    connector: &Connector,
    claim: &Claim,
    mailbox: &Mailbox,
    login: &Login,
) -> Result<(DryRun, Vec<String>), Error> {
    let settings = &mailbox.settings;
    let server = connection::server(settings, claim.pipelining)?;
    let mut session = connector
        .open(&server, &login.credentials, &Transcript::default())
        .await?;
    let capabilities = session.capabilities().lines.clone();
    let before = claim.unique_ids.map(connection::unique_ids);
    let listing = session.listing(before).await?;
    let entries: Vec<_> = listing.entries.into_iter().map(Entry::from).collect();
    let unique_ids: Vec<_> = entries.iter().map(|e| e.unique_id.clone()).collect();
    let Settings {
        delete_policy,
        delete_after_days,
        ..
    } = *settings;
    let known = store
        .preview_listing(mailbox.id, &unique_ids, delete_policy, delete_after_days)
        .await?;
    // A pass goes on from session to session.
    let settings = Settings {
        max_messages_per_session: i32::MAX,
        max_bytes_per_session: i64::MAX,
        ..settings.clone()
    };
    let plan = plan(Situation {
        listing: &entries,
        known: &known,
        retry: true,
        tried: &HashSet::new(),
        settings: &settings,
        first: !claim.backlog_done && known.is_empty(),
    });
    let mut deleted = if listing.complete {
        deletions(&entries, &known).len()
    } else {
        0
    };
    if listing.complete && delete_policy == DeletePolicy::AfterStore {
        deleted += plan.fetch.len();
    }
    let asked_for = plan.fetch.len() + plan.oversize.len() + plan.skip.len();
    // After QUIT some servers take what was retrieved, to tell messages apart, as popped.
    if !listing.retrieved
        && let Err(error) = session.quit().await
    {
        tracing::info!(%error, "the session ended without a reply to QUIT");
    }
    let counts = DryRun {
        listed: count(entries.len()),
        listed_octets: octets(&entries),
        known: count(entries.len() - asked_for),
        fetch: count(plan.fetch.len()),
        fetch_octets: octets(&plan.fetch),
        oversize: count(plan.oversize.len()),
        skip: count(plan.skip.len()),
        delete: count(deleted),
    };
    Ok((counts, capabilities))
}

fn octets(entries: &[Entry]) -> i64 {
    let octets = entries.iter().map(|entry| entry.octets);
    i64::try_from(octets.fold(0, u64::saturating_add)).unwrap_or(i64::MAX)
}

fn count(entries: usize) -> i64 {
    i64::try_from(entries).unwrap_or(i64::MAX)
}
