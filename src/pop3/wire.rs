//! One byte stream to a server: deadlines, a bounded read buffer, and end of stream as an error.

use std::{io, sync::Arc, time::Duration};

use bytes::{Buf, BytesMut};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::{
    Deadlines, Error, Phase, Refusal, Transcript, Wait,
    codec::{self, Body, Eol, Line, LineTooLong, Status, Step},
    reply::printable,
    tls,
};

const BUFFER: usize = 128 * 1024;

/// Reads are not made smaller than this, the most that is in one TLS record.
const MIN_READ: usize = 16 * 1024;

/// A connection that counts the replies it is owed.
pub(super) struct Wire {
    io: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    clock: Clock,
    buffer: BytesMut,
    /// Octets at the front of `buffer` that were handed out; the next call drops them.
    lent: usize,
    /// Replies outstanding.
    owed: usize,
    /// Commands were sent ahead of replies at some time.
    sent_ahead: bool,
    /// Octets of the multi-line reply that is being read.
    body_octets: u64,
    eol: Eol,
    transcript: Transcript,
}

impl Wire {
    /// A connection whose greeting has not been read.
    pub(super) fn new(io: TcpStream, clock: Clock, transcript: Transcript) -> Self {
        let buffer = BytesMut::new();
        Self {
            io: Either::Left(io),
            clock,
            buffer,
            lent: 0,
            owed: 1,
            sent_ahead: false,
            body_octets: 0,
            eol: Eol::Crlf,
            transcript,
        }
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// The commands that were sent and not answered yet.
    pub(super) fn owed(&self) -> usize {
        self.owed
    }

    /// Keeps these out of the transcript from here.
    pub(super) fn hide(&self, secrets: [&str; 2]) {
        self.transcript.hide(secrets);
    }

    pub(super) fn sent_ahead(&self) -> bool {
        self.sent_ahead
    }

    /// Says what is going on from here, for deadlines, errors and the transcript.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.clock.phase = phase;
        self.transcript.enter(phase);
    }

    /// Does the TLS handshake. Nothing that came in plain text outlives it.
    pub(super) async fn encrypt(
        mut self,
        config: Arc<ClientConfig>,
        host: &str,
    ) -> Result<Self, Error> {
        if !self.is_idle() {
            return Err(Error::StarttlsInjection);
        }
        self.enter(Phase::Tls);
        let Either::Left(io) = self.io else {
            return Err(self.clock.protocol("the line is encrypted already"));
        };
        let (io, facts) = tls::handshake(config, host, io, self.clock).await?;
        self.transcript.encrypted(facts);
        Ok(Self {
            io: Either::Right(Box::new(io)),
            buffer: BytesMut::new(),
            lent: 0,
            ..self
        })
    }

    /// Sends whole command lines that will bring this many replies.
    ///
    /// With no reply outstanding, octets left over mean that commands and replies are out of
    /// step: what was read before cannot be trusted either.
    pub(super) async fn send(&mut self, commands: &[u8], replies: usize) -> Result<(), Error> {
        self.check_step()?;
        self.transcript.client(commands);
        self.owed += replies;
        self.sent_ahead |= self.owed > 1;
        let io = &mut self.io;
        let sent = async {
            io.write_all(commands).await?;
            io.flush().await
        };
        self.clock.within(self.clock.reply(), sent).await?;
        if self.owed == 1 {
            acknowledge_at_once(match &self.io {
                Either::Left(socket) => socket,
                Either::Right(tls) => tls.get_ref().0,
            });
        }
        Ok(())
    }

    /// Reads the greeting line and learns from it how the server ends its lines.
    pub(super) async fn greeting(&mut self) -> Result<Vec<u8>, Error> {
        let line = self.find_line().await?;
        self.eol = line.eol;
        let text = self.lend(line).to_vec();
        self.transcript.server(&text);
        if self.eol == Eol::Lf {
            self.transcript.ends_lines_with_bare_lf();
        }
        Ok(text)
    }

    /// Reads a reply's first line, without its end.
    pub(super) async fn line(&mut self) -> Result<&[u8], Error> {
        let line = self.find_line().await?;
        let text = self.buffer.get(..line.text).unwrap_or_default();
        self.transcript.server(text);
        Ok(self.lend(line))
    }

    /// Reads a status line; `Ok` is the text after `+OK`.
    pub(super) async fn status(&mut self) -> Result<Result<&[u8], Refusal>, Error> {
        let clock = self.clock;
        let line = self.line().await?;
        match codec::status(line) {
            Some(Status::Ok(text)) => Ok(Ok(text)),
            Some(Status::Err(text)) => Ok(Err(Refusal::parse(text))),
            None => Err(clock.protocol(format!(
                "the server answered \"{}\" where +OK or -ERR has to be",
                printable(line)
            ))),
        }
    }

    /// A body that follows a status line which was just read.
    pub(super) fn body(&mut self) -> Body {
        self.body_octets = 0;
        Body::new(self.eol)
    }

