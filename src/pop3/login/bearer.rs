//! A bearer token by XOAUTH2 or OAUTHBEARER (RFC 7628), in two lines (RFC 5034, section 4).
//!
//! Straight over the wire: async-pop cannot do this. Its `Communicator` gives challenges only, so
//! that after the token it can tell neither success nor refusal from the error challenge that has
//! to be answered before the server refuses.

use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

use crate::pop3::{
    BearerMechanism, Capabilities, Error, Refusal, Server,
    codec::{self, Status},
    quirks::{self, Meaning},
    reply::{printable, without},
    wire::Wire,
};

/// Logs in with a token, once.
pub(super) async fn authenticate(
    wire: &mut Wire,
    server: &Server,
    username: &str,
    token: &SecretString,
    mechanism: BearerMechanism,
    capabilities: Option<&Capabilities>,
) -> Result<(), Error> {
    let mechanism = choose(mechanism, capabilities);
    let token = token.expose_secret();
    let response = STANDARD.encode(mechanism.message(server, username, token)?);
    wire.hide([token, &response]);
    let dialogue = Dialogue {
        wire,
        username,
        mechanism,
        secrets: [token, &response],
    };
    dialogue.run(&response).await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mechanism {
    Xoauth2,
    Oauthbearer,
}

/// Some servers take XOAUTH2 without announcing it; to be refused it costs nothing, since the token
/// is only sent once the server asks for it.
fn choose(mechanism: BearerMechanism, capabilities: Option<&Capabilities>) -> Mechanism {
    let announced = capabilities.and_then(|capabilities| capabilities.sasl.as_deref());
    let announces = |name: &str| announced.is_some_and(|all| all.iter().any(|one| one == name));
    match mechanism {
        BearerMechanism::Oauthbearer => Mechanism::Oauthbearer,
        BearerMechanism::Auto if announces("OAUTHBEARER") => Mechanism::Oauthbearer,
        BearerMechanism::Auto | BearerMechanism::Xoauth2 => Mechanism::Xoauth2,
    }
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Self::Xoauth2 => "XOAUTH2",
            Self::Oauthbearer => "OAUTHBEARER",
        }
    }

    /// What is sent in base64. None of its parts may have a ^A, which ends them.
    fn message(self, server: &Server, username: &str, token: &str) -> Result<String, Error> {
        match self {
            Self::Xoauth2 => Ok(format!("user={username}\x01auth=Bearer {token}\x01\x01")),
            Self::Oauthbearer => {
                let (host, port) = (server.ascii_host()?, server.port);
                if host.contains(char::is_control) {
                    let (field, reason) = ("host", "contains a control character; remove it");
                    return Err(Error::CredentialsInvalid { field, reason });
                }
                // A `saslname` (RFC 5801, section 4).
                let name = username.replace('=', "=3D").replace(',', "=2C");
                Ok(format!(
                    "n,a={name},\x01host={host}\x01port={port}\x01auth=Bearer {token}\x01\x01"
                ))
            }
        }
    }

    /// What ends the exchange after an error challenge (RFC 7628, section 3.2.3).
    fn farewell(self) -> &'static str {
        match self {
            Self::Xoauth2 => "",
            Self::Oauthbearer => "AQ==",
        }
    }
}

struct Dialogue<'a> {
    wire: &'a mut Wire,
    username: &'a str,
    mechanism: Mechanism,
    /// What no error may show: the token, and the line that it is sent in.
    secrets: [&'a str; 2],
}

/// A line of the server within the exchange, without the secrets.
enum Answer {
    Ok,
    Challenge(String),
    Refused(Refusal),
}

