//! The fuzzer on the decoder `run_file`: see `fuzz/src`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| potluck_fuzz::read("run_file", bytes));
