//! The volunteer engine as a pure state machine.
