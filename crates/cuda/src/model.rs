//! A loaded model on a device: weights, buffers, constants, and the table of sequences' addresses.

use std::sync::Arc;

use ds4_model::{Dims, Error, ModelFile, Numerics, Result, RopeFreqs};
use zerocopy::IntoBytes;

use crate::args::Args;
use crate::constants::Constants;
use crate::device::{Buf, Device, Geometry};
use crate::hybrid::Hybrid;
use crate::launch::RopesArg;
use crate::runner::CudaOptions;
use crate::scratch::{FEW, Scratch};
use crate::seq::{LayerAddresses, Seq, Tok};
use crate::upload::Uploader;
use crate::weights::DeviceWeights;

/// Most sequences open at once.
pub(crate) const SEQS_MAX: usize = 256;

/// Everything that does not change while a model runs, and the step's buffers.
pub(crate) struct Model {
    pub device: Arc<Device>,
    pub dims: Dims,
    pub weights: DeviceWeights,
    /// Experts that lie outside the device; none when all are there.
    pub hybrid: Option<Hybrid>,
    pub constants: Constants,
    pub scratch: Scratch,
    /// Addresses of every sequence: `[SEQS_MAX][places]`.
    pub table: Buf,
    /// Layers, and the MTP block's place.
    pub places: usize,
    /// Directions of steering, with the scales of attention and FFN.
    pub steering: Option<(Vec<Buf>, f32, f32)>,
    ropes: RopesArg,
    /// Distinct compression ratios: kinds 2.. of the rotations.
    ratios: Vec<usize>,
    /// Frequencies of window and of compressed layers.
    freqs: [RopeFreqs; 2],
    f32_angle: bool,
    _freqs: Vec<Buf>,
}

