//! What a refused login means, where servers say it in their own words.
//!
//! A response code decides (RFC 2449, RFC 3206). Without one there is only the text, which is no
//! protocol: [`TEXTS`] has what servers were seen to say. What is not in it counts as wrong
//! credentials, the one case where trying again too soon does harm.

use super::{Refusal, ResponseCode};

/// What a `-ERR` at login means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Another session holds the maildrop.
    InUse,
    /// Logged in too soon.
    LoginDelay,
    /// It will pass.
    Temporary,
    /// The server's operator has to act.
    Permanent,
    /// Not on a line without encryption.
    NeedsTls,
    /// User name, password or token.
    Credentials,
}

/// A row: with any of these words, and none of those, a refusal without a code means this.
struct Text {
    says: &'static [&'static str],
    unless: &'static [&'static str],
    means: Meaning,
}

/// The first row that fits decides.
const TEXTS: &[Text] = &[
    // Dovecot: "Plaintext authentication disallowed on non-secure (SSL/TLS) connections."
    Text {
        says: &["plaintext auth", "plain text auth", "cleartext auth"],
        unless: &[],
        means: Meaning::NeedsTls,
    },
    // Servers without response codes, such as hMailServer.
    Text {
        says: &["in use"],
        unless: &[],
        means: Meaning::InUse,
    },
    // hMailServer: "Your mailbox is already locked"; RFC 1939: "unable to lock maildrop". An account
    // that is locked is another matter.
    Text {
        says: &["lock"],
        unless: &["account", "user", "password", "credential"],
        means: Meaning::InUse,
    },
    // Microsoft 365: "Server Unavailable. 21" (simonrob/email-oauth2-proxy #379). Hosts that cap
    // logins in a quarter of an hour (frappe/frappe #242). 163.com: "Download exceed." and, in
    // GBK, a login that is too frequent (zmail #30, #115). QQ has one text for a wrong password
    // and for too many logins: with a word of the password in it, that counts.
    Text {
        says: &[
            "unavailable",
            "wait",
            "too many",
            "exceed",
            "limit",
            "frequen",
            "\u{9891}",
        ],
        unless: &["password", "credential", "\u{5bc6}\u{7801}"],
        means: Meaning::Temporary,
    },
];

/// What a refused login means. What the server repeats of the user name is no word of its own.
pub(super) fn meaning(refusal: &Refusal, username: &str) -> Meaning {
    match refusal.code {
        Some(ResponseCode::InUse) => return Meaning::InUse,
        Some(ResponseCode::LoginDelay) => return Meaning::LoginDelay,
        Some(ResponseCode::SysTemp) => return Meaning::Temporary,
        Some(ResponseCode::SysPerm) => return Meaning::Permanent,
        Some(ResponseCode::Auth) => return Meaning::Credentials,
        None => {}
    }
    let text = refusal.text.to_lowercase();
    let text = text.replace(&username.to_lowercase(), "");
    TEXTS
        .iter()
        .find(|row| {
            let says = |word: &&str| begins_a_word(&text, word);
            row.says.iter().any(says) && !row.unless.iter().any(says)
        })
        .map_or(Meaning::Credentials, |row| row.means)
}

/// "lock" is in "locked", not in "clock" or "blocked". Chinese has no spaces between words.
fn begins_a_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        !before.is_some_and(|c| c.is_ascii_alphabetic() && word.is_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning_of(text: &str) -> Meaning {
        meaning(&Refusal::parse(text.as_bytes()), "lockwait@example.org")
    }

    #[test]
    fn a_code_decides_whatever_the_text_says() {
        for (text, means) in [
            ("[AUTH] maildrop in use", Meaning::Credentials),
            ("[IN-USE] wrong password", Meaning::InUse),
            (
                "[LOGIN-DELAY] minimum time between logins",
                Meaning::LoginDelay,
            ),
            ("[SYS/TEMP] wrong password", Meaning::Temporary),
            ("[SYS/PERM] please wait", Meaning::Permanent),
        ] {
            assert_eq!(meaning_of(text), means, "{text}");
        }
    }

    #[test]
    fn texts_that_servers_were_seen_to_say() {
        for (text, means) in [
            (
                "Plaintext authentication disallowed on non-secure (SSL/TLS) connections.",
                Meaning::NeedsTls,
            ),
            ("maildrop already in use", Meaning::InUse),
            (
                "Your mailbox is already in use by another user",
                Meaning::InUse,
            ),
            ("Your mailbox is already locked", Meaning::InUse),
            ("unable to lock maildrop", Meaning::InUse),
            ("Server Unavailable. 21", Meaning::Temporary),
            ("Download exceed. msg=1", Meaning::Temporary),
            ("too many connections from your address", Meaning::Temporary),
            ("login rate limit, please wait", Meaning::Temporary),
            (
                "\u{767b}\u{5f55}\u{592a}\u{9891}\u{7e41}",
                Meaning::Temporary,
            ),
        ] {
            assert_eq!(meaning_of(text), means, "{text}");
        }
    }

    #[test]
    fn what_may_be_the_credentials_counts_as_such() {
        for text in [
            "",
            "no",
            "invalid password",
            "Logon failure: unknown user name or bad password.",
            "Your account has been locked",
            "user is locked out",
            "password is wrong, or logins are too frequent, or the system is busy",
            "\u{5bc6}\u{7801}\u{9519}\u{8bef}\u{6216}\u{767b}\u{5f55}\u{9891}\u{7e41}",
            "blocked",
            "clock skew",
            "no such mailbox: lockwait@example.org",
            "no such mailbox: LockWait@Example.org",
        ] {
            assert_eq!(meaning_of(text), Meaning::Credentials, "{text}");
        }
    }
}