    /// Reads on in a body: unstuffed octets, or `None` behind its terminator.
    pub(super) async fn chunk(&mut self, body: &mut Body) -> Result<Option<&[u8]>, Error> {
        loop {
            self.release();
            match body.step(&self.buffer) {
                Step::More => self.fill(self.clock.progress()).await?,
                Step::Data { skip, len } => {
                    self.lent = skip + len;
                    self.body_octets += len as u64;
                    return Ok(self.buffer.get(skip..skip + len));
                }
                Step::End(len) => {
                    self.buffer.advance(len);
                    self.transcript.body(self.body_octets);
                    self.check_step()?;
                    return Ok(None);
                }
            }
        }
    }

    /// Refuses what cannot be the beginning of the next reply, or anything if none is owed.
    fn check_step(&self) -> Result<(), Error> {
        let next = self.buffer.get(self.lent..).unwrap_or_default();
        let plausible = if self.owed == 0 {
            next.is_empty()
        } else {
            codec::may_be_status(next)
        };
        if plausible {
            Ok(())
        } else {
            Err(self.clock.protocol(OUT_OF_STEP))
        }
    }

    fn is_idle(&self) -> bool {
        self.buffer.len() == self.lent
    }

    /// Finds the end of a line. The deadline is for all of it, so that dripping gains nothing.
    async fn find_line(&mut self) -> Result<Line, Error> {
        let deadline = self.clock.reply();
        loop {
            self.release();
            match codec::line(&self.buffer) {
                Ok(Some(line)) => {
                    self.owed = self.owed.saturating_sub(1);
                    return Ok(line);
                }
                Ok(None) => self.fill(deadline).await?,
                Err(LineTooLong) => {
                    return Err(self.clock.protocol("the server sent a line without an end"));
                }
            }
        }
    }

    fn lend(&mut self, line: Line) -> &[u8] {
        self.lent = line.consumed;
        self.buffer.get(..line.text).unwrap_or_default()
    }

    fn release(&mut self) {
        self.buffer.advance(std::mem::take(&mut self.lent));
    }

    async fn fill(&mut self, deadline: Deadline) -> Result<(), Error> {
        // Less than a line is left in the buffer here, so that this moves it to the front of the
        // same allocation.
        if self.buffer.capacity() - self.buffer.len() < MIN_READ {
            self.buffer.reserve(BUFFER - self.buffer.len());
        }
        let read = self
            .clock
            .within(deadline, self.io.read_buf(&mut self.buffer))
            .await?;
        if read == 0 {
            return Err(Error::Closed {
                phase: self.clock.phase,
                reason: None,
            });
        }
        Ok(())
    }
}

/// Has the kernel acknowledge the next octets at once. A server may send a reply in pieces, and
/// then waits for the first to be acknowledged before it sends the second (Nagle's algorithm): with
/// one command at a time that would be 40 ms for each message.
fn acknowledge_at_once(socket: &TcpStream) {
    #[cfg(any(target_os = "android", target_os = "linux"))]
    let _ = socket2::SockRef::from(socket).set_tcp_quickack(true);
    #[cfg(not(any(target_os = "android", target_os = "linux")))]
    let _ = socket;
}

const OUT_OF_STEP: &str = "the server sent more than it was asked for, so that replies cannot be \
                           told apart; a message may have been cut short";

/// What is going on in a session, and when each wait of it ends.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    pub(super) phase: Phase,
    pub(super) deadlines: Deadlines,
    /// End of the whole session.
    pub(super) ends: Instant,
}

/// The end of one wait.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    wait: Wait,
    after: Duration,
}

impl Clock {
    /// A session that begins now.
    pub(super) fn start(deadlines: Deadlines) -> Self {
        Self {
            phase: Phase::Greeting,
            deadlines,
            ends: Instant::now() + deadlines.session,
        }
    }

    /// For a reply, or for commands to be taken.
    pub(super) fn reply(self) -> Deadline {
        match self.phase {
            Phase::Capabilities => self.deadline(Wait::Reply, self.deadlines.capabilities),
            _ => self.deadline(Wait::Reply, self.deadlines.reply),
        }
    }

    /// For the next octets of a body.
    pub(super) fn progress(self) -> Deadline {
        match self.phase {
            Phase::Capabilities => self.deadline(Wait::Progress, self.deadlines.capabilities),
            _ => self.deadline(Wait::Progress, self.deadlines.idle),
        }
    }

    /// That long from now, but never past the end of the session.
    pub(super) fn deadline(self, wait: Wait, after: Duration) -> Deadline {
        let at = Instant::now() + after;
        if at <= self.ends {
            Deadline { at, wait, after }
        } else {
            Deadline {
                at: self.ends,
                wait: Wait::Session,
                after: self.deadlines.session,
            }
        }
    }

    pub(super) async fn within<T>(
        self,
        deadline: Deadline,
        future: impl Future<Output = io::Result<T>>,
    ) -> Result<T, Error> {
        match timeout_at(deadline.at, future).await {
            Ok(done) => done.map_err(|error| Error::io(self.phase, &error)),
            Err(_) => Err(self.timeout(deadline)),
        }
    }

    pub(super) fn timeout(self, deadline: Deadline) -> Error {
        Error::Timeout {
            phase: self.phase,
            wait: deadline.wait,
            after: deadline.after,
        }
    }

    pub(super) fn protocol(self, detail: impl Into<String>) -> Error {
        Error::Protocol {
            phase: self.phase,
            detail: detail.into(),
        }
    }
}

impl Deadline {
    pub(super) fn at(self) -> Instant {
        self.at
    }
}
