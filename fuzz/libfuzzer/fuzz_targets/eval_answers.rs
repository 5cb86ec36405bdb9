//! The fuzzer on the decoder `eval_answers`: see `fuzz/src`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| potluck_fuzz::read("eval_answers", bytes));
