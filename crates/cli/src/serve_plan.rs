//! How much memory sessions may take, settled and said before anything large is loaded.

use anyhow::{Result, bail};
use ds4_cpu::CpuOptions;
use ds4_model::memory::SeqPlan;
use ds4_model::{ModelFile, Runner};

use crate::backend::Room;
use crate::machine::{available_bytes, gib};

/// Sessions when nobody asked for a number.
const PARALLEL_MAX: usize = 8;
/// Bytes of checkpoints within sessions.
const MARKS_BYTES_MAX: u64 = 2 << 30;

/// What sessions get.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Sessions.
    pub parallel: usize,
    /// Bytes of checkpoints.
    pub marks_bytes: u64,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Tokens of each session.
    pub ctx: u32,
    /// Tokens of all sessions together; 0 for no limit.
    pub ctx_total: usize,
    /// Sessions, if not as many as fit.
    pub parallel: Option<usize>,
    /// Bytes of weights that may be in memory; `None` for all.
    pub weights_bytes_max: Option<u64>,
}

/// Plans for a model on this machine.
pub(crate) fn plan(file: &ModelFile, wanted: Wanted) -> Result<Plan> {
    let step = ds4_cpu::step_bytes(&file.dims, CpuOptions::default().chunk_max);
    let seq = |cap| SeqPlan::new(&file.dims, cap, file.has_mtp()).bytes().total();
    settle(wanted, file.tensor_bytes(), step, &seq, available_bytes())
}

/// Plans for a model that is on a GPU with so many bytes free. There, sessions take all of their
/// memory when they begin; checkpoints are kept in this machine's.
pub(crate) fn on_device(runner: &dyn Runner, free_bytes: u64, wanted: Wanted) -> Result<Plan> {
    settle_device(wanted, runner.seq_bytes(wanted.ctx), free_bytes, available_bytes())
}

fn settle_device(wanted: Wanted, seq: u64, device_free: u64, host_free: u64) -> Result<Plan> {
    let (ctx, room) = (wanted.ctx, Room::for_seqs(device_free));
    let most = usize::try_from(room / seq.max(1)).unwrap_or(usize::MAX);
    let parallel = wanted.parallel.unwrap_or(most.clamp(1, PARALLEL_MAX));
    if parallel > most {
        bail!(
            "out of memory: {parallel} sessions of {ctx} tokens take {}, the GPU has {} for them: \
             use a smaller --ctx or --parallel",
            gib(seq.saturating_mul(parallel as u64)),
            gib(room)
        );
    }
    let marks_bytes = (host_free / 4).min(MARKS_BYTES_MAX);
    tracing::info!(
        "memory: {parallel} sessions of {ctx} tokens {} of the GPU's {} left by the model; \
         checkpoints {}",
        gib(seq * parallel as u64),
        gib(room),
        gib(marks_bytes)
    );
    Ok(Plan { parallel, marks_bytes })
}

fn settle(
    wanted: Wanted,
    weights: u64,
    step: u64,
    seq: &dyn Fn(u32) -> u64,
    free: u64,
) -> Result<Plan> {
    let Wanted { ctx, ctx_total, parallel, weights_bytes_max } = wanted;
    let resident = weights_bytes_max.map_or(weights, |most| most.min(weights));
    if resident < weights {
        let (weights, resident) = (gib(weights), gib(resident));
        tracing::warn!("{resident} of {weights} of weights stay in memory: others will be read");
    }
    let room = free.saturating_sub(resident).saturating_sub(step);
    let all = |n: usize| {
        let total = u32::try_from(ctx_total).unwrap_or(u32::MAX);
        let each = seq(ctx).saturating_mul(n as u64);
        if ctx_total == 0 {
            return each;
        }
        // Rows take memory as they come; the rest is there from the start.
        let rows = seq(total).saturating_sub(seq(1));
        each.min(seq(1).saturating_mul(n as u64).saturating_add(rows))
    };
    let fits = |n: &usize| all(*n) <= room / 2;
    let most = (1..=PARALLEL_MAX).take_while(fits).last().unwrap_or(1);
    let parallel = parallel.unwrap_or(most);
    let sessions = all(parallel);
    if sessions > room {
        bail!(
            "out of memory: {parallel} sessions of {ctx} tokens take {}, besides {} of weights and \
             {} to compute; {} are free: use a smaller --ctx, --ctx-total or --parallel",
            gib(sessions),
            gib(resident),
            gib(step),
            gib(free)
        );
    }
    let marks_bytes = ((room - sessions) / 4).min(MARKS_BYTES_MAX);
    tracing::info!(
        "memory: {parallel} sessions of {ctx} tokens {}, checkpoints {}, weights {}, to compute \
         {}; {} free",
        gib(sessions),
        gib(marks_bytes),
        gib(weights),
        gib(step),
        gib(free)
    );
    Ok(Plan { parallel, marks_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A session of one GiB for each 1000 tokens, and one MiB besides.
    fn settled(parallel: Option<usize>, ctx_total: usize, free: u64) -> Result<Plan, String> {
        let seq = |cap: u32| (1 << 20) + u64::from(cap) * GIB / 1000;
        let weights_bytes_max = (free < 10 * GIB).then_some(free / 4 * 3);
        let wanted = Wanted { ctx: 1000, ctx_total, parallel, weights_bytes_max };
        settle(wanted, 10 * GIB, GIB, &seq, free).map_err(|e| e.to_string())
    }

    #[test]
    fn as_many_as_half_of_the_room_takes() {
        assert_eq!(settled(None, 0, 100 * GIB).unwrap().parallel, 8);
        assert_eq!(settled(None, 0, 18 * GIB).unwrap().parallel, 3);
        assert_eq!(settled(None, 0, 13 * GIB).unwrap().parallel, 1);
        assert_eq!(settled(Some(6), 0, 18 * GIB).unwrap().parallel, 6);
        assert_eq!(settled(Some(100), 5000, 18 * GIB).unwrap().parallel, 100);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        let error = settled(Some(8), 0, 18 * GIB).unwrap_err();
        assert!(error.starts_with("out of memory: 8 sessions of 1000 tokens take 8.01 GiB"));
        assert!(error.contains("18.00 GiB are free"), "{error}");
        assert!(settled(None, 0, 11 * GIB).is_err());
    }

    #[test]
    fn on_a_gpu_sessions_take_what_the_model_leaves() {
        let on = |parallel, device_free| {
            let wanted = Wanted { ctx: 1000, ctx_total: 0, parallel, weights_bytes_max: None };
            settle_device(wanted, GIB, device_free, 4 * GIB).map_err(|e| e.to_string())
        };
        assert_eq!(on(None, 100 * GIB).unwrap().parallel, 8);
        assert_eq!(on(None, 4 * GIB).unwrap().parallel, 3);
        assert_eq!(on(Some(20), 100 * GIB).unwrap().parallel, 20);
        assert_eq!(on(None, 4 * GIB).unwrap().marks_bytes, GIB);
        let error = on(Some(4), 4 * GIB).unwrap_err();
        assert!(error.contains("4 sessions of 1000 tokens take 4.00 GiB, the GPU has 3.50 GiB"));
        assert!(on(None, GIB).is_err());
    }

    #[test]
    fn weights_may_be_larger_than_memory() {
        assert_eq!(settled(None, 0, 9 * GIB).unwrap().parallel, 1);
    }
}
