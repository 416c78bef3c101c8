//! What a session is to do: a listing, what is known of it and the mailbox's settings in; what to
//! fetch and what to leave out comes out. Pure.

use std::collections::{HashMap, HashSet};

use crate::{
    pop3::{self, MessageNumber},
    store::{
        mailboxes::{InitialSync, Settings},
        maildrop::{Known, Listed},
    },
};

/// Longer messages are not asked for only to see whether they come.
const MAX_CONTROL_OCTETS: u64 = 1 << 20;

/// A listed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Valid within the session only.
    pub(super) number: MessageNumber,
    pub(super) unique_id: Vec<u8>,
    pub(super) octets: u64,
}

impl From<pop3::Entry> for Entry {
    fn from(entry: pop3::Entry) -> Self {
        Self {
            number: entry.number,
            unique_id: entry.unique_id.as_bytes().to_vec(),
            octets: entry.octets,
        }
    }
}

impl Entry {
    pub(super) fn listed(&self) -> Listed {
        let octets = i64::try_from(self.octets).unwrap_or(i64::MAX);
        Listed {
            unique_id: self.unique_id.clone(),
            octets,
        }
    }
}

/// What to do about the messages that are not settled.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// To be fetched in this session, in this order.
    pub(super) fetch: Vec<Entry>,
    /// Too long to be fetched.
    pub(super) oversize: Vec<Entry>,
    /// To be left out for good.
    pub(super) skip: Vec<Entry>,
    /// Messages are left for a next session.
    pub(super) more: bool,
}

/// What a session starts from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation<'a> {
    pub(super) listing: &'a [Entry],
    pub(super) known: &'a HashMap<Vec<u8>, Known>,
    /// What failed before is asked for again.
    pub(super) retry: bool,
    /// What is not asked for again in this pass.
    pub(super) tried: &'a HashSet<Vec<u8>>,
    pub(super) settings: &'a Settings,
    /// Nothing of this maildrop was dealt with before.
    pub(super) first: bool,
}

/// Plans a session.
pub(super) fn plan(situation: Situation<'_>) -> Plan {
    let Situation {
        listing,
        known,
        retry,
        tried,
        settings,
        first,
    } = situation;
    let mut plan = Plan::default();
    let wanted_from = match settings.initial_sync {
        InitialSync::LastN(n) if first => listing.len().saturating_sub(n as usize),
        InitialSync::None if first => listing.len(),
        _ => 0,
    };
    let mut seen = HashSet::with_capacity(listing.len());
    let (mut fresh, mut failed_before) = (Vec::new(), Vec::new());
    for (position, entry) in listing.iter().enumerate() {
        // RFC 1939 lets copies of a message share a unique-id: the first stands for all.
        if !seen.insert(&entry.unique_id) || tried.contains(&entry.unique_id) {
            continue;
        }
        match known.get(&entry.unique_id) {
            // One that is kept in part, and too long by now, has its head.
            Some(known) if known.settled && (!known.due || is_oversize(entry, settings)) => {}
            Some(known) if retry => failed_before.push((known.failures, entry)),
            Some(_) => {}
            None if position < wanted_from => plan.skip.push(entry.clone()),
            None => fresh.push(entry),
        }
    }
    // What failed before comes last, so that it never keeps the others waiting, and is no reason
    // for another session: there would be no end of them.
    fill(&mut plan, fresh, settings);
    let more = plan.more;
    failed_before.sort_by_key(|(failures, _)| *failures);
    fill(
        &mut plan,
        failed_before.into_iter().map(|(_, entry)| entry),
        settings,
    );
    plan.more = more;
    plan
}

/// A stored message that shows, if it comes, that the line and the server work: the smallest.
pub(super) fn control<'a>(
    listing: &'a [Entry],
    known: &HashMap<Vec<u8>, Known>,
) -> Option<&'a Entry> {
    let stored = listing.iter().filter(|entry| {
        known
            .get(&entry.unique_id)
            .is_some_and(|known| known.stored && entry.octets <= MAX_CONTROL_OCTETS)
    });
    stored.min_by_key(|entry| entry.octets)
}

