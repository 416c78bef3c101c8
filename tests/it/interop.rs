//! One maildrop on every POP3 server that there is to test with, a file for each.
//!
//! A server's file says how it is started, what it offers and what it does to mail; the tests are
//! the same for all (`suite`). `docs/interoperability.md` says what was found, and how to add one.

mod corpus;
mod courier;
mod cutter;
mod cyrus;
mod dovecot;
mod host;
mod inetd;
mod machine;
mod mailutils;
mod popa3d;
mod server;
mod solid;
mod store;
mod suite;
