//! The model, and how its tensors lie in our flat vector.

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::{gelu_approximate, softmax};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use potluck_train::gpt::{GptConfig, Kind, Layout};

/// GPT-2: norms before attention and MLP, learned positions, GELU by tanh, the head tied to the token embedding; without
/// biases.
#[derive(Module, Debug)]
pub struct Gpt {
    tokens: Embedding,
    positions: Embedding,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    out: Linear,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
    heads: usize,
}

impl Gpt {
    /// A model of these sizes, which must be without biases; its values do not matter before [`Gpt::load`].
    pub fn new(config: &GptConfig, device: &Device) -> Self {
        let width = config.width;
        let norm = || LayerNormConfig::new(width).with_bias(false).init(device);
        let linear = |inputs, outputs| LinearConfig::new(inputs, outputs).with_bias(false).init(device);
        let block = |_| Block {
            norm1: norm(),
            qkv: linear(width, 3 * width),
            out: linear(width, width),
            norm2: norm(),
            up: linear(width, 4 * width),
            down: linear(4 * width, width),
            heads: config.heads,
        };
        Self {
            tokens: EmbeddingConfig::new(config.vocabulary, width).init(device),
            positions: EmbeddingConfig::new(config.context, width).init(device),
            blocks: (0..config.layers).map(block).collect(),
            norm: norm(),
        }
    }

    /// Takes parameters in the order of our [`Layout`].
    pub fn load(self, parameters: &[f32], layout: &Layout, device: &Device) -> Self {
        self.map(&mut Loader { order: Order::new(layout), parameters, device })
    }

    /// Mean cross-entropy in nats.
    ///
    /// # Shapes
    /// `inputs`: sequences x length; `targets`: as many, flat.
    pub fn loss(&self, inputs: Tensor<2, Int>, targets: Tensor<1, Int>) -> Tensor<1> {
        let device = inputs.device();
        let [sequences, length] = inputs.dims();
        let positions = Tensor::<1, Int>::arange(0..length as i64, &device).unsqueeze::<2>();
        let mask = Tensor::<2, Bool>::tril_mask([length, length], 0, &device);
        let mut x = self.tokens.forward(inputs) + self.positions.forward(positions);
        for block in &self.blocks {
            x = block.forward(x, &mask);
        }
        let [_, _, width] = x.dims();
        let x = self.norm.forward(x).reshape([sequences * length, width]);
        let logits = x.matmul(self.tokens.weight.val().transpose());
        CrossEntropyLossConfig::new().init(&device).forward(logits, targets)
    }
}

impl Block {
    fn forward(&self, x: Tensor<3>, mask: &Tensor<2, Bool>) -> Tensor<3> {
        let [sequences, length, width] = x.dims();
        let head = width / self.heads;
        let parts = self.qkv.forward(self.norm1.forward(x.clone())).chunk(3, 2);
        let [q, k, v] = [0, 1, 2].map(|part: usize| {
            parts[part].clone().reshape([sequences, length, self.heads, head]).swap_dims(1, 2)
        });
        let scores = q.matmul(k.transpose()) / (head as f32).sqrt();
        let scores = scores.mask_fill(mask.clone().unsqueeze::<4>(), f32::NEG_INFINITY);
        let mixed = softmax(scores, 3).matmul(v).swap_dims(1, 2).reshape([sequences, length, width]);
        let x = x + self.out.forward(mixed);
        let active = gelu_approximate(self.up.forward(self.norm2.forward(x.clone())));
        x + self.down.forward(active)
    }
}

/// Our tensors, in the order in which burn's visitors meet theirs: the modules' fields stand in the order of our layout.
#[derive(Debug)]
pub struct Order<'a>(std::slice::Iter<'a, potluck_train::gpt::Tensor>);

impl<'a> Order<'a> {
    /// From the first tensor on.
    pub fn new(layout: &'a Layout) -> Self {
        Self(layout.tensors.iter())
    }

    /// The next one.
    ///
    /// # Panics
    /// If there is none: the model has other tensors.
    pub fn take(&mut self) -> &'a potluck_train::gpt::Tensor {
        self.0.next().expect("as many tensors as the layout has")
    }
}

/// Burn's linear layers are inputs x outputs, ours are the transpose.
pub(crate) fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|at| values[at % rows * cols + at / rows]).collect()
}

struct Loader<'a> {
    order: Order<'a>,
    parameters: &'a [f32],
    device: &'a Device,
}

impl ModuleMapper for Loader<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let ours = self.order.take();
        let values = &self.parameters[ours.range()];
        let values = if ours.kind == Kind::Linear {
            transposed(values, ours.rows, ours.cols)
        } else {
            values.to_vec()
        };
        let data = TensorData::new(values, param.lazy_shape());
        Param::initialized(param.id, Tensor::from_data(data, self.device).require_grad())
    }
}
