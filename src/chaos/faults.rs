//! What the server does wrong.

use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::command::{Command, CommandPattern};

/// What the server does wrong; by default nothing. Faults combine freely.
///
/// Octets are those of POP3, before encryption. A `CMD` is a verb (`RETR`), the beginning of a
/// command line (`RETR 2`), or `GREETING`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "Faults (CMD is RETR, \"RETR 2\" or GREETING)")]
pub struct Faults {
    /// Only in the first N connections; later ones find a correct server
    #[arg(long, value_name = "N")]
    pub fault_sessions: Option<u64>,

    /// Cut the connection once that many octets were sent
    #[arg(long, value_name = "OCTETS")]
    pub drop_at: Option<u64>,
    /// Cut the connection once that many octets were received
    #[arg(long, value_name = "OCTETS")]
    pub drop_in: Option<u64>,
    /// Cut the connection at CMD, which is not carried out; may be repeated
    #[arg(long, value_name = "CMD")]
    pub drop_on: Vec<CommandPattern>,
    /// Carry CMD out, then cut the connection instead of a reply; may be repeated
    #[arg(long, value_name = "CMD")]
    pub drop_after: Vec<CommandPattern>,
    /// Say nothing more once that many octets were sent, with the connection open
    #[arg(long, value_name = "OCTETS")]
    pub stall_at: Option<u64>,
    /// Say nothing more at CMD, which is not carried out; may be repeated
    #[arg(long, value_name = "CMD")]
    pub stall_on: Vec<CommandPattern>,
    /// Send one octet at a time, each after that many milliseconds
    #[arg(long, value_name = "MS")]
    pub drip: Option<u64>,

    /// Answer CMD with TEXT, in which \r and \n are line ends; it is carried out unless TEXT
    /// begins with -ERR; may be repeated
    #[arg(long, value_name = "CMD=TEXT")]
    pub reply: Vec<ScriptedReply>,
    /// Answer CMD with 4096 random octets, and do not carry it out; may be repeated
    #[arg(long, value_name = "CMD")]
    pub garbage_on: Vec<CommandPattern>,
    /// Other random octets
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Neither know nor announce the command CMD; may be repeated
    #[arg(long, value_name = "CMD")]
    pub without: Vec<CommandPattern>,
    /// Do not announce this capability, but have it; may be repeated
    #[arg(long, value_name = "CAPABILITY")]
    pub hide: Vec<String>,
    /// Announce this too, true or not, such as "LOGIN-DELAY 300"; may be repeated
    #[arg(long, value_name = "LINE")]
    pub announce: Vec<String>,
    /// The reply to CMD never ends: more and more plausible lines; may be repeated
    #[arg(long, value_name = "CMD")]
    pub endless: Vec<CommandPattern>,
    /// The reply to CMD has a line that never ends; may be repeated
    #[arg(long, value_name = "CMD")]
    pub endless_line: Vec<CommandPattern>,
    /// Treat commands that come before the reply to the one before wrongly
    #[arg(long, value_enum)]
    pub pipelining: Option<Pipelining>,

    /// Sizes in STAT and LIST are off by that many octets
    #[arg(
        long,
        value_name = "OCTETS",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub size_delta: i64,
    /// The count in STAT is off by that much
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub count_delta: i64,
    /// List only the first N messages
    #[arg(long, value_name = "N")]
    pub list_at_most: Option<usize>,
    /// What is wrong with unique-ids
    #[arg(long, value_enum)]
    pub unique_ids: Option<UniqueIds>,

    /// End lines with LF alone, in replies and in mail
    #[arg(long)]
    pub bare_lf: bool,
    /// Leave lines of mail that begin with a dot as they are
    #[arg(long)]
    pub unstuffed: bool,
    /// What is wrong with the terminator of a message
    #[arg(long, value_enum)]
    pub terminator: Option<Terminator>,

    /// Delete nothing at QUIT, and say that all is well
    #[arg(long)]
    pub forget_deletions: bool,
    /// Delete at QUIT what was retrieved, asked to or not
    #[arg(long)]
    pub popped: bool,
    /// Keep the maildrop locked for that long after a session that ended without QUIT
    #[arg(long, value_name = "SECONDS")]
    pub lock_lingers: Option<u64>,
}

/// What is wrong with unique-ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UniqueIds {
    /// New ones in each session
    Renumbered,
    /// Every second message has that of the one before
    Repeated,
    /// None, where they should be
    Empty,
    /// More than 2000 octets each, where 70 are allowed
    Long,
    /// Octets that are no ASCII and no UTF-8, and a space
    #[value(name = "8bit")]
    EightBit,
}

/// What is wrong with the terminator of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Terminator {
    /// It does not come
    Missing,
    /// It comes twice
    Repeated,
    /// It comes behind the last line's text, whose own line end is missing
    Glued,
}

/// What is wrong with commands that come ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pipelining {
    /// They are thrown away
    Lossy,
    /// They are answered last first
    Reversed,
}

/// A reply for some commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptedReply {
    /// Which commands.
    pub command: CommandPattern,
    /// What is sent, with its last line end.
    pub octets: Vec<u8>,
}

impl Faults {
    /// Whether they are for the connection of this number, the first being 1.
    pub(super) fn apply_to(&self, connection: u64) -> bool {
        self.fault_sessions.is_none_or(|first| connection <= first)
    }

    pub(super) fn scripted(&self, command: &Command) -> Option<&[u8]> {
        let reply = self.reply.iter().find(|reply| reply.command.picks(command));
        reply.map(|reply| reply.octets.as_slice())
    }

    pub(super) fn lacks(&self, verb: &str) -> bool {
        self.without.iter().any(|pattern| pattern.is_verb(verb))
    }

    pub(super) fn hides(&self, capability: &str) -> bool {
        self.hide
            .iter()
            .any(|hidden| hidden.eq_ignore_ascii_case(capability))
    }
}

/// Whether any of these patterns picks this command.
pub(super) fn any(patterns: &[CommandPattern], command: &Command) -> bool {
    patterns.iter().any(|pattern| pattern.picks(command))
}

impl ScriptedReply {
    /// A reply to the commands that `command` picks; a CRLF is added.
    pub fn new(command: &str, text: impl AsRef<[u8]>) -> Self {
        Self {
            command: command.into(),
            octets: [text.as_ref(), b"\r\n"].concat(),
        }
    }
}

impl FromStr for ScriptedReply {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (command, reply) = text
            .split_once('=')
            .ok_or("a command and its reply are wanted, such as \"RETR 2=-ERR [SYS/TEMP] no\"")?;
        let command: CommandPattern = command.parse()?;
        let reply = reply.replace("\\r", "\r").replace("\\n", "\n");
        Ok(Self {
            command,
            octets: [reply.as_bytes(), b"\r\n"].concat(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripted_replies_may_have_several_lines() {
        let reply: ScriptedReply = r"STLS=+OK\r\n+OK injected".parse().unwrap();
        assert_eq!(reply, ScriptedReply::new("STLS", "+OK\r\n+OK injected"));
        assert!("STLS".parse::<ScriptedReply>().is_err());
        assert!("=+OK".parse::<ScriptedReply>().is_err());
    }
}
