//! The `Date` field (RFC 5322 §3.3, obsolete forms included).

use mail_parser::parsers::MessageStream;
use mail_parser::{DateTime, HeaderValue};
use time::{Date, Duration, Month, OffsetDateTime};

use super::header::Head;
use super::notes::Notes;

/// Years in which mail can have been sent.
const SENSIBLE_YEARS: std::ops::RangeInclusive<i32> = 1970..=2100;

/// When the message says it was written, in UTC.
pub(super) fn date(head: &Head<'_>, notes: &mut Notes) -> Option<OffsetDateTime> {
    let Some(field) = head.first("date") else {
        notes.add("There is no date.");
        return None;
    };
    let date = parse(&head.field_value(field));
    if date.is_none() {
        notes.add("The date is malformed or absurd.");
    }
    date
}

/// When the message arrived where it lies now, as the last server that it passed wrote
/// (`Received`, RFC 5321 §4.4); else when it says it was written.
pub(super) fn arrived_at(head: &Head<'_>) -> Option<OffsetDateTime> {
    let received = head.first("received").and_then(|field| {
        let value = head.field_value(field);
        let date = value.rsplit(|octet| *octet == b';').next();
        parse(date.filter(|date| date.len() < value.len())?)
    });
    received.or_else(|| parse(&head.field_value(head.first("date")?)))
}

fn parse(value: &[u8]) -> Option<OffsetDateTime> {
    let date = match MessageStream::new(value).parse_date() {
        HeaderValue::DateTime(parsed) => in_utc(parsed),
        _ => None,
    };
    date.filter(|date| SENSIBLE_YEARS.contains(&date.year()))
}

fn in_utc(parsed: DateTime) -> Option<OffsetDateTime> {
    let month = Month::try_from(parsed.month).ok()?;
    let date = Date::from_calendar_date(parsed.year.into(), month, parsed.day).ok()?;
    // A leap second becomes the second before it.
    let second = parsed
        .second
        .min(if parsed.second == 60 { 59 } else { u8::MAX });
    let local = date.with_hms(parsed.hour, parsed.minute, second).ok()?;
    let offset =
        Duration::hours(parsed.tz_hour.into()) + Duration::minutes(parsed.tz_minute.into());
    if offset >= Duration::DAY {
        return None;
    }
    let utc = local.assume_utc();
    if parsed.tz_before_gmt {
        utc.checked_add(offset)
    } else {
        utc.checked_sub(offset)
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn parsed(value: &str) -> Option<OffsetDateTime> {
        let octets = format!("Date: {value}\r\n\r\n");
        let mut notes = Notes::default();
        let head = Head::split(octets.as_bytes(), &mut notes);
        let parsed = date(&head, &mut notes);
        assert_eq!(parsed.is_none(), !notes.into_vec().is_empty());
        parsed
    }

    #[test]
    fn dates_become_utc() {
        for (value, at) in [
            (
                "Tue, 3 Mar 2026 09:05:00 +0100",
                datetime!(2026-03-03 8:05 UTC),
            ),
            (
                "3 Mar 2026 09:05 -0330 (NST)",
                datetime!(2026-03-03 12:35 UTC),
            ),
            (
                "Fri, 21 Nov 97 09:55:06 GMT",
                datetime!(1997-11-21 9:55:06 UTC),
            ),
            (
                "Sat, 31 Dec 2016 23:59:60 +0000",
                datetime!(2016-12-31 23:59:59 UTC),
            ),
        ] {
            assert_eq!(parsed(value), Some(at), "{value}");
        }
    }

    #[test]
    fn mail_arrives_when_the_last_server_got_it() {
        let received = "Received: from a by b; Tue, 3 Mar 2026 09:05:00 +0000\r\n";
        let earlier = "Received: from x by a; Mon, 2 Mar 2026 09:05:00 +0000\r\n";
        let written = "Date: Sun, 1 Mar 2026 09:05:00 +0000\r\n";
        for (fields, at) in [
            (vec![received, earlier, written], Some(3)),
            (vec![written, received], Some(3)),
            (vec!["Received: from a by b\r\n", written], Some(1)),
            (vec!["Received: by b; yesterday\r\n", written], Some(1)),
            (vec![written], Some(1)),
            (vec!["Date: never\r\n"], None),
            (vec![], None),
        ] {
            let octets = fields.concat() + "\r\n";
            let head = Head::split(octets.as_bytes(), &mut Notes::default());
            assert_eq!(arrived_at(&head).map(|at| at.day().into()), at, "{octets}");
        }
    }

    #[test]
    fn absurd_dates_are_none() {
        for value in [
            "yesterday",
            "",
            "Tue, 31 Feb 2026 09:05:00 +0100",
            "Thu, 01 Jan 1903 00:00:00 +0000",
            "Mon, 01 Jan 2999 00:00:00 +0000",
            "Tue, 3 Mar 2026 29:05:00 +0100",
        ] {
            assert_eq!(parsed(value), None, "{value}");
        }
    }
}
