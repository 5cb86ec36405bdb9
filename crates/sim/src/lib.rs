//! Deterministic simulator of relay and swarm, replayable by seed.
