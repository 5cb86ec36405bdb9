//! What reads bytes from strangers, one function for each format, as `libfuzzer/` and the tests of this crate call it.
//!
//! Each takes any bytes, and panics where the decoder breaks its word: it panicked itself, it took bytes that it would not have
//! written, or what it read cannot be written again. That it allocates no more than its input allows, the fuzzer's limit on
//! memory finds out.
//!
//! Decoders in crates that are large for other reasons (servers, shaders) are read here file by file, by their paths.

mod files;
mod log;
mod matrix;
mod mesh;
mod model;
mod turn;
mod wire;
mod words;

/// A format that strangers send or leave in files.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    /// Its name, that of its corpus in `fuzz/corpus` and of its program in `fuzz/libfuzzer/fuzz_targets`.
    pub name: &'static str,
    /// Reads some bytes.
    pub read: fn(&[u8]),
}

/// All of them.
pub const ALL: &[Decoder] = &[
    Decoder { name: "frame", read: wire::frame },
    Decoder { name: "peer_frame", read: wire::peer_frame },
    Decoder { name: "note", read: log::note },
    Decoder { name: "checkpoint", read: log::checkpoint },
    Decoder { name: "receipt", read: log::receipt },
    Decoder { name: "fork", read: log::fork },
    Decoder { name: "witness_request", read: log::witness_request },
    Decoder { name: "tile", read: log::tile },
    Decoder { name: "bundle", read: log::bundle },
    Decoder { name: "log_path", read: log::path },
    Decoder { name: "entry", read: log::entry },
    Decoder { name: "statement", read: log::statement },
    Decoder { name: "update", read: model::update },
    Decoder { name: "block", read: model::block },
    Decoder { name: "eval_items", read: model::eval_items },
    Decoder { name: "eval_answers", read: model::eval_answers },
    Decoder { name: "eval_card", read: model::eval_card },
    Decoder { name: "tokenizer", read: model::tokenizer },
    Decoder { name: "run_request", read: model::run_request },
    Decoder { name: "npy", read: matrix::npy },
    Decoder { name: "run_file", read: files::run_file },
    Decoder { name: "model_folder", read: files::model_folder },
    Decoder { name: "signal", read: mesh::signal },
    Decoder { name: "turn", read: turn::turn },
    Decoder { name: "words", read: words::words },
];

/// Runs the decoder of a name on some bytes.
///
/// # Panics
/// There is none of that name, or it broke its word.
pub fn read(name: &str, bytes: &[u8]) {
    let decoder = ALL.iter().find(|decoder| decoder.name == name).expect("a decoder of that name");
    (decoder.read)(bytes);
}