impl Dialogue<'_> {
    async fn run(mut self, response: &str) -> Result<(), Error> {
        match self.ask(&format!("AUTH {}", self.mechanism.name())).await? {
            // Some servers write `+OK` where they mean `+`.
            Answer::Challenge(_) | Answer::Ok => {}
            Answer::Refused(refusal) => return Err(self.not_taken(refusal)),
        }
        let complaint = match self.ask(response).await? {
            Answer::Ok => return Ok(()),
            Answer::Refused(refusal) => return Err(self.refused(None, refusal)),
            Answer::Challenge(complaint) => complaint,
        };
        match self.ask(self.mechanism.farewell()).await {
            Ok(Answer::Refused(refusal)) => Err(self.refused(Some(complaint), refusal)),
            // It has said why.
            Err(Error::Closed { .. }) => Err(Error::TokenRefused(complaint)),
            Ok(Answer::Ok | Answer::Challenge(_)) => {
                let clock = self.wire.clock();
                Err(clock.protocol("the server went on after it had refused the access token"))
            }
            Err(error) => Err(error),
        }
    }

    async fn ask(&mut self, line: &str) -> Result<Answer, Error> {
        let line = format!("{line}\r\n");
        self.wire.send(line.as_bytes(), 1).await?;
        let clock = self.wire.clock();
        let line = self.wire.line().await?;
        match codec::status(line) {
            Some(Status::Ok(_)) => return Ok(Answer::Ok),
            Some(Status::Err(text)) => {
                let text = without(&self.secrets, text);
                return Ok(Answer::Refused(Refusal::parse(&text)));
            }
            None => {}
        }
        match line {
            [b'+'] => Ok(Answer::Challenge(String::new())),
            [b'+', b' ', challenge @ ..] => {
                Ok(Answer::Challenge(complaint(challenge, self.secrets)))
            }
            line => {
                let line = printable(&without(&self.secrets, line));
                Err(clock.protocol(format!("the server answered \"{line}\"")))
            }
        }
    }

    /// What a refusal means before the token was sent: nothing against the token.
    fn not_taken(&self, refusal: Refusal) -> Error {
        self.passing(refusal).unwrap_or_else(|refusal| {
            let name = self.mechanism.name();
            Error::AuthUnsupported(format!(
                "the server does not take {name} ({refusal}); use another auth"
            ))
        })
    }

    fn refused(&self, complaint: Option<String>, refusal: Refusal) -> Error {
        self.passing(refusal).unwrap_or_else(|refusal| {
            let complaint = complaint.filter(|text| !text.is_empty());
            Error::TokenRefused(match complaint {
                Some(complaint) => format!("{complaint}; {refusal}"),
                None => refusal.to_string(),
            })
        })
    }

    /// The error of a refusal that is not about this token or mechanism; else the refusal itself.
    fn passing(&self, refusal: Refusal) -> Result<Error, Refusal> {
        Ok(match quirks::meaning(&refusal, self.username) {
            Meaning::InUse => Error::InUse(refusal),
            Meaning::LoginDelay => Error::LoginDelay(refusal),
            Meaning::Temporary => Error::ServerTemporary(refusal),
            Meaning::Permanent => Error::ServerPermanent(refusal),
            Meaning::NeedsTls => Error::needs_tls(&refusal),
            Meaning::Credentials => return Err(refusal),
        })
    }
}

/// An error challenge (RFC 7628, section 3.2.2); both mechanisms have the same.
#[derive(Deserialize)]
struct ErrorChallenge {
    /// A string by the RFC, a number by some servers.
    status: Option<Value>,
    scope: Option<Value>,
}

