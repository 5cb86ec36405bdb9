//! The fuzzer on the decoder `peer_frame`: see `fuzz/src`. A program has its own decoder alone: libFuzzer looks at all counters of
//! the code that is there after each input.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    potluck_fuzz::peer_frame(bytes);
});
