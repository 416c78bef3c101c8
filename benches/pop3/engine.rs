//! A drain with popbridge's engine, each message into memory as the sync does it.

use std::{fs, time::Instant};

use anyhow::ensure;
use popbridge::{
    egress::Egress,
    pop3::{
        Connector, Credentials, Deadlines, PasswordMechanism, Retrieved, Server, Tls, Transcript,
    },
};

use crate::{
    maildrops::{HOST, PASSWORD, Target},
    measure::Drained,
};

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn drain(target: &Target) -> anyhow::Result<Drained> {
    let egress = Egress::new(vec!["127.0.0.0/8".parse()?, "::1/128".parse()?]);
    let connector = Connector::new(egress, Deadlines::default())?;
    let server = Server {
        host: HOST.to_owned(),
        port: target.port,
        tls: Tls::Implicit,
        ca_pem: Some(fs::read_to_string(&target.ca)?),
        pin: None,
        pipelining: true,
    };
    let mechanism = PasswordMechanism::Auto;
    let credentials = Credentials::with_password(&target.username, PASSWORD.into(), mechanism);
    let started = Instant::now();
    let transcript = Transcript::default();
    let mut session = connector.open(&server, &credentials, &transcript).await?;
    let listing = session.listing(None).await?;
    ensure!(listing.complete, "the listing is incomplete");
    let ready = Instant::now();
    let (mut messages, mut octets) = (0, 0);
    let mut retrieval = session.retrieve(listing.entries.iter().map(|e| (e.number, e.octets)));
    for entry in &listing.entries {
        let retrieved = retrieval.next().await?;
        ensure!(
            matches!(retrieved, Some(Retrieved::Body { .. })),
            "a message did not come: {retrieved:?}"
        );
        let mut message = Vec::with_capacity(entry.octets.try_into()?);
        while let Some(chunk) = retrieval.chunk().await? {
            message.extend_from_slice(chunk);
        }
        messages += 1;
        octets += message.len() as u64;
    }
    ensure!(retrieval.next().await?.is_none(), "there is one too many");
    let drained = Instant::now();
    session.quit().await?;
    Ok(Drained {
        messages,
        octets,
        open_ms: (ready - started).as_secs_f64() * 1e3,
        drain_ms: Some((drained - ready).as_secs_f64() * 1e3),
    })
}
