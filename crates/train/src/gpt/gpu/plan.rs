//! The dispatches of a step, as data: which kernel, on which buffers, with which sizes. No device is needed for it.
//!
//! The list is the same for every batch shape but for sizes and numbers of workgroups, so that bind groups made once
//! serve all. Offsets and strides are in `vec4` of f32 unless a kernel reads scalars.

use super::pipelines::{Kernel, THREADS};
use super::products::{End, Form, Way, direct_threads};
use super::{KernelShape, MAX_SQUARE_THREADS};
use crate::gpt::{GptConfig, Layout};

/// Rows that one thread sums before the chunks are folded.
const CHUNK: usize = 32;
/// What the kernels read as "no bias".
pub(super) const NONE: u32 = u32::MAX;
/// Words of a dispatch's uniforms.
pub(super) const WORDS: usize = 32;
/// Most workgroups along a dimension, a default limit of WebGPU.
const MAX_GROUPS: usize = 65_535;

/// A buffer on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    Parameters,
    Gradient,
    First,
    Second,
    /// A bit for each vec4 of parameters: whether it decays.
    Decays,
    /// Inputs, targets, rows sorted by token, entries of three words: six words a row.
    Batch,
    /// Loss of each row.
    Losses,
    /// Mean loss, norm of the gradient.
    Answers,
    /// Column sums of chunks of rows.
    Parts,
    /// Sums of squares of parts of the gradient.
    Squares,
    /// The residual stream before a block, or before the last norm.
    Stream(usize),
    /// Output of a norm: block, first or second; the last norm is the first of the block after the last.
    Normed(usize, usize),
    /// Mean and 1 / deviation of its rows.
    Spread(usize, usize),
    Qkv(usize),
    /// Attention's probabilities: sequence, head, query, key.
    Attention(usize),
    Context(usize),
    /// The residual stream between attention and MLP.
    Middle(usize),
    /// Slope of GELU.
    Slope(usize),
    /// After GELU.
    Active(usize),
    /// Logits, and then their gradient. Rows are padded to whole vec4.
    Logits,
    DStream,
    /// Gradient of a norm's output, and of attention's.
    DNormed,
    DQkv,
    DAttention,
    DRaised,
}

/// The most a batch may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) sequences: usize,
    pub(super) length: usize,
}

impl Extent {
    pub(super) const fn rows(self) -> usize {
        self.sequences * self.length
    }
}

/// All buffers and their elements (of four bytes).
pub(super) fn buffers(config: &GptConfig, parameters: usize, most: Extent) -> Vec<(Name, u64)> {
    let (rows, width, parameters) = (most.rows() as u64, config.width as u64, parameters as u64);
    let (length, vocabulary) = (most.length as u64, config.vocabulary as u64);
    let attention = rows * config.heads as u64 * length.next_multiple_of(4);
    let mut all = vec![
        (Name::Parameters, parameters),
        (Name::Gradient, parameters),
        (Name::First, parameters),
        (Name::Second, parameters),
        (Name::Decays, (parameters / 4).div_ceil(32)),
        (Name::Batch, 6 * rows),
        (Name::Losses, rows),
        (Name::Answers, 4),
        (Name::Parts, rows.div_ceil(CHUNK as u64) * 4 * width),
        (Name::Squares, MAX_SQUARE_THREADS as u64),
        (Name::Logits, rows * vocabulary.next_multiple_of(4)),
        (Name::DStream, rows * width),
        (Name::DNormed, rows * width),
        (Name::DQkv, rows * 3 * width),
        (Name::DAttention, attention),
        (Name::DRaised, rows * 4 * width),
    ];
    for block in 0..config.layers {
        all.extend([
            (Name::Stream(block), rows * width),
            (Name::Normed(block, 0), rows * width),
            (Name::Spread(block, 0), rows * 2),
            (Name::Qkv(block), rows * 3 * width),
            (Name::Attention(block), attention),
            (Name::Context(block), rows * width),
            (Name::Middle(block), rows * width),
            (Name::Normed(block, 1), rows * width),
            (Name::Spread(block, 1), rows * 2),
            (Name::Slope(block), rows * 4 * width),
            (Name::Active(block), rows * 4 * width),
        ]);
    }
    let last = config.layers;
    all.extend([
        (Name::Stream(last), rows * width),
        (Name::Normed(last, 0), rows * width),
        (Name::Spread(last, 0), rows * 2),
    ]);
    all
}

