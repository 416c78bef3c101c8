//! `popbridge demo`: the main job on this machine alone, with a real POP3 server.

pub mod certificates;
pub mod dovecot;
