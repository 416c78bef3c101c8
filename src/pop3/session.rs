//! TRANSACTION and UPDATE states (RFC 1939, sections 5 and 6).

use std::{fmt, fmt::Write as _};

#[cfg(doc)]
use super::Server;
use super::{
    Capabilities, Error, Listing, MessageNumber, Phase, Refusal, Retrieval, UniqueIds,
    codec::{LineTooLong, Lines},
    listing::{Builder, Fault},
    wire::Wire,
};

/// Most octets of a listing.
const MAX_LISTING_OCTETS: usize = 64 * 1024 * 1024;

/// Commands sent ahead of their replies: few enough to fit any socket buffer, so that neither side
/// ever waits for the other to read, and enough for small messages to fill a line of 50 ms.
pub(super) const WINDOW: usize = 512;

/// A maildrop that is logged in to, and locked for everybody else.
///
/// Dropping it closes the connection **without** QUIT: nothing is deleted, and servers that take
/// RETR + QUIT as "popped" leave the mail alone.
pub struct Session {
    pub(super) wire: Wire,
    capabilities: Capabilities,
    /// No operation is half-way or has failed.
    pub(super) ready: bool,
    /// TOP was neither announced nor understood.
    pub(super) no_top: bool,
}

impl Session {
    pub(super) fn new(wire: Wire, capabilities: Capabilities) -> Self {
        Self {
            wire,
            capabilities,
            ready: true,
            no_top: false,
        }
    }

    /// What the server said after login that it can do.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Asks what the maildrop holds: STAT, UIDL and LIST, in one flight where that is allowed.
    ///
    /// `before` is where its unique-ids came from the last time. It stays that way: a maildrop that
    /// once had UIDL and now refuses it has a problem that will pass, and one that had none goes on
    /// without.
    ///
    /// # Errors
    /// What ended the session.
    pub async fn listing(&mut self, before: Option<UniqueIds>) -> Result<Listing, Error> {
        self.begin(Phase::Listing)?;
        let mut builder = Builder::default();
        if before == Some(UniqueIds::Digests) {
            builder.no_uidl();
            self.wire.send(b"STAT\r\n", 1).await?;
            self.stat(&mut builder).await?;
            self.wire.send(b"LIST\r\n", 1).await?;
            self.list(&mut builder).await?;
        } else if self.capabilities.pipelining {
            self.wire.send(b"STAT\r\nUIDL\r\nLIST\r\n", 3).await?;
            self.stat(&mut builder).await?;
            self.uidl(&mut builder, before).await?;
            self.list(&mut builder).await?;
        } else {
            self.wire.send(b"STAT\r\n", 1).await?;
            self.stat(&mut builder).await?;
            if !builder.is_empty() {
                self.wire.send(b"UIDL\r\n", 1).await?;
                self.uidl(&mut builder, before).await?;
                self.wire.send(b"LIST\r\n", 1).await?;
                self.list(&mut builder).await?;
            }
        }
        self.ready = true;
        self.identify(builder.build()).await
    }

