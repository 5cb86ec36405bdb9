//! Forward and backward through the blocks.

use super::attention::Attention;
use super::gemm::{Matrix, Packs, Target, product};
use super::memory::Memory;
use super::norm::{self, Stats};
use super::pointwise;
use crate::gpt::{GptConfig, Layout};

/// A linear layer: where its parameters lie and its sizes.
#[derive(Clone, Copy)]
struct Linear {
    weight: usize,
    bias: Option<usize>,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    const fn size(self) -> usize {
        self.inputs * self.outputs
    }

    /// `out` = or += x·Wᵀ + b.
    fn forward(self, parameters: &[f32], x: &[f32], out: &mut [f32], add: bool, packs: &mut Packs) {
        if let Some(bias) = self.bias {
            if !add {
                out.fill(0.0);
            }
            pointwise::add_to_rows(&parameters[bias..bias + self.outputs], out);
        }
        product(
            [x.len() / self.inputs, self.outputs, self.inputs],
            Matrix::rows(x, self.inputs),
            Matrix::transposed(&parameters[self.weight..][..self.size()], self.inputs),
            Target { data: out, stride: self.outputs, add: add || self.bias.is_some() },
            packs,
        );
    }

    /// Writes the weight's gradient and the input's, adds to the bias's.
    fn backward(
        self,
        parameters: &[f32],
        x: &[f32],
        grad_out: &[f32],
        gradient: &mut [f32],
        grad_x: &mut [f32],
        packs: &mut Packs,
    ) {
        let rows = x.len() / self.inputs;
        if let Some(bias) = self.bias {
            pointwise::add_rows(grad_out, &mut gradient[bias..bias + self.outputs]);
        }
        product(
            [self.outputs, self.inputs, rows],
            Matrix::transposed(grad_out, self.outputs),
            Matrix::rows(x, self.inputs),
            Target { data: &mut gradient[self.weight..][..self.size()], stride: self.inputs, add: false },
            packs,
        );
        product(
            [rows, self.inputs, self.outputs],
            Matrix::rows(grad_out, self.outputs),
            Matrix::rows(&parameters[self.weight..][..self.size()], self.inputs),
            Target { data: grad_x, stride: self.inputs, add: false },
            packs,
        );
    }
}

/// A norm: where its parameters lie.
#[derive(Clone, Copy)]
struct Norm {
    weight: usize,
    bias: Option<usize>,
    width: usize,
}

impl Norm {
    fn forward(self, parameters: &[f32], x: &[f32], out: &mut [f32], stats: &mut Stats) {
        let vector = |start: usize| &parameters[start..start + self.width];
        norm::forward(x, vector(self.weight), self.bias.map(vector), out, stats);
    }

    /// Adds to the gradients of the input, the weight and the bias.
    fn backward(
        self,
        parameters: &[f32],
        (x, stats): (&[f32], &Stats),
        grad_out: &[f32],
        gradient: &mut [f32],
        grad_x: &mut [f32],
        row: &mut [f32],
    ) {
        if let Some(bias) = self.bias {
            pointwise::add_rows(grad_out, &mut gradient[bias..bias + self.width]);
        }
        let weight = self.weight..self.weight + self.width;
        let grad_weight = &mut gradient[weight.clone()];
        norm::backward(grad_out, x, stats, &parameters[weight], grad_x, grad_weight, row);
    }
}

/// The linear layers of a block.
struct Linears {
    qkv: Linear,
    out: Linear,
    up: Linear,
    down: Linear,
}

/// A model and the sizes of a batch.
pub(super) struct Pass<'a> {
    pub(super) config: &'a GptConfig,
    pub(super) layout: &'a Layout,
    pub(super) parameters: &'a [f32],
    pub(super) sequences: usize,
    pub(super) length: usize,
}

