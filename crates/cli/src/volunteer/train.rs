//! Parts of training rounds, in the thread that computes: on the GPU where that pays, else on the CPU.

use super::burn;
use super::kernel::{Device, Done, Ended, rest_for, take_rest};
use potluck_proto::{Backend, TrainTask};
use potluck_train::{Engine, Model};
use potluck_volunteer::train::{Finished, Prepared, TaskError, TrainRun};
use potluck_volunteer::trainer::{AnyGpt, Pace};
use potluck_volunteer::{Failure, TrainInputs};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Progress is told at most this often.
const TELL_INTERVAL: Duration = Duration::from_millis(250);

impl From<TaskError> for Ended {
    fn from(error: TaskError) -> Self {
        tracing::warn!(%error, "a part of a round failed");
        Self::Failed(Failure::from(&error))
    }
}

/// Time at work, and rest that is owed for it.
struct Shift<'a> {
    began: Instant,
    share: f64,
    cancel: &'a AtomicBool,
    busy: Duration,
    owed: Duration,
}

impl Shift<'_> {
    /// Counts the time since `started` as work.
    fn worked(&mut self, started: Instant) {
        let took = started.elapsed();
        self.busy += took;
        self.owed += rest_for(took, self.share);
    }

    fn rest(&mut self) -> Result<(), Ended> {
        if take_rest(std::mem::take(&mut self.owed), self.cancel) { Ok(()) } else { Err(Ended::Canceled) }
    }
}

impl Pace for Shift<'_> {
    type Stop = Ended;

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn rest(&mut self, started: Duration) -> Result<(), Ended> {
        self.worked(self.began + started);
        self.rest()
    }
}

/// Takes a worker's inner steps, on a GPU if there is one and it pays; also says what computed them. Between two of them
/// it rests as `share` says, ends if canceled, and now and then calls `tell` with the number of steps that are done.
pub(super) async fn run(
    device: Option<&Device>,
    task: &TrainTask,
    inputs: TrainInputs,
    share: f64,
    cancel: &AtomicBool,
    tell: impl FnMut(u32),
) -> Result<(Done, Backend), Ended> {
    let mut shift =
        Shift { began: Instant::now(), share, cancel, busy: Duration::ZERO, owed: Duration::ZERO };
    let started = Instant::now();
    let prepared = Prepared::new(task, inputs)?;
    shift.worked(started);
    let batch = [task.sequences as usize, task.length as usize];
    let config = match prepared.model() {
        Model::Gpt(config) => config,
        Model::Digits => {
            let started = Instant::now();
            let (engine, on_gpu) = match device {
                Some(Device { burn, choice, .. }) => burn.engine(*choice).await.map_err(TaskError::from)?,
                None => (burn::on_cpu().map_err(TaskError::from)?, false),
            };
            shift.worked(started);
            let result = take(&prepared, engine, &mut shift, tell).await?;
            let backend = if on_gpu { Backend::NativeGpu } else { Backend::NativeCpu };
            return Ok(((result, shift.busy, shift.owed), backend));
        }
    };
    let engine = match device {
        Some(Device { gpu, trainer, .. }) => trainer.engine(gpu, config, batch, &mut shift).await?,
        None => AnyGpt::cpu(config)?,
    };
    if let AnyGpt::Cpu { why: Some(why), .. } = &engine {
        tracing::info!(%why, "this round runs on the CPU");
    }
    let backend = if engine.is_on_gpu() { Backend::NativeGpu } else { Backend::NativeCpu };
    let result = take(&prepared, engine, &mut shift, tell).await?;
    Ok(((result, shift.busy, shift.owed), backend))
}

/// Takes the steps, with rests between them.
async fn take(
    prepared: &Prepared,
    engine: impl Engine,
    shift: &mut Shift<'_>,
    mut tell: impl FnMut(u32),
) -> Result<Finished, Ended> {
    let mut told = Instant::now();
    let started = Instant::now();
    let mut training = TrainRun::start(prepared, engine).await?;
    shift.worked(started);
    while !training.progress().complete() {
        shift.rest()?;
        let started = Instant::now();
        let progress = training.step().await?;
        shift.worked(started);
        if told.elapsed() >= TELL_INTERVAL {
            told = Instant::now();
            tell(progress.done);
        }
    }
    shift.rest()?;
    let started = Instant::now();
    let result = training.finish().await?;
    shift.worked(started);
    Ok(result)
}

#[cfg(test)]
#[path = "../../../volunteer/tests/rounds/mod.rs"]
mod rounds;

#[cfg(test)]
mod tests {
    use super::rounds::{self, now};
    use super::*;
    use potluck_kernels::{Gpu, GpuOptions, Variant};
    use potluck_proto::UpdateCodec;
    use potluck_train::codec::Codec;
    use potluck_train::gpt::{GptConfig, Layout, Tensor};
    use potluck_verify::{Tolerances, compare};
    use potluck_volunteer::Choice;
    use std::sync::atomic::Ordering;

    fn tiny() -> rounds::Example {
        rounds::example(GptConfig::tiny(65), 20_000, 2, 1)
    }

    fn train(example: &rounds::Example, share: f64, cancel: &AtomicBool) -> Result<Done, Ended> {
        let ran = now(run(None, &example.task, example.inputs(), share, cancel, |_| ()));
        ran.map(|(done, backend)| {
            assert_eq!(backend, Backend::NativeCpu);
            done
        })
    }

    #[test]
    fn a_round_gives_the_bytes_that_the_library_gives() {
        let example = tiny();
        let (done, busy, owed) = train(&example, 1.0, &AtomicBool::new(false)).unwrap();
        assert_eq!(example.task.steps, 2);
        assert_eq!(done, example.result().into());
        assert!(busy > Duration::ZERO && owed == Duration::ZERO);
    }

