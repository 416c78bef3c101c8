//! Integration tests.
#![expect(
    clippy::unwrap_used,
    reason = "what a test cannot go on without ends it"
)]

mod pop3;
mod support;
mod webhooks;
