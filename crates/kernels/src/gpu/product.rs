//! One product on the device: upload with padding, bands, readback.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use potluck_types::{DType, MatmulShape};
use web_time::Instant;

use super::band::{Band, Bands};
use super::device::{ALL_ERRORS, Gpu, SUBMIT_ERRORS, Submission};
use super::pool::{Pooled, Use, size_class};
use super::throughput::Throughput;
use crate::error::KernelError;
use crate::limits::{DISPATCH_TARGET, MAX_BANDS_IN_FLIGHT, SOFTWARE_DISPATCH_TARGET};
use crate::operands::{Operands, Output};
use crate::wgsl::{self, ShaderKey, Variant};

/// A product whose operands are on the device; run it as often as you like.
pub struct GpuProduct {
    shape: MatmulShape,
    key: ShaderKey,
    /// Rows of A and C, padded.
    rows: u32,
    /// Words in a row of B and C, padded.
    nw: u32,
    a: Pooled,
    b: Pooled,
    c: Pooled,
    /// `nw / 4`, for the shader.
    width: Pooled,
    /// Bound whole, for products of one band.
    whole: wgpu::BindGroup,
    pipeline: wgpu::ComputePipeline,
}

impl GpuProduct {
    /// Shape without padding.
    pub fn shape(&self) -> MatmulShape {
        self.shape
    }

    /// Kernel shape.
    pub fn variant(&self) -> Variant {
        self.key.variant
    }

    fn c_bytes(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.nw) * 4
    }

    fn whole_band(&self) -> Band {
        Band { row: 0, rows: self.rows, col: 0, cols: self.nw }
    }

    fn depth(&self) -> u32 {
        self.key.kw * wgsl::elements_per_word(self.key.dtype)
    }
}

impl Gpu {
    /// Copies the operands to the device, padded with zeros to whole tiles of `variant`, and compiles the kernel.
    ///
    /// # Errors
    /// As [`Gpu::matmul`].
    pub async fn upload(
        &self,
        shape: MatmulShape,
        operands: Operands<'_>,
        variant: Variant,
    ) -> Result<GpuProduct, KernelError> {
        operands.check(shape)?;
        self.check_alive()?;
        let dtype = operands.dtype();
        let tile = variant.tile();
        let kw = shape.k.div_ceil(wgsl::elements_per_word(dtype)).next_multiple_of(wgsl::depth_multiple());
        let nw = shape.n.next_multiple_of(tile.cols);
        let rows = shape.m.next_multiple_of(tile.rows);
        let (a_bytes, b_bytes, c_bytes) = (bytes(rows, kw), bytes(kw, nw), bytes(rows, nw));
        self.check_sizes(&[a_bytes, b_bytes, c_bytes])?;
        let key = self.key(variant, dtype, kw);
        let (a_words, b_words) = match operands {
            Operands::F32 { a, bt } => (
                pad_rows(a, shape.k as usize, rows as usize, kw as usize, f32::to_bits),
                transpose(bt, shape.k as usize, shape.n as usize, kw as usize, nw as usize, f32::to_bits),
            ),
            Operands::Int8 { a, bt } => {
                let (a, bt) = (pack_int8(a, shape.k as usize), pack_int8(bt, shape.k as usize));
                let packed = (shape.k as usize).div_ceil(4);
                (
                    pad_rows(&a, packed, rows as usize, kw as usize, |w| w),
                    transpose(&bt, packed, shape.n as usize, kw as usize, nw as usize, |w| w),
                )
            }
        };
        let scopes = self.open_scopes(ALL_ERRORS);
        let product = (|| {
            let a = self.pool.take(&self.device, Use::Storage, a_bytes);
            let b = self.pool.take(&self.device, Use::Storage, b_bytes);
            let c = self.pool.take(&self.device, Use::Storage, c_bytes);
            let width = self.pool.take(&self.device, Use::Uniform, 4);
            let pipeline = self.pipeline(key);
            let (a_buffer, b_buffer, c_buffer, width_buffer) = (a.get()?, b.get()?, c.get()?, width.get()?);
            self.queue.write_buffer(width_buffer, 0, &(nw / 4).to_le_bytes());
            self.queue.write_buffer(a_buffer, 0, bytemuck::cast_slice(&a_words));
            self.queue.write_buffer(b_buffer, 0, bytemuck::cast_slice(&b_words));
            let operands = [(a_buffer, 0, a_bytes), (b_buffer, 0, b_bytes), (c_buffer, 0, c_bytes)];
            let whole = self.bind(operands, width_buffer);
            Some(GpuProduct { shape, key, rows, nw, a, b, c, width, whole, pipeline })
        })();
        let verdict = scopes.close();
        self.judge(verdict.await)?;
        product.ok_or(KernelError::OutOfMemory)
    }

