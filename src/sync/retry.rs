//! When the next pass is due. Pure but for the jitter.

use std::time::Duration;

use super::error::Error;
use crate::pop3;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Refused logins after which only a change of the mailbox, or a user, starts another.
const MAX_AUTH_FAILURES: u32 = 5;

/// How a mailbox stands after a pass that failed, that pass included.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    /// Failed passes in a row.
    pub(super) failures: u32,
    /// Refused logins in a row.
    pub(super) auth_failures: u32,
    /// Least time between logins, where the server announces it.
    pub(super) login_delay: Option<Duration>,
}

/// When the next pass is due after one that failed; `None`: only when asked.
pub(super) fn after_failure(error: &Error, standing: Standing) -> Option<Duration> {
    if error.is_auth_failure() && standing.auth_failures >= MAX_AUTH_FAILURES {
        return None;
    }
    let (first, longest) = match error {
        // Slow from the start: servers lock accounts, and five tries are all there is.
        error if error.is_auth_failure() => (10 * MINUTE, 2 * HOUR),
        Error::Pop3(error) => match error {
            pop3::Error::InUse(_) => (MINUTE, 15 * MINUTE),
            pop3::Error::LoginDelay(_) => {
                let asked = standing.login_delay.unwrap_or(5 * MINUTE).max(MINUTE);
                (asked, asked.max(15 * MINUTE))
            }
            pop3::Error::ServerTemporary(_) => (MINUTE, 30 * MINUTE),
            pop3::Error::ServerPermanent(_) => (6 * HOUR, 6 * HOUR),
            _ => (30 * SECOND, 30 * MINUTE),
        },
        Error::OAuth(_) => (MINUTE, 30 * MINUTE),
        // It is the same for all mailboxes, and over for all of them at once.
        Error::Store(_) => (5 * SECOND, MINUTE),
        Error::TokenStale(_) => (15 * SECOND, 5 * MINUTE),
        _ => (5 * SECOND, 5 * MINUTE),
    };
    let doublings = standing.failures.saturating_sub(1).min(16);
    Some(jitter(first.saturating_mul(1 << doublings).min(longest)))
}

/// Least time between logins that a server announces (RFC 2449, section 6.5), within reason.
pub(super) fn login_delay(capabilities: &[String]) -> Option<Duration> {
    let seconds = announced(capabilities, "LOGIN-DELAY")?;
    // Cyrus announces a delay of 0.
    (seconds > 0).then(|| Duration::from_secs(seconds.into()).min(HOUR))
}

/// Half of the time after which a server removes mail by itself, where it announces one (RFC 2449,
/// section 6.7): who comes more often than that loses nothing. Where mail is removed once it was
/// retrieved (`EXPIRE 0`), it has been stored by then.
pub(super) fn half_expiry(capabilities: &[String]) -> Option<Duration> {
    let days = announced(capabilities, "EXPIRE")?;
    (days > 0).then(|| 12 * HOUR * days)
}

/// The number that a capability is announced with.
fn announced(capabilities: &[String], name: &str) -> Option<u32> {
    capabilities.iter().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let found = words.next()?.eq_ignore_ascii_case(name);
        found.then(|| words.next())??.parse().ok()
    })
}