impl Pass<'_> {
    const fn tokens(&self) -> usize {
        self.sequences * self.length
    }

    fn attention(&self) -> Attention {
        let (heads, width) = (self.config.heads, self.config.width);
        Attention { sequences: self.sequences, length: self.length, heads, width }
    }

    fn linears(&self, block: usize) -> Linears {
        let (at, width) = (&self.layout.blocks[block], self.config.width);
        let linear = |weight, bias, inputs, outputs| Linear { weight, bias, inputs, outputs };
        Linears {
            qkv: linear(at.qkv, at.qkv_bias, width, 3 * width),
            out: linear(at.out, at.out_bias, width, width),
            up: linear(at.up, at.up_bias, width, 4 * width),
            down: linear(at.down, at.down_bias, 4 * width, width),
        }
    }

    /// Fills the memory up to the last norm.
    pub(super) fn forward(&self, inputs: &[u32], memory: &mut Memory) {
        let (tokens, width) = (self.tokens(), self.config.width);
        let all = tokens * width;
        let (layout, parameters, packs) = (self.layout, self.parameters, &mut memory.packs);
        let (token_rows, position_rows) = (&parameters[layout.tokens..], &parameters[layout.positions..]);
        let first = &mut memory.blocks[0].x[..all];
        pointwise::embed(inputs, self.length, width, token_rows, position_rows, first);
        for index in 0..self.config.layers {
            let (at, linears) = (&layout.blocks[index], self.linears(index));
            let (blocks, next) = memory.blocks.split_at_mut(index + 1);
            let block = &mut blocks[index];
            let x = &block.x[..all];
            let norm1 = &mut block.norm1[..all];
            let norm = Norm { weight: at.norm1, bias: at.norm1_bias, width };
            norm.forward(parameters, x, norm1, &mut block.stats1);
            let qkv = &mut block.qkv[..3 * all];
            linears.qkv.forward(parameters, norm1, qkv, false, packs);
            let attended = &mut block.attended[..all];
            self.attention().forward(qkv, attended, &mut block.softmax, &mut memory.scores, packs);
            let mid = &mut block.mid[..all];
            mid.copy_from_slice(x);
            linears.out.forward(parameters, attended, mid, true, packs);
            let norm2 = &mut block.norm2[..all];
            let norm = Norm { weight: at.norm2, bias: at.norm2_bias, width };
            norm.forward(parameters, mid, norm2, &mut block.stats2);
            let (up, active) = (&mut block.up[..4 * all], &mut block.active[..4 * all]);
            linears.up.forward(parameters, norm2, up, false, packs);
            pointwise::gelu(up, active);
            let out = next.first_mut().map_or(&mut memory.x, |next| &mut next.x);
            let out = &mut out[..all];
            out.copy_from_slice(mid);
            linears.down.forward(parameters, active, out, true, packs);
        }
        let last = Norm { weight: layout.norm, bias: layout.norm_bias, width };
        last.forward(parameters, &memory.x[..all], &mut memory.norm[..all], &mut memory.stats);
    }

    /// Gradient of the parameters, from the gradient of the last norm's output in `memory.grad_narrow`.
    ///
    /// The head has written the token embedding's already, to which this adds. The rest is written.
    pub(super) fn backward(&self, inputs: &[u32], memory: &mut Memory, gradient: &mut [f32]) {
        let (tokens, width) = (self.tokens(), self.config.width);
        let all = tokens * width;
        let (layout, parameters, packs) = (self.layout, self.parameters, &mut memory.packs);
        // These are added to below, matrices are written.
        for tensor in &layout.tensors {
            if !tensor.decays() || tensor.start == layout.positions {
                gradient[tensor.range()].fill(0.0);
            }
        }
        let grad_x = &mut memory.grad_x[..all];
        let narrow = &mut memory.grad_narrow[..all];
        let row = &mut memory.row[..];
        grad_x.fill(0.0);
        let last = Norm { weight: layout.norm, bias: layout.norm_bias, width };
        last.backward(parameters, (&memory.x[..all], &memory.stats), narrow, gradient, grad_x, row);
        for index in (0..self.config.layers).rev() {
            let (at, linears) = (&layout.blocks[index], self.linears(index));
            let block = &memory.blocks[index];
            let wide = &mut memory.grad_wide[..4 * all];
            linears.down.backward(parameters, &block.active[..4 * all], grad_x, gradient, wide, packs);
            pointwise::gelu_backward(&block.up[..4 * all], wide);
            linears.up.backward(parameters, &block.norm2[..all], wide, gradient, narrow, packs);
            let norm = Norm { weight: at.norm2, bias: at.norm2_bias, width };
            norm.backward(parameters, (&block.mid[..all], &block.stats2), narrow, gradient, grad_x, row);
            linears.out.backward(parameters, &block.attended[..all], grad_x, gradient, narrow, packs);
            let grad_qkv = &mut wide[..3 * all];
            let qkv = &block.qkv[..3 * all];
            self.attention().backward(qkv, narrow, grad_qkv, &block.softmax, &mut memory.scores, packs);
            linears.qkv.backward(parameters, &block.norm1[..all], grad_qkv, gradient, narrow, packs);
            let norm = Norm { weight: at.norm1, bias: at.norm1_bias, width };
            norm.backward(parameters, (&block.x[..all], &block.stats1), narrow, gradient, grad_x, row);
        }
        let of_tokens = inputs.iter().map(|token| *token as usize);
        pointwise::scatter(of_tokens, grad_x, width, &mut gradient[layout.tokens..]);
        let of_positions = (0..tokens).map(|i| i % self.length);
        pointwise::scatter(of_positions, grad_x, width, &mut gradient[layout.positions..]);
    }
}
