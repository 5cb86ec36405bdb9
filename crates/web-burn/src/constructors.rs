//! Static constructors, of which burn's kernel compiler has thousands.
//!
//! Where nothing calls them, the linker makes every export call all of them, again at each call from JavaScript: a
//! hundred times the work of a step.

use std::sync::Once;

unsafe extern "C" {
    fn __wasm_call_ctors();
}

/// Runs them, unless they were run.
pub(crate) fn run() {
    static ONCE: Once = Once::new();
    // SAFETY: the linker makes this function, which takes nothing and gives nothing; nothing else calls it.
    ONCE.call_once(|| unsafe { __wasm_call_ctors() });
}
