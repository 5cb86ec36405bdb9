//! Which kernel runs a product, and what the user asked for.

use std::fmt;
use std::str::FromStr;

use crate::wgsl::Variant;

/// Where a product runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// SIMD on one thread.
    Cpu,
    /// A WGSL kernel.
    Gpu(Variant),
}

impl Backend {
    /// A short stable name: `cpu`, `gpu-direct-4x4`, `gpu-tiled-64`, ...
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu(variant) => variant.name(),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BackendChoice {
    /// The fastest that gives right results, by calibration.
    #[default]
    Auto,
    /// The fastest GPU kernel; an error where there is no usable GPU.
    Gpu,
    /// The CPU, without asking for a GPU.
    Cpu,
}

impl BackendChoice {
    /// The name used on the command line and the page.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Gpu => "gpu",
            Self::Cpu => "cpu",
        }
    }
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown backend {0:?}: use auto, gpu (or webgpu) or cpu (or wasm)")]
pub struct ParseBackendError(pub String);

impl FromStr for BackendChoice {
    type Err = ParseBackendError;
    fn from_str(s: &str) -> Result<Self, ParseBackendError> {
        match s {
            "auto" => Ok(Self::Auto),
            "gpu" | "webgpu" => Ok(Self::Gpu),
            "cpu" | "wasm" => Ok(Self::Cpu),
            other => Err(ParseBackendError(other.chars().take(32).collect())),
        }
    }
}
