//! What reads bytes from strangers, one function for each format, as `libfuzzer/` and the tests of this crate call it.
//!
//! Each takes any bytes, and panics where the decoder breaks its word: it panicked itself, it took bytes that it would not have
//! written, or what it read cannot be written again. That it allocates no more than its input allows, the fuzzer's limit on
//! memory finds out.
//!
//! Decoders in crates that are large for other reasons (servers, shaders) are read here file by file, by their paths.

// Those files have their tests where they belong: there is nothing of this crate to be built for tests.
#![cfg(not(test))]

mod files;
mod log;
mod matrix;
mod mesh;
mod model;
mod peers;
mod turn;
mod wire;
mod words;

pub use peers::blobs;

/// A format that strangers send or leave in files.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    /// Its name, that of its corpus in `fuzz/corpus` and of its program in `fuzz/libfuzzer/fuzz_targets`.
    pub name: &'static str,
    /// Reads some bytes; whether they were taken.
    pub read: fn(&[u8]) -> bool,
}

/// A function for each, which a program may call without the others, and the list of all.
macro_rules! decoders {
    ($($name:ident = $read:path;)*) => {
        $(
            #[doc = concat!("Reads some bytes as `", stringify!($name), "`; whether they were taken.")]
            ///
            /// # Panics
            /// The decoder broke its word.
            pub fn $name(bytes: &[u8]) -> bool {
                $read(bytes)
            }
        )*
        /// All of them.
        pub const ALL: &[Decoder] = &[$(Decoder { name: stringify!($name), read: $name }),*];
    };
}

decoders! {
    frame = wire::frame;
    peer_frame = wire::peer_frame;
    note = log::note;
    checkpoint = log::checkpoint;
    receipt = log::receipt;
    fork = log::fork;
    witness_request = log::witness_request;
    tile = log::tile;
    bundle = log::bundle;
    log_path = log::path;
    entry = log::entry;
    statement = log::statement;
    update = model::update;
    block = model::block;
    eval_items = model::eval_items;
    eval_answers = model::eval_answers;
    eval_card = model::eval_card;
    tokenizer = model::tokenizer;
    run_request = model::run_request;
    npy = matrix::npy;
    run_file = files::run_file;
    model_folder = files::model_folder;
    signal = mesh::signal;
    turn = turn::turn;
    peers = peers::peers;
    words = words::words;
}
