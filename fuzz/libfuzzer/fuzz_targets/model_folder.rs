//! The fuzzer on the decoder `model_folder`: see `fuzz/src`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| potluck_fuzz::read("model_folder", bytes));
