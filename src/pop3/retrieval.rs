//! RETR, ahead in a window and streamed: memory does not depend on what is retrieved.

use std::collections::VecDeque;

use super::{Error, MessageNumber, Phase, Refusal, Session, codec::Body, session::commands};

/// Octets, as listed, that may be outstanding: keeps the line busy, and bounds what is wasted
/// when a session ends early.
const WINDOW_OCTETS: u64 = 8 * 1024 * 1024;

/// What is left of a message that nobody wants more of is read past, up to that many octets: the
/// session goes on behind it. An endless one would cost all the time that the session has.
pub(super) const MAX_SKIPPED_OCTETS: usize = 16 * 1024 * 1024;

/// Messages on their way, in the order asked for. See [`Session::retrieve`].
#[must_use = "a retrieval does nothing until it is read, and abandons its session when dropped"]
pub struct Retrieval<'a> {
    session: &'a mut Session,
    waiting: VecDeque<(MessageNumber, u64)>,
    asked: VecDeque<(MessageNumber, u64)>,
    body: Option<Body>,
    started: bool,
}

/// What came for one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retrieved {
    /// Its octets follow by [`Retrieval::chunk`].
    Body {
        /// Which message.
        number: MessageNumber,
    },
    /// The server does not give it; the others may still come.
    Refused {
        /// Which message.
        number: MessageNumber,
        /// What the server said.
        reply: Refusal,
    },
}

impl<'a> Retrieval<'a> {
    pub(super) fn new(session: &'a mut Session, waiting: VecDeque<(MessageNumber, u64)>) -> Self {
        Self {
            session,
            waiting,
            asked: VecDeque::new(),
            body: None,
            started: false,
        }
    }

    /// Goes on to the next message, past what is left of this one; `None` after the last.
    ///
    /// # Errors
    /// What ended the session. Only messages whose end [`Retrieval::chunk`] showed are whole.
    pub async fn next(&mut self) -> Result<Option<Retrieved>, Error> {
        if !self.started {
            self.session.begin(Phase::Retrieve)?;
            self.started = true;
        }
        self.skip_rest().await?;
        self.ask_ahead().await?;
        let Some((number, _)) = self.asked.pop_front() else {
            self.session.ready = true;
            self.started = false;
            return Ok(None);
        };
        if let Err(reply) = self.session.wire.status().await? {
            return Ok(Some(Retrieved::Refused { number, reply }));
        }
        self.body = Some(self.session.wire.body());
        Ok(Some(Retrieved::Body { number }))
    }

    /// The next octets of the current message, unstuffed and exact; `None` once all were given.
    ///
    /// # Errors
    /// What ended the session; the message is not whole then.
    pub async fn chunk(&mut self) -> Result<Option<&[u8]>, Error> {
        let Some(body) = &mut self.body else {
            return Ok(None);
        };
        let chunk = self.session.wire.chunk(body).await?;
        if chunk.is_none() {
            self.body = None;
        }
        Ok(chunk)
    }

    /// Reads past what is left of the current message.
    async fn skip_rest(&mut self) -> Result<(), Error> {
        let mut skipped = 0;
        while let Some(chunk) = self.chunk().await? {
            skipped += chunk.len();
            if skipped > MAX_SKIPPED_OCTETS {
                let clock = self.session.wire.clock();
                return Err(clock.protocol("a message is far longer than it may be"));
            }
        }
        Ok(())
    }

    /// Fills the window once it is half empty, so that commands go out many at a time.
    async fn ask_ahead(&mut self) -> Result<(), Error> {
        let window = self.session.window();
        let sizes = self.asked.iter().map(|(_, octets)| *octets);
        let mut octets = sizes.fold(0_u64, u64::saturating_add);
        if self.asked.len() > window / 2 || octets > WINDOW_OCTETS / 2 {
            return Ok(());
        }
        let first_new = self.asked.len();
        while let Some(&(number, size)) = self.waiting.front() {
            octets = octets.saturating_add(size);
            let full = self.asked.len() >= window || octets > WINDOW_OCTETS;
            if full && !self.asked.is_empty() {
                break;
            }
            self.waiting.pop_front();
            self.asked.push_back((number, size));
        }
        let new = self.asked.range(first_new..).map(|(number, _)| *number);
        let count = new.len();
        if count > 0 {
            let commands = commands("RETR", new);
            self.session.wire.send(commands.as_bytes(), count).await?;
        }
        Ok(())
    }
}
