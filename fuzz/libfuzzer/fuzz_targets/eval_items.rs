//! The fuzzer on the decoder `eval_items`: see `fuzz/src`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| potluck_fuzz::read("eval_items", bytes));