/// One dispatch.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Dispatch {
    pub(super) kernel: Kernel,
    /// In the order of the kernel's bindings, from 1 on.
    pub(super) buffers: Vec<Name>,
    /// Uniforms; `WORDS` at most.
    pub(super) words: Vec<u32>,
    pub(super) groups: [u32; 2],
    /// A measure of its work.
    pub(super) flops: f64,
}

/// The dispatches of a step: all of them, or the first `forward` for the loss alone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) dispatches: Vec<Dispatch>,
    pub(super) forward: usize,
}

/// A matrix within a buffer: first vec4, vec4 per row.
type Place = (Name, usize, usize);

/// Sizes and operands of a product.
struct Product {
    form: Form,
    end: End,
    sizes: [usize; 3],
    a: Place,
    b: Place,
    c: Place,
    bias: Option<usize>,
    extra: Option<Name>,
}

/// Strides of attention's operands, in vec4: of a sequence, of a head.
type Strides = [[usize; 2]; 3];

struct Builder<'a> {
    config: &'a GptConfig,
    layout: &'a Layout,
    shape: KernelShape,
    /// Rows of the largest batch: it decides on tiles, so that a smaller batch finds the same kernels.
    most_rows: usize,
    batch: Extent,
    dispatches: Vec<Dispatch>,
}

impl Plan {
    /// The plan for a batch of a shape within `most`.
    pub(super) fn new(
        config: &GptConfig,
        layout: &Layout,
        shape: KernelShape,
        most: Extent,
        batch: Extent,
    ) -> Self {
        let dispatches = Vec::new();
        let mut to = Builder { config, layout, shape, most_rows: most.rows(), batch, dispatches };
        to.forward();
        let forward = to.dispatches.len();
        to.backward();
        to.optimize();
        Self { dispatches: to.dispatches, forward }
    }
}