/// The messages whose deletion from the server is due.
pub(super) fn deletions<'a>(
    listing: &'a [Entry],
    known: &HashMap<Vec<u8>, Known>,
) -> Vec<&'a Entry> {
    let due = listing.iter().filter(|entry| {
        known
            .get(&entry.unique_id)
            .is_some_and(|known| known.delete)
    });
    due.collect()
}

fn is_oversize(entry: &Entry, settings: &Settings) -> bool {
    entry.octets > settings.max_message_bytes.unsigned_abs()
}

/// Takes what fits into one session; a first message fits whatever its size.
fn fill<'a>(plan: &mut Plan, wanted: impl IntoIterator<Item = &'a Entry>, settings: &Settings) {
    let max_messages = settings.max_messages_per_session.unsigned_abs() as usize;
    let max_octets = settings.max_bytes_per_session.unsigned_abs();
    let mut octets = plan
        .fetch
        .iter()
        .map(|entry| entry.octets)
        .fold(0, u64::saturating_add);
    for entry in wanted {
        if is_oversize(entry, settings) {
            plan.oversize.push(entry.clone());
            continue;
        }
        let total = octets.saturating_add(entry.octets);
        if plan.fetch.len() >= max_messages || (total > max_octets && !plan.fetch.is_empty()) {
            plan.more = true;
            break;
        }
        octets = total;
        plan.fetch.push(entry.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::mailboxes::{Auth, DeletePolicy, Tls};

    const SETTLED: Known = Known {
        settled: true,
        stored: true,
        due: false,
        delete: false,
        failures: 0,
        dele_count: 0,
    };
    const FAILED: Known = Known {
        settled: false,
        stored: false,
        due: false,
        delete: false,
        failures: 1,
        dele_count: 0,
    };

    /// A plan where nothing failed before.
    fn planned(
        listing: &[Entry],
        known: &HashMap<Vec<u8>, Known>,
        settings: &Settings,
        first: bool,
    ) -> Plan {
        plan(Situation {
            listing,
            known,
            retry: true,
            tried: &HashSet::new(),
            settings,
            first,
        })
    }

    fn settings(initial_sync: InitialSync) -> Settings {
        Settings {
            name: "inbox".to_owned(),
            external_id: None,
            host: "pop.example.org".to_owned(),
            port: 995,
            tls: Tls::Implicit,
            tls_ca_pem: None,
            tls_pin_sha256: None,
            username: "anna".to_owned(),
            auth: Auth::Auto,
            poll_interval_seconds: 60,
            delete_policy: DeletePolicy::Never,
            delete_after_days: None,
            initial_sync,
            notify_backlog: false,
            max_message_bytes: 1000,
            max_messages_per_session: 3,
            max_bytes_per_session: 1500,
            retention: None,
            paused: false,
        }
    }

    fn listing(messages: &[(&str, u64)]) -> Vec<Entry> {
        let numbered = (1..).zip(messages);
        numbered
            .map(|(number, (unique_id, octets))| Entry {
                number: MessageNumber::new(number).unwrap(),
                unique_id: unique_id.as_bytes().to_vec(),
                octets: *octets,
            })
            .collect()
    }

    fn known(messages: &[(&str, Known)]) -> HashMap<Vec<u8>, Known> {
        messages
            .iter()
            .map(|(unique_id, known)| (unique_id.as_bytes().to_vec(), *known))
            .collect()
    }

    fn ids(entries: &[Entry]) -> Vec<&str> {
        entries
            .iter()
            .map(|entry| str::from_utf8(&entry.unique_id).unwrap())
            .collect()
    }

    #[test]
    fn settled_messages_are_not_fetched_again() {
        let listing = listing(&[("a", 1), ("b", 1), ("c", 1)]);
        let plan = planned(
            &listing,
            &known(&[("b", SETTLED)]),
            &settings(InitialSync::All),
            false,
        );
        assert_eq!(ids(&plan.fetch), ["a", "c"]);
        assert!(!plan.more);
    }

    #[test]
    fn failed_messages_come_last_and_are_no_reason_for_another_session() {
        let listing = listing(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
        let twice = Known {
            failures: 2,
            ..FAILED
        };
        let known = known(&[("a", twice), ("b", FAILED)]);
        let plan = planned(&listing, &known, &settings(InitialSync::All), false);
        assert_eq!(ids(&plan.fetch), ["c", "d", "b"], "the least failed first");
        assert!(!plan.more);
    }

    #[test]
    fn session_ends_by_count_or_octets_but_takes_at_least_one() {
        let by_count = listing(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
        let by_octets = listing(&[("a", 900), ("b", 900)]);
        let mut settings = settings(InitialSync::All);
        for (listing, fetched) in [(&by_count, 3), (&by_octets, 1)] {
            let plan = planned(listing, &HashMap::new(), &settings, true);
            assert_eq!((plan.fetch.len(), plan.more), (fetched, true));
        }
        settings.max_bytes_per_session = 10;
        assert_eq!(
            planned(&by_octets, &HashMap::new(), &settings, true)
                .fetch
                .len(),
            1
        );
    }

    #[test]
    fn oversize_messages_are_set_apart_and_do_not_count() {
        let listing = listing(&[("a", 1001), ("b", 1), ("c", 1), ("d", 1)]);
        let plan = planned(&listing, &HashMap::new(), &settings(InitialSync::All), true);
        assert_eq!(
            (ids(&plan.oversize), ids(&plan.fetch)),
            (vec!["a"], vec!["b", "c", "d"])
        );
        assert!(!plan.more);
    }

    #[test]
    fn first_sync_takes_all_none_or_the_last_of_the_backlog() {
        let listing = listing(&[("a", 1), ("b", 1), ("c", 1)]);
        let cases = [
            (InitialSync::All, vec!["a", "b", "c"], vec![]),
            (InitialSync::None, vec![], vec!["a", "b", "c"]),
            (InitialSync::LastN(1), vec!["c"], vec!["a", "b"]),
        ];
        for (initial_sync, fetched, skipped) in cases {
            let first = planned(&listing, &HashMap::new(), &settings(initial_sync), true);
            assert_eq!((ids(&first.fetch), ids(&first.skip)), (fetched, skipped));
            let later = planned(&listing, &HashMap::new(), &settings(initial_sync), false);
            assert_eq!(
                ids(&later.fetch),
                ["a", "b", "c"],
                "what comes later is always fetched"
            );
        }
    }

    #[test]
    fn repeated_unique_id_is_fetched_once() {
        let listing = listing(&[("a", 1), ("a", 1), ("b", 1)]);
        let plan = planned(&listing, &HashMap::new(), &settings(InitialSync::All), true);
        assert_eq!(ids(&plan.fetch), ["a", "b"]);
    }

    #[test]
    fn message_that_is_kept_in_part_is_fetched_when_its_time_has_come() {
        let listing = listing(&[("a", 1), ("b", 1), ("c", 1001)]);
        let due = Known {
            due: true,
            stored: false,
            ..SETTLED
        };
        let known = known(&[("a", due), ("b", SETTLED), ("c", due)]);
        let settings = settings(InitialSync::All);
        let mut situation = Situation {
            listing: &listing,
            known: &known,
            retry: true,
            tried: &HashSet::new(),
            settings: &settings,
            first: false,
        };
        let again = plan(situation);
        assert_eq!(
            (ids(&again.fetch), again.oversize),
            (vec!["a"], vec![]),
            "and one that is too long by now stays as it is"
        );
        let tried = HashSet::from([b"a".to_vec()]);
        situation.tried = &tried;
        assert_eq!(plan(situation), Plan::default(), "once in a pass");
    }

    #[test]
    fn control_is_the_smallest_message_that_is_stored() {
        let listing = listing(&[("left out", 1), ("large", 9), ("small", 3), ("new", 2)]);
        let left_out = Known {
            stored: false,
            ..SETTLED
        };
        let known = known(&[
            ("left out", left_out),
            ("large", SETTLED),
            ("small", SETTLED),
        ]);
        assert_eq!(control(&listing, &known), Some(&listing[2]));
    }
}
