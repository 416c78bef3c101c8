//! What a server says it can do (CAPA, RFC 2449).

use std::time::Duration;

use super::reply::printable;

/// The capabilities of a server; empty where it has no CAPA.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The lines as announced, for people.
    pub lines: Vec<String>,
    /// Commands may be sent ahead of replies.
    pub pipelining: bool,
    /// UIDL is there.
    pub uidl: bool,
    /// TOP is there.
    pub top: bool,
    /// USER and PASS are there.
    pub user: bool,
    /// STLS is there (RFC 2595).
    pub stls: bool,
    /// UTF8 is there (RFC 6856).
    pub utf8: bool,
    /// SASL mechanisms in upper case; `None` if it says nothing about SASL.
    pub sasl: Option<Vec<String>>,
    /// How long mail is kept once it was retrieved.
    pub expire: Option<Expire>,
    /// Least time between logins.
    pub login_delay: Option<Duration>,
}

/// The EXPIRE capability (RFC 2449, section 6.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expire {
    /// Mail stays.
    Never,
    /// Mail may be deleted after that many days; with 0, as soon as RETR is followed by QUIT.
    Days(u32),
}

impl Capabilities {
    /// More lines than any server has are not kept.
    const MAX_LINES: usize = 100;

    /// Adds one line of a CAPA reply.
    pub(super) fn add(&mut self, line: &[u8]) {
        let line = printable(line);
        if line.is_empty() || self.lines.len() >= Self::MAX_LINES {
            return;
        }
        let mut words = line.split_ascii_whitespace();
        let (name, argument) = (words.next().unwrap_or_default(), words.next());
        match name.to_ascii_uppercase().as_str() {
            "PIPELINING" => self.pipelining = true,
            "UIDL" => self.uidl = true,
            "TOP" => self.top = true,
            "USER" => self.user = true,
            "STLS" => self.stls = true,
            "UTF8" => self.utf8 = true,
            "SASL" => {
                let mechanisms = argument.into_iter().chain(words);
                self.sasl = Some(mechanisms.map(str::to_ascii_uppercase).collect());
            }
            "EXPIRE" => self.expire = argument.and_then(expire),
            "LOGIN-DELAY" => {
                self.login_delay = argument
                    .and_then(|text| text.parse::<u32>().ok())
                    .map(seconds);
            }
            _ => {}
        }
        self.lines.push(line);
    }
}

fn expire(argument: &str) -> Option<Expire> {
    if argument.eq_ignore_ascii_case("NEVER") {
        return Some(Expire::Never);
    }
    argument.parse().ok().map(Expire::Days)
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(count.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(lines: &[&str]) -> Capabilities {
        let mut capabilities = Capabilities::default();
        lines
            .iter()
            .for_each(|line| capabilities.add(line.as_bytes()));
        capabilities
    }

    #[test]
    fn known_capabilities_are_understood_in_any_case() {
        let found = capabilities(&[
            "TOP",
            "uidl",
            "PIPELINING",
            "USER",
            "STLS",
            "SASL PLAIN xoauth2",
            "EXPIRE 30 USER",
            "LOGIN-DELAY 300 USER",
            "UTF8 USER",
            "IMPLEMENTATION Some Server v1.0",
        ]);
        assert!(found.top && found.uidl && found.pipelining && found.user && found.stls);
        assert_eq!(found.sasl, Some(vec!["PLAIN".into(), "XOAUTH2".into()]));
        assert_eq!(found.expire, Some(Expire::Days(30)));
        assert_eq!(found.login_delay, Some(Duration::from_secs(300)));
        assert_eq!(found.lines.len(), 10);
    }

    #[test]
    fn an_empty_sasl_line_is_not_the_same_as_none() {
        assert_eq!(capabilities(&["SASL"]).sasl, Some(vec![]));
        assert_eq!(capabilities(&["TOP"]).sasl, None);
        assert_eq!(capabilities(&["EXPIRE NEVER"]).expire, Some(Expire::Never));
        assert_eq!(capabilities(&["EXPIRE", "LOGIN-DELAY x"]).expire, None);
    }

    #[test]
    fn a_hostile_listing_stays_bounded() {
        assert_eq!(
            capabilities(&["X"; 1000]).lines.len(),
            Capabilities::MAX_LINES
        );
    }
}
