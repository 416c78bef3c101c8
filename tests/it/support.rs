//! What tests stand on.

pub(crate) mod pop3_peer;