impl Model {
    /// Uploads a model; `device` has the kernels of its shape.
    pub(crate) fn new(
        device: &Arc<Device>,
        file: &Arc<ModelFile>,
        options: &CudaOptions,
        n_expert: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self> {
        let dims = file.dims.clone();
        let constants = Constants::read(device, &dims)?;
        let mut up = Uploader::new(device)?;
        let (numerics, chunk) = (options.numerics, options.chunk_max.max(FEW));
        let weights = DeviceWeights::new(&mut up, file, n_expert, progress)?;
        let mut ratios: Vec<usize> = dims.ratios.iter().copied().filter(|r| *r > 0).collect();
        ratios.sort_unstable();
        ratios.dedup();
        let (ropes, freqs) = ropes(&mut up, &dims, numerics, &ratios)?;
        let with_mtp = weights.mtp.is_some();
        let places = dims.n_layer + usize::from(with_mtp);
        let steering = match file.steering() {
            None => None,
            Some(s) => {
                let of = |il| up.floats(s.direction(il));
                let all = (0..dims.n_layer).map(of).collect::<Result<Vec<_>>>()?;
                Some((all, s.attn, s.ffn))
            }
        };
        let hybrid = (n_expert < dims.n_expert)
            .then(|| Hybrid::new(device, file, numerics, options.threads, n_expert, chunk))
            .transpose()?;
        let kinds = 2 + ratios.len();
        let scratch = Scratch::new(device, &dims, &constants, chunk, kinds, with_mtp)?;
        let table = device.alloc(SEQS_MAX * places * size_of::<LayerAddresses>())?;
        device.sync()?;
        Ok(Self {
            device: Arc::clone(device),
            dims,
            weights,
            hybrid,
            constants,
            scratch,
            table,
            places,
            steering,
            ropes,
            freqs: [0, 1].map(|kind| RopeFreqs::new(&file.dims, kind)),
            f32_angle: numerics.rope_f32,
            ratios,
            _freqs: freqs,
        })
    }

    /// Bytes per second of the fastest of some reads of memory that no cache holds.
    pub(crate) fn read_bandwidth(&self, turns: usize) -> Result<f64> {
        /// More than any second-level cache.
        const BYTES: usize = 2 << 30;
        let free = usize::try_from(self.device.free_bytes()? / 2).unwrap_or(usize::MAX);
        let buf = self.device.alloc(BYTES.min(free))?;
        let n = BYTES.min(free) / 16;
        let blocks = 8 * self.device.info.sms as usize;
        let times = self.device.timed(|| {
            (0..turns).try_for_each(|_| {
                let mut args = Args::new().ptr(buf.at()).long(n).ptr(self.scratch.picks.at());
                self.device.launch("read_all", Geometry::new(blocks, 1, 512), &mut args)
            })
        })?;
        let best = times.iter().map(|t| t.ms).fold(f32::INFINITY, f32::min);
        Ok(16.0 * n as f64 / (f64::from(best) / 1e3))
    }

    /// Tells the kernels where a sequence lies.
    pub(crate) fn publish(&self, seq: &Seq) -> Result<()> {
        let row = seq.addresses();
        let at = seq.row * self.places * size_of::<LayerAddresses>();
        self.device.write(self.table.at() + at as u64, row.as_bytes())
    }

    /// Computes the rotations of `t` tokens.
    pub(crate) fn rotations(&self, toks: &Buf, t: usize, turns: &Buf) -> Result<()> {
        let kinds = 2 + self.ratios.len();
        let mut args =
            Args::new().raw(self.ropes.as_bytes(), 8).ptr(toks.at()).int(t).ptr(turns.at());
        let threads = u32::try_from(self.dims.rope_dim / 2).expect("small").next_multiple_of(32);
        self.device.launch("rope_turns", Geometry::new(t, kinds, threads), &mut args)
    }

    /// The rotations of some tokens as [`Model::rotations`] leaves them on the device, computed here:
    /// for a few tokens that is quicker than a launch that every layer waits for.
    pub(crate) fn host_rotations(&self, toks: &[Tok]) -> Vec<f32> {
        let mut turns =
            Vec::with_capacity((2 + self.ratios.len()) * toks.len() * self.dims.rope_dim);
        for kind in 0..2 + self.ratios.len() {
            let freqs = &self.freqs[usize::from(kind > 0)];
            for tok in toks {
                let pos = match kind.checked_sub(2).map(|i| self.ratios[i]) {
                    None => tok.pos,
                    Some(ratio) => tok.pos + 1 - i32::try_from(ratio).expect("small"),
                };
                turns.extend(freqs.single.iter().zip(&freqs.double).flat_map(
                    |(single, double)| {
                        let angle = if self.f32_angle {
                            f64::from(pos as f32 * single)
                        } else {
                            f64::from(pos) * double
                        };
                        let (sin, cos) = angle.sin_cos();
                        #[expect(
                            clippy::cast_possible_truncation,
                            reason = "rounded as the model does"
                        )]
                        let turn = [cos as f32, sin as f32];
                        turn
                    },
                ));
            }
        }
        turns
    }

    /// Where the rotations of `t` tokens in layers of this ratio lie, and those of the windows they
    /// complete.
    pub(crate) fn turns_of(&self, turns: &Buf, ratio: usize, t: usize) -> (u64, u64) {
        let kind = |k: usize| turns.at() + (4 * k * t * self.dims.rope_dim) as u64;
        let start = self.ratios.iter().position(|r| *r == ratio).map_or(0, |i| kind(2 + i));
        (kind(usize::from(ratio != 0)), start)
    }
}

/// Frequencies on the device.
fn ropes(
    up: &mut Uploader,
    dims: &Dims,
    numerics: Numerics,
    ratios: &[usize],
) -> Result<(RopesArg, Vec<Buf>)> {
    let mut list = [0; 4];
    if ratios.len() > list.len() {
        let what =
            format!("{} different compression ratios; the CUDA backend knows 4", ratios.len());
        return Err(Error::Unsupported(what));
    }
    for (to, ratio) in list.iter_mut().zip(ratios) {
        *to = i32::try_from(*ratio).expect("checked by Dims");
    }
    let mut bufs = Vec::new();
    let mut at = ([0; 2], [0; 2]);
    for kind in 0..2 {
        let freqs = RopeFreqs::new(dims, kind);
        let single = up.floats(&freqs.single)?;
        let exact = up.bytes(freqs.double.as_bytes())?;
        (at.0[kind], at.1[kind]) = (single.at(), exact.at());
        bufs.extend([single, exact]);
    }
    let f32_angle = i32::from(numerics.rope_f32);
    Ok((RopesArg { single: at.0, exact: at.1, ratios: list, f32_angle, pad: 0 }, bufs))
}
