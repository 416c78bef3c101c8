//! TOP, for messages that are too long to be retrieved.

use super::{Error, MessageNumber, Phase, Session};

/// Octets of a head that are kept: more than any real header has.
const MAX_HEAD_OCTETS: usize = 256 * 1024;

impl Session {
    /// The header of a message (TOP with no lines of the body), its start if it is very long;
    /// `None` where the server has no TOP or will not send it.
    ///
    /// Some servers send the whole message: the rest is read past.
    ///
    /// # Errors
    /// What ended the session.
    pub async fn head(&mut self, number: MessageNumber) -> Result<Option<Vec<u8>>, Error> {
        if !self.capabilities().top {
            return Ok(None);
        }
        self.begin(Phase::Retrieve)?;
        self.wire
            .send(format!("TOP {number} 0\r\n").as_bytes(), 1)
            .await?;
        let mut head = None;
        if self.wire.status().await?.is_ok() {
            let mut kept = Vec::new();
            let mut body = self.wire.body();
            while let Some(chunk) = self.wire.chunk(&mut body).await? {
                let room = MAX_HEAD_OCTETS - kept.len();
                kept.extend_from_slice(chunk.get(..room).unwrap_or(chunk));
            }
            head = Some(kept);
        }
        self.ready = true;
        Ok(head)
    }
}
