//! The relay: HTTP API, sockets, store and site around the pure state machine.