    /// Computes the product on the device, in bands.
    ///
    /// # Errors
    /// As [`Gpu::matmul`].
    pub async fn run(&self, product: &GpuProduct, cancel: &AtomicBool) -> Result<(), KernelError> {
        for (submission, verdict) in self.submit_bands(product, cancel).await? {
            let finished = self.finished(submission).await;
            self.judge(verdict.await)?;
            finished?;
        }
        self.check_alive()
    }

    /// Copies the result back and cuts off the padding.
    ///
    /// # Errors
    /// As [`Gpu::matmul`].
    pub async fn read(&self, product: &GpuProduct) -> Result<Output, KernelError> {
        self.check_alive()?;
        let (m, n, nw) = (product.shape.m as usize, product.shape.n as usize, product.nw as usize);
        let wanted = (m * nw * 4) as u64;
        let scopes = self.open_scopes(ALL_ERRORS);
        let copy = (|| {
            let staging = self.pool.take(&self.device, Use::Readback, wanted);
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let (sender, mapped) = futures_channel::oneshot::channel();
            let (c, to) = (product.c.get()?, staging.get()?);
            encoder.copy_buffer_to_buffer(c, 0, to, 0, wanted);
            let submission = self.submit(encoder.finish());
            to.map_async(wgpu::MapMode::Read, 0..wanted, move |result| {
                // The receiver is gone if nobody waits any more.
                let _ = sender.send(result.is_ok());
            });
            Some((staging, submission, mapped))
        })();
        let verdict = scopes.close();
        let Some((staging, submission, mapped)) = copy else { return Err(KernelError::OutOfMemory) };
        let waited = self.mapped(submission, mapped).await;
        let judged = self.judge(verdict.await).and(waited);
        let output = match (judged, staging.get()) {
            (Ok(()), Some(buffer)) => buffer
                .get_mapped_range(0..wanted)
                .map(|view| crop(&view, product.key.dtype, m, n, nw))
                .map_err(|e| KernelError::Validation { reason: e.to_string() }),
            (Ok(()), None) => Err(KernelError::OutOfMemory),
            (Err(e), _) => Err(e),
        };
        match (&output, staging.get()) {
            (Ok(_), Some(buffer)) => buffer.unmap(),
            _ => staging.discard(),
        }
        output
    }

    /// [`Gpu::run`] and [`Gpu::read`] without waiting in between.
    ///
    /// # Errors
    /// As [`Gpu::matmul`].
    pub async fn run_and_read(
        &self,
        product: &GpuProduct,
        cancel: &AtomicBool,
    ) -> Result<Output, KernelError> {
        // The queue keeps the order: the copy waits for the bands on the device.
        let pending = self.submit_bands(product, cancel).await?;
        let output = self.read(product).await;
        for (_, verdict) in pending {
            self.judge(verdict.await)?;
        }
        output
    }

