//! Tools to test with.
