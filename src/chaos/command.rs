//! Command lines, and patterns that pick some of them.

use std::str::FromStr;

/// Stands for the greeting where a pattern is asked for.
pub(super) const GREETING: &str = "GREETING";

/// A command line as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// The line without its end.
    pub(super) line: String,
    /// Its first word in upper case.
    pub(super) verb: String,
    /// What follows, to the octet where it is UTF-8.
    pub(super) argument: String,
}

impl Command {
    pub(super) fn parse(line: &[u8]) -> Self {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end_matches(['\r', '\n']);
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        Self {
            line: line.to_owned(),
            verb: verb.to_ascii_uppercase(),
            argument: argument.to_owned(),
        }
    }

    /// The line as it may be shown.
    pub(super) fn without_credentials(&self) -> String {
        let shown = match self.verb.as_str() {
            "PASS" => "PASS ***".to_owned(),
            "APOP" | "AUTH" => match self.argument.split_once(' ') {
                Some((first, _)) => format!("{} {first} ***", self.verb),
                None => self.line.clone(),
            },
            _ => self.line.clone(),
        };
        shown.chars().filter(|c| !c.is_control()).collect()
    }

    /// The argument's words as numbers; `None` where one is none.
    pub(super) fn numbers(&self) -> Option<Vec<u64>> {
        self.argument
            .split_ascii_whitespace()
            .map(|word| word.parse().ok())
            .collect()
    }
}

/// Picks commands: by verb (`RETR`), or by the beginning of the line, whole words (`RETR 2`).
/// `GREETING` picks the greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandPattern(String);

impl CommandPattern {
    pub(super) fn picks(&self, command: &Command) -> bool {
        let Some((head, rest)) = command.line.split_at_checked(self.0.len()) else {
            return false;
        };
        head.eq_ignore_ascii_case(&self.0) && (rest.is_empty() || rest.starts_with(' '))
    }

    pub(super) fn is_verb(&self, verb: &str) -> bool {
        self.0.eq_ignore_ascii_case(verb)
    }
}

impl From<&str> for CommandPattern {
    fn from(pattern: &str) -> Self {
        Self(pattern.trim().to_owned())
    }
}

impl FromStr for CommandPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            return Err("a command is wanted, such as RETR or \"RETR 2\"".to_owned());
        }
        Ok(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_pick_by_whole_words() {
        for (pattern, line, picked) in [
            ("RETR", "RETR 2", true),
            ("retr 2", "RETR 2", true),
            ("RETR 2", "RETR 22", false),
            ("RETR 2", "RETR", false),
            ("AUTH PLAIN", "AUTH PLAIN AGEAYg==", true),
            ("USER", "USERS", false),
        ] {
            let command = Command::parse(line.as_bytes());
            assert_eq!(
                CommandPattern::from(pattern).picks(&command),
                picked,
                "{pattern}"
            );
        }
    }

    #[test]
    fn credentials_are_left_out() {
        for (line, shown) in [
            ("PASS correct horse", "PASS ***"),
            ("pass x", "PASS ***"),
            ("AUTH PLAIN AGEAYg==", "AUTH PLAIN ***"),
            ("AUTH PLAIN", "AUTH PLAIN"),
            (
                "APOP anna c4c9334bac560ecc979e58001b3e22fb",
                "APOP anna ***",
            ),
            ("RETR 1", "RETR 1"),
        ] {
            let command = Command::parse(format!("{line}\r\n").as_bytes());
            assert_eq!(command.without_credentials(), shown);
        }
    }
}
