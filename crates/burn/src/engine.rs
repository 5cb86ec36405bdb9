//! Burn's modules as training engines.

use crate::{Backend, SetupError};
use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use potluck_train::engine::{AdamW, Batch, Engine, TrainError};
use potluck_train::gpt::{self, Kind, Optimizer};

/// Most rows of a batch: what bounds a step's memory.
pub const MAX_SEQUENCES: usize = 4096;

/// A burn module that tells classes apart.
///
/// A record of its data set is [`Classifier::INPUTS`] tokens, then the class. So in a batch, whose targets are the
/// inputs moved by one, a row's last target is the class, and the other targets do not matter.
///
/// All float tensors of the module are trained. They make the flat vector in the order in which the module's visitor
/// meets them, which is that of its fields; each is row-major. Those of one dimension (biases, norms) do not decay.
///
/// The output must be a function of parameters and input alone: no dropout, no running statistics.
pub trait Classifier: Module {
    /// Tokens of an example: the length of a batch's rows.
    const INPUTS: usize;
    /// Greatest token of an example.
    const GREATEST: u32;
    /// Classes.
    const CLASSES: usize;

    /// The module on a device. Its values do not matter: they are replaced by [`Engine::load`].
    fn new(device: &Device) -> Self;

    /// Logits of the classes.
    ///
    /// # Shapes
    /// `inputs`: rows x [`Classifier::INPUTS`], the tokens as they are in the batch; the result: rows x
    /// [`Classifier::CLASSES`].
    fn logits(&self, inputs: Tensor<2>) -> Tensor<2>;
}

/// A classifier with its optimizer.
///
/// Determinism: that of its [`Backend`]; what is computed here is bitwise.
pub struct BurnEngine<M> {
    backend: Backend,
    module: M,
    tensors: Vec<gpt::Tensor>,
    parameters: Vec<f32>,
    /// The module does not have these parameters yet.
    stale: bool,
    optimizer: Optimizer,
}

impl<M: Classifier> BurnEngine<M> {
    /// A model trained with the default constants; all parameters are 0 until [`Engine::load`].
    ///
    /// # Errors
    /// [`SetupError::Stateful`].
    pub fn new(backend: Backend) -> Result<Self, SetupError> {
        Self::with_constants(backend, AdamW::default())
    }

    /// As [`BurnEngine::new`], with other constants of the optimizer.
    ///
    /// # Errors
    /// As [`BurnEngine::new`].
    pub fn with_constants(backend: Backend, constants: AdamW) -> Result<Self, SetupError> {
        let module = M::new(&backend.device().clone().autodiff());
        let mut survey = Survey::default();
        module.visit(&mut survey);
        if let Some(path) = survey.stateful {
            return Err(SetupError::Stateful(path));
        }
        let tensors = survey.tensors;
        let count = tensors.last().map_or(0, |tensor| tensor.range().end);
        let (parameters, optimizer) = (vec![0.0; count], Optimizer::new(constants, count));
        Ok(Self { backend, module, tensors, parameters, stale: true, optimizer })
    }

    /// Where each tensor lies in the flat vector: its path in the module, its first dimension as rows, all others as
    /// columns. Those of one dimension are one row.
    pub fn tensors(&self) -> &[gpt::Tensor] {
        &self.tensors
    }

    /// Logits of the classes, row by row.
    ///
    /// # Shapes
    /// `inputs`: rows x [`Classifier::INPUTS`]; the result: rows x [`Classifier::CLASSES`].
    ///
    /// # Errors
    /// As [`Engine::loss`].
    pub async fn logits(&mut self, inputs: &[u32]) -> Result<Vec<f32>, TrainError> {
        let rows = inputs.len() / M::INPUTS.max(1);
        check_inputs::<M>(rows, M::INPUTS, inputs)?;
        self.refresh();
        let device = self.backend.device().clone();
        let logits = forward(&self.module.valid(), inputs, rows, &device);
        self.read(logits.reshape([rows * M::CLASSES]), rows * M::CLASSES).await
    }

