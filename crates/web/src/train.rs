//! Parts of training rounds in the tab, on the GPU where that pays, else in wasm; one inner step at a time, so that the
//! Worker hears a Stop between two of them.

use crate::burn::BurnEngine;
use crate::compute::{Computed, Device, Ended, Shift};
use potluck_proto::{Backend, TrainTask};
use potluck_train::{Engine, Model, TrainError};
use potluck_volunteer::train::{Finished, Prepared, TaskError, TrainRun};
use potluck_volunteer::trainer::{AnyGpt, Pace};
use potluck_volunteer::{Failure, TrainInputs};
use std::time::Duration;
use web_time::Instant;

/// Progress is told at most this often.
const TELL_INTERVAL: Duration = Duration::from_millis(250);

impl From<TaskError> for Ended {
    fn from(error: TaskError) -> Self {
        Self::Failed(Failure::from(&error))
    }
}

/// Time at work, within a shift.
struct Work<'a> {
    shift: &'a Shift,
    began: Instant,
    busy: Duration,
}

impl Work<'_> {
    /// Counts the time since `started` as work.
    fn worked(&mut self, started: Duration) {
        let took = self.now().saturating_sub(started);
        self.busy += took;
        self.shift.owe(took);
    }
}

impl Pace for Work<'_> {
    type Stop = Ended;

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn rest(&mut self, started: Duration) -> Result<(), Ended> {
        self.worked(started);
        self.shift.rest().await
    }
}

/// Takes a worker's inner steps, on the GPU if there is one and it pays; now and then `tell` hears how many are done.
pub(crate) async fn run(
    device: &Device,
    task: &TrainTask,
    inputs: TrainInputs,
    shift: &Shift,
    tell: impl FnMut(u32),
) -> Result<Computed, Ended> {
    let mut work = Work { shift, began: Instant::now(), busy: Duration::ZERO };
    let prepared = Prepared::new(task, inputs)?;
    work.rest(Duration::ZERO).await?;
    let batch = [task.sequences as usize, task.length as usize];
    let config = match prepared.model() {
        Model::Gpt(config) => config,
        model @ Model::Digits => {
            if matches!(device, Device::Cpu) {
                // The person chose the CPU, or there is nothing else.
                return Err(TaskError::from(TrainError::Missing("this model without WebGPU")).into());
            }
            let engine = BurnEngine::new(model).await.map_err(TaskError::from)?;
            return take(&prepared, engine, work, Backend::WebGpu, tell).await;
        }
    };
    let engine = match device {
        Device::Gpu(device) => device.trainer.engine(&device.gpu, config, batch, &mut work).await?,
        Device::Cpu => AnyGpt::cpu(config)?,
    };
    let backend = if engine.is_on_gpu() { Backend::WebGpu } else { Backend::WasmSimd };
    take(&prepared, engine, work, backend, tell).await
}

/// Takes the steps, with rests between them.
async fn take(
    prepared: &Prepared,
    engine: impl Engine,
    mut work: Work<'_>,
    backend: Backend,
    mut tell: impl FnMut(u32),
) -> Result<Computed, Ended> {
    let mut told = Instant::now();
    let mut started = work.now();
    let mut training = TrainRun::start(prepared, engine).await?;
    while !training.progress().complete() {
        work.rest(started).await?;
        started = work.now();
        let progress = training.step().await?;
        if told.elapsed() >= TELL_INTERVAL {
            told = Instant::now();
            tell(progress.done);
        }
    }
    work.rest(started).await?;
    started = work.now();
    let Finished { result, kept } = training.finish().await?;
    work.worked(started);
    Ok(Computed { result, kept, busy: work.busy, backend })
}

#[cfg(test)]
#[path = "../../volunteer/tests/rounds/mod.rs"]
mod rounds;

/// In Chromium, with WebGPU on a software adapter; where there is none, a test says so and passes, unless the build had
/// `POTLUCK_REQUIRE_GPU` set.
#[cfg(test)]
mod tests {
    use super::rounds::{self, Example};
    use super::*;
    use crate::compute::measure;
    use crate::effort::Rest;
    use potluck_proto::UpdateCodec;
    use potluck_train::codec::Codec;
    use potluck_train::gpt::{GptConfig, Layout, Tensor};
    use potluck_verify::{Tolerances, compare};
    use potluck_volunteer::{Choice, Failure};
    use std::rc::Rc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use wasm_bindgen_test::{console_log, wasm_bindgen_test, wasm_bindgen_test_configure};

