//! Our gradient against burn's autodiff: two programs by different people for the same model.
#![cfg(not(target_arch = "wasm32"))]
#![expect(clippy::unwrap_used, reason = "in a test an unwrap is how it fails")]

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use futures_executor::block_on;
use potluck_bench_burn::{Gpt, Order};
use potluck_train::engine::{Batch, Engine};
use potluck_train::gpt::{CpuGpt, GptConfig, Kind, Layout, init};

/// Two right f32 programs differ by about 1e-6.
const TOLERANCE: f64 = 2e-5;

/// Compares each tensor's gradient with ours.
struct Compare<'a> {
    order: Order<'a>,
    theirs: Gradients,
    ours: &'a [f32],
    compared: usize,
}

impl ModuleVisitor for Compare<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = self.order.take();
        let theirs: Tensor<D> = param.base().grad_remove(&mut self.theirs).unwrap();
        let theirs = theirs.into_data().try_into_vec::<f32>().unwrap();
        let ours = &self.ours[tensor.range()];
        assert_eq!(theirs.len(), ours.len(), "{}", tensor.name);
        let (mut difference, mut size) = (0.0, 0.0);
        for (at, ours) in ours.iter().enumerate() {
            let theirs = match tensor.kind {
                // Burn's are inputs x outputs.
                Kind::Linear => theirs[at % tensor.cols * tensor.rows + at / tensor.cols],
                _ => theirs[at],
            };
            difference += f64::from(ours - theirs).powi(2);
            size += f64::from(theirs).powi(2);
        }
        assert!(size > 1e-12, "{} has no gradient to compare", tensor.name);
        let error = (difference / size).sqrt();
        println!("{}: {error:.1e}", tensor.name);
        assert!(error < TOLERANCE, "{}: {error:e}", tensor.name);
        self.compared += ours.len();
    }
}

#[test]
fn our_gradient_is_that_of_burns_autodiff() {
    let config = GptConfig::tiny(65);
    let layout = Layout::new(&config);
    let parameters = init(&config, &[7; 32]);
    let (sequences, length) = (3, 40);
    let tokens: Vec<u32> = (0..=sequences * length).map(|at| (at * at + at / 7) as u32 % 65).collect();
    let (inputs, targets) = (tokens[..tokens.len() - 1].to_vec(), tokens[1..].to_vec());

    let device = Device::flex().autodiff();
    let model = Gpt::new(&config, &device).load(&parameters, &layout, &device);
    let signed = |tokens: &[u32]| tokens.iter().map(|token| *token as i32).collect::<Vec<_>>();
    let loss = model.loss(
        Tensor::<2, Int>::from_data(TensorData::new(signed(&inputs), [sequences, length]), &device),
        Tensor::<1, Int>::from_data(TensorData::new(signed(&targets), [inputs.len()]), &device),
    );
    let theirs = loss.backward();
    let their_loss = loss.inner().into_data().try_into_vec::<f32>().unwrap()[0];

    let mut engine = CpuGpt::new(config).unwrap();
    block_on(engine.load(&parameters)).unwrap();
    let our_loss = block_on(engine.step(&Batch { sequences, length, inputs, targets }, 0.0)).unwrap();
    assert!((our_loss - their_loss).abs() < 1e-5, "{our_loss} {their_loss}");

    let mut compare = Compare { order: Order::new(&layout), theirs, ours: engine.gradient(), compared: 0 };
    model.visit(&mut compare);
    assert_eq!(compare.compared, layout.parameters());
}
