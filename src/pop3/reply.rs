//! `-ERR` replies and their response codes (RFC 2449, section 8; RFC 3206).

use std::fmt;

/// A `-ERR` reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The response code, if it came directly after the status and is a known one.
    pub code: Option<ResponseCode>,
    /// The text for people: valid UTF-8 without control characters, 256 characters at most.
    pub text: String,
}

/// The registered response codes that mean something to this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseCode {
    /// The maildrop is locked by another session; the credentials were right.
    InUse,
    /// Logged in too soon after the last time.
    LoginDelay,
    /// The server has a problem that will pass.
    SysTemp,
    /// The server has a problem that needs its operator.
    SysPerm,
    /// The credentials are wrong.
    Auth,
}

impl Refusal {
    /// Reads the text that follows `-ERR`.
    pub(super) fn parse(text: &[u8]) -> Self {
        let (code, text) = split_code(text.trim_ascii());
        Self {
            code,
            text: printable(text),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("-ERR")?;
        if let Some(code) = self.code {
            write!(f, " [{}]", code.word())?;
        }
        if !self.text.is_empty() {
            write!(f, " {}", self.text)?;
        }
        Ok(())
    }
}

impl ResponseCode {
    fn word(self) -> &'static str {
        match self {
            Self::InUse => "IN-USE",
            Self::LoginDelay => "LOGIN-DELAY",
            Self::SysTemp => "SYS/TEMP",
            Self::SysPerm => "SYS/PERM",
            Self::Auth => "AUTH",
        }
    }

    /// Codes are hierarchical: `SYS/TEMP/DISK` is a `SYS/TEMP`.
    fn parse(word: &[u8]) -> Option<Self> {
        [
            Self::InUse,
            Self::LoginDelay,
            Self::SysTemp,
            Self::SysPerm,
            Self::Auth,
        ]
        .into_iter()
        .find(|code| {
            let known = code.word().as_bytes();
            word.split_at_checked(known.len())
                .is_some_and(|(head, rest)| {
                    head.eq_ignore_ascii_case(known) && matches!(rest, [] | [b'/', ..])
                })
        })
    }
}

fn split_code(text: &[u8]) -> (Option<ResponseCode>, &[u8]) {
    let Some(inner) = text.strip_prefix(b"[") else {
        return (None, text);
    };
    let Some(end) = memchr::memchr(b']', inner) else {
        return (None, text);
    };
    match inner.split_at_checked(end) {
        Some((word, rest)) if let Some(code) = ResponseCode::parse(word) => (
            Some(code),
            rest.strip_prefix(b"]").unwrap_or(rest).trim_ascii(),
        ),
        _ => (None, text),
    }
}

/// A line without these: some servers repeat what they did not like, or as much of it as goes in a
/// line.
pub(super) fn without(secrets: &[&str], line: &[u8]) -> Vec<u8> {
    /// No ordinary word is so long.
    const PART: usize = 16;
    let line = String::from_utf8_lossy(line).into_owned();
    let secrets = || secrets.iter().filter(|secret| !secret.is_empty());
    let line = secrets().fold(line, |line, secret| line.replace(secret, "***"));
    let part = |word: &&str| word.len() >= PART && secrets().any(|secret| secret.contains(*word));
    let words = line
        .split_ascii_whitespace()
        .map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()));
    let parts: Vec<&str> = words.filter(part).collect();
    let hide = |line: String, part| line.replace(part, "***");
    parts.into_iter().fold(line.clone(), hide).into_bytes()
}

/// A server's text for people: bounded, valid UTF-8, nothing that moves a cursor.
pub(super) fn printable(text: &[u8]) -> String {
    const MAX_CHARS: usize = 256;
    String::from_utf8_lossy(text)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_CHARS)
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_code_counts_only_directly_after_the_status() {
        for (text, code, rest) in [
            ("[IN-USE] wait", Some(ResponseCode::InUse), "wait"),
            ("[in-use]", Some(ResponseCode::InUse), ""),
            ("[AUTH] no", Some(ResponseCode::Auth), "no"),
            ("[SYS/TEMP/DISK] full", Some(ResponseCode::SysTemp), "full"),
            ("[SYS/PERM] broken", Some(ResponseCode::SysPerm), "broken"),
            (
                "[LOGIN-DELAY]slow down",
                Some(ResponseCode::LoginDelay),
                "slow down",
            ),
            ("[AUTHENTIC] no", None, "[AUTHENTIC] no"),
            ("[XCLIENT] no", None, "[XCLIENT] no"),
            ("busy [IN-USE]", None, "busy [IN-USE]"),
            ("[IN-USE", None, "[IN-USE"),
            ("", None, ""),
        ] {
            let refusal = Refusal::parse(text.as_bytes());
            assert_eq!(
                (refusal.code, refusal.text.as_str()),
                (code, rest),
                "{text}"
            );
        }
    }

    #[test]
    fn text_is_bounded_and_printable() {
        let text = Refusal::parse(&[&b"a\x1b[31m\0\xff"[..], &[b'x'; 9000]].concat()).text;
        assert_eq!(text.chars().count(), 256);
        assert!(text.starts_with("a [31m \u{fffd}xxx"), "{text}");
    }
}
