//! The tab engine.
