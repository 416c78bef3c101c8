//! x
pub mod certificates;
pub mod dovecot;
pub mod maildrop;
pub mod receiver;
