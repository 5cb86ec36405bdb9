//! The fuzzer on the decoder `peer_frame`: see `fuzz/src`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| potluck_fuzz::read("peer_frame", bytes));