    wasm_bindgen_test_configure!(run_in_dedicated_worker);

    fn tiny() -> Example {
        let mut example = rounds::example(GptConfig::tiny(65), 20_000, 2, 1);
        (example.task.codec, example.task.steps) = (UpdateCodec::F32, 6);
        example
    }

    async fn gpu() -> Option<Device> {
        let found = measure(Choice::Gpu).await;
        if found.is_none() {
            assert!(option_env!("POTLUCK_REQUIRE_GPU").is_none(), "no WebGPU");
            console_log!("skipped: no WebGPU");
        }
        found.map(|found| found.device)
    }

    async fn train(device: &Device, example: &Example) -> Result<Computed, Ended> {
        let shift = Shift::new(1.0, Rc::default(), Rc::new(Rest::new()));
        run(device, &example.task, example.inputs(), &shift, |_| ()).await
    }

    async fn computed(device: &Device, example: &Example) -> Computed {
        train(device, example).await.ok().expect("a result")
    }

    /// Losses and update.
    fn decoded(config: &GptConfig, example: &Example, result: &[u8]) -> (Vec<f32>, Vec<f32>) {
        let (losses, update) = result.split_at(4 * example.task.steps as usize);
        let losses = losses.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (losses, Codec::F32.decode(update, Layout::new(config).parameters()).expect("an update"))
    }

    #[wasm_bindgen_test]
    async fn a_round_on_webgpu_passes_a_replay_in_wasm() {
        let example = tiny();
        let in_wasm = computed(&Device::Cpu, &example).await;
        assert_eq!(in_wasm.backend, Backend::WasmSimd);
        let Some(device) = gpu().await else { return };
        let config = GptConfig::tiny(65);
        let (expected_losses, expected) = decoded(&config, &example, &in_wasm.result);
        let tensors: Vec<_> = Layout::new(&config).tensors.iter().map(Tensor::range).collect();
        for _ in 0..2 {
            let started = Instant::now();
            let on_gpu = computed(&device, &example).await;
            assert_eq!(on_gpu.backend, Backend::WebGpu);
            let (losses, update) = decoded(&config, &example, &on_gpu.result);
            let tolerances = Tolerances::default();
            let report = compare(&update, &expected, &tensors, &losses, &expected_losses, &tolerances);
            let report = report.expect("finite");
            console_log!(
                "{:.2e} of the update, {:?}, wasm {:?}",
                report.whole,
                started.elapsed(),
                in_wasm.busy
            );
            assert!(report.confirmed(), "{:?}", report.verdict);
            assert!(on_gpu.result != in_wasm.result, "two engines, else nothing was compared");
        }
    }

    #[wasm_bindgen_test]
    async fn what_webgpu_does_not_take_trains_in_wasm() {
        let Some(device) = gpu().await else { return };
        // Heads of 3.
        let config = GptConfig { vocabulary: 11, context: 8, layers: 1, heads: 2, width: 6, bias: true };
        let example = rounds::example(config, 20_000, 1, 0);
        let done = computed(&device, &example).await;
        assert_eq!(done.backend, Backend::WasmSimd);
        assert!(done.result == example.result());
    }

    #[wasm_bindgen_test]
    async fn a_round_on_webgpu_ends_when_canceled_and_when_the_device_is_lost() {
        let Some(device) = gpu().await else { return };
        let mut example = tiny();
        example.task.steps = 4096;
        let cancel = Rc::new(AtomicBool::new(false));
        let shift = Shift::new(1.0, Rc::clone(&cancel), Rc::new(Rest::new()));
        let mut told = 0;
        let tell = |_| {
            told += 1;
            cancel.store(true, Ordering::Relaxed);
        };
        let ended = run(&device, &example.task, example.inputs(), &shift, tell).await;
        assert!(matches!(ended, Err(Ended::Canceled)));
        assert_eq!(told, 1);

        let Device::Gpu(lost) = &device else { unreachable!("WebGPU was asked for") };
        let shift = Shift::new(1.0, Rc::default(), Rc::new(Rest::new()));
        let ended = run(&device, &example.task, example.inputs(), &shift, |_| lost.gpu.destroy()).await;
        assert!(matches!(ended, Err(Ended::Failed(Failure::DeviceLost))));
        assert!(matches!(train(&device, &example).await, Err(Ended::Failed(Failure::DeviceLost))));
    }
}
