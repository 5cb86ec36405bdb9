//! The fuzzer on the decoder `run_request`: see `fuzz/src`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| potluck_fuzz::read("run_request", bytes));
