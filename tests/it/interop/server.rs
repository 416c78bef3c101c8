//! What there is to say about a POP3 server.

use std::path::Path;

use popbridge::{demo::certificates::Certificates, pop3::Tls};

use super::{corpus::Message, store};

/// Who has the maildrop. Blanks in a password are a test of their own.
pub(super) const USERNAME: &str = "anna";
pub(super) const PASSWORD: &str = "correct horse battery staple";

/// A running POP3 server with one maildrop. It ends, with all it started, when dropped.
pub(super) trait Pop3Server: Sized {
    /// Whether a second login is refused for as long as a first session lasts (RFC 1939, section
    /// 4, has servers lock the maildrop; not all do).
    const LOCKS: bool;

    /// Whether a later connection takes up the TLS of an earlier one. A process for each
    /// connection, with keys of its own, cannot.
    const RESUMES_TLS: bool = false;

    /// Starts it with everything below `dir`, on free ports of 127.0.0.1. The maildrop of
    /// [`USERNAME`] has these messages.
    async fn start(dir: &Path, certificates: &Certificates, messages: &[Vec<u8>]) -> Self;

    /// Where it serves lines of this kind; of those only that its file offers.
    fn port(&self, line: Tls) -> u16;

    /// How many messages its own files have.
    fn maildrop(&self) -> usize;

    /// The file that delivery makes of a message, where its store cannot hold the message itself.
    fn delivered(message: &Message) -> Vec<u8> {
        message.octets.clone()
    }

    /// What RETR has to give for a file.
    fn sent(file: &[u8]) -> Vec<u8> {
        store::every_lf_as_crlf(file)
    }

    /// What was retrieved, less what the server itself adds to every message.
    fn without_additions(retrieved: Vec<u8>) -> Vec<u8> {
        retrieved
    }
}