    /// Fills the output on the device, padding included, with a bit pattern: a test sees what a kernel did not write.
    pub fn fill_output(&self, product: &GpuProduct, bits: u32) {
        if let Some(buffer) = product.c.get() {
            let words = vec![bits; (product.c_bytes() / 4) as usize];
            self.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&words));
        }
    }

    /// Hands all bands to the queue. The last ones may still run: they come back with their verdicts, which must be
    /// awaited before the result counts.
    async fn submit_bands(
        &self,
        product: &GpuProduct,
        cancel: &AtomicBool,
    ) -> Result<Vec<(Submission, impl Future<Output = Result<(), KernelError>>)>, KernelError> {
        self.check_alive()?;
        let (variant, dtype) = (product.key.variant, product.key.dtype);
        let max_groups = self.device.limits().max_compute_workgroups_per_dimension;
        let mut bands = Bands::new(variant.tile(), product.rows, product.nw, product.depth(), max_groups);
        let mut in_flight: VecDeque<_> = VecDeque::new();
        let mut throughput = Throughput::new();
        let target = if self.adapter().is_software { SOFTWARE_DISPATCH_TARGET } else { DISPATCH_TARGET };
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(KernelError::Cancelled);
            }
            let rate = self.rate(variant, dtype);
            let Some(band) = bands.next(rate * target.as_secs_f64()) else { break };
            let flops = 2.0 * band.rows as f64 * band.cols as f64 * product.depth() as f64;
            let scopes = self.open_scopes(SUBMIT_ERRORS);
            let submission = self.submit_band(product, band);
            let verdict = scopes.close();
            let Some(submission) = submission else { return Err(KernelError::OutOfMemory) };
            in_flight.push_back((submission, verdict, flops, Instant::now()));
            if in_flight.len() >= MAX_BANDS_IN_FLIGHT
                && let Some((submission, verdict, flops, submitted)) = in_flight.pop_front()
            {
                let finished = self.finished(submission).await;
                self.judge(verdict.await)?;
                finished?;
                self.set_rate(variant, dtype, throughput.heard(rate, flops, submitted, Instant::now()));
            }
        }
        Ok(in_flight.into_iter().map(|(submission, verdict, ..)| (submission, verdict)).collect())
    }

    fn submit_band(&self, product: &GpuProduct, band: Band) -> Option<Submission> {
        let (tile, kw, nw) = (product.key.variant.tile(), product.key.kw, product.nw);
        let part;
        let group = if band == product.whole_band() {
            &product.whole
        } else {
            // Bands start at whole tiles: these offsets are multiples of 256 bytes, which WebGPU asks for.
            let (a_at, b_at) = (bytes(band.row, kw), u64::from(band.col) * 4);
            let c_at = bytes(band.row, nw) + b_at;
            let c_end = bytes(band.row + band.rows - 1, nw) + u64::from(band.col + band.cols) * 4;
            let operands = [
                (product.a.get()?, a_at, bytes(band.rows, kw)),
                (product.b.get()?, b_at, bytes(kw, nw) - b_at),
                (product.c.get()?, c_at, c_end - c_at),
            ];
            part = self.bind(operands, product.width.get()?);
            &part
        };
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&product.pipeline);
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(band.cols / tile.cols, band.rows / tile.rows, 1);
        }
        Some(self.submit(encoder.finish()))
    }

    fn bind(&self, operands: [(&wgpu::Buffer, u64, u64); 3], width: &wgpu::Buffer) -> wgpu::BindGroup {
        let [a, b, c] = operands;
        let entries = [a, b, c, (width, 0, 4)];
        let entries: [_; 4] = std::array::from_fn(|i| {
            let (buffer, offset, size) = entries[i];
            wgpu::BindGroupEntry {
                binding: i as u32,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer,
                    offset,
                    size: wgpu::BufferSize::new(size),
                }),
            }
        });
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.layout,
            entries: &entries,
        })
    }

    fn check_sizes(&self, sizes: &[u64]) -> Result<(), KernelError> {
        let limits = self.device.limits();
        let limit = limits.max_buffer_size.min(limits.max_storage_buffer_binding_size);
        match sizes.iter().map(|s| size_class(*s)).find(|s| *s > limit) {
            None => Ok(()),
            Some(actual) => Err(KernelError::TooLarge { what: "the bytes of a GPU buffer", limit, actual }),
        }
    }

    /// Turns the verdict of error scopes into the result of an operation, and a lost device into its own error.
    fn judge(&self, verdict: Result<(), KernelError>) -> Result<(), KernelError> {
        if verdict.is_err() || self.is_lost() {
            self.forget_caches();
        }
        self.check_alive()?;
        verdict
    }

    #[cfg_attr(target_arch = "wasm32", expect(unused_variables, reason = "only native code polls"))]
    async fn mapped(
        &self,
        submission: Submission,
        mapped: futures_channel::oneshot::Receiver<bool>,
    ) -> Result<(), KernelError> {
        #[cfg(not(target_arch = "wasm32"))]
        self.finished(submission).await?;
        let mapped = mapped.await == Ok(true);
        self.check_alive()?;
        if mapped {
            Ok(())
        } else {
            Err(KernelError::Validation { reason: "the result could not be mapped".to_owned() })
        }
    }
}

