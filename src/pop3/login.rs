//! AUTHORIZATION state: connection, greeting, CAPA, STLS, and the login itself.

use std::{fmt, sync::Arc};

use rustls::ClientConfig;

use secrecy::ExposeSecret;

use crate::egress::Egress;

use super::{
    Capabilities, Credentials, Deadlines, Error, Phase, Proof, Refusal, Server, Session, Tls,
    Transcript,
    codec::{self, Status},
    dial::dial,
    reply::printable,
    session::multi_line,
    tls::TlsConfigs,
    wire::{Clock, Wire},
};

mod authenticate;
mod bearer;

/// Most octets of a reply to CAPA: many times what any real server has to say.
const MAX_CAPABILITIES_OCTETS: usize = 64 * 1024;

/// Opens sessions. Cheap to clone; clones share what lets TLS sessions resume.
#[derive(Clone)]
pub struct Connector {
    egress: Egress,
    deadlines: Deadlines,
    tls: Arc<TlsConfigs>,
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
            tls: Arc::new(TlsConfigs::new()?),
        })
    }

    /// The same connector with other deadlines; what lets TLS sessions resume is shared.
    #[must_use]
    pub fn with_deadlines(&self, deadlines: Deadlines) -> Self {
        Self {
            deadlines,
            ..self.clone()
        }
    }

    /// Connects, encrypts as asked, and logs in with one mechanism, once.
    ///
    /// # Errors
    /// Whatever came between. Credentials are only sent over the line that was asked for.
    pub async fn open(
        &self,
        server: &Server,
        credentials: &Credentials,
        transcript: &Transcript,
    ) -> Result<Session, Error> {
        credentials.validate()?;
        let attempt = Attempt {
            connector: self,
            server,
            config: self.tls.of(server)?,
            clock: Clock::start(self.deadlines),
            transcript,
        };
        attempt.open(credentials).await
    }

    /// Connects, encrypts as asked, asks for the capabilities, and takes leave without a login.
    ///
    /// # Errors
    /// Whatever came between.
    pub async fn probe(
        &self,
        server: &Server,
        transcript: &Transcript,
    ) -> Result<Option<Capabilities>, Error> {
        let attempt = Attempt {
            connector: self,
            server,
            config: self.tls.of(server)?,
            clock: Clock::start(self.deadlines),
            transcript,
        };
        let Greeted {
            mut wire,
            capabilities,
            ..
        } = attempt.connect_asking().await?;
        wire.enter(Phase::Quit);
        // Nothing depends on how a server takes leave of somebody who never logged in.
        if wire.send(b"QUIT\r\n", 1).await.is_ok() {
            wire.status().await.ok();
        }
        Ok(capabilities)
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
    connector: &'a Connector,
    server: &'a Server,
    config: Arc<ClientConfig>,
    clock: Clock,
    transcript: &'a Transcript,
}

/// A line on which a login may follow.
struct Greeted {
    wire: Wire,
    greeting: Vec<u8>,
    /// Whether this server is to be asked with CAPA,
    asks: bool,
    /// and what it said.
    capabilities: Option<Capabilities>,
}

impl Attempt<'_> {
    async fn open(&self, credentials: &Credentials) -> Result<Session, Error> {
        let Greeted {
            mut wire,
            greeting,
            asks,
            capabilities,
        } = self.connect_asking().await?;
        if capabilities.as_ref().is_some_and(|found| found.utf8) {
            utf8(&mut wire).await?;
        }
        wire.enter(Phase::Login);
        self.log_in(&mut wire, &greeting, credentials, capabilities.as_ref())
            .await?;
        let mut capabilities = Capabilities::default();
        if asks && let Some(found) = ask(&mut wire, Phase::SessionCapabilities).await? {
            capabilities = found;
        }
        capabilities.pipelining &= self.server.pipelining;
        Ok(Session::new(wire, capabilities))
    }

    /// Some servers hang or hang up on CAPA; they get one more connection without it. Not so after
    /// a login: the maildrop may still be locked, and logins may be counted.
    async fn connect_asking(&self) -> Result<Greeted, Error> {
        match self.connect(true).await {
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
            ) => self.connect(false).await,
            done => done,
        }
    }

    async fn connect(&self, asks: bool) -> Result<Greeted, Error> {
        let tls = self.server.tls;
        let host = self.server.ascii_host()?;
        let egress = &self.connector.egress;
        let socket = dial(&host, self.server.port, egress, self.clock, self.transcript).await?;
        let mut wire = Wire::new(socket, self.clock, self.transcript.clone());
        let config = || Arc::clone(&self.config);
        if tls == Tls::Implicit {
            wire = wire.encrypt(config(), &host).await?;
        }
        let mut greeting = greeting(&mut wire).await?;
        let mut capabilities = None;
        if asks {
            capabilities = ask(&mut wire, Phase::Capabilities).await?;
        }
        if tls == Tls::Starttls {
            stls(&mut wire, capabilities.as_ref()).await?;
            wire = wire.encrypt(config(), &host).await?;
            // What was said in plain text may have been somebody else's (RFC 2595, section 4).
            greeting = b"+OK".to_vec();
            if asks {
                capabilities = ask(&mut wire, Phase::Capabilities).await?;
            }
        }
        Ok(Greeted {
            wire,
            greeting,
            asks,
            capabilities,
        })
    }

    async fn log_in(
        &self,
        wire: &mut Wire,
        greeting: &[u8],
        Credentials { username, proof }: &Credentials,
        capabilities: Option<&Capabilities>,
    ) -> Result<(), Error> {
        match proof {
            Proof::Password {
                password,
                mechanism,
            } => {
                let password = password.expose_secret();
                let login = authenticate::Login { username, password };
                let encrypted = self.server.tls != Tls::None;
                authenticate::authenticate(
                    wire,
                    greeting,
                    login,
                    *mechanism,
                    capabilities,
                    encrypted,
                )
                .await
            }
            Proof::BearerToken { token, mechanism } => {
                bearer::authenticate(wire, self.server, username, token, *mechanism, capabilities)
                    .await
            }
        }
    }
}

/// Lets the server send mail as it is (RFC 6856, section 2.1): some wrap messages whose headers are
/// not ASCII for clients that do not ask. Its refusal changes nothing.
async fn utf8(wire: &mut Wire) -> Result<(), Error> {
    wire.enter(Phase::Capabilities);
    wire.send(b"UTF8\r\n", 1).await?;
    wire.status().await.map(|_| ())
}

/// Asks with CAPA. `None` where the server has no such command.
async fn ask(wire: &mut Wire, phase: Phase) -> Result<Option<Capabilities>, Error> {
    wire.enter(phase);
    wire.send(b"CAPA\r\n", 1).await?;
    if wire.status().await?.is_err() {
        return Ok(None);
    }
    let mut capabilities = Capabilities::default();
    let line = |line: &[u8]| capabilities.add(line);
    multi_line(wire, MAX_CAPABILITIES_OCTETS, line).await?;
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
