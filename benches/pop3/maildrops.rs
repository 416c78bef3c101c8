//! A Dovecot with maildrops of known content.

use std::{
    fs,
    path::{Path, PathBuf},
};

use popbridge::demo::{
    certificates::Certificates,
    dovecot::{Account, Dovecot},
};

use crate::corpus;

pub(crate) const HOST: &str = "localhost";
pub(crate) const PASSWORD: &str = "benchmark";

/// What a contender is to drain, and what a child process of ours is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Target {
    #[arg(long)]
    pub(crate) port: u16,
    #[arg(long)]
    pub(crate) username: String,
    /// PEM of the only certificate authority to trust.
    #[arg(long)]
    pub(crate) ca: PathBuf,
}

/// So many messages of a size each.
#[derive(Clone, Debug)]
pub(crate) struct Maildrop {
    pub(crate) username: String,
    pub(crate) messages: u64,
    /// Of all messages, with CRLF line ends and without byte-stuffing.
    pub(crate) octets: u64,
    /// The same with LF line ends.
    pub(crate) lf_octets: u64,
    /// What byte-stuffing adds on the wire.
    pub(crate) stuffing: u64,
}

pub(crate) struct Maildrops {
    dovecot: Dovecot,
    pub(crate) ca_pem: String,
    ca: PathBuf,
}

impl Maildrops {
    /// Starts Dovecot below `dir`, with an empty maildrop for each name.
    pub(crate) async fn start(dir: &Path, usernames: &[&str]) -> anyhow::Result<Self> {
        let certificates = Certificates::for_names(&[HOST])?;
        let accounts: Vec<_> = usernames
            .iter()
            .map(|username| Account {
                username: (*username).to_owned(),
                password: PASSWORD.to_owned(),
            })
            .collect();
        let dovecot = Dovecot::start(dir, &accounts, &certificates).await?;
        let ca = dir.join("ca.pem");
        fs::write(&ca, &certificates.ca_pem)?;
        Ok(Self {
            dovecot,
            ca_pem: certificates.ca_pem,
            ca,
        })
    }

    pub(crate) fn fill(
        &self,
        username: &str,
        messages: u64,
        octets: usize,
    ) -> anyhow::Result<Maildrop> {
        let mut maildrop = Maildrop {
            username: username.to_owned(),
            messages,
            octets: messages * octets as u64,
            lf_octets: 0,
            stuffing: 0,
        };
        for number in 0..messages {
            let message = corpus::message(number, octets);
            self.dovecot.deliver(username, &message.lf)?;
            maildrop.lf_octets += message.lf.len() as u64;
            maildrop.stuffing += message.stuffing;
        }
        Ok(maildrop)
    }

    /// Where the maildrop is served, on Dovecot's own port.
    pub(crate) fn target(&self, maildrop: &Maildrop) -> Target {
        Target {
            port: self.dovecot.pop3s().port(),
            username: maildrop.username.clone(),
            ca: self.ca.clone(),
        }
    }
}
