//! The experts that lie outside the device: chosen ones are computed by the processor's kernels
//! while the device computes its own.

use std::sync::{Arc, Mutex, PoisonError};

use ds4_cpu::{Chosen, HostExperts};
use ds4_model::{ModelFile, Numerics, Result};
use zerocopy::IntoBytes;

use crate::args::Args;
use crate::device::{Buf, Device, Geometry};
use crate::step::Step;

/// The processor's half.
pub(crate) struct Hybrid {
    /// Experts of a layer on the device: those with lower numbers.
    pub n_device: usize,
    experts: Mutex<HostExperts>,
    /// What the processor computed: `[t, n_embd]`.
    y: Buf,
}

/// Choices left to the processor, with the input they read.
pub(crate) struct Outside {
    x: Vec<f32>,
    choices: Vec<Chosen>,
}

impl Hybrid {
    /// For steps of at most `t` tokens.
    pub(crate) fn new(
        device: &Arc<Device>,
        file: &Arc<ModelFile>,
        numerics: Numerics,
        threads: usize,
        n_device: usize,
        t: usize,
    ) -> Result<Self> {
        let experts = Mutex::new(HostExperts::new(file, numerics, threads)?);
        Ok(Self { n_device, experts, y: device.alloc(4 * t * file.dims.n_embd)? })
    }

    /// Takes the choices of experts outside the device; on the device they get weight 0 and some
    /// expert there.
    pub(crate) fn take(&self, step: &Step<'_>) -> Result<Outside> {
        let (m, s, d) = (step.m, &step.m.scratch, &step.m.dims);
        let n = step.t * d.n_expert_used;
        let (mut ids, mut weights) = (vec![0_i32; n], vec![0.0_f32; n]);
        m.device.read(s.ids.at(), ids.as_mut_bytes())?;
        m.device.read(s.weights.at(), weights.as_mut_bytes())?;
        let mut choices: Vec<Chosen> = ids
            .iter()
            .zip(&weights)
            .enumerate()
            .filter(|(_, (id, _))| usize::try_from(**id).is_ok_and(|id| id >= self.n_device))
            .map(|(i, (&id, &weight))| Chosen {
                token: u32::try_from(i / d.n_expert_used).expect("few tokens"),
                expert: u16::try_from(id).expect("checked by Dims"),
                weight,
            })
            .collect();
        choices.sort_by_key(|c| (c.expert, c.token));
        let mut x = Vec::new();
        if !choices.is_empty() {
            x = vec![0.0_f32; step.t * d.n_embd];
            m.device.read(s.x.f.at(), x.as_mut_bytes())?;
            let mut args =
                Args::new().ptr(s.ids.at()).ptr(s.weights.at()).int(n).int(self.n_device);
            step.launch("keep_inside", Geometry::new(n.div_ceil(256), 1, 256), &mut args)?;
        }
        Ok(Outside { x, choices })
    }

    /// Computes what was taken, and adds it to `y` after the device's own experts.
    pub(crate) fn add(&self, step: &Step<'_>, il: usize, outside: &Outside) -> Result<()> {
        if outside.choices.is_empty() {
            return Ok(());
        }
        let (m, n) = (step.m, outside.x.len());
        let mut y = vec![0.0; n];
        let mut experts = self.experts.lock().unwrap_or_else(PoisonError::into_inner);
        experts.run(il, &outside.x, &outside.choices, &mut y)?;
        m.device.write(self.y.at(), y.as_bytes())?;
        let mut args = Args::new().ptr(self.y.at()).ptr(m.scratch.y.at()).long(n);
        step.launch("add_values", Geometry::new(n.div_ceil(1024), 1, 256), &mut args)?;
        // The host's copy must outlive the transfer.
        m.device.sync()
    }
}
