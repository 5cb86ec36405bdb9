//! The fuzzer on the decoder `update`: see `fuzz/src`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| potluck_fuzz::read("update", bytes));
