//! TOP, for messages that are too long to be retrieved.

use super::{Error, MessageNumber, Phase, Session, retrieval::MAX_SKIPPED_OCTETS};

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
        // Not every server that has it announces it.
        if self.no_top {
            return Ok(None);
        }
        self.begin(Phase::Retrieve)?;
        self.wire
            .send(format!("TOP {number} 0\r\n").as_bytes(), 1)
            .await?;
        let mut head = None;
        if self.wire.status().await?.is_ok() {
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
            head = Some(kept);
        } else {
            self.no_top = !self.capabilities().top;
        }
        self.ready = true;
        Ok(head)
    }
}
