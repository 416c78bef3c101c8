//! A password by one mechanism, spoken by async-pop through a relay.
//!
//! async-pop never sees the socket. It talks into a pipe, and the relay passes its commands and
//! the server's lines on one at a time. So every line is bounded and has a deadline, end of stream
//! (at which async-pop would spin) is an error, and its own CAPA, whose parser loses its place at
//! `EXPIRE 30 USER`, is answered here.

use std::convert::Infallible;

use async_pop::{
    error::Result as PopResult,
    sasl::{Authenticator, Communicator},
};
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use md5::{Digest, Md5};
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream, duplex,
};

use crate::pop3::{
    Capabilities, Error, PasswordMechanism, Refusal,
    codec::{self, MAX_LINE, Status},
    quirks::{self, Meaning},
    reply::{printable, without},
    wire::Wire,
};

/// Who logs in.
#[derive(Clone, Copy)]
pub(super) struct Login<'a> {
    pub(super) username: &'a str,
    pub(super) password: &'a str,
}

impl Login<'_> {
    /// The message of SASL PLAIN, as it is sent.
    fn plain(self) -> String {
        let Self { username, password } = self;
        STANDARD.encode(format!("\0{username}\0{password}"))
    }
}

/// Logs in over this line, which has to be the one that the user asked for.
pub(super) async fn authenticate(
    wire: &mut Wire,
    greeting: &[u8],
    login: Login<'_>,
    mechanism: PasswordMechanism,
    capabilities: Option<&Capabilities>,
    encrypted: bool,
) -> Result<(), Error> {
    let mechanism = choose(mechanism, greeting, capabilities, encrypted)?;
    let clock = wire.clock();
    wire.hide([login.password, &login.plain()]);
    let (near, far) = duplex(2 * MAX_LINE);
    let mut relay = Relay {
        wire,
        login,
        refusal: None,
    };
    let outcome = tokio::select! {
        biased;
        outcome = dialogue(near, mechanism, login) => outcome,
        broken = relay.run(far, greeting) => match broken? {},
    };
    match (outcome, relay.refusal) {
        (Ok(()), None) => Ok(()),
        (_, Some(text)) => Err(refused(&text, login)),
        (Err(_), None) => Err(clock.protocol("the server's answer to the login made no sense")),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mechanism {
    UserPass,
    Plain,
    Apop { timestamp: String },
}

/// Chooses the one mechanism of this connection: a second try would count as a second failure.
fn choose(
    mechanism: PasswordMechanism,
    greeting: &[u8],
    capabilities: Option<&Capabilities>,
    encrypted: bool,
) -> Result<Mechanism, Error> {
    let announced = capabilities.and_then(|capabilities| capabilities.sasl.as_deref());
    let plain = announced.map(|mechanisms| mechanisms.iter().any(|name| name == "PLAIN"));
    let unsupported = |reason: &str| Err(Error::AuthUnsupported(reason.to_owned()));
    match mechanism {
        PasswordMechanism::UserPass => Ok(Mechanism::UserPass),
        PasswordMechanism::Plain if plain == Some(false) => {
            unsupported("the server does not offer SASL PLAIN; use auth user_pass or auto")
        }
        PasswordMechanism::Plain => Ok(Mechanism::Plain),
        PasswordMechanism::Apop => match timestamp(greeting) {
            Some(timestamp) => Ok(Mechanism::Apop { timestamp }),
            None => unsupported(
                "the server does not offer APOP (or not after STLS); use auth auto over TLS",
            ),
        },
        PasswordMechanism::Auto if plain == Some(true) => Ok(Mechanism::Plain),
        // It says what it has, and USER is not among it.
        PasswordMechanism::Auto
            if plain == Some(false) && capabilities.is_some_and(|found| !found.user) =>
        {
            if encrypted {
                unsupported("the server takes no passwords, only what its SASL capability lists")
            } else {
                unsupported(
                    "the server takes no passwords in plain text; set tls to implicit or starttls",
                )
            }
        }
        PasswordMechanism::Auto => Ok(Mechanism::UserPass),
    }
}

/// The `<…@…>` of an APOP server's greeting; a loose one would let a forger in (CVE-2007-1558).
fn timestamp(greeting: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(greeting).ok()?;
    let start = text.find('<')?;
    let (stamp, _) = text.get(start..)?.split_once('>')?;
    let inner = stamp.strip_prefix('<')?;
    let (left, right) = inner.split_once('@')?;
    let word =
        |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_graphic() && c != b'<');
    (word(left) && word(right) && !right.contains('@')).then(|| format!("<{inner}>"))
}

async fn dialogue(
    near: DuplexStream,
    mechanism: Mechanism,
    Login { username, password }: Login<'_>,
) -> PopResult<()> {
    let mut client = async_pop::new(near).await?;
    match mechanism {
        // async-pop knows of no capabilities, so that this is USER and PASS and nothing before.
        Mechanism::UserPass => client.login(username, password).await.map(|_| ()),
        Mechanism::Plain => client
            .auth(Plain::new(username, password))
            .await
            .map(|_| ()),
        Mechanism::Apop { timestamp } => {
            let digest = Md5::new()
                .chain_update(timestamp)
                .chain_update(password)
                .finalize();
            let digest: String = digest.iter().map(|octet| format!("{octet:02x}")).collect();
            client.apop(username, digest).await.map(|_| ())
        }
    }
}

/// SASL PLAIN (RFC 4616), in one line where it fits and else in two (RFC 5034, section 4).
struct Plain {
    message: String,
    in_one_line: bool,
}

impl Plain {
    fn new(username: &str, password: &str) -> Self {
        const MAX_COMMAND: usize = 255;
        let message = format!("\0{username}\0{password}");
        let line = "AUTH PLAIN \r\n".len() + STANDARD.encode(&message).len();
        Self {
            message,
            in_one_line: line <= MAX_COMMAND,
        }
    }
}

#[async_trait]
impl Authenticator for Plain {
    fn mechanism(&self) -> &str {
        "PLAIN"
    }

    fn auth(&self) -> Option<String> {
        self.in_one_line.then(|| self.message.clone())
    }

    async fn handle<'a, S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        mut communicator: Communicator<'a, S>,
    ) -> PopResult<()> {
        if !self.in_one_line {
            communicator.next_challenge().await?;
            communicator.send(self.message.as_str()).await?;
        }
        Ok(())
    }
}

