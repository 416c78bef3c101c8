//! What was said in sessions, for people who look for a fault: commands, status lines, sizes and
//! times. Never a credential, never a message.

use std::{
    collections::VecDeque,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Phase, TlsFacts,
    reply::{printable, without},
};

/// Entries kept from the beginning, and as many from the end.
const MAX_ENTRIES: usize = 100;

/// Steps kept; a session has about ten.
const MAX_STEPS: usize = 64;

/// What is being said in one or more sessions. Clones share it; it is bounded.
#[derive(Clone, Default)]
pub struct Transcript(Arc<Mutex<Log>>);

/// What was said between popbridge and a POP3 server, without credentials and messages.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Record {
    /// The first hundred entries and the last hundred.
    pub entries: Vec<Entry>,
    /// Entries between them that were not kept.
    pub left_out: u64,
}

/// Something that was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = TranscriptEntry)]
pub struct Entry {
    /// Milliseconds since the transcript began.
    pub at_ms: u64,
    /// Who said it.
    pub from: Speaker,
    /// A command or status line, 256 characters at most; `.` is the end of a multi-line reply.
    pub line: String,
    /// Octets of the multi-line reply that ends here, unstuffed.
    pub octets: Option<u64>,
}

/// Who said something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = TranscriptSpeaker)]
pub enum Speaker {
    /// popbridge.
    Client,
    /// The POP3 server.
    Server,
    /// Nobody: what happened on the way, such as a TLS handshake.
    Note,
}

/// What a session was doing, and when it began to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub phase: Phase,
    /// Since the transcript began.
    pub at: Duration,
}

struct Log {
    began: Instant,
    head: Vec<Entry>,
    tail: VecDeque<Entry>,
    left_out: u64,
    steps: Vec<Step>,
    address: Option<SocketAddr>,
    tls: Option<TlsFacts>,
    bare_lf: bool,
    hidden: Vec<SecretString>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            head: Vec::new(),
            tail: VecDeque::new(),
            left_out: 0,
            steps: Vec::new(),
            address: None,
            tls: None,
            bare_lf: false,
            hidden: Vec::new(),
        }
    }
}

impl Transcript {
    /// What was said so far, in order.
    #[must_use]
    pub fn record(&self) -> Record {
        let log = self.log();
        Record {
            entries: log.head.iter().chain(&log.tail).cloned().collect(),
            left_out: log.left_out,
        }
    }

    /// What the sessions were doing, in order.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        self.log().steps.clone()
    }

    /// The address of the last connection.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.log().address
    }

    /// Time since the transcript began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.log().began.elapsed()
    }

    /// Whether a server ended its greeting with LF alone.
    #[must_use]
    pub fn bare_lf(&self) -> bool {
        self.log().bare_lf
    }

    /// What the last TLS handshake agreed on.
    #[must_use]
    pub fn tls(&self) -> Option<TlsFacts> {
        self.log().tls.clone()
    }

    /// Keeps these out of all that is recorded from here: some servers repeat what they were sent.
    pub(super) fn hide(&self, secrets: [&str; 2]) {
        self.log().hidden = secrets.map(SecretString::from).into();
    }

    pub(super) fn enter(&self, phase: Phase) {
        let mut log = self.log();
        let at = log.began.elapsed();
        if log.steps.len() < MAX_STEPS && log.steps.last().is_none_or(|last| last.phase != phase) {
            log.steps.push(Step { phase, at });
        }
    }

    pub(super) fn connected(&self, address: SocketAddr) {
        self.note(&format!("connected to {address}"));
        self.log().address = Some(address);
    }

    pub(super) fn encrypted(&self, facts: TlsFacts) {
        self.note(&facts.to_string());
        self.log().tls = Some(facts);
    }

    pub(super) fn ends_lines_with_bare_lf(&self) {
        self.log().bare_lf = true;
    }

    /// Records whole command lines.
    pub(super) fn client(&self, commands: &[u8]) {
        let mut log = self.log();
        for line in commands.split(|octet| *octet == b'\n') {
            if !line.is_empty() {
                log.add(Speaker::Client, command(line), None);
            }
        }
    }

    /// Records a status line.
    pub(super) fn server(&self, line: &[u8]) {
        let mut log = self.log();
        let line = log.without_secrets(line);
        log.add(Speaker::Server, line, None);
    }

    /// Records the end of a multi-line reply.
    pub(super) fn body(&self, octets: u64) {
        self.log().add(Speaker::Server, ".".into(), Some(octets));
    }

    fn note(&self, text: &str) {
        self.log()
            .add(Speaker::Note, printable(text.as_bytes()), None);
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // Nothing below can panic half-way; and a transcript is not worth a panic anyway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transcript").finish_non_exhaustive()
    }
}

