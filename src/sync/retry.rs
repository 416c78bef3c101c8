//! When the next pass is due. Pure but for the jitter.

use std::time::Duration;

use super::error::Error;
use crate::pop3;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Refused logins after which only a change of the mailbox, or a user, starts another.
const MAX_AUTH_FAILURES: u32 = 5;

/// When the next pass is due after one that failed; `None`: only when asked. `failures` and
/// `auth_failures` count those in a row, this one included.
pub(super) fn after_failure(error: &Error, failures: u32, auth_failures: u32) -> Option<Duration> {
    let (first, longest) = match error {
        Error::Pop3(pop3::Error::AuthFailed(_)) if auth_failures >= MAX_AUTH_FAILURES => {
            return None;
        }
        Error::Pop3(error) => match error {
            // Slow from the start: servers lock accounts, and five tries are all there is.
            pop3::Error::AuthFailed(_) => (10 * MINUTE, 2 * HOUR),
            pop3::Error::InUse(_) => (MINUTE, 15 * MINUTE),
            pop3::Error::LoginDelay(_) => (5 * MINUTE, 15 * MINUTE),
            pop3::Error::ServerTemporary(_) => (MINUTE, 30 * MINUTE),
            pop3::Error::ServerPermanent(_) => (6 * HOUR, 6 * HOUR),
            _ => (30 * Duration::from_secs(1), 30 * MINUTE),
        },
        _ => (Duration::from_secs(5), 5 * MINUTE),
    };
    let doublings = failures.saturating_sub(1).min(16);
    Some(jitter(first.saturating_mul(1 << doublings).min(longest)))
}

/// Spreads what would come at once: ten per cent either way.
pub(super) fn jitter(delay: Duration) -> Duration {
    delay.mul_f64(rand::random_range(0.9..1.1))
}
