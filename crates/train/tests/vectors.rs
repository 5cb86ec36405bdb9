//! Golden vectors: the bits of each codec, of error feedback and of the outer step, as hex files.
//!
//! After a deliberate change of a format, write the files anew with `POTLUCK_BLESS=1 cargo test -p potluck-train
//! --test vectors` and read the difference. Any other implementation can be checked against them.

use potluck_train::codec::{Codec, Feedback};
use potluck_train::outer::{Outer, OuterParams, OuterRule};
use std::num::NonZeroU64;
use std::path::PathBuf;

/// The input of the vectors: splitmix64 from 0 on, each word's upper 24 bits k as (k - 2^23) / 2^23, cubed and
/// divided by 64, all of it in f32.
fn input(skip: usize, len: usize) -> Vec<f32> {
    let mut state = 0_u64;
    let mut word = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let value = |word: u64| {
        let x = ((word >> 40) as f32 - 8_388_608.0) / 8_388_608.0;
        ((x * x) * x) / 64.0
    };
    (0..skip + len).map(|_| value(word())).skip(skip).collect()
}

/// Two blocks and an odd rest, with every special case of the block codecs.
fn dense_input() -> Vec<f32> {
    let mut values = input(0, 2 * 256 + 3);
    // Zeros of both signs, subnormals of f32 and f16, ties of f16, the limits.
    let special = [0.0, -0.0, 1e-40, -1e-40, 3e-8, -6e-8, 1.000_488_3, 1.001_464_8, 65_504.0, -65_504.0];
    values[256..266].copy_from_slice(&special);
    // The last block is tiny: its scale is a subnormal f16.
    for value in &mut values[512..] {
        *value /= 65_536.0;
    }
    values
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for line in bytes.chunks(48) {
        for byte in line {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text
}

fn check(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors/v1").join(name).with_extension("hex");
    if std::env::var_os("POTLUCK_BLESS").is_some() {
        std::fs::write(&path, hex(bytes)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(hex(bytes) == golden, "{name} differs from its golden vector");
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn codecs_match_their_golden_vectors() {
    let values = dense_input();
    for codec in [Codec::F32, Codec::F16, Codec::Int8, Codec::Int4] {
        let bytes = codec.encode(&values).unwrap();
        check(&format!("{}-encoded", codec.name()), &bytes);
        if codec != Codec::F32 {
            check(
                &format!("{}-decoded", codec.name()),
                &f32_bytes(&codec.decode(&bytes, values.len()).unwrap()),
            );
        }
    }
    // A full block, an empty one, and a short one with fewer values than slots.
    let mut values = input(1000, 2 * 4096 + 50);
    values[4096..8192].fill(0.0);
    values[8200..8210].fill(-1e-9);
    check("topk-encoded", &Codec::TopK.encode(&values).unwrap());
}

#[test]
fn error_feedback_matches_its_golden_vector() {
    let mut feedback = Feedback::sparse(4096 + 100).unwrap();
    let mut bytes = Vec::new();
    for round in 0..3 {
        bytes.extend(feedback.encode(&input(5000 * round, 4096 + 100)).unwrap());
        bytes.extend(feedback.hash().0);
    }
    check("feedback", &bytes);
}

#[test]
fn outer_steps_match_their_golden_vector() {
    let params = OuterParams { checkpoint_every: NonZeroU64::new(2).unwrap(), ..OuterParams::default() };
    let mut outer = Outer::start(input(0, 300), params).unwrap();
    let mut bytes = outer.hash().0.to_vec();
    for round in 1..=4 {
        let rule = if round == 4 { OuterRule::Plain } else { OuterRule::Nesterov };
        bytes.extend(outer.step(&input(500 * round, 300), rule).unwrap());
        bytes.extend(outer.replica().hash().0);
        bytes.extend(outer.hash().0);
    }
    check("outer", &bytes);
}

#[test]
fn each_file_belongs_to_a_test() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors/v1");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    let expected = [
        "f16-decoded",
        "f16-encoded",
        "f32-encoded",
        "feedback",
        "int4-decoded",
        "int4-encoded",
        "int8-decoded",
        "int8-encoded",
        "outer",
        "topk-encoded",
    ];
    assert_eq!(names, expected.map(|name| format!("{name}.hex")));
}
