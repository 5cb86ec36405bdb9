//! From panels to a product, on the CPU kernels: what adapters do with a [`Run`](crate::Run).

use potluck_kernels::{KernelError, Operand};
use potluck_proto::MatmulTask;
use potluck_types::MatmulShape;
use std::sync::Arc;

/// A task's operands, stacked from their panels.
#[derive(Debug)]
pub struct Assembled {
    /// The tile's shape.
    pub shape: MatmulShape,
    /// A, rows x depth.
    pub a: Operand,
    /// B transposed, cols x depth.
    pub bt: Operand,
}

/// Stacks panels.
///
/// # Shapes
/// `a` panels stacked are rows x depth, `bt` panels stacked are cols x depth, row-major, little-endian.
///
/// # Errors
/// A panel whose length is no whole number of elements. Whether the lengths fit the shape is checked by the
/// kernel.
pub fn assemble(
    task: &MatmulTask,
    a: &[Arc<Vec<u8>>],
    bt: &[Arc<Vec<u8>>],
) -> Result<Assembled, KernelError> {
    let stack = |panels: &[Arc<Vec<u8>>]| {
        let mut operand = Operand::new(task.dtype);
        panels.iter().try_for_each(|panel| operand.extend_from_le_bytes(panel))?;
        Ok(operand)
    };
    let shape = MatmulShape { m: task.rows, k: task.depth, n: task.cols };
    Ok(Assembled { shape, a: stack(a)?, bt: stack(bt)? })
}

/// Computes a task at once on the CPU; adapters that must stay responsive step a `CpuJob` instead.
///
/// # Errors
/// Operands that do not fit the task's shape, or exceed the kernels' limits.
pub fn on_cpu(task: &MatmulTask, a: &[Arc<Vec<u8>>], bt: &[Arc<Vec<u8>>]) -> Result<Vec<u8>, KernelError> {
    let assembled = assemble(task, a, bt)?;
    let operands = Operand::pair(&assembled.a, &assembled.bt)?;
    Ok(potluck_kernels::cpu::matmul(assembled.shape, operands)?.to_le_bytes())
}
