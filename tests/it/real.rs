//! Against real POP3 servers.

mod dovecot;
mod killed;
mod oauth;
mod replicas;
mod roles;
mod suspended;
