//! Models that burn trains: on a GPU where that works and pays, else on the CPU.
//!
//! Burn says little when its kernels go wrong, so a GPU has to give the CPU's losses first. Whatever computes a round,
//! the relay repeats it: a wrong GPU would cost this volunteer its good name.

use potluck_burn::{Backend, BurnEngine, Digits};
use potluck_train::digits::{CLASSES, PIXELS, RECORD};
use potluck_train::{Batch, Engine, TrainError, digits};
use potluck_volunteer::Choice;
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// Losses may differ so much, in nats: what audits grant, and much less than a step changes.
const LOSS_TOLERANCE: f32 = 1e-3;
/// Images of a step that is tried.
const IMAGES: usize = 16;
/// Steps that are tried: the first one compiles kernels.
const STEPS: usize = 3;
const RATE: f32 = 1e-3;

/// What is known of a GPU.
#[derive(Debug, Default)]
pub(super) struct Burn(RefCell<Option<Chosen>>);

#[derive(Debug, Clone)]
struct Chosen {
    backend: Backend,
    on_gpu: bool,
}

impl Burn {
    /// An engine, its parameters yet to be loaded, and whether a GPU runs it. The first time this takes some steps.
    ///
    /// # Errors
    /// What burn says of the model.
    pub(super) async fn engine(&self, choice: Choice) -> Result<(BurnEngine<Digits>, bool), TrainError> {
        let known = self.0.borrow().clone();
        let chosen = if let Some(chosen) = known { chosen } else { choose(choice).await? };
        self.0.replace(Some(chosen.clone()));
        Ok((engine(chosen.backend)?, chosen.on_gpu))
    }
}

/// On the CPU.
///
/// # Errors
/// What burn says of the model.
pub(super) fn on_cpu() -> Result<BurnEngine<Digits>, TrainError> {
    engine(Backend::cpu())
}

fn engine(backend: Backend) -> Result<BurnEngine<Digits>, TrainError> {
    BurnEngine::new(backend).map_err(|error| TrainError::Device(error.to_string()))
}

async fn choose(choice: Choice) -> Result<Chosen, TrainError> {
    let cpu = Chosen { backend: Backend::cpu(), on_gpu: false };
    let backend = match Backend::gpu().await {
        Ok(backend) => backend,
        Err(error) => {
            tracing::info!(%error, "burn trains on the CPU");
            return Ok(cpu);
        }
    };
    let (expected, cpu_time) = tried(on_cpu()?).await?;
    let why = match tried(engine(backend.clone())?).await {
        // Written so that NaN is wrong.
        Ok((found, _)) if !found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= LOSS_TOLERANCE) => {
            format!("the GPU gives losses of {found:?} where the CPU gives {expected:?}")
        }
        Ok((_, gpu_time)) if choice != Choice::Gpu && gpu_time > cpu_time => {
            format!("a step takes {gpu_time:.1?} on the GPU and {cpu_time:.1?} on the CPU")
        }
        Ok(_) => return Ok(Chosen { backend, on_gpu: true }),
        Err(error) => error.to_string(),
    };
    tracing::info!(why, "burn trains on the CPU");
    Ok(cpu)
}

/// Losses of some steps, and the time of the last one.
async fn tried(mut engine: BurnEngine<Digits>) -> Result<([f32; STEPS], Duration), TrainError> {
    let records = (0..IMAGES * RECORD).map(|at| (at * at % CLASSES) as u32);
    let records: Vec<u32> = records.collect();
    let tokens =
        |from: usize| records.chunks(RECORD).flat_map(move |record| record[from..from + PIXELS].to_vec());
    let batch = Batch {
        sequences: IMAGES,
        length: PIXELS,
        inputs: tokens(0).collect(),
        targets: tokens(1).collect(),
    };
    engine.load(&digits::init(&[0; 32])).await?;
    let (mut losses, mut time) = ([0.0; STEPS], Duration::MAX);
    for loss in &mut losses {
        let started = Instant::now();
        *loss = engine.step(&batch, RATE).await?;
        time = started.elapsed();
    }
    Ok((losses, time))
}
