//! Sizes that the kernels define and the host must know: read from the kernels themselves.

use std::sync::Arc;

use ds4_model::{Dims, Error, Result};

use crate::args::Args;
use crate::device::{Device, Geometry};
use crate::launch::{MvJobsArg, RopesArg, RowsArg};
use crate::layer::{AttnArg, HcArg};
use crate::matrix::MatArg;
use crate::packed::{RowForm, RowForms};
use crate::seq::{LayerAddresses, Tok, raw_slots};

/// The values of the kernel `constants`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Constants {
    pub hc_slices: usize,
    pub hc_part: usize,
    pub hc_threads: u32,
    /// Threads of a block of `hc_fused`; 0 where it is not to be used.
    pub hc_fused_threads: u32,
    pub index_rows: usize,
    pub topk_threads: u32,
    pub expert_tile: usize,
    pub mm_q8_shared: u32,
    pub mm_q8_small_shared: u32,
    pub mm_q8_few_shared: u32,
    pub mm_f16_shared: u32,
    pub mm_f16_small_shared: u32,
    /// Of `exp_mm_gate_up_*` and `exp_mm_down_*`, in the order of `experts.rs`: shared memory and warps.
    pub experts: [(u32, u32); 5],
    /// Attention of many tokens, and of few.
    pub attn: AttnConstants,
    pub attn_few: AttnConstants,
    pub combine_threads: u32,
    /// Attention of one token in one launch; no threads where it does not exist.
    pub attn_one: AttnOneConstants,
    /// Forms of stored rows.
    pub rows: RowForms,
}

/// Of `attn_one`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttnOneConstants {
    /// Blocks that share some heads, and how many heads.
    pub blocks: usize,
    pub heads: usize,
    pub threads: u32,
    pub shared: u32,
}

/// Of one attention kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttnConstants {
    /// Heads of a block.
    pub heads: usize,
    pub threads: u32,
    pub shared: u32,
}

/// Values that `constants` writes.
const COUNT: usize = 44;

impl Constants {
    /// Asks the loaded kernels, and compares what both sides define.
    pub(crate) fn read(device: &Arc<Device>, dims: &Dims) -> Result<Self> {
        let out = device.alloc(4 * COUNT)?;
        device.launch("constants", Geometry::new(1, 1, 1), &mut Args::new().ptr(out.at()))?;
        let mut bytes = [0; 4 * COUNT];
        device.read(out.at(), &mut bytes)?;
        let v: Vec<usize> = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| usize::try_from(i32::from_le_bytes(*b)).unwrap_or(0))
            .collect();
        let sizes = [
            (v[5], size_of::<LayerAddresses>()),
            (v[6], size_of::<Tok>()),
            (v[7], size_of::<MatArg>()),
            (v[8], size_of::<MvJobsArg>()),
            (v[9], size_of::<RowsArg>()),
            (v[10], size_of::<RopesArg>()),
            (v[11], raw_slots(dims)),
            (v[36], size_of::<HcArg>()),
            (if v[38] == 0 { size_of::<AttnArg>() } else { v[41] }, size_of::<AttnArg>()),
        ];
        if let Some((theirs, ours)) = sizes.into_iter().find(|(a, b)| a != b) {
            let what = format!("the kernels are of another build ({theirs} for {ours}: {v:?})");
            return Err(Error::Device(what));
        }
        let rows = forms(dims, v[42], v[43])?;
        // It needs clusters of blocks. The variable is for comparisons.
        let has_fused =
            device.info.arch >= 90 && std::env::var_os("DS4_CUDA_NO_FUSED_HC").is_none();
        let small = |n: usize| u32::try_from(n).expect("a count of threads or bytes");
        Ok(Self {
            hc_slices: v[0],
            hc_part: v[1],
            hc_threads: small(v[2]),
            hc_fused_threads: if has_fused { small(v[35]) } else { 0 },
            index_rows: v[3],
            topk_threads: small(v[4]),
            expert_tile: v[12],
            mm_q8_shared: small(v[13]),
            mm_q8_small_shared: small(v[14]),
            mm_q8_few_shared: small(v[34]),
            mm_f16_shared: small(v[15]),
            mm_f16_small_shared: small(v[16]),
            attn: AttnConstants { heads: v[27], threads: small(v[28]), shared: small(v[29]) },
            attn_few: AttnConstants { heads: v[30], threads: small(v[31]), shared: small(v[32]) },
            combine_threads: small(v[33]),
            attn_one: AttnOneConstants {
                blocks: v[37],
                threads: small(v[38]),
                shared: small(v[39]),
                heads: v[40],
            },
            rows,
            experts: std::array::from_fn(|i| (small(v[17 + 2 * i]), small(v[18 + 2 * i]))),
        })
    }
}

/// The forms of rows from the bytes that the kernels give them.
fn forms(dims: &Dims, kv: usize, index: usize) -> Result<RowForms> {
    let plain = dims.head_dim - dims.rope_dim;
    let choose = |all: [RowForm; 2], width: usize, bytes: usize| {
        let found = all.into_iter().find(|form| form.bytes(width) == bytes);
        found.ok_or_else(|| Error::Device(format!("the kernels have rows of {bytes} bytes")))
    };
    Ok(RowForms {
        kv: choose([RowForm::Fp8 { plain }, RowForm::F16], dims.head_dim, kv)?,
        index: choose([RowForm::Fp4, RowForm::F16], dims.index_dim, index)?,
    })
}