    /// Retrieves these messages, given with the octets that the listing says they have.
    ///
    /// Where PIPELINING is announced, RETR is sent ahead in a window bounded by commands and by
    /// octets. Unless the retrieval is read to its end, the session is abandoned.
    pub fn retrieve(
        &mut self,
        wanted: impl IntoIterator<Item = (MessageNumber, u64)>,
    ) -> Retrieval<'_> {
        Retrieval::new(self, wanted.into_iter().collect())
    }

    /// Marks messages as deleted, which takes effect with [`Session::quit`] only.
    ///
    /// Returns one result per number, in the same order: `Err` is the server's refusal.
    ///
    /// # Errors
    /// What ended the session; then none of them is deleted.
    pub async fn delete(
        &mut self,
        numbers: &[MessageNumber],
    ) -> Result<Vec<Result<(), Refusal>>, Error> {
        self.begin(Phase::Delete)?;
        let mut replies = Vec::with_capacity(numbers.len());
        for batch in numbers.chunks(self.window()) {
            let commands = commands("DELE", batch.iter().copied());
            self.wire.send(commands.as_bytes(), batch.len()).await?;
            for _ in batch {
                replies.push(self.wire.status().await?.map(|_| ()));
            }
        }
        self.ready = true;
        Ok(replies)
    }

    /// Ends the session with QUIT: the server now removes what was marked as deleted.
    ///
    /// A good reply is no proof of the removal, only the next complete listing is.
    ///
    /// # Errors
    /// [`Error::Abandoned`] without a QUIT sent, if an earlier operation failed or was not
    /// finished. Otherwise what the server refused, or what kept its reply from arriving.
    pub async fn quit(mut self) -> Result<(), Error> {
        self.begin(Phase::Quit)?;
        self.wire.send(b"QUIT\r\n", 1).await?;
        match self.wire.status().await? {
            Ok(_) => Ok(()),
            Err(refusal) => Err(Error::refused(refusal, Error::ServerTemporary)),
        }
    }

    /// Whether this error may have come from commands that were sent ahead of replies, so that the
    /// maildrop should be tried without that ([`Server::pipelining`]).
    #[must_use]
    pub fn pipelining_failed(&self, error: &Error) -> bool {
        match error {
            Error::Protocol { .. } => self.wire.sent_ahead(),
            Error::Closed { .. } | Error::Timeout { .. } => self.wire.owed() > 1,
            _ => false,
        }
    }

    /// Enters an operation; whoever does not leave it by setting `ready` abandons the session.
    pub(super) fn begin(&mut self, phase: Phase) -> Result<(), Error> {
        if !std::mem::take(&mut self.ready) {
            return Err(Error::Abandoned);
        }
        self.wire.enter(phase);
        Ok(())
    }

    /// How many commands may be outstanding.
    pub(super) fn window(&self) -> usize {
        if self.capabilities.pipelining {
            WINDOW
        } else {
            1
        }
    }

    async fn stat(&mut self, builder: &mut Builder) -> Result<(), Error> {
        match self.wire.status().await? {
            Ok(text) => builder.stat(text),
            Err(refusal) => return Err(Error::refused(refusal, Error::ServerTemporary)),
        }
        Ok(())
    }

    async fn uidl(
        &mut self,
        builder: &mut Builder,
        before: Option<UniqueIds>,
    ) -> Result<(), Error> {
        if let Err(refusal) = self.wire.status().await? {
            // Some servers have no listing for an empty maildrop.
            if builder.is_empty() {
                return Ok(());
            }
            let has_uidl = self.capabilities.uidl || before == Some(UniqueIds::Uidl);
            if has_uidl || refusal.code.is_some() {
                return Err(Error::refused(refusal, Error::ServerTemporary));
            }
            builder.no_uidl();
            return Ok(());
        }
        let line = |line: &[u8]| builder.uidl_line(line);
        multi_line(&mut self.wire, MAX_LISTING_OCTETS, line).await
    }

    async fn list(&mut self, builder: &mut Builder) -> Result<(), Error> {
        if self.wire.status().await?.is_err() {
            if !builder.is_empty() {
                builder.flaw(Fault::NoSizes);
            }
            return Ok(());
        }
        let line = |line: &[u8]| builder.list_line(line);
        multi_line(&mut self.wire, MAX_LISTING_OCTETS, line).await
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

/// One command line per number.
pub(super) fn commands(verb: &str, numbers: impl Iterator<Item = MessageNumber>) -> String {
    numbers.fold(String::new(), |mut lines, number| {
        // Writing to a string cannot fail.
        let _ = write!(lines, "{verb} {number}\r\n");
        lines
    })
}

/// Reads the lines of a multi-line reply whose status line was just read, of `max` octets at most.
pub(super) async fn multi_line(
    wire: &mut Wire,
    max: usize,
    mut line: impl FnMut(&[u8]),
) -> Result<(), Error> {
    let clock = wire.clock();
    let (mut body, mut lines, mut octets) = (wire.body(), Lines::default(), 0);
    while let Some(piece) = wire.chunk(&mut body).await? {
        octets += piece.len();
        if octets > max {
            return Err(clock.protocol("the server's listing does not end"));
        }
        lines.push(piece, &mut line).map_err(|LineTooLong| {
            clock.protocol("the server's listing has a line without an end")
        })?;
    }
    Ok(())
}
