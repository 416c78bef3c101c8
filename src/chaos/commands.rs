//! What clients said.

use std::{collections::VecDeque, sync::Mutex};

use super::{lock, say};

/// Command lines that are remembered; older ones are forgotten.
const REMEMBERED: usize = 10_000;

/// The last command lines, printed too if that is wanted.
#[derive(Debug)]
pub(super) struct Commands {
    print: bool,
    last: Mutex<VecDeque<String>>,
}

impl Commands {
    pub(super) fn new(print: bool) -> Self {
        Self {
            print,
            last: Mutex::default(),
        }
    }

    /// Notes a line that holds no credentials.
    pub(super) fn note(&self, session: u64, line: String) {
        if self.print {
            say(&format!("{session} {line}"));
        }
        let mut last = lock(&self.last);
        if last.len() >= REMEMBERED {
            last.pop_front();
        }
        last.push_back(line);
    }

    pub(super) fn last(&self) -> Vec<String> {
        lock(&self.last).iter().cloned().collect()
    }
}
