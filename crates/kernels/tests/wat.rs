//! The assembled micro-kernels are what `micro.wat` says. `POTLUCK_BLESS=1` assembles them anew.
#![cfg(not(target_arch = "wasm32"))]

use std::path::Path;

/// `(f32x4.relaxed_madd (x) (b) (s))` as a multiplication and an addition.
fn without_fusing(wat: &str) -> String {
    let line = |line: &str| match line.split_once("(f32x4.relaxed_madd ") {
        Some((before, after)) => {
            let parts: Vec<&str> = after.split_inclusive(')').map(str::trim).collect();
            format!(
                "{before}(f32x4.add {} (f32x4.mul {} {})){}",
                parts[2],
                parts[0],
                parts[1],
                parts[4..].concat()
            )
        }
        None => line.to_owned(),
    };
    wat.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn modules_are_assembled_from_their_text() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cpu/tuned");
    let wat = std::fs::read_to_string(folder.join("micro.wat")).expect("the text");
    let plain = without_fusing(&wat);
    assert!(!plain.contains("(f32x4.relaxed") && plain.matches("(f32x4.mul ").count() == 8);
    for (name, text) in [("fused.wasm", &wat), ("plain.wasm", &plain)] {
        let module = wat::parse_str(text).expect("wat that assembles");
        let path = folder.join(name);
        if std::env::var_os("POTLUCK_BLESS").is_some() {
            std::fs::write(&path, &module).expect("a folder that can be written");
        }
        assert!(
            std::fs::read(&path).expect("the module") == module,
            "{name} differs: run with POTLUCK_BLESS=1"
        );
    }
}
