//! One connection: whole commands in, octets out, and the faults that are the line's.

use std::{io, time::Duration};

use bytes::BytesMut;
use memchr::memchr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::either::Either;

use super::faults::Faults;

/// Longest command, for long SASL responses (RFC 5034, section 4); other commands are shorter.
const MAX_COMMAND: usize = 12 * 1024;

/// A client that says nothing for so long is gone (RFC 1939, section 3).
const IDLE: Duration = Duration::from_secs(10 * 60);

/// How long a client may take to see that the connection ended. Closing at once would throw away
/// what is still on its way to it.
const LINGER: Duration = Duration::from_secs(2);

/// Why a connection goes no further.
#[derive(Debug)]
pub(super) enum End {
    /// It is to be cut.
    Cut,
    /// It is to stay open, silent.
    Stall,
    /// The client is gone.
    Gone,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// A connection that counts octets.
#[derive(Debug)]
pub(super) struct Line {
    io: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    input: BytesMut,
    sent: u64,
    received: u64,
    drop_at: u64,
    drop_in: u64,
    stall_at: u64,
    drip: Option<Duration>,
}

impl Line {
    pub(super) fn new(io: TcpStream, faults: &Faults) -> Self {
        Self {
            io: Either::Left(io),
            input: BytesMut::new(),
            sent: 0,
            received: 0,
            drop_at: faults.drop_at.unwrap_or(u64::MAX),
            drop_in: faults.drop_in.unwrap_or(u64::MAX),
            stall_at: faults.stall_at.unwrap_or(u64::MAX),
            drip: faults.drip.map(Duration::from_millis),
        }
    }

    /// Shakes hands. What came ahead of that in plain text is thrown away (RFC 2595, section 4).
    pub(super) async fn encrypt(self, acceptor: &TlsAcceptor) -> Result<Self, End> {
        let Either::Left(io) = self.io else {
            return Err(End::Gone);
        };
        let io = timeout(IDLE, acceptor.accept(io)).await;
        let io = io.map_err(|_| End::Gone)??;
        Ok(Self {
            io: Either::Right(Box::new(io)),
            input: BytesMut::new(),
            ..self
        })
    }

    /// Octets sent and received.
    pub(super) fn traffic(&self) -> (u64, u64) {
        (self.sent, self.received)
    }

    /// Sends this, as far as the faults let it.
    pub(super) async fn send(&mut self, octets: &[u8]) -> Result<(), End> {
        let until = self.drop_at.min(self.stall_at).saturating_sub(self.sent);
        let until = usize::try_from(until).unwrap_or(usize::MAX);
        match octets.get(..until) {
            Some(octets) => {
                self.write(octets).await?;
                Err(if self.stall_at < self.drop_at {
                    End::Stall
                } else {
                    End::Cut
                })
            }
            None => self.write(octets).await,
        }
    }

    async fn write(&mut self, octets: &[u8]) -> Result<(), End> {
        self.sent += octets.len() as u64;
        let Some(pause) = self.drip else {
            self.io.write_all(octets).await?;
            return Ok(self.io.flush().await?);
        };
        for octet in octets.chunks(1) {
            sleep(pause).await;
            self.io.write_all(octet).await?;
            self.io.flush().await?;
        }
        Ok(())
    }

    /// The next command line, with its end.
    pub(super) async fn command(&mut self) -> Result<Vec<u8>, End> {
        loop {
            if let Some(command) = self.command_ahead() {
                return Ok(command);
            }
            let room = self.drop_in.saturating_sub(self.received);
            if room == 0 || self.input.len() >= MAX_COMMAND {
                return Err(End::Cut);
            }
            let mut limited = (&mut self.io).take(room);
            let read = timeout(IDLE, limited.read_buf(&mut self.input)).await;
            match read.map_err(|_| End::Cut)?? {
                0 => return Err(End::Gone),
                read => self.received += read as u64,
            }
        }
    }

    /// A command line that is here already.
    pub(super) fn command_ahead(&mut self) -> Option<Vec<u8>> {
        let end = memchr(b'\n', &self.input)? + 1;
        Some(self.input.split_to(end).to_vec())
    }

    /// Throws away what came ahead.
    pub(super) fn forget_ahead(&mut self) {
        self.input.clear();
    }

    /// Ends the connection as a line that breaks does: without a word, also of TLS.
    pub(super) async fn cut(self) {
        let socket = match self.io {
            Either::Left(socket) => socket,
            Either::Right(tls) => tls.into_inner().0,
        };
        shut(socket).await;
    }

    /// Ends the connection properly.
    pub(super) async fn close(self) {
        match self.io {
            Either::Left(socket) => shut(socket).await,
            Either::Right(tls) => shut(*tls).await,
        }
    }

    /// Says nothing more, and waits until the client goes away.
    pub(super) async fn stall(mut self) {
        let mut sink = [0; 1024];
        while matches!(self.io.read(&mut sink).await, Ok(read) if read > 0) {}
    }
}

async fn shut(mut io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    let ended = async {
        io.shutdown().await?;
        tokio::io::copy(&mut io, &mut tokio::io::sink()).await
    };
    // Whether the client saw it or went away: it is over.
    let _ = timeout(LINGER, ended).await;
}