/// An error challenge for people.
fn complaint(challenge: &[u8], secrets: [&str; 2]) -> String {
    let decoded = STANDARD.decode(challenge.trim_ascii());
    let octets = decoded.as_deref().unwrap_or(challenge);
    let told = match serde_json::from_slice(octets) {
        Ok(ErrorChallenge { status, scope }) => [("status", status), ("scope", scope)]
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name} {}", text(value?)?)))
            .collect::<Vec<_>>()
            .join(", ")
            .into_bytes(),
        Err(_) => octets.to_vec(),
    };
    printable(&without(&secrets, &told))
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pop3::Tls;

    fn server(host: &str) -> Server {
        Server {
            host: host.into(),
            port: 143,
            tls: Tls::Implicit,
            ca_pem: None,
            pin: None,
            pipelining: true,
        }
    }

    #[test]
    fn auto_takes_what_is_announced_and_else_xoauth2() {
        let auto = |lines: Option<&str>| {
            let capabilities = lines.map(|line| {
                let mut capabilities = Capabilities::default();
                capabilities.add(line.as_bytes());
                capabilities
            });
            choose(BearerMechanism::Auto, capabilities.as_ref())
        };
        for lines in [
            None,
            Some("USER"),
            Some("SASL PLAIN"),
            Some("SASL PLAIN XOAUTH2"),
        ] {
            assert_eq!(auto(lines), Mechanism::Xoauth2, "{lines:?}");
        }
        let both = Some("SASL XOAUTH2 OAUTHBEARER");
        assert_eq!(auto(both), Mechanism::Oauthbearer);
    }

    #[test]
    fn messages_are_those_of_the_documents() {
        // RFC 7628, section 4.1, as base64.
        let example = "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAW\
            F1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB";
        let (server, token) = (
            server("server.example.com"),
            "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==",
        );
        let message = |mechanism: Mechanism, name: &str| {
            STANDARD.encode(mechanism.message(&server, name, token).unwrap())
        };
        assert_eq!(message(Mechanism::Oauthbearer, "user@example.com"), example);

        // Google's example for XOAUTH2.
        let example = "dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk\
            52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0Q2cBAQ==";
        let token = "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg";
        let message = Mechanism::Xoauth2.message(&server, "someuser@example.com", token);
        assert_eq!(STANDARD.encode(message.unwrap()), example);
    }

    #[test]
    fn a_user_name_cannot_forge_a_field_nor_a_host() {
        let message = Mechanism::Oauthbearer.message(&server("host"), "a=b,c", "t");
        assert!(message.unwrap().starts_with("n,a=a=3Db=2Cc,\x01"));
        let forged = Mechanism::Oauthbearer.message(&server("a\x01auth=Bearer b"), "a", "t");
        assert_eq!(forged.unwrap_err().code(), "credentials_invalid");
    }

    #[test]
    fn a_part_of_a_secret_is_kept_back_too() {
        let secrets = [
            "ya29.a0AfH6SMBx-and-so-on",
            "dXNlcj11c2VyAWF1dGg9QmVhcmVyIHlhMjk=",
        ];
        let shown = |line: &str| String::from_utf8(without(&secrets, line.as_bytes())).unwrap();
        for (line, expected) in [
            ("bad: \"dXNlcj11c2VyAWF1dGg9...\"", "bad: \"***...\""),
            ("bad ya29.a0AfH6SMBx-and", "bad ***"),
            ("bad ya29.a0AfH6SMBx-and-so-on!", "bad ***!"),
            (
                "ya29 is no authentication mechanism",
                "ya29 is no authentication mechanism",
            ),
        ] {
            assert_eq!(shown(line), expected, "{line}");
        }
    }

    #[test]
    fn error_challenges_are_told_without_the_token() {
        let told = |json: &str| complaint(STANDARD.encode(json).as_bytes(), ["s3cret", "czNjcmV0"]);
        assert_eq!(
            told(r#"{"status":"401","schemes":"bearer","scope":"https://mail.google.com/"}"#),
            "status 401, scope https://mail.google.com/"
        );
        assert_eq!(told(r#"{"status":400}"#), "status 400");
        assert_eq!(told(r#"{"scope":""}"#), "");
        assert_eq!(told("bad token s3cret\x1b["), "bad token *** [");
        assert_eq!(
            complaint(b"no czNjcmV0 s3cret!", ["s3cret", "czNjcmV0"]),
            "no *** ***!"
        );
        let long = format!(r#"{{"status":"{}"}}"#, "4".repeat(5000));
        assert_eq!(told(&long).chars().count(), 256);
    }
}
