//! Which routed experts lie on the device when not all of them fit: the same number of every layer,
//! as many as the memory holds. The processor computes the others from the file's pages.
//!
//! Experts are chosen nearly evenly in a trained model (§2.9: the bias balances them), so without
//! statistics of their use no expert is better kept than another.

use ds4_model::{Error, Matrix, ModelFile, Result};

use crate::matrix::device_bytes;
use crate::runner::CudaOptions;
use crate::{scratch, weights};

/// Memory that is left to the driver and to fragmentation.
const RESERVE: u64 = 1 << 30;

/// A plan of the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Experts of every trunk layer on the device.
    pub n_expert: usize,
    /// Bytes of everything but the trunk's routed experts: other weights, steps, reserve.
    pub fixed_bytes: u64,
    /// Bytes of one expert of every trunk layer.
    pub expert_bytes: u64,
}

impl Plan {
    /// Plans for `free` bytes of device memory.
    ///
    /// # Errors
    /// [`Error::Memory`] when not even the dense weights and one expert of every layer fit; says
    /// what would.
    pub fn new(file: &ModelFile, options: &CudaOptions, free: u64) -> Result<Self> {
        let all = file.dims.n_expert;
        let free = options.vram_bytes.map_or(free, |limit| limit.min(free));
        let expert_bytes: u64 = file.weights.layers.iter().map(|l| one_of(&l.experts, all)).sum();
        let fixed_bytes = weights::weight_bytes(file) - expert_bytes * all as u64
            + scratch::step_bytes(&file.dims, options.chunk_max)
            + RESERVE;
        let plan = |n_expert| Self { n_expert, fixed_bytes, expert_bytes };
        if plan(all).bytes() + options.seq_bytes <= free {
            return Ok(plan(all));
        }
        let room = free.saturating_sub(fixed_bytes + options.seq_bytes);
        match usize::try_from(room / expert_bytes.max(1)) {
            Ok(n) if n >= 1 => Ok(plan(n.min(all))),
            _ => Err(too_small(file, fixed_bytes + options.seq_bytes + expert_bytes, free)),
        }
    }

    /// Whether every expert lies on the device.
    pub fn is_whole(&self, file: &ModelFile) -> bool {
        self.n_expert == file.dims.n_expert
    }

    /// Bytes it takes on the device before the first sequence.
    pub fn bytes(&self) -> u64 {
        self.fixed_bytes + self.expert_bytes * self.n_expert as u64
    }
}

/// Bytes of one expert on the device.
fn one_of(experts: &ds4_model::FfnWeights, n: usize) -> u64 {
    let bytes = |m: &Matrix| device_bytes(m, true);
    (bytes(&experts.gate) + bytes(&experts.up) + bytes(&experts.down)) / n as u64
}

fn too_small(file: &ModelFile, least: u64, free: u64) -> Error {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    Error::Memory(format!(
        "the GPU has {} to use, but {} is the least this model takes there, with nearly all of its \
         experts computed by the CPU (all on the GPU: {}); free some of its memory, raise \
         --vram-gb, or use --backend cpu",
        gib(free),
        gib(least),
        gib(weights::weight_bytes(file) + RESERVE)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ds4_model::testing::quant;

    #[test]
    fn as_many_experts_as_fit() {
        let file = quant();
        let options = CudaOptions { chunk_max: 64, seq_bytes: 1 << 30, ..CudaOptions::default() };
        let whole = Plan::new(&file, &options, u64::MAX).unwrap();
        assert!(whole.is_whole(&file));
        let limit = |n: u64| whole.fixed_bytes + options.seq_bytes + n * whole.expert_bytes;
        for n in [1, 3, 7] {
            let plan = Plan::new(&file, &options, limit(n) + 5).unwrap();
            assert_eq!(plan.n_expert as u64, n);
        }
        let small = Plan::new(&file, &options, whole.fixed_bytes - 1);
        assert!(matches!(small, Err(Error::Memory(text)) if text.contains("least")));
        let limited = CudaOptions { vram_bytes: Some(1000), ..options };
        assert!(Plan::new(&file, &limited, u64::MAX).is_err());
    }
}