/// Spreads what would come at once: ten per cent either way.
pub(super) fn jitter(delay: Duration) -> Duration {
    delay.mul_f64(rand::random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth;

    /// A pop3 error with some refusal in it.
    type Refused = fn(pop3::Refusal) -> pop3::Error;

    fn refused(error: Refused) -> Error {
        let text = "no".to_owned();
        Error::Pop3(error(pop3::Refusal { code: None, text }))
    }

    fn standing(failures: u32, auth_failures: u32) -> Standing {
        Standing {
            failures,
            auth_failures,
            login_delay: None,
        }
    }

    #[track_caller]
    fn assert_about(found: Option<Duration>, expected: Duration) {
        let found = found.expect("it is tried again");
        let (low, high) = (expected.mul_f64(0.89), expected.mul_f64(1.11));
        assert!((low..high).contains(&found), "{found:?} for {expected:?}");
    }

    fn refusal_of(oauth: fn(oauth::Refusal) -> oauth::Error) -> Error {
        let (error, description) = (String::new(), String::new());
        oauth(oauth::Refusal { error, description }).into()
    }

    #[test]
    fn each_refusal_has_its_own_rule() {
        for (error, first, tenth) in [
            (refused(pop3::Error::AuthFailed), 10 * MINUTE, 2 * HOUR),
            (refused(pop3::Error::InUse), MINUTE, 15 * MINUTE),
            (refused(pop3::Error::LoginDelay), 5 * MINUTE, 15 * MINUTE),
            (refused(pop3::Error::ServerTemporary), MINUTE, 30 * MINUTE),
            (refused(pop3::Error::ServerPermanent), 6 * HOUR, 6 * HOUR),
            (
                pop3::Error::TokenRefused(String::new()).into(),
                10 * MINUTE,
                2 * HOUR,
            ),
            (Error::TokenStale(String::new()), 15 * SECOND, 5 * MINUTE),
            (
                refusal_of(oauth::Error::ConsentNeeded),
                10 * MINUTE,
                2 * HOUR,
            ),
            (refusal_of(oauth::Error::Unavailable), MINUTE, 30 * MINUTE),
        ] {
            assert_about(after_failure(&error, standing(1, 1)), first);
            assert_about(after_failure(&error, standing(10, 4)), tenth);
        }
    }

    #[test]
    fn only_refused_credentials_end_the_tries() {
        for (error, ends) in [
            (refused(pop3::Error::AuthFailed), true),
            (pop3::Error::TokenRefused(String::new()).into(), true),
            (refusal_of(oauth::Error::ConsentNeeded), true),
            (refusal_of(oauth::Error::ClientRefused), true),
            (refusal_of(oauth::Error::Unavailable), false),
            (Error::TokenStale(String::new()), false),
            (refused(pop3::Error::InUse), false),
            (refused(pop3::Error::LoginDelay), false),
            (refused(pop3::Error::ServerTemporary), false),
            (refused(pop3::Error::ServerPermanent), false),
        ] {
            let next = after_failure(&error, standing(5, 5));
            assert_eq!(next.is_none(), ends, "{error:?}");
        }
    }

    #[test]
    fn mail_that_the_server_expires_is_looked_for_in_time() {
        let lines = |line: &str| half_expiry(&["TOP".to_owned(), line.to_owned()]);
        assert_eq!(lines("EXPIRE 1"), Some(12 * HOUR));
        assert_eq!(lines("expire 30 USER"), Some(15 * 24 * HOUR));
        for none in ["EXPIRE 0", "EXPIRE NEVER", "EXPIRE", "UIDL"] {
            assert_eq!(lines(none), None, "{none}");
        }
    }

    #[test]
    fn an_announced_delay_between_logins_is_kept() {
        let lines = |line: &str| login_delay(&["TOP".to_owned(), line.to_owned()]);
        assert_eq!(lines("LOGIN-DELAY 300"), Some(5 * MINUTE));
        assert_eq!(lines("login-delay 20 USER"), Some(20 * SECOND));
        assert_eq!(lines("LOGIN-DELAY 4000000000"), Some(HOUR));
        for none in ["LOGIN-DELAY", "LOGIN-DELAY soon", "LOGIN-DELAYED 5", "UIDL"] {
            assert_eq!(lines(none), None, "{none}");
        }
        let error = refused(pop3::Error::LoginDelay);
        for (announced, first) in [(20 * SECOND, MINUTE), (20 * MINUTE, 20 * MINUTE)] {
            let login_delay = Some(announced);
            let standing = Standing {
                login_delay,
                ..standing(1, 0)
            };
            assert_about(after_failure(&error, standing), first);
        }
    }
}
