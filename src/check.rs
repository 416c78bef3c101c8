//! The diagnosis of a POP3 server: each step with its time, what it offers, what is odd about it,
//! and, where it fails, what to change. Behind `POST /v1/mailboxes/verify` and `popbridge check`.

use std::{collections::HashSet, time::Duration};

use crate::pop3::{
    Capabilities, Connector, Credentials, Deadlines, Error, Listing, Server, Transcript, UniqueId,
    provider_hint,
};

pub mod command;
mod quirks;
mod report;

pub use report::{Certificate, Failure, Quirk, Report, Step, TlsReport};

/// Shorter than those of a sync: somebody is waiting. All of a check fits into a minute.
pub const DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_secs(8),
    tls: Duration::from_secs(8),
    capabilities: Duration::from_secs(5),
    reply: Duration::from_secs(15),
    idle: Duration::from_secs(15),
    session: Duration::from_secs(25),
};

/// What was seen of a server, in one login or two.
#[derive(Debug, Default)]
struct Evidence {
    /// What CAPA said last; `None` where the server has no such command.
    capabilities: Option<Capabilities>,
    listing: Option<Listing>,
    /// Whether a second login found the same unique-ids; `None` where that was not to be seen.
    uidl_stable: Option<bool>,
    /// Why there was no second listing, where that tells something.
    second: Option<Error>,
    /// QUIT had no good reply.
    quit: Option<Error>,
}

/// Looks at a server as a sync would, and changes nothing in the maildrop. Without credentials it
/// goes no further than what the server says before a login.
pub async fn check(
    connector: &Connector,
    server: &Server,
    credentials: Option<&Credentials>,
) -> Report {
    let transcript = Transcript::default();
    let mut evidence = Evidence::default();
    let result = match credentials {
        Some(credentials) => {
            let look = Look {
                connector,
                server,
                credentials,
                transcript: &transcript,
            };
            look.twice(&mut evidence).await
        }
        None => connector
            .probe(server, &transcript)
            .await
            .map(|capabilities| evidence.capabilities = capabilities),
    };
    let hint = provider_hint(&server.host);
    let quirks = quirks::find(server, &evidence, &transcript);
    Report::new(server, result.err(), evidence, quirks, hint, &transcript)
}

struct Look<'a> {
    connector: &'a Connector,
    server: &'a Server,
    credentials: &'a Credentials,
    transcript: &'a Transcript,
}

impl Look<'_> {
    async fn twice(&self, evidence: &mut Evidence) -> Result<(), Error> {
        let first = self.list(evidence).await?;
        let may_return = evidence
            .capabilities
            .as_ref()
            .is_none_or(|found| found.login_delay.is_none_or(|delay| delay.is_zero()));
        let has_unique_ids = !first.entries.is_empty();
        if has_unique_ids && may_return {
            match self.list(evidence).await {
                Ok(second) => {
                    evidence.uidl_stable = Some(goes_on(&unique_ids(&first), &unique_ids(&second)));
                }
                Err(error) => evidence.second = Some(error),
            }
        }
        evidence.listing = Some(first);
        Ok(())
    }

    async fn list(&self, evidence: &mut Evidence) -> Result<Listing, Error> {
        let mut session = self
            .connector
            .open(self.server, self.credentials, self.transcript)
            .await?;
        let capabilities = session.capabilities();
        evidence.capabilities = (!capabilities.lines.is_empty()).then(|| capabilities.clone());
        let listing = session.listing(None).await?;
        // After QUIT some servers take what was retrieved as popped.
        if !listing.retrieved {
            evidence.quit = session.quit().await.err();
        }
        Ok(listing)
    }
}

fn unique_ids(listing: &Listing) -> HashSet<&UniqueId> {
    listing
        .entries
        .iter()
        .map(|entry| &entry.unique_id)
        .collect()
}

/// Whether most of what was there is still there: mail may come and go between two logins.
fn goes_on(before: &HashSet<&UniqueId>, after: &HashSet<&UniqueId>) -> bool {
    2 * before.intersection(after).count() >= before.len()
}
