//! A session (RFC 1939): its commands in turn, answered rightly or wrongly.

use std::sync::atomic::Ordering;

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use self::transaction::Opened;
use super::{
    Shared, Tls,
    command::{Command, GREETING},
    faults::{Faults, Pipelining, any},
    line::{End, Line},
    reply::{EndlessLines, Reply, endless_line},
};

mod authorization;
mod transaction;

/// Octets of a reply that is garbage.
const GARBAGE: usize = 4096;

/// One session.
pub(super) struct Session<'a> {
    shared: &'a Shared,
    faults: &'a Faults,
    number: u64,
    encrypted: bool,
    /// What APOP digests.
    timestamp: String,
    user: Option<String>,
    login_failures: u32,
    /// The response to AUTH PLAIN comes next.
    sasl: bool,
    maildrop: Option<Opened>,
    random: StdRng,
}

/// What follows a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Command,
    Encrypt,
    Close,
}

impl<'a> Session<'a> {
    /// Serves one connection to its end.
    pub(super) async fn run(
        socket: TcpStream,
        shared: &'a Shared,
        faults: &'a Faults,
        number: u64,
    ) {
        // Replies are small and waited for. Without this they merely wait longer.
        let _ = socket.set_nodelay(true);
        let mut session = Session {
            shared,
            faults,
            number,
            encrypted: false,
            timestamp: format!("<{number}.{}@chaos.example.com>", std::process::id()),
            user: None,
            login_failures: 0,
            sasl: false,
            maildrop: None,
            random: StdRng::seed_from_u64(faults.seed.wrapping_add(number)),
        };
        let mut line = Line::new(socket, faults);
        if shared.tls == Tls::Implicit {
            line = match session.encrypt(line).await {
                Ok(line) => line,
                Err(_) => return,
            };
        }
        let end = session.dialogue(&mut line).await;
        let end = match end {
            Ok(Next::Encrypt) => match session.encrypt(line).await {
                Ok(encrypted) => {
                    line = encrypted;
                    session.commands(&mut line).await
                }
                Err(_) => return,
            },
            end => end,
        };
        let (sent, received) = line.traffic();
        shared.sent.fetch_add(sent, Ordering::Relaxed);
        shared.received.fetch_add(received, Ordering::Relaxed);
        // The lock goes first: who sees the end of this connection may log in again.
        drop(session);
        match end {
            Ok(_) => line.close().await,
            Err(End::Cut) => line.cut().await,
            Err(End::Stall) => line.stall().await,
            Err(End::Gone) => {}
        }
    }

    async fn encrypt(&mut self, line: Line) -> Result<Line, End> {
        let certificate = self.shared.certificate.clone().ok_or(End::Gone)?;
        let line = line.encrypt(&TlsAcceptor::from(certificate)).await?;
        self.encrypted = true;
        Ok(line)
    }

    async fn dialogue(&mut self, line: &mut Line) -> Result<Next, End> {
        self.answer(line, Command::parse(GREETING.as_bytes()))
            .await?;
        self.commands(line).await
    }

    /// Answers commands until something else than another is next.
    async fn commands(&mut self, line: &mut Line) -> Result<Next, End> {
        loop {
            let mut batch = vec![line.command().await?];
            match self.faults.pipelining {
                None => {}
                Some(Pipelining::Lossy) => line.forget_ahead(),
                Some(Pipelining::Reversed) => {
                    batch.extend(std::iter::from_fn(|| line.command_ahead()));
                    batch.reverse();
                }
            }
            for octets in batch {
                let mut command = Command::parse(&octets);
                if std::mem::take(&mut self.sasl) {
                    command = Command::parse(format!("AUTH PLAIN {}", command.line).as_bytes());
                }
                let shown = command.without_credentials();
                self.shared.commands.note(self.number, shown);
                let next = self.answer(line, command).await?;
                if next != Next::Command {
                    return Ok(next);
                }
            }
        }
    }

    /// Answers one command, rightly or wrongly.
    async fn answer(&mut self, line: &mut Line, command: Command) -> Result<Next, End> {
        let faults = self.faults;
        if any(&faults.drop_on, &command) {
            return Err(End::Cut);
        }
        if any(&faults.stall_on, &command) {
            return Err(End::Stall);
        }
        if any(&faults.garbage_on, &command) {
            let mut octets = [0; GARBAGE];
            self.random.fill_bytes(&mut octets);
            line.send(&octets).await?;
            return Ok(Next::Command);
        }
        if let Some(scripted) = faults.scripted(&command) {
            let next = if scripted.starts_with(b"-ERR") {
                after_refusal(&command)
            } else {
                self.carry_out(&command).await.1
            };
            if any(&faults.drop_after, &command) {
                return Err(End::Cut);
            }
            line.send(scripted).await?;
            return Ok(next);
        }
        let messages = self.maildrop.as_ref().map_or(0, Opened::len);
        let (reply, next) = self.carry_out(&command).await;
        if any(&faults.drop_after, &command) {
            return Err(End::Cut);
        }
        if any(&faults.endless_line, &command) {
            line.send(&reply.before_endless_line()).await?;
            let part = endless_line();
            loop {
                line.send(&part).await?;
            }
        }
        if any(&faults.endless, &command) {
            line.send(&reply.before_endless_lines()).await?;
            let mut lines = EndlessLines::after(&command, messages);
            loop {
                line.send(&lines.more()).await?;
            }
        }
        line.send(&reply.encode(faults)).await?;
        Ok(next)
    }

    async fn carry_out(&mut self, command: &Command) -> (Reply, Next) {
        let verb = command.verb.as_str();
        let reply = match verb {
            GREETING => Reply::ok(&format!("chaos {}", self.timestamp)),
            _ if self.faults.lacks(verb) => unknown(),
            "QUIT" => {
                self.update();
                return (Reply::ok("bye"), Next::Close);
            }
            "CAPA" => Reply::listing("capabilities", self.capabilities()),
            _ => match self.maildrop.take() {
                None => return self.authorize(command),
                Some(mut open) => {
                    let reply = self.transact(&mut open, command).await;
                    self.maildrop = Some(open);
                    reply
                }
            },
        };
        (reply, Next::Command)
    }

    fn capabilities(&self) -> Vec<String> {
        let starttls = self.shared.tls == Tls::Starttls && !self.encrypted;
        // Each with the command that it is about.
        let all = [
            ("TOP", "TOP"),
            ("UIDL", "UIDL"),
            ("USER", "USER"),
            ("SASL PLAIN", "AUTH"),
            ("RESP-CODES", ""),
            ("AUTH-RESP-CODE", ""),
            ("PIPELINING", ""),
            ("STLS", "STLS"),
            ("IMPLEMENTATION popbridge-chaos-server", ""),
        ];
        let announced = all.into_iter().filter(|(line, verb)| {
            let name = line.split(' ').next().unwrap_or_default();
            (name != "STLS" || starttls) && !self.faults.lacks(verb) && !self.faults.hides(name)
        });
        announced
            .map(|(line, _)| line.to_owned())
            .chain(self.faults.announce.iter().cloned())
            .collect()
    }
}

/// What follows a command that was refused without being carried out.
fn after_refusal(command: &Command) -> Next {
    match command.verb.as_str() {
        "QUIT" | GREETING => Next::Close,
        _ => Next::Command,
    }
}

fn unknown() -> Reply {
    Reply::err("no such command")
}
