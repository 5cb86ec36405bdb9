//! The example: a small convolutional classifier of digits.

use crate::Classifier;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use potluck_train::digits::{CHANNELS, CLASSES, FEATURES, HIDDEN, KERNEL, PIXELS, SIDE, WHITE};

/// The model that [`potluck_train::digits`] describes.
#[derive(Module, Debug)]
pub struct Digits {
    conv1: Conv2d,
    conv2: Conv2d,
    hidden: Linear,
    output: Linear,
}

impl Classifier for Digits {
    const INPUTS: usize = PIXELS;
    const GREATEST: u32 = WHITE;
    const CLASSES: usize = CLASSES;

    fn new(device: &Device) -> Self {
        let conv = |channels, stride| {
            Conv2dConfig::new(channels, [KERNEL; 2])
                .with_stride([stride; 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device)
        };
        Self {
            conv1: conv([1, CHANNELS[0]], 1),
            conv2: conv(CHANNELS, 2),
            hidden: LinearConfig::new(FEATURES, HIDDEN).init(device),
            output: LinearConfig::new(HIDDEN, CLASSES).init(device),
        }
    }

    fn logits(&self, inputs: Tensor<2>) -> Tensor<2> {
        let [rows, _] = inputs.dims();
        let x = (inputs / WHITE as f32).reshape([rows, 1, SIDE, SIDE]);
        let x = relu(self.conv1.forward(x));
        let x = relu(self.conv2.forward(x));
        let x = relu(self.hidden.forward(x.reshape([rows, FEATURES])));
        self.output.forward(x)
    }
}
