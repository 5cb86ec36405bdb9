//! Every shader text passes naga's validation, without an adapter.
#![cfg(not(target_arch = "wasm32"))]

use naga::valid::{Capabilities, ValidationFlags, Validator};
use potluck_kernels::DType;
use potluck_kernels::wgsl::{Int8Path, ShaderKey, Variant, depth_multiple, generate};

#[test]
fn every_variant_is_valid_wgsl() {
    for variant in Variant::ALL {
        for (dtype, int8) in [
            (DType::F32, Int8Path::Unpacked),
            (DType::Int8, Int8Path::Unpacked),
            (DType::Int8, Int8Path::Packed),
        ] {
            for blocks in [1, 3] {
                let text = generate(ShaderKey { variant, dtype, int8, kw: blocks * depth_multiple() });
                let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| {
                    panic!("{variant:?} {dtype} {int8:?}: {}\n{text}", e.emit_to_string(&text))
                });
                Validator::new(ValidationFlags::all(), Capabilities::empty())
                    .validate(&module)
                    .unwrap_or_else(|e| panic!("{variant:?} {dtype} {int8:?}: {e:?}\n{text}"));
                assert_eq!(module.entry_points[0].name, "main");
                assert!(
                    dtype == DType::F32 || text.contains("dot4I8Packed") == (int8 == Int8Path::Packed),
                    "{text}"
                );
            }
        }
    }
}
