//! The f32 micro-kernel of wasm, replaced at run time by one that the compiler cannot write.
//!
//! `micro.wat` is a module of half a kilobyte that imports this module's memory. [`tune`] puts its function into the
//! slot of [`multiply_here`] in the table of functions, so that calls go from wasm to wasm. With relaxed SIMD, where
//! the engine has it, a multiply-add is one instruction; without it the sums are the same bits as those of
//! [`multiply_here`].

use std::hint::black_box;

use js_sys::{Function, Object, Reflect, Uint8Array, WebAssembly};
use wasm_bindgen::{JsCast, JsValue};

use super::simd128;

/// `micro.wat` with fused multiply-add, which an engine may round once or twice.
const FUSED: &[u8] = include_bytes!("fused.wasm");
/// `micro.wat` with separate multiplications and additions.
const PLAIN: &[u8] = include_bytes!("plain.wasm");

/// Parameters as in `micro.wat`: strip of A, panel of B, tile, depth.
type Multiply = extern "C" fn(*const f32, *const f32, *mut f32, usize);

/// Which micro-kernel multiplies f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tuned {
    /// With relaxed SIMD's multiply-add. Bits may differ between engines.
    Fused,
    /// Without. The same bits on every engine.
    Plain,
    /// The compiler's own: the page may not compile modules. The same bits as `Plain`.
    Compiled,
}

/// Replaces the micro-kernel for all later products of this module; a product that is under way keeps its result's
/// error bound, not its bits.
///
/// Compiles half a kilobyte on the calling thread. Without it, or if it fails, the compiler's own kernel is used.
pub fn tune() -> Tuned {
    let validates = |bytes: &[u8]| WebAssembly::validate(&Uint8Array::from(bytes)).unwrap_or(false);
    if validates(FUSED) && replace(FUSED).is_ok() {
        return Tuned::Fused;
    }
    tune_plain()
}

/// As [`tune`], but the bits are the same on every engine.
pub fn tune_plain() -> Tuned {
    if replace(PLAIN).is_ok() { Tuned::Plain } else { Tuned::Compiled }
}

fn replace(bytes: &[u8]) -> Result<(), JsValue> {
    let module = WebAssembly::Module::new(&Uint8Array::from(bytes))?;
    let (imports, env) = (Object::new(), Object::new());
    Reflect::set(&env, &"memory".into(), &wasm_bindgen::memory())?;
    Reflect::set(&imports, &"env".into(), &env)?;
    let instance = WebAssembly::Instance::new(&module, &imports)?;
    let multiply: Function = Reflect::get(&instance.exports(), &"multiply".into())?.dyn_into()?;
    let table: WebAssembly::Table = wasm_bindgen::function_table().dyn_into()?;
    // In wasm a function pointer is an index into the table.
    table.set(multiply_here as Multiply as usize as u32, &multiply)
}

/// The compiler's own kernel, until another takes its slot.
extern "C" fn multiply_here(a: *const f32, b: *const f32, tile: *mut f32, depth: usize) {
    // SAFETY: only `multiply` calls this, with the lengths that it checked.
    let (a, b, tile) = unsafe {
        (
            std::slice::from_raw_parts(a, depth * 4),
            std::slice::from_raw_parts(b, depth * 8),
            std::slice::from_raw_parts_mut(tile, 32),
        )
    };
    simd128::multiply_f32(a, b, tile);
}

/// `tile` (4 x 8, row-major) += the product of a strip of A (depth x 4) and a panel of B (depth x 8), whichever kernel
/// is in the slot. Sums run along the depth in blocks of 32, each from zero.
///
/// # Panics
/// If the lengths are not those of one depth: the callers' packing is wrong, and a module in the slot trusts them.
pub fn multiply(a: &[f32], b: &[f32], tile: &mut [f32]) {
    let depth = a.len() / 4;
    assert!(a.len() == depth * 4 && b.len() == depth * 8 && tile.len() == 32, "operands that do not fit");
    // What is in the slot is known at run time only.
    let kernel: Multiply = black_box(multiply_here);
    kernel(a.as_ptr(), b.as_ptr(), tile.as_mut_ptr(), depth);
}
