//! TOP: the header of a message without the rest.

use super::{
    Error, MessageNumber, Phase, Session, retrieval::MAX_SKIPPED_OCTETS, session::commands,
};

/// Octets of a head that are kept: more than any real header has.
const MAX_HEAD_OCTETS: usize = 256 * 1024;

impl Session {
    /// The header of a message (TOP with no lines of the body), its start if it is very long;
    /// `None` where the server has no TOP or will not send it.
    ///
    /// Some servers send the whole message: the rest is read past, within bounds.
    ///
    /// # Errors
    /// What ended the session.
    pub async fn head(&mut self, number: MessageNumber) -> Result<Option<Vec<u8>>, Error> {
        let mut found = None;
        self.heads(&[number], |head| found = head).await?;
        Ok(found)
    }

    /// The headers of these messages, like [`Session::head`], in the same order. Where PIPELINING
    /// is announced, TOP is sent ahead.
    ///
    /// # Errors
    /// What ended the session.
    pub async fn heads(
        &mut self,
        numbers: &[MessageNumber],
        mut each: impl FnMut(Option<Vec<u8>>),
    ) -> Result<(), Error> {
        for batch in numbers.chunks(self.window()) {
            // Not every server that has it announces it.
            if self.no_top {
                batch.iter().for_each(|_| each(None));
                continue;
            }
            self.begin(Phase::Retrieve)?;
            let tops = commands("TOP", batch.iter().copied()).replace("\r\n", " 0\r\n");
            self.wire.send(tops.as_bytes(), batch.len()).await?;
            for _ in batch {
                each(self.read_head().await?);
            }
            self.ready = true;
        }
        Ok(())
    }

    async fn read_head(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if self.wire.status().await?.is_err() {
            self.no_top = !self.capabilities().top;
            return Ok(None);
        }
        let (mut kept, mut octets) = (Vec::new(), 0);
        let (clock, mut body) = (self.wire.clock(), self.wire.body());
        while let Some(chunk) = self.wire.chunk(&mut body).await? {
            octets += chunk.len();
            if octets > MAX_HEAD_OCTETS + MAX_SKIPPED_OCTETS {
                return Err(clock.protocol("the reply to TOP does not end"));
            }
            let room = MAX_HEAD_OCTETS - kept.len();
            kept.extend_from_slice(chunk.get(..room).unwrap_or(chunk));
        }
        Ok(Some(kept))
    }
}
