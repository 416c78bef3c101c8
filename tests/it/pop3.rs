//! The POP3 client against a scripted peer, a fact per test.

use std::{sync::OnceLock, time::Duration};

use popbridge::pop3::{Connector, Deadlines, Error, Retrieved, Session, Transcript};

use crate::support::pop3_peer::{Running, connector, credentials};

mod bearer;
mod connecting;
mod encrypting;
mod ending;
mod listing;
mod login;
mod retrieving;

/// Opens a session with the deadlines that users get.
async fn open(peer: &Running) -> Result<Session, Error> {
    // Reading the machine's certificates takes longer than a session.
    static CONNECTOR: OnceLock<Connector> = OnceLock::new();
    let connector = CONNECTOR.get_or_init(|| connector(Deadlines::default()));
    connector
        .open(&peer.server, &credentials(), &Transcript::default())
        .await
}

/// Opens a session with other deadlines.
async fn open_within(peer: &Running, deadlines: Deadlines) -> Result<Session, Error> {
    connector(deadlines)
        .open(&peer.server, &credentials(), &Transcript::default())
        .await
}

/// Shorter than any real deadline, for what never comes.
const SOON: Duration = Duration::from_millis(300);

/// Why a session could not be opened.
async fn refusal(peer: &Running) -> (&'static str, String) {
    let error = open(peer).await.expect_err("the session opens");
    (error.code(), error.to_string())
}

/// Retrieves everything that is listed: each message's octets, or the refusal.
async fn retrieve_all(session: &mut Session) -> Result<Vec<Result<Vec<u8>, String>>, Error> {
    let listing = session.listing(None).await?;
    let wanted = listing
        .entries
        .into_iter()
        .map(|entry| (entry.number, entry.octets));
    let mut retrieval = session.retrieve(wanted.collect::<Vec<_>>());
    let mut found = Vec::new();
    while let Some(next) = retrieval.next().await? {
        found.push(match next {
            Retrieved::Refused { reply, .. } => Err(reply.to_string()),
            Retrieved::Body { .. } => {
                let mut octets = Vec::new();
                while let Some(chunk) = retrieval.chunk().await? {
                    octets.extend_from_slice(chunk);
                }
                Ok(octets)
            }
        });
    }
    Ok(found)
}
