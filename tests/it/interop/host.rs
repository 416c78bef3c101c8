//! A server with a maildrop, and ways to it.

use std::{collections::HashMap, fmt::Write as _};

use popbridge::{
    demo::certificates::Certificates,
    egress::Egress,
    pop3::{
        Capabilities, Connector, Credentials, Deadlines, Error, PasswordMechanism, Server, Session,
        Tls, Transcript,
    },
};
use tempfile::TempDir;

use super::{
    corpus::{self, Message},
    server::{PASSWORD, Pop3Server, USERNAME},
};

/// Dropped parts stop in the order of the fields.
pub(super) struct Host<S> {
    pub(super) server: S,
    pub(super) certificates: Certificates,
    /// What the maildrop has, where that is the corpus.
    pub(super) messages: Vec<Message>,
    connector: Connector,
    _dir: TempDir,
}

impl<S: Pop3Server> Host<S> {
    /// With the corpus.
    pub(super) async fn start() -> Self {
        let messages = corpus::messages();
        let files: Vec<Vec<u8>> = messages.iter().map(S::delivered).collect();
        let corpus = Self::start_with(&files).await;
        Self { messages, ..corpus }
    }

    /// With these files for messages.
    pub(super) async fn start_with(files: &[Vec<u8>]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certificates = Certificates::for_names(&["localhost"]).unwrap();
        let egress = Egress::new(vec!["127.0.0.0/8".parse().unwrap()]);
        Self {
            server: S::start(dir.path(), &certificates, files).await,
            certificates,
            messages: Vec::new(),
            connector: Connector::new(egress, Deadlines::default()).unwrap(),
            _dir: dir,
        }
    }

    pub(super) async fn open(&self, line: Tls, auth: PasswordMechanism) -> Result<Session, Error> {
        self.open_with(line, auth, PASSWORD, &Transcript::default())
            .await
    }

    /// A session by what every server has.
    pub(super) async fn open_any(&self) -> Result<Session, Error> {
        self.open(Tls::None, PasswordMechanism::UserPass).await
    }

    pub(super) async fn open_with(
        &self,
        line: Tls,
        auth: PasswordMechanism,
        password: &str,
        transcript: &Transcript,
    ) -> Result<Session, Error> {
        let credentials = Credentials::with_password(USERNAME, password.into(), auth);
        self.connector
            .open(&self.address(line), &credentials, transcript)
            .await
    }

    /// The greeting, and what CAPA says before a login.
    pub(super) async fn announced(&self, line: Tls) -> (String, Option<Capabilities>) {
        let transcript = Transcript::default();
        let capabilities = self.connector.probe(&self.address(line), &transcript).await;
        let said = transcript.record().entries;
        let greeting = said.into_iter().find(|entry| entry.line.starts_with("+OK"));
        (greeting.unwrap().line, capabilities.unwrap())
    }

    fn address(&self, line: Tls) -> Server {
        Server {
            host: "localhost".into(),
            port: self.server.port(line),
            tls: line,
            ca_pem: Some(self.certificates.ca_pem.clone()),
            pin: None,
            pipelining: true,
        }
    }

    /// Fails unless these are the messages of the maildrop, to the octet.
    pub(super) fn assert_all(&self, retrieved: impl IntoIterator<Item = Vec<u8>>) {
        let mut expected: HashMap<Vec<u8>, Vec<&str>> = HashMap::new();
        for message in &self.messages {
            let sent = S::sent(&S::delivered(message));
            expected.entry(sent).or_default().push(&message.name);
        }
        let mut strange = String::new();
        for octets in retrieved {
            let octets = S::without_additions(octets);
            if expected.get_mut(&octets).and_then(Vec::pop).is_none() {
                let start = octets[..octets.len().min(400)].escape_ascii();
                writeln!(strange, "{} octets: {start}", octets.len()).unwrap();
            }
        }
        let missing: Vec<&str> = expected.into_values().flatten().collect();
        assert!(
            missing.is_empty() && strange.is_empty(),
            "missing: {missing:#?}\nin their place:\n{strange}"
        );
    }
}
