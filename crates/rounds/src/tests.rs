//! Whole rounds between a host and workers.