impl Log {
    fn add(&mut self, from: Speaker, line: String, octets: Option<u64>) {
        let elapsed = self.began.elapsed().as_millis();
        let entry = Entry {
            at_ms: u64::try_from(elapsed).unwrap_or(u64::MAX),
            from,
            line,
            octets,
        };
        if self.head.len() < MAX_ENTRIES {
            self.head.push(entry);
            return;
        }
        if self.tail.len() == MAX_ENTRIES {
            self.tail.pop_front();
            self.left_out += 1;
        }
        self.tail.push_back(entry);
    }

    fn without_secrets(&self, line: &[u8]) -> String {
        let hidden: Vec<_> = self.hidden.iter().map(|one| one.expose_secret()).collect();
        printable(&without(&hidden, line))
    }
}

/// A command line without its credentials: of what belongs to a login only the verb is kept, with
/// the mechanism of AUTH. A line with no known verb is a SASL response.
fn command(line: &[u8]) -> String {
    const HARMLESS: [&str; 12] = [
        "CAPA", "STLS", "UTF8", "STAT", "UIDL", "LIST", "RETR", "TOP", "DELE", "RSET", "NOOP",
        "QUIT",
    ];
    let line = printable(line);
    let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
    match verb {
        verb if HARMLESS.contains(&verb) => line,
        "AUTH" => match rest.split_once(' ') {
            None => line,
            Some((mechanism, _)) => format!("AUTH {mechanism} ***"),
        },
        "USER" | "PASS" | "APOP" => format!("{verb} ***"),
        _ => "***".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(transcript: &Transcript) -> Vec<String> {
        let entries = transcript.record().entries.into_iter();
        entries.map(|entry| entry.line).collect()
    }

    #[test]
    fn credentials_are_left_out() {
        let transcript = Transcript::default();
        for line in [
            "USER anna\r\n",
            "PASS hunter2 x\r\n",
            "APOP anna c4c9\r\n",
            "AUTH PLAIN AGFubmEAaHVudGVyMg==\r\n",
            "AUTH XOAUTH2\r\n",
            "AGFubmEAaHVudGVyMg==\r\n",
            "\r\n",
            "RETR 1\r\nRETR 2\r\n",
        ] {
            transcript.client(line.as_bytes());
        }
        let said = lines(&transcript);
        let expected = [
            "USER ***",
            "PASS ***",
            "APOP ***",
            "AUTH PLAIN ***",
            "AUTH XOAUTH2",
            "***",
            "***",
            "RETR 1",
            "RETR 2",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn a_server_that_repeats_a_secret_does_not_put_it_on_record() {
        let transcript = Transcript::default();
        transcript.hide(["hunter2", ""]);
        transcript.server(b"-ERR bad command: PASS hunter2\xff");
        assert_eq!(lines(&transcript), ["-ERR bad command: PASS ***\u{fffd}"]);
    }

    #[test]
    fn a_long_transcript_keeps_its_two_ends() {
        let transcript = Transcript::default();
        for n in 1..=1000 {
            transcript.client(format!("RETR {n}\r\n").as_bytes());
        }
        let said = lines(&transcript);
        assert_eq!(said.len(), 2 * MAX_ENTRIES);
        for (index, line) in [
            (0, "RETR 1"),
            (99, "RETR 100"),
            (100, "RETR 901"),
            (199, "RETR 1000"),
        ] {
            assert_eq!(said.get(index).map(String::as_str), Some(line));
        }
        assert_eq!(transcript.record().left_out, 800);
    }
}
