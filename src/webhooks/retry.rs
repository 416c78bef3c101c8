//! What follows from an attempt. Pure: clock and jitter come from outside.

use std::time::{Duration, SystemTime};

use crate::store::deliveries::Verdict;

/// Pauses before the second attempt and each later one: ten attempts in three days.
pub(super) const PAUSES: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 60 * 60),
    Duration::from_secs(5 * 60 * 60),
    Duration::from_secs(10 * 60 * 60),
    Duration::from_secs(14 * 60 * 60),
    Duration::from_secs(20 * 60 * 60),
    Duration::from_secs(24 * 60 * 60),
];

/// How far a pause may be stretched or cut, so that retries do not come all at once.
pub(super) const JITTER: std::ops::RangeInclusive<f64> = 0.8..=1.2;

/// Longest `Retry-After` that is kept.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// How an attempt ended, as far as it matters for what follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    /// Where an answer came.
    pub(super) status: Option<u16>,
    /// The answer ended, or was as long as is read, before the deadline.
    pub(super) complete: bool,
    /// What the answer asked for.
    pub(super) retry_after: Option<Duration>,
}

/// What follows from attempt number `attempt`, from 1. `jitter` is a factor out of [`JITTER`].
pub(super) fn verdict(ended: Ended, attempt: usize, pauses: &[Duration], jitter: f64) -> Verdict {
    match (ended.status, pauses.get(attempt.saturating_sub(1))) {
        (Some(200..=299), _) if ended.complete => Verdict::Delivered,
        (Some(410), _) => Verdict::Disable,
        (_, None) => Verdict::Dead,
        (_, Some(pause)) => {
            let asked = ended.retry_after.unwrap_or_default();
            Verdict::Retry(pause.mul_f64(jitter).max(asked.min(LONGEST_RETRY_AFTER)))
        }
    }
}

/// Reads `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date that counts from `now`.
/// What is neither is ignored.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn answered(status: u16) -> Ended {
        Ended {
            status: Some(status),
            complete: true,
            retry_after: None,
        }
    }

    fn first(ended: Ended) -> Verdict {
        verdict(ended, 1, &PAUSES, 1.0)
    }

    #[test]
    fn status_decides() {
        let retry = Verdict::Retry(5 * SECOND);
        for (status, expected) in [
            (200, Verdict::Delivered),
            (204, Verdict::Delivered),
            (299, Verdict::Delivered),
            (199, retry),
            (300, retry),
            (301, retry),
            (304, retry),
            (400, retry),
            (401, retry),
            (404, retry),
            (410, Verdict::Disable),
            (429, retry),
            (500, retry),
            (503, retry),
            (999, retry),
        ] {
            assert_eq!(first(answered(status)), expected, "{status}");
        }
    }

    #[test]
    fn no_answer_is_retried_and_so_is_a_success_that_does_not_end() {
        assert_eq!(first(Ended::default()), Verdict::Retry(5 * SECOND));
        let endless = Ended {
            complete: false,
            ..answered(200)
        };
        assert_eq!(first(endless), Verdict::Retry(5 * SECOND));
    }

    #[test]
    fn ten_attempts_are_made_by_the_documented_schedule() {
        let expected = [
            5 * SECOND,
            5 * MINUTE,
            30 * MINUTE,
            2 * HOUR,
            5 * HOUR,
            10 * HOUR,
            14 * HOUR,
            20 * HOUR,
            24 * HOUR,
        ];
        for (attempt, pause) in (1..).zip(expected) {
            let next = verdict(answered(500), attempt, &PAUSES, 1.0);
            assert_eq!(next, Verdict::Retry(pause), "after attempt {attempt}");
        }
        assert_eq!(verdict(answered(500), 10, &PAUSES, 1.0), Verdict::Dead);
        assert_eq!(verdict(answered(200), 10, &PAUSES, 1.0), Verdict::Delivered);
    }

    #[test]
    fn jitter_stretches_and_cuts() {
        let with = |jitter| verdict(answered(500), 2, &PAUSES, jitter);
        assert_eq!(with(*JITTER.start()), Verdict::Retry(4 * MINUTE));
        assert_eq!(with(*JITTER.end()), Verdict::Retry(6 * MINUTE));
    }

    #[test]
    fn retry_after_lengthens_a_pause_up_to_a_day_and_never_shortens_it() {
        let asked = |status, retry_after| Ended {
            retry_after: Some(retry_after),
            ..answered(status)
        };
        for (ended, pause) in [
            (asked(429, 90 * SECOND), 90 * SECOND),
            (asked(503, SECOND), 5 * SECOND),
            (asked(301, 90 * SECOND), 90 * SECOND),
            (asked(503, 48 * HOUR), 24 * HOUR),
            (asked(503, Duration::MAX), 24 * HOUR),
        ] {
            assert_eq!(first(ended), Verdict::Retry(pause), "{ended:?}");
        }
        assert_eq!(first(asked(200, HOUR)), Verdict::Delivered);
        assert_eq!(verdict(asked(503, HOUR), 10, &PAUSES, 1.0), Verdict::Dead);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (value, expected) in [
            ("120", Some(120 * SECOND)),
            (" 0 ", Some(Duration::ZERO)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(MINUTE)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(MINUTE)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(Duration::ZERO)),
            ("-5", None),
            ("1.5", None),
            ("99999999999999999999999", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(value, now), expected, "{value:?}");
        }
    }
}