    /// Loss of a batch and its gradient, not clipped; nothing changes.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub async fn gradient(&mut self, batch: &Batch) -> Result<(f32, Vec<f32>), TrainError> {
        self.run(batch, true).await
    }

    /// Loss and, if wanted, the gradient.
    async fn run(&mut self, batch: &Batch, backward: bool) -> Result<(f32, Vec<f32>), TrainError> {
        check::<M>(batch)?;
        self.refresh();
        let device = self.backend.device().clone();
        let mut parts = Vec::new();
        let mut count = 1;
        if backward {
            let loss = cross_entropy(&self.module, batch, &device.clone().autodiff());
            let gradients = loss.backward();
            parts.push(loss.inner());
            let mut collector = Collector { gradients, device, parts };
            self.module.visit(&mut collector);
            parts = collector.parts;
            count += self.parameters.len();
        } else {
            parts.push(cross_entropy(&self.module.valid(), batch, &device));
        }
        let mut values = self.read(Tensor::cat(parts, 0), count).await?;
        let gradient = values.split_off(1);
        Ok((values[0], gradient))
    }

    /// Brings a tensor back. Values that are not finite are an error, so is whatever the device has to say: a GPU that
    /// fails does not always say so, but what it leaves behind is then seldom finite.
    async fn read(&self, tensor: Tensor<1>, count: usize) -> Result<Vec<f32>, TrainError> {
        let failed = |why: String| TrainError::Device(why);
        let data = tensor.into_data_async().await.map_err(|e| failed(e.to_string()))?;
        self.backend.check()?;
        let values =
            data.try_into_vec::<f32>().map_err(|e| failed(format!("it gave other numbers: {e:?}")))?;
        if values.len() != count {
            return Err(failed(format!("it gave {} values instead of {count}", values.len())));
        }
        if !values.iter().all(|value| value.is_finite()) {
            return Err(TrainError::NotFinite { step: self.optimizer.steps() });
        }
        Ok(values)
    }

    /// Gives the module the parameters.
    fn refresh(&mut self) {
        if self.stale {
            let device = self.backend.device().clone().autodiff();
            let mut loader = Loader { parameters: &self.parameters, device };
            self.module = self.module.clone().map(&mut loader);
            self.stale = false;
        }
    }
}

impl<M: Classifier> Engine for BurnEngine<M> {
    fn parameters(&self) -> usize {
        self.parameters.len()
    }

    async fn load(&mut self, parameters: &[f32]) -> Result<(), TrainError> {
        if parameters.len() != self.parameters.len() {
            return Err(TrainError::Length { found: parameters.len(), expected: self.parameters.len() });
        }
        self.parameters.copy_from_slice(parameters);
        self.stale = true;
        self.optimizer.clear();
        Ok(())
    }

    async fn store(&mut self) -> Result<Vec<f32>, TrainError> {
        if !self.parameters.iter().all(|value| value.is_finite()) {
            return Err(TrainError::NotFinite { step: self.optimizer.steps() });
        }
        Ok(self.parameters.clone())
    }

    async fn step(&mut self, batch: &Batch, learning_rate: f32) -> Result<f32, TrainError> {
        let (loss, gradient) = self.gradient(batch).await?;
        self.optimizer.step(&self.tensors, learning_rate, &gradient, &mut self.parameters)?;
        self.stale = true;
        Ok(loss)
    }

    async fn loss(&mut self, batch: &Batch) -> Result<f32, TrainError> {
        Ok(self.run(batch, false).await?.0)
    }
}

fn check<M: Classifier>(batch: &Batch) -> Result<(), TrainError> {
    let Batch { sequences, length, .. } = *batch;
    check_inputs::<M>(sequences, length, &batch.inputs)?;
    if batch.targets.len() != batch.inputs.len() {
        let why = "it needs as many targets as rows x positions";
        return Err(TrainError::Batch { sequences, length, why });
    }
    check_tokens(labels(batch), M::CLASSES)
}