impl Builder<'_> {
    fn rows(&self) -> usize {
        self.batch.rows()
    }

    /// vec4 of the residual stream's rows.
    fn width4(&self) -> usize {
        self.config.width / 4
    }

    fn push(&mut self, kernel: Kernel, buffers: &[Name], words: &[usize], threads: usize, work: &[usize]) {
        let words = words.iter().map(|word| *word as u32).collect();
        let groups = spread(threads.div_ceil(THREADS as usize));
        let flops = flops(work);
        self.dispatches.push(Dispatch { kernel, buffers: buffers.to_vec(), words, groups, flops });
    }

    /// A kernel whose threads share rows.
    fn push_rows(&mut self, kernel: Kernel, buffers: &[Name], words: &[usize], rows: usize, elements: usize) {
        let threads = rows * self.shape.lanes() as usize;
        self.push(kernel, buffers, words, threads, &[10, rows, elements]);
    }

    fn forward(&mut self) {
        let (rows, width4, batch) = (self.rows(), self.width4(), self.batch);
        let layout = self.layout;
        self.push(
            Kernel::Embed,
            &[Name::Parameters, Name::Batch, Name::Stream(0)],
            &[rows, width4, batch.length, layout.tokens / 4, layout.positions / 4],
            rows * width4,
            &[rows, width4, 4],
        );
        for (block, at) in layout.blocks.iter().enumerate() {
            let width = self.config.width;
            self.norm(Name::Stream(block), (block, 0), at.norm1, at.norm1_bias);
            let (normed, qkv) = (Name::Normed(block, 0), Name::Qkv(block));
            self.linear(End::Store, normed, (at.qkv, at.qkv_bias), qkv, [3 * width, width], None);
            self.attention(block);
            let (context, middle) = (Name::Context(block), Name::Middle(block));
            let stream = Some(Name::Stream(block));
            self.linear(End::Residual, context, (at.out, at.out_bias), middle, [width, width], stream);
            self.norm(middle, (block, 1), at.norm2, at.norm2_bias);
            let (normed, slope, active) = (Name::Normed(block, 1), Name::Slope(block), Name::Active(block));
            let up = (at.up, at.up_bias);
            self.linear(End::Gelu, normed, up, slope, [4 * width, width], Some(active));
            let (down, next) = ((at.down, at.down_bias), Name::Stream(block + 1));
            self.linear(End::Residual, active, down, next, [width, 4 * width], Some(middle));
        }
        let last = self.config.layers;
        self.norm(Name::Stream(last), (last, 0), layout.norm, layout.norm_bias);
        let vocabulary = self.config.vocabulary;
        let sizes = [vocabulary, self.config.width];
        self.linear(End::Store, Name::Normed(last, 0), (layout.tokens, None), Name::Logits, sizes, None);
        let share = (1.0 / rows as f32).to_bits() as usize;
        self.push_rows(
            Kernel::Loss,
            &[Name::Batch, Name::Logits, Name::Losses],
            &[rows, vocabulary, vocabulary.next_multiple_of(4), rows, share],
            rows,
            vocabulary,
        );
        self.push(
            Kernel::Total,
            &[Name::Losses, Name::Answers],
            &[rows, 0, 0, share],
            THREADS as usize,
            &[rows],
        );
    }

    fn backward(&mut self) {
        let (layout, width, last) = (self.layout, self.config.width, self.config.layers);
        let vocabulary = self.config.vocabulary;
        let sizes = [vocabulary, width];
        self.linear_back(Name::Logits, Name::Normed(last, 0), (layout.tokens, None), sizes);
        self.input_back(Name::Logits, layout.tokens, Name::DNormed, sizes, None);
        self.norm_back(Name::Stream(last), (last, 0), layout.norm, layout.norm_bias, false);
        for (block, at) in layout.blocks.iter().enumerate().rev() {
            let active = Name::Active(block);
            self.linear_back(Name::DStream, active, (at.down, at.down_bias), [width, 4 * width]);
            let slope = Some(Name::Slope(block));
            self.input_back(Name::DStream, at.down, Name::DRaised, [width, 4 * width], slope);
            let sizes = [4 * width, width];
            self.linear_back(Name::DRaised, Name::Normed(block, 1), (at.up, at.up_bias), sizes);
            self.input_back(Name::DRaised, at.up, Name::DNormed, sizes, None);
            self.norm_back(Name::Middle(block), (block, 1), at.norm2, at.norm2_bias, true);
            let sizes = [width, width];
            self.linear_back(Name::DStream, Name::Context(block), (at.out, at.out_bias), sizes);
            self.input_back(Name::DStream, at.out, Name::DNormed, sizes, None);
            self.attention_back(block);
            let sizes = [3 * width, width];
            self.linear_back(Name::DQkv, Name::Normed(block, 0), (at.qkv, at.qkv_bias), sizes);
            self.input_back(Name::DQkv, at.qkv, Name::DNormed, sizes, None);
            self.norm_back(Name::Stream(block), (block, 0), at.norm1, at.norm1_bias, true);
        }
        let (rows, width4, batch, context) = (self.rows(), self.width4(), self.batch, self.config.context);
        self.push(
            Kernel::EmbedPositions,
            &[Name::DStream, Name::Gradient],
            &[batch.sequences, width4, batch.length, context, layout.positions / 4],
            context * width4,
            &[rows, width],
        );
        self.push(
            Kernel::EmbedTokens,
            &[Name::Batch, Name::DStream, Name::Gradient],
            &[rows, width4, layout.tokens / 4, 2 * rows, 3 * rows],
            rows * width4,
            &[rows, width],
        );
    }

    /// Norm of the gradient, and the optimizer, whose uniforms the engine writes for each step.
    fn optimize(&mut self) {
        let count4 = self.layout.parameters() / 4;
        let threads = count4.div_ceil(8).next_multiple_of(THREADS as usize).min(MAX_SQUARE_THREADS);
        let parts = threads / self.shape.lanes() as usize;
        let squares = [Name::Gradient, Name::Squares];
        self.push(Kernel::Squares, &squares, &[count4], threads, &[8, count4]);
        let answers = [Name::Squares, Name::Answers];
        self.push(Kernel::Total, &answers, &[parts, 1, 1, 0], THREADS as usize, &[parts]);
        self.push(
            Kernel::AdamW,
            &[Name::Gradient, Name::Decays, Name::Answers, Name::First, Name::Second, Name::Parameters],
            &[count4],
            count4,
            &[60, count4],
        );
    }

    fn norm(&mut self, x: Name, (block, which): (usize, usize), weight: usize, bias: Option<usize>) {
        let (rows, width4) = (self.rows(), self.width4());
        self.push_rows(
            Kernel::Norm,
            &[Name::Parameters, x, Name::Normed(block, which), Name::Spread(block, which)],
            &[rows, width4, weight / 4, optional(bias)],
            rows,
            4 * width4,
        );
    }

    /// Gradients of a norm's weight, bias and input, from that of its output in `DNormed`.
    fn norm_back(
        &mut self,
        x: Name,
        (block, which): (usize, usize),
        weight: usize,
        bias: Option<usize>,
        add: bool,
    ) {
        let (rows, width4, spread) = (self.rows(), self.width4(), Name::Spread(block, which));
        let chunks = rows.div_ceil(CHUNK);
        // A bias follows its weight: one run of the gradient.
        let stride4 = if bias.is_some() { 2 * width4 } else { width4 };
        self.push(
            Kernel::NormColumns,
            &[x, spread, Name::DNormed, Name::Parts],
            &[rows, width4, CHUNK, chunks, stride4],
            chunks * width4,
            &[16, rows, width4],
        );
        self.fold(stride4, chunks, weight);
        self.push_rows(
            Kernel::NormBack,
            &[Name::Parameters, x, spread, Name::DNormed, Name::DStream],
            &[rows, width4, weight / 4, usize::from(add)],
            rows,
            4 * width4,
        );
    }

    fn fold(&mut self, width4: usize, chunks: usize, to: usize) {
        let buffers = [Name::Parts, Name::Gradient];
        self.push(Kernel::Fold, &buffers, &[width4, chunks, to / 4], width4, &[4, width4, chunks]);
    }

    /// y = x·Wᵀ + bias.
    fn linear(
        &mut self,
        end: End,
        x: Name,
        (weight, bias): (usize, Option<usize>),
        y: Name,
        [outputs, inputs]: [usize; 2],
        extra: Option<Name>,
    ) {
        let sizes = [self.rows(), outputs, inputs];
        self.product(&Product {
            form: Form::Nt,
            end,
            sizes,
            a: (x, 0, inputs / 4),
            b: (Name::Parameters, weight / 4, inputs / 4),
            c: (y, 0, outputs.div_ceil(4)),
            bias,
            extra,
        });
    }

    /// Gradients of a layer's weight and bias: dW = dyᵀ·x.
    fn linear_back(
        &mut self,
        dy: Name,
        x: Name,
        (weight, bias): (usize, Option<usize>),
        [outputs, inputs]: [usize; 2],
    ) {
        let (rows, stride) = (self.rows(), outputs.div_ceil(4));
        self.product(&Product {
            form: Form::Tn,
            end: End::Store,
            sizes: [outputs, inputs, rows],
            a: (dy, 0, stride),
            b: (x, 0, inputs / 4),
            c: (Name::Gradient, weight / 4, inputs / 4),
            bias: None,
            extra: None,
        });
        if let Some(bias) = bias {
            let chunks = rows.div_ceil(CHUNK);
            self.push(
                Kernel::Columns,
                &[dy, Name::Parts],
                &[rows, stride, CHUNK, chunks],
                chunks * stride,
                &[4, rows, stride],
            );
            self.fold(stride, chunks, bias);
        }
    }

    /// Gradient of a layer's input: dx = dy·W, times the slope of GELU where the input came from there.
    fn input_back(
        &mut self,
        dy: Name,
        weight: usize,
        dx: Name,
        [outputs, inputs]: [usize; 2],
        slope: Option<Name>,
    ) {
        let sizes = [self.rows(), inputs, outputs];
        self.product(&Product {
            form: Form::Nn,
            end: if slope.is_some() { End::GeluSlope } else { End::Store },
            sizes,
            a: (dy, 0, outputs.div_ceil(4)),
            b: (Name::Parameters, weight / 4, inputs / 4),
            c: (dx, 0, inputs / 4),
            bias: None,
            extra: slope,
        });
    }

    /// Scores, probabilities, and their mean of the values.
    fn attention(&mut self, block: usize) {
        let (qkv, weights, context) = (Name::Qkv(block), Name::Attention(block), Name::Context(block));
        self.heads(Form::Nt, (qkv, 0), (qkv, 1), (weights, 0));
        self.softmax(Kernel::Softmax, &[weights]);
        self.heads(Form::Nn, (weights, 0), (qkv, 2), (context, 0));
    }

    /// From the gradient of attention's output, in `DNormed`, to that of queries, keys and values.
    fn attention_back(&mut self, block: usize) {
        let (qkv, weights) = (Name::Qkv(block), Name::Attention(block));
        self.heads(Form::Nt, (Name::DNormed, 0), (qkv, 2), (Name::DAttention, 0));
        self.softmax(Kernel::SoftmaxBack, &[weights, Name::DAttention]);
        self.heads(Form::Tn, (weights, 0), (Name::DNormed, 0), (Name::DQkv, 2));
        self.heads(Form::Nn, (Name::DAttention, 0), (qkv, 1), (Name::DQkv, 0));
        self.heads(Form::Tn, (Name::DAttention, 0), (qkv, 0), (Name::DQkv, 1));
    }

    fn softmax(&mut self, kernel: Kernel, buffers: &[Name]) {
        let Extent { sequences, length } = self.batch;
        let rows = sequences * self.config.heads * length;
        let head = self.config.width / self.config.heads;
        let scale = (1.0 / (head as f32).sqrt()).to_bits() as usize;
        self.push_rows(kernel, buffers, &[rows, length, length.next_multiple_of(4), scale], rows, length);
    }

    /// A product of each head of each sequence. An operand of `length` columns is a square of the attention, others
    /// have a head's width and are the `nth` part (queries, keys, values) of theirs.
    fn heads(&mut self, form: Form, a: (Name, usize), b: (Name, usize), c: (Name, usize)) {
        let Extent { length, .. } = self.batch;
        let (heads, width4) = (self.config.heads, self.width4());
        let (head4, stride) = (width4 / heads, length.div_ceil(4));
        let place = |(name, nth): (Name, usize)| match name {
            Name::Attention(_) | Name::DAttention => {
                let square = length * stride;
                ((name, 0, stride), [heads * square, square])
            }
            Name::Qkv(_) | Name::DQkv => ((name, nth * width4, 3 * width4), [length * 3 * width4, head4]),
            _ => ((name, 0, width4), [length * width4, head4]),
        };
        let sizes = match form {
            Form::Nt => [length, length, 4 * head4],
            Form::Nn | Form::Tn => [length, 4 * head4, length],
        };
        let (a, a_strides) = place(a);
        let (b, b_strides) = place(b);
        let (c, c_strides) = place(c);
        let product = Product { form, end: End::Causal, sizes, a, b, c, bias: None, extra: None };
        self.batched(&product, self.shape.attention(), [a_strides, b_strides, c_strides]);
    }

    fn product(&mut self, product: &Product) {
        let [m, n, _] = product.sizes;
        // The rows of gradients of weights are fixed, the others those of the batch.
        let m = if product.form == Form::Tn { m } else { self.most_rows };
        self.batched(product, self.shape.way(m, n), Strides::default());
    }

    fn batched(&mut self, product: &Product, way: Way, strides: Strides) {
        let [m, n, k] = product.sizes;
        let causal = product.end == End::Causal;
        let (count, heads) =
            if causal { (self.batch.sequences * self.config.heads, self.config.heads) } else { (1, 1) };
        let (tile_rows, tile_cols) = match way {
            Way::Direct(rows, cols) => (rows as usize, cols as usize),
            Way::Tiled(side) => (4 * side as usize, 4 * side as usize),
        };
        let (row_tiles, col_tiles) = (m.div_ceil(tile_rows), n.div_ceil(tile_cols));
        let total = row_tiles * col_tiles * count;
        let groups = match way {
            Way::Direct(rows, cols) => spread(total.div_ceil(direct_threads(rows, cols) as usize)),
            Way::Tiled(_) => [col_tiles as u32, row_tiles as u32],
        };
        let (a, b, c) = (product.a, product.b, product.c);
        let mut words = vec![m, n, k, n.div_ceil(4), row_tiles, col_tiles, heads, optional(product.bias)];
        words.extend([a.1, a.2, b.1, b.2, c.1, c.2]);
        words.extend(strides.iter().flatten());
        words.push(total);
        let mut buffers = vec![a.0, b.0, c.0];
        buffers.extend(product.extra);
        // The causal mask hides half.
        let per = if causal { 1 } else { 2 };
        self.dispatches.push(Dispatch {
            kernel: Kernel::Product(product.form, product.end, way),
            buffers,
            words: words.iter().map(|word| *word as u32).collect(),
            groups,
            flops: flops(&[per, m, n, k, count]),
        });
    }
}

/// A product that no integer of a 32-bit platform need hold.
fn flops(factors: &[usize]) -> f64 {
    factors.iter().map(|factor| *factor as f64).product()
}

/// First vec4 of a bias, or none.
fn optional(bias: Option<usize>) -> usize {
    bias.map_or(NONE as usize, |at| at / 4)
}

/// Workgroups in two dimensions.
fn spread(groups: usize) -> [u32; 2] {
    let x = groups.clamp(1, MAX_GROUPS);
    [x as u32, groups.div_ceil(x).max(1) as u32]
}