fn bytes(rows: u32, words: u32) -> u64 {
    u64::from(rows) * u64::from(words) * 4
}

/// Rows of `width` elements to `rows` rows of `words` words, the rest zero.
fn pad_rows<T: Copy>(
    from: &[T],
    width: usize,
    rows: usize,
    words: usize,
    word: impl Fn(T) -> u32,
) -> Vec<u32> {
    let mut to = vec![0; rows * words];
    for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(words)) {
        for (x, w) in from.iter().zip(to) {
            *w = word(*x);
        }
    }
    to
}

/// `cols` rows of `width` elements to `words` rows of `stride` words, transposed, the rest zero.
///
/// In blocks of 16 x 16, so that both sides stay in cache lines that are already loaded.
fn transpose<T: Copy>(
    from: &[T],
    width: usize,
    cols: usize,
    words: usize,
    stride: usize,
    word: impl Fn(T) -> u32,
) -> Vec<u32> {
    const BLOCK: usize = 16;
    let mut to = vec![0; words * stride];
    for k0 in (0..width).step_by(BLOCK) {
        for j0 in (0..cols).step_by(BLOCK) {
            for k in k0..(k0 + BLOCK).min(width) {
                let row = &mut to[k * stride..(k + 1) * stride];
                for j in j0..(j0 + BLOCK).min(cols) {
                    row[j] = word(from[j * width + k]);
                }
            }
        }
    }
    to
}

/// Packs four int8 that follow each other along K into a word; the last word of a row is filled with zeros.
fn pack_int8(from: &[i8], width: usize) -> Vec<u32> {
    from.chunks_exact(width)
        .flat_map(|row| {
            row.chunks(4).map(|four| {
                let mut bytes = [0_u8; 4];
                for (to, x) in bytes.iter_mut().zip(four) {
                    *to = x.cast_unsigned();
                }
                u32::from_le_bytes(bytes)
            })
        })
        .collect()
}

/// The first `n` of each `stride` elements of `m` rows.
fn crop(bytes: &[u8], dtype: DType, m: usize, n: usize, stride: usize) -> Output {
    fn rows<T: bytemuck::Pod>(bytes: &[u8], m: usize, n: usize, stride: usize) -> Vec<T> {
        let mut to = vec![T::zeroed(); m * n];
        let raw: &mut [u8] = bytemuck::cast_slice_mut(&mut to);
        for (to, from) in raw.chunks_exact_mut(n * 4).zip(bytes.chunks_exact(stride * 4)) {
            to.copy_from_slice(&from[..n * 4]);
        }
        to
    }
    match dtype {
        DType::F32 => Output::F32(rows(bytes, m, n, stride)),
        DType::Int8 => Output::I32(rows(bytes, m, n, stride)),
    }
}
