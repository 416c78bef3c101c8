//! What became of the messages that a pass asked for, and whose fault it was that some did not
//! come. Pure.
//!
//! A server or a line that is out must not set good mail aside. So a failure counts against a
//! message only if other mail came past it in the same pass. Where no other new mail is left to
//! compare with, the pass asks for one that is stored already: the control.

use std::collections::HashSet;

use super::plan::Entry;
use crate::{
    pop3::{self, Refusal, ResponseCode},
    store::unsettled::{Failed, Retry},
};

/// Most messages that did not come, for which time alone can show that it is their own fault.
const FEW: usize = 3;

/// How a message did not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// For people.
    pub(super) reason: String,
    /// The server says itself that it will pass.
    pub(super) temporary: bool,
    /// The session ended there.
    pub(super) broke: bool,
}

impl Failure {
    pub(super) fn refused(reply: &Refusal) -> Self {
        let temporary = matches!(
            reply.code,
            Some(
                ResponseCode::SysTemp
                    | ResponseCode::InUse
                    | ResponseCode::LoginDelay
                    | ResponseCode::Auth
            )
        );
        Self {
            reason: format!("the server refused it ({reply})"),
            temporary,
            broke: false,
        }
    }

    pub(super) fn broke(error: &pop3::Error) -> Self {
        Self {
            reason: error.to_string(),
            temporary: false,
            broke: true,
        }
    }
}

/// What became of the messages that a pass asked for, in the order asked for.
#[derive(Debug, Default)]
pub(super) struct Trials {
    failed: Vec<Trial>,
    /// How many of `failed` other mail came after.
    passed: usize,
    control: Control,
    tried: HashSet<Vec<u8>>,
}

#[derive(Debug)]
struct Trial {
    entry: Entry,
    failure: Failure,
    /// An earlier pass found it at fault.
    suspect: bool,
    backlog: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Control {
    #[default]
    None,
    Came,
    Failed,
}

impl Trials {
    /// A message came whole.
    pub(super) fn came(&mut self) {
        self.passed = self.failed.len();
    }

    /// A message did not come; it is not asked for again in this pass.
    pub(super) fn failed(&mut self, entry: &Entry, failure: Failure, before: Option<&Retry>) {
        self.leave(entry);
        self.failed.push(Trial {
            entry: entry.clone(),
            failure,
            suspect: before.is_some_and(|before| before.own_failures > 0),
            backlog: before.map(|before| before.backlog),
        });
    }

    /// This message is not asked for again in this pass.
    pub(super) fn leave(&mut self, entry: &Entry) {
        self.tried.insert(entry.unique_id.clone());
    }

    /// The unique-ids that are not asked for again in this pass.
    pub(super) fn tried(&self) -> &HashSet<Vec<u8>> {
        &self.tried
    }

    /// Whether it is open if the last failures are the messages' own, so that a stored message
    /// should be asked for.
    pub(super) fn need_control(&self) -> bool {
        self.passed < self.failed.len() && self.control != Control::Failed
    }

    /// Whether the stored message that was asked for came.
    pub(super) fn control(&mut self, came: bool) {
        if came {
            self.control = Control::Came;
            self.came();
        } else {
            self.control = Control::Failed;
        }
    }

    /// The failures, each with whether it counts against its message.
    pub(super) fn judge(&self) -> Vec<Failed> {
        let open = &self.failed[self.passed..];
        // Once found at fault, a message that fails alone, with nothing to compare, still is.
        let open_are_own = self.control == Control::None && open.iter().all(|trial| trial.suspect);
        let few = self.control != Control::Failed && open.len() <= FEW;
        let trials = self.failed.iter().enumerate();
        trials
            .map(|(n, trial)| {
                let passed = n < self.passed;
                Failed {
                    listed: trial.entry.listed(),
                    own: !trial.failure.temporary && (passed || open_are_own),
                    lasting: passed || few,
                    backlog: trial.backlog,
                    reason: trial.failure.reason.clone(),
                }
            })
            .collect()
    }

    /// Whether sessions ended at messages without a sign that it was the messages' own fault.
    pub(super) fn show_outage(&self) -> bool {
        let judged = self.judge();
        let mut trials = self.failed.iter().zip(&judged);
        trials.any(|(trial, judged)| trial.failure.broke && !judged.own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pop3::MessageNumber;

    /// A story of a pass, an event a letter: `.` a message came, `x` one did not, `s` one did not
    /// that was at fault before, `t` one was refused for now, `C` the control came, `c` it did not.
    fn own(story: &str) -> String {
        let mut trials = Trials::default();
        for (number, event) in (1..).zip(story.chars()) {
            let entry = Entry {
                number: MessageNumber::new(number).unwrap(),
                unique_id: vec![u8::try_from(number).unwrap()],
                octets: 1,
            };
            let failure = Failure {
                reason: String::new(),
                temporary: event == 't',
                broke: true,
            };
            let suspect = Retry {
                failures: 1,
                own_failures: 1,
                backlog: false,
                kept: None,
            };
            match event {
                '.' => trials.came(),
                'C' | 'c' => {
                    assert!(trials.need_control());
                    trials.control(event == 'C');
                }
                's' => trials.failed(&entry, failure, Some(&suspect)),
                _ => trials.failed(&entry, failure, None),
            }
        }
        let judged = trials.judge();
        judged
            .iter()
            .map(|failed| match (failed.own, failed.lasting) {
                (true, _) => 'o',
                (false, true) => 'l',
                (false, false) => '-',
            })
            .collect()
    }

    #[test]
    fn failure_is_the_messages_own_if_other_mail_came_past_it() {
        for (story, expected) in [
            ("x.", "o"),
            (".x.x.", "oo"),
            ("xxxxx.", "ooooo"),
            ("xC", "o"),
            ("x.xC", "oo"),
        ] {
            assert_eq!(own(story), expected, "{story}");
        }
    }

    #[test]
    fn outage_counts_against_nobody() {
        for (story, expected) in [
            ("xc", "-"),
            ("....xxxxxxc", "------"),
            ("x..xc", "o-"),
            ("sc", "-"),
            ("xxxx", "----"),
            ("sx", "ll"),
        ] {
            assert_eq!(own(story), expected, "{story}");
        }
    }

    #[test]
    fn message_that_was_at_fault_stays_so_where_nothing_can_be_compared() {
        assert_eq!(own("s"), "o");
        assert_eq!(own("sssss"), "ooooo");
    }

    #[test]
    fn only_time_can_tell_of_a_message_that_has_no_other_beside_it() {
        for (story, expected) in [("x", "l"), ("xxx", "lll"), ("t.", "l"), ("tC", "l")] {
            assert_eq!(own(story), expected, "{story}");
        }
    }
}
