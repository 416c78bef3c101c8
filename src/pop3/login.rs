//! AUTHORIZATION state: connection, greeting, CAPA, STLS, and the login itself.

use std::fmt;

use crate::egress::Egress;

use super::{
    Capabilities, Credentials, Deadlines, Error, Phase, Refusal, Server, Session, Tls,
    codec::{self, Status},
    dial::dial,
    reply::printable,
    session::multi_line,
    tls::Trust,
    wire::{Clock, Wire},
};

mod authenticate;

/// Opens sessions. Cheap to clone; clones share what lets TLS sessions resume.
#[derive(Clone)]
pub struct Connector {
    egress: Egress,
    deadlines: Deadlines,
    trust: Trust,
}

impl Connector {
    /// A connector that trusts the certificates which this machine trusts.
    ///
    /// # Errors
    /// [`Error::CaInvalid`] if the machine trusts none at all.
    pub fn new(egress: Egress, deadlines: Deadlines) -> Result<Self, Error> {
        Ok(Self {
            egress,
            deadlines,
            trust: Trust::platform()?,
        })
    }

    /// Connects, encrypts as asked, and logs in with one mechanism, once.
    ///
    /// # Errors
    /// Whatever came between. Credentials are only sent over the line that was asked for.
    pub async fn open(&self, server: &Server, credentials: &Credentials) -> Result<Session, Error> {
        credentials.validate()?;
        let trust = match &server.ca_pem {
            Some(pem) => Trust::only(pem)?,
            None => self.trust.clone(),
        };
        let attempt = Attempt {
            server,
            credentials,
            trust,
            clock: Clock::start(self.deadlines),
        };
        match attempt.run(&self.egress, true).await {
            // Some servers hang or hang up on CAPA; they get one more connection without it. Not
            // so after a login: the maildrop may still be locked, and logins may be counted.
            Err(
                Error::Closed {
                    phase: Phase::Capabilities,
                    ..
                }
                | Error::Protocol {
                    phase: Phase::Capabilities,
                    ..
                }
                | Error::Timeout {
                    phase: Phase::Capabilities,
                    wait: super::Wait::Reply | super::Wait::Progress,
                    ..
                },
            ) => attempt.run(&self.egress, false).await,
            done => done,
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("deadlines", &self.deadlines)
            .finish_non_exhaustive()
    }
}

struct Attempt<'a> {
    server: &'a Server,
    credentials: &'a Credentials,
    trust: Trust,
    clock: Clock,
}

impl Attempt<'_> {
    async fn run(&self, egress: &Egress, ask_capa: bool) -> Result<Session, Error> {
        let Server { host, tls, .. } = self.server;
        let socket = dial(self.server, egress, self.clock).await?;
        let mut wire = Wire::new(socket, self.clock);
        if *tls == Tls::Implicit {
            wire = wire.encrypt(&self.trust, host).await?;
        }
        let mut greeting = greeting(&mut wire).await?;
        let before_login = Phase::Capabilities;
        let mut capabilities = ask(&mut wire, before_login, ask_capa).await?;
        if *tls == Tls::Starttls {
            stls(&mut wire, capabilities.as_ref()).await?;
            wire = wire.encrypt(&self.trust, host).await?;
            // What was said in plain text may have been somebody else's (RFC 2595, section 4).
            greeting = b"+OK".to_vec();
            capabilities = ask(&mut wire, before_login, ask_capa).await?;
        }
        wire.enter(Phase::Login);
        let encrypted = *tls != Tls::None;
        authenticate::authenticate(
            &mut wire,
            &greeting,
            self.credentials,
            capabilities.as_ref(),
            encrypted,
        )
        .await?;
        let capabilities = ask(&mut wire, Phase::SessionCapabilities, ask_capa).await?;
        Ok(Session::new(wire, capabilities.unwrap_or_default()))
    }
}

/// Asks with CAPA. `None` where the server has no such command, or is not to be asked.
async fn ask(wire: &mut Wire, phase: Phase, ask: bool) -> Result<Option<Capabilities>, Error> {
    if !ask {
        return Ok(None);
    }
    wire.enter(phase);
    wire.send(b"CAPA\r\n", 1).await?;
    if wire.status().await?.is_err() {
        return Ok(None);
    }
    let mut capabilities = Capabilities::default();
    multi_line(wire, |line| capabilities.add(line)).await?;
    Ok(Some(capabilities))
}

/// Reads the greeting line and refuses whatever is not a POP3 server's welcome.
async fn greeting(wire: &mut Wire) -> Result<Vec<u8>, Error> {
    wire.enter(Phase::Greeting);
    let line = wire.greeting().await?;
    match codec::status(&line) {
        Some(Status::Ok(_)) => Ok(line),
        Some(Status::Err(text)) => {
            Err(Error::refused(Refusal::parse(text), Error::GreetingRefused))
        }
        None => Err(Error::WrongProtocol(printable(&line))),
    }
}

/// Asks for TLS. There is no way back to plain text from here.
async fn stls(wire: &mut Wire, capabilities: Option<&Capabilities>) -> Result<(), Error> {
    if capabilities.is_some_and(|capabilities| !capabilities.stls) {
        return Err(Error::StarttlsUnsupported(None));
    }
    wire.enter(Phase::Starttls);
    wire.send(b"STLS\r\n", 1).await?;
    match wire.status().await? {
        Ok(_) => Ok(()),
        Err(refusal) => Err(Error::StarttlsUnsupported(Some(refusal))),
    }
}
