//! The fuzzer on the decoder `log_path`: see `fuzz/src`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| potluck_fuzz::read("log_path", bytes));