    #[test]
    fn half_of_the_time_is_rested() {
        let started = Instant::now();
        let (_, busy, owed) = train(&tiny(), 0.5, &AtomicBool::new(false)).unwrap();
        assert!(started.elapsed() + owed >= busy * 2);
    }

    #[test]
    fn a_round_can_be_canceled_before_it_begins_and_on_its_way() {
        let example = tiny();
        let cancel = AtomicBool::new(true);
        assert_eq!(train(&example, 1.0, &cancel).map(drop), Err(Ended::Canceled));
        cancel.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            // At a hundredth of the time, the rests between the steps are far longer than this.
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(5));
                cancel.store(true, Ordering::Relaxed);
            });
            assert_eq!(train(&example, 0.01, &cancel).map(drop), Err(Ended::Canceled));
        });
    }

    #[test]
    fn a_bad_round_is_not_the_device_s_fault() {
        let example = tiny();
        let mut inputs = example.inputs();
        inputs.outer_steps.clear();
        let cancel = AtomicBool::new(false);
        let bad = now(run(None, &example.task, inputs, 1.0, &cancel, |_| ()));
        assert_eq!(bad.map(drop), Err(Ended::Failed(Failure::BadTask)));
    }

    /// `None` where there is no GPU, not even a software adapter; a build with `POTLUCK_REQUIRE_GPU` fails there.
    fn device(choice: Choice) -> Option<Device> {
        match wait(Gpu::request(GpuOptions::default())) {
            Ok(gpu) => Some(Device::new(gpu, Variant::Direct16x8, choice)),
            Err(error) => {
                assert!(option_env!("POTLUCK_REQUIRE_GPU").is_none(), "{error}");
                println!("skipped: {error}");
                None
            }
        }
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn train_on(device: &Device, example: &rounds::Example) -> Result<(Done, Backend), Ended> {
        let cancel = AtomicBool::new(false);
        wait(run(Some(device), &example.task, example.inputs(), 1.0, &cancel, |_| ()))
    }

    /// Losses and update.
    fn decoded(config: &GptConfig, example: &rounds::Example, result: &[u8]) -> (Vec<f32>, Vec<f32>) {
        let (losses, update) = result.split_at(4 * example.task.steps as usize);
        let losses = losses.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (losses, Codec::F32.decode(update, Layout::new(config).parameters()).unwrap())
    }

    #[test]
    fn a_round_on_the_gpu_passes_a_replay_on_the_cpu() {
        let Some(device) = device(Choice::Gpu) else { return };
        let config = GptConfig::tiny(65);
        let mut example = tiny();
        (example.task.codec, example.task.steps) = (UpdateCodec::F32, 10);
        let (replayed, _, _) = train(&example, 1.0, &AtomicBool::new(false)).unwrap();
        let (expected_losses, expected) = decoded(&config, &example, &replayed.result);
        let tensors: Vec<_> = Layout::new(&config).tensors.iter().map(Tensor::range).collect();
        let mut seen = Vec::new();
        // The second time from kernels that are already compiled.
        for _ in 0..2 {
            let ((result, busy, _), backend) = train_on(&device, &example).unwrap();
            assert_eq!(backend, Backend::NativeGpu);
            assert!(busy > Duration::ZERO);
            let (losses, update) = decoded(&config, &example, &result.result);
            let tolerances = Tolerances::default();
            let report =
                compare(&update, &expected, &tensors, &losses, &expected_losses, &tolerances).unwrap();
            assert!(report.confirmed(), "{:?}", report.verdict);
            println!("{:.2e} of the update, worst tensor {:?}", report.whole, report.worst_tensor());
            seen.push(result);
        }
        assert!(seen[0] == seen[1], "a device repeats its own bits");
        assert!(seen[0] != replayed, "two engines, else nothing was compared");
    }

    #[test]
    fn a_model_that_the_gpu_does_not_take_trains_on_the_cpu() {
        let Some(device) = device(Choice::Gpu) else { return };
        // Heads of 3.
        let config = GptConfig { vocabulary: 11, context: 8, layers: 1, heads: 2, width: 6, bias: true };
        let example = rounds::example(config, 20_000, 1, 0);
        for _ in 0..2 {
            let ((result, _, _), backend) = train_on(&device, &example).unwrap();
            assert_eq!(backend, Backend::NativeCpu);
            assert_eq!(result, example.result().into());
        }
    }

    #[test]
    fn a_lost_device_is_said_to_be_lost() {
        let Some(device) = device(Choice::Gpu) else { return };
        let example = tiny();
        train_on(&device, &example).unwrap();
        device.gpu.destroy();
        let lost = train_on(&device, &example);
        assert_eq!(lost.map(drop), Err(Ended::Failed(Failure::DeviceLost)));
    }

    #[test]
    fn a_round_on_the_gpu_can_be_canceled() {
        let Some(device) = device(Choice::Auto) else { return };
        let example = tiny();
        let cancel = AtomicBool::new(false);
        let mut steps = 0;
        let ran = wait(async {
            let tell = |_| {
                steps += 1;
                cancel.store(true, Ordering::Relaxed);
            };
            let mut example = tiny();
            example.task.steps = 4096;
            run(Some(&device), &example.task, example.inputs(), 1.0, &cancel, tell).await
        });
        assert_eq!(ran.map(drop), Err(Ended::Canceled));
        assert_eq!(steps, 1);
        cancel.store(true, Ordering::Relaxed);
        let ran = wait(run(Some(&device), &example.task, example.inputs(), 1.0, &cancel, |_| ()));
        assert_eq!(ran.map(drop), Err(Ended::Canceled));
    }
}
