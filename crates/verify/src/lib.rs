//! Checks of untrusted results: pure functions.
