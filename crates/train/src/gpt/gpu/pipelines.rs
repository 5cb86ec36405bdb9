//! The kernels: their WGSL, and their pipelines on a device.

use std::collections::BTreeMap;

use super::KernelShape;
use super::plan::NONE;
use super::products::{self, End, Form, Way};

/// Threads of a workgroup, for all kernels but products.
pub(super) const THREADS: u32 = 64;

/// A kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kernel {
    Embed,
    EmbedPositions,
    EmbedTokens,
    Norm,
    NormBack,
    NormColumns,
    Columns,
    Fold,
    Softmax,
    SoftmaxBack,
    Loss,
    Total,
    Squares,
    AdamW,
    Product(Form, End, Way),
}

impl Kernel {
    /// Its WGSL; the entry point is `main`.
    pub(super) fn text(self, shape: KernelShape) -> String {
        let body = match self {
            Self::Embed => include_str!("wgsl/embed.wgsl"),
            Self::EmbedPositions => include_str!("wgsl/embed_positions.wgsl"),
            Self::EmbedTokens => include_str!("wgsl/embed_tokens.wgsl"),
            Self::Norm => include_str!("wgsl/norm.wgsl"),
            Self::NormBack => include_str!("wgsl/norm_back.wgsl"),
            Self::NormColumns => include_str!("wgsl/norm_columns.wgsl"),
            Self::Columns => include_str!("wgsl/columns.wgsl"),
            Self::Fold => include_str!("wgsl/fold.wgsl"),
            Self::Softmax => include_str!("wgsl/softmax.wgsl"),
            Self::SoftmaxBack => include_str!("wgsl/softmax_back.wgsl"),
            Self::Loss => include_str!("wgsl/loss.wgsl"),
            Self::Total => include_str!("wgsl/total.wgsl"),
            Self::Squares => include_str!("wgsl/squares.wgsl"),
            Self::AdamW => include_str!("wgsl/adamw.wgsl"),
            Self::Product(form, end, way) => {
                return format!("const NONE = {NONE}u;\n{}", products::text(form, end, way));
            }
        };
        let lanes = match self {
            Self::Total => THREADS,
            _ => shape.lanes(),
        };
        let sums = match self {
            Self::Norm | Self::NormBack | Self::Softmax | Self::SoftmaxBack | Self::Loss | Self::Squares
                if lanes == 1 =>
            {
                include_str!("wgsl/lanes_one.wgsl")
            }
            Self::Norm
            | Self::NormBack
            | Self::Softmax
            | Self::SoftmaxBack
            | Self::Loss
            | Self::Total
            | Self::Squares => include_str!("wgsl/lanes_many.wgsl"),
            _ => "",
        };
        let common = include_str!("wgsl/common.wgsl");
        format!(
            "const THREADS = {THREADS}u;\nconst LANES = {lanes}u;\nconst NONE = {NONE}u;\n{common}{sums}{body}"
        )
    }
}

/// Kernels that were compiled on one device, kept for the engines that follow one another on it: compiling them takes
/// milliseconds on a GPU and seconds on a software adapter. They know nothing of a model's sizes.
#[derive(Default)]
pub struct Pipelines(BTreeMap<(KernelShape, Kernel), wgpu::ComputePipeline>);

impl Pipelines {
    /// Compiles what is not there yet. Bindings follow from each text. Call inside error scopes, and forget all of it
    /// if they caught something.
    pub(super) fn compile(
        &mut self,
        device: &wgpu::Device,
        shape: KernelShape,
        kernels: impl Iterator<Item = Kernel>,
    ) {
        for kernel in kernels {
            self.0.entry((shape, kernel)).or_insert_with(|| pipeline(device, kernel, shape));
        }
    }

    pub(super) fn get(&self, shape: KernelShape, kernel: Kernel) -> Option<&wgpu::ComputePipeline> {
        self.0.get(&(shape, kernel))
    }
}

fn pipeline(device: &wgpu::Device, kernel: Kernel, shape: KernelShape) -> wgpu::ComputePipeline {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(kernel.text(shape).into()),
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            // Each element of workgroup memory is written before it is read.
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache: None,
    })
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;
    use crate::gpt::gpu::plan::{Extent, Plan, WORDS};
    use crate::gpt::{GptConfig, Layout};
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    use std::collections::BTreeSet;

    /// Every kernel that any plan asks for is valid WGSL, reads no more uniforms than it is given, and binds as many
    /// buffers as it is given; each pipeline stays within the default limits of WebGPU.
    #[test]
    fn every_kernel_is_valid_wgsl_and_fits_its_dispatch() {
        for shape in KernelShape::ALL {
            let mut seen = BTreeSet::new();
            for bias in [false, true] {
                for rows in [4, 4096] {
                    let config = GptConfig { bias, ..GptConfig::small(1000) };
                    let most = Extent { sequences: rows / 4, length: 4 };
                    let plan = Plan::new(&config, &Layout::new(&config), shape, most, most);
                    for dispatch in &plan.dispatches {
                        assert!(dispatch.words.len() <= WORDS && dispatch.buffers.len() <= 8);
                        if seen.insert(dispatch.kernel) {
                            check(dispatch.kernel, shape, dispatch.buffers.len(), dispatch.words.len());
                        }
                    }
                }
            }
            assert!(seen.len() >= 23, "{shape:?}: {}", seen.len());
        }
    }

    fn check(kernel: Kernel, shape: KernelShape, buffers: usize, words: usize) {
        let text = kernel.text(shape);
        let module = naga::front::wgsl::parse_str(&text)
            .unwrap_or_else(|e| panic!("{kernel:?} {shape:?}: {}\n{text}", e.emit_to_string(&text)));
        Validator::new(ValidationFlags::all(), Capabilities::empty())
            .validate(&module)
            .unwrap_or_else(|e| panic!("{kernel:?} {shape:?}: {e:?}\n{text}"));
        let [entry] = &module.entry_points[..] else { panic!("{kernel:?} has several entry points") };
        assert_eq!(entry.name, "main");
        assert!(entry.workgroup_size.iter().product::<u32>() <= 256);
        let (mut bound, mut uniforms, mut shared) = (0, 0, 0);
        for (_, global) in module.global_variables.iter() {
            let size = module.types[global.ty].inner.size(module.to_ctx());
            match global.space {
                naga::AddressSpace::Storage { .. } => bound += 1,
                naga::AddressSpace::Uniform => uniforms += size as usize,
                naga::AddressSpace::WorkGroup => shared += size,
                _ => {}
            }
        }
        assert_eq!(bound, buffers, "{kernel:?}");
        assert!(shared <= 16 << 10, "{kernel:?}");
        // The optimizer's are written for each step.
        if kernel != Kernel::AdamW {
            assert_eq!(uniforms, 4 * words, "{kernel:?}");
        }
    }
}