fn check_inputs<M: Classifier>(sequences: usize, length: usize, inputs: &[u32]) -> Result<(), TrainError> {
    let wrong = |why| Err(TrainError::Batch { sequences, length, why });
    if sequences == 0 {
        return wrong("it has no rows");
    }
    if sequences > MAX_SEQUENCES {
        return wrong("a step would take too much memory; take at most MAX_SEQUENCES rows");
    }
    if length != M::INPUTS {
        return wrong("its rows are not as long as the model's examples");
    }
    if inputs.len() != sequences * length {
        return wrong("it needs as many inputs as rows x positions");
    }
    check_tokens(inputs.iter().copied(), M::GREATEST as usize + 1)
}

fn check_tokens(mut tokens: impl Iterator<Item = u32>, vocabulary: usize) -> Result<(), TrainError> {
    match tokens.find(|token| *token as usize >= vocabulary) {
        Some(token) => Err(TrainError::Token { token, vocabulary }),
        None => Ok(()),
    }
}

/// The last target of each row.
fn labels(batch: &Batch) -> impl Iterator<Item = u32> {
    batch.targets.chunks(batch.length).filter_map(|row| row.last().copied())
}

fn forward<M: Classifier>(module: &M, inputs: &[u32], rows: usize, device: &Device) -> Tensor<2> {
    let inputs: Vec<f32> = inputs.iter().map(|token| *token as f32).collect();
    module.logits(Tensor::from_data(TensorData::new(inputs, [rows, M::INPUTS]), device))
}

/// Mean cross-entropy in nats.
fn cross_entropy<M: Classifier>(module: &M, batch: &Batch, device: &Device) -> Tensor<1> {
    let rows = batch.sequences;
    let logits = forward(module, &batch.inputs, rows, device);
    // A product with ones at the labels: gathering them would scatter on the way back, whose order a GPU may choose.
    let mut ones = vec![0.0_f32; rows * M::CLASSES];
    for (row, label) in ones.chunks_mut(M::CLASSES).zip(labels(batch)) {
        row[label as usize] = 1.0;
    }
    let ones = Tensor::<2>::from_data(TensorData::new(ones, [rows, M::CLASSES]), device);
    (log_softmax(logits, 1) * ones).sum() / -(rows as f32)
}

/// Finds the module's tensors.
#[derive(Default)]
struct Survey {
    path: Vec<String>,
    tensors: Vec<gpt::Tensor>,
    stateful: Option<String>,
}

impl ModuleVisitor for Survey {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let shape = param.lazy_shape();
        let count = shape.num_elements();
        let (rows, kind) = if D > 1 { (shape[0], Kind::Linear) } else { (1, Kind::Bias) };
        let start = self.tensors.last().map_or(0, |tensor| tensor.range().end);
        let cols = count / rows.max(1);
        self.tensors.push(gpt::Tensor { name: self.path.join("."), rows, cols, start, kind });
    }

    fn visit_flag(&mut self, _: &Param<Flag>) {
        // Only modules with a mode for training have one.
        self.stateful.get_or_insert_with(|| self.path.join("."));
    }
}

/// Replaces the module's tensors by the flat vector's.
struct Loader<'a> {
    /// What is left of the flat vector.
    parameters: &'a [f32],
    device: Device,
}

impl ModuleMapper for Loader<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.lazy_shape();
        let (values, rest) = self.parameters.split_at(shape.num_elements());
        self.parameters = rest;
        let data = TensorData::new(values.to_vec(), shape);
        Param::initialized(param.id, Tensor::from_data(data, &self.device).require_grad())
    }
}

/// Gathers the gradients in the order of the flat vector.
struct Collector {
    gradients: Gradients,
    device: Device,
    parts: Vec<Tensor<1>>,
}

impl ModuleVisitor for Collector {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let count = param.lazy_shape().num_elements();
        self.parts.push(match param.base().grad_remove(&mut self.gradients) {
            Some(gradient) => gradient.reshape([count]),
            // The loss does not depend on it.
            None => Tensor::zeros([count], &self.device),
        });
    }
}