struct Relay<'a> {
    wire: &'a mut Wire,
    login: Login<'a>,
    /// The server's last word, if it was `-ERR`: what follows that.
    refusal: Option<Vec<u8>>,
}

impl Relay<'_> {
    /// Passes on one command and one line in turn, until the dialogue has what it wants.
    async fn run(&mut self, far: DuplexStream, greeting: &[u8]) -> Result<Infallible, Error> {
        let clock = self.wire.clock();
        let gone = |_| clock.protocol("the login was given up");
        let mut far = BufReader::new(far);
        far.write_all(&with_crlf(greeting)).await.map_err(gone)?;
        loop {
            let mut command = Vec::new();
            far.read_until(b'\n', &mut command).await.map_err(gone)?;
            if command == b"CAPA\r\n" {
                far.write_all(b"-ERR\r\n").await.map_err(gone)?;
                continue;
            }
            self.wire.send(&command, 1).await?;
            let line = self.wire.line().await?;
            let answer = match (codec::status(line), line) {
                (Some(Status::Ok(_)), _) => b"+OK\r\n".to_vec(),
                (Some(Status::Err(text)), _) => {
                    self.refusal = Some(text.to_vec());
                    b"-ERR\r\n".to_vec()
                }
                // async-pop asks for the space that some servers leave out.
                (None, b"+") => b"+ \r\n".to_vec(),
                (None, [b'+', b' ', ..]) => with_crlf(line),
                (None, _) => {
                    let line = printable(&without_secret(line, self.login));
                    return Err(clock.protocol(format!("the server answered \"{line}\"")));
                }
            };
            far.write_all(&answer).await.map_err(gone)?;
        }
    }
}

fn with_crlf(line: &[u8]) -> Vec<u8> {
    [line, b"\r\n"].concat()
}

/// What a `-ERR` at login means.
fn refused(text: &[u8], login: Login<'_>) -> Error {
    let meaning = quirks::meaning(&Refusal::parse(text), login.username);
    let refusal = Refusal::parse(&without_secret(text, login));
    match meaning {
        Meaning::InUse => Error::InUse(refusal),
        Meaning::LoginDelay => Error::LoginDelay(refusal),
        Meaning::Temporary => Error::ServerTemporary(refusal),
        Meaning::Permanent => Error::ServerPermanent(refusal),
        Meaning::NeedsTls => Error::needs_tls(&refusal),
        Meaning::Credentials => Error::AuthFailed(refusal),
    }
}

/// Some servers repeat the line that they did not like.
fn without_secret(line: &[u8], login: Login<'_>) -> Vec<u8> {
    without(&[login.password, &login.plain()], line)
}

#[cfg(test)]
mod tests;
