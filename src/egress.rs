//! Which addresses popbridge may connect to.
