//! Laws of the repository, one file a subject: what may import what, how long files and functions may be, and what they
//! must not contain.
#![allow(clippy::unwrap_used, reason = "a test")]

mod circles;
mod documents;
mod imports;
mod runtime;
mod sizes;
mod sources;
mod words;
