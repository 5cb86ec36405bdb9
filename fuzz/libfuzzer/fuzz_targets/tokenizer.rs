//! The fuzzer on the decoder `tokenizer`: see `fuzz/src`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| potluck_fuzz::read("tokenizer", bytes));
