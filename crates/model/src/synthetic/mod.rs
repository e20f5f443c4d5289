//! Models of random weights, made in memory: to measure a machine without a download, and to test.
//!
//! Values are bounded noise with the gains of a freshly initialised network, so activations stay
//! of order one in every layer. Every byte is a function of seed, tensor name and position alone.

mod header;
mod noise;

use std::sync::Mutex;

use ds4_gguf::{Gguf, Memory, TensorType};

use crate::layout::{self, Form, TensorSpec};
use crate::{Dims, Error, Result, shapes};

pub(crate) use header::{Meta, metadata};
pub(crate) use noise::{GAMMA, Rng, fnv, mix};

use noise::{CHUNK_BYTES, Noise};

/// Layers of the published model.
const LAYER_MAX: usize = 43;

/// The Flash geometry with `n_layer` layers in the layout of the published `q2` file, without a
/// tokenizer and without an MTP block. Takes [`flash_bytes`] of memory and all cores.
pub fn flash(n_layer: usize, seed: u64) -> Result<Gguf> {
    if !(1..=LAYER_MAX).contains(&n_layer) {
        let what = format!("--layers {n_layer}: the model has 1 to {LAYER_MAX} layers");
        return Err(Error::Unsupported(what));
    }
    let dims = shapes::flash_with(n_layer);
    let name = format!("synthetic DeepSeek V4 Flash, {n_layer} layers, seed {seed}");
    Recipe { name, dims, types: Types::Q2, mtp: None, seed, meta: Vec::new() }.build()
}

/// Bytes of the tensors of [`flash`].
pub fn flash_bytes(n_layer: usize) -> u64 {
    let specs = layout::trunk(&shapes::flash_with(n_layer));
    specs.iter().map(|s| spec_bytes(s, Types::Q2.of(s)) as u64).sum()
}

/// The most layers of [`flash`] that take at most `budget` bytes; `None` if not even one fits.
pub fn layers_that_fit(budget: u64) -> Option<usize> {
    (1..=LAYER_MAX).rev().find(|n| flash_bytes(*n) <= budget)
}

/// Storage formats of a model's tensors by their kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Types {
    /// Token embedding.
    pub embd: TensorType,
    /// Hyper-connections, compressors, indexer, router.
    pub plain: TensorType,
    /// Attention projections, shared expert, output head, MTP projections.
    pub dense: TensorType,
    /// Gate and up matrices of the routed experts.
    pub gate_up: TensorType,
    /// Down matrices of the routed experts.
    pub down: TensorType,
}

impl Types {
    /// The published `q2` file (§5.3).
    pub const Q2: Self = Self {
        embd: TensorType::F16,
        plain: TensorType::F16,
        dense: TensorType::Q8_0,
        gate_up: TensorType::Iq2Xxs,
        down: TensorType::Q2K,
    };
    /// The published MTP file (§5.5).
    pub const MTP: Self = Self {
        plain: TensorType::F32,
        gate_up: TensorType::Q4K,
        down: TensorType::Q4K,
        ..Self::Q2
    };
    /// Everything in f32.
    pub const F32: Self = Self {
        embd: TensorType::F32,
        plain: TensorType::F32,
        dense: TensorType::F32,
        gate_up: TensorType::F32,
        down: TensorType::F32,
    };

    /// The format of one tensor.
    pub(crate) fn of(self, spec: &TensorSpec) -> TensorType {
        let is = |part: &str| spec.name.contains(part);
        match spec.form {
            Form::Ids => TensorType::I32,
            Form::Vector if is("_ape.") => self.plain,
            Form::Vector => TensorType::F32,
            Form::Experts if is("ffn_down") => self.down,
            Form::Experts => self.gate_up,
            Form::Matrix if is("token_embd") => self.embd,
            Form::Matrix if is("_fn.") || is("compressor_") => self.plain,
            Form::Matrix if is("indexer.") || is("ffn_gate_inp") => self.plain,
            Form::Matrix => self.dense,
        }
    }
}

/// A model of random weights.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// `general.name`, and the name in messages.
    pub name: String,
    /// The model's numbers.
    pub dims: Dims,
    /// Formats of the trunk.
    pub types: Types,
    /// Formats of the MTP block, if there is one; it stands in the same file.
    pub mtp: Option<Types>,
    /// Equal seeds give equal bytes.
    pub seed: u64,
    /// Further metadata, such as a tokenizer.
    pub(crate) meta: Vec<(String, Meta)>,
}

impl Recipe {
    /// Makes the model, with all cores.
    pub fn build(&self) -> Result<Gguf> {
        let mut meta = metadata(&self.dims, &self.name);
        meta.extend(self.meta.iter().cloned());
        let mut parts = parts(layout::trunk(&self.dims), self.types);
        if let Some(types) = self.mtp {
            parts.extend(crate::synthetic::parts(layout::mtp(&self.dims), types));
        }
        build(&self.name, &meta, &parts, |part, chunk, out| self.fill(part, chunk, out))
    }

    fn fill(&self, part: &Part, chunk: usize, out: &mut [u8]) {
        let name = &part.spec.name;
        let base = self.seed ^ fnv(name).rotate_left(17);
        if part.spec.form == Form::Ids {
            return fill_ids(base, self.dims.n_expert, &part.spec.dims, chunk, out);
        }
        let seed = base ^ (chunk as u64 + 1).wrapping_mul(GAMMA);
        noise::fill(part.ty, noise_of(&part.spec), &mut Rng::new(seed), out);
        if name.contains(".hc_") && name.ends_with("_base.weight") && !name.contains("_head_") {
            favour_own_stream(self.dims.n_hc, out);
        }
    }
}

/// One tensor to be made.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) spec: TensorSpec,
    pub(crate) ty: TensorType,
}

/// The specs with their formats.
pub(crate) fn parts(specs: Vec<TensorSpec>, types: Types) -> Vec<Part> {
    specs.into_iter().map(|spec| Part { ty: types.of(&spec), spec }).collect()
}

/// A GGUF in memory. `fill` writes chunk `n` of a part, all chunks but the last being
/// [`chunk_bytes`] long; it is called from all cores in any order.
pub(crate) fn build(
    name: &str,
    meta: &[(String, Meta)],
    parts: &[Part],
    fill: impl Fn(&Part, usize, &mut [u8]) + Sync,
) -> Result<Gguf> {
    let layout = header::draft(name, meta, parts)?.layout()?;
    let (head, len) = (layout.header(), layout.file_bytes());
    let memory = Memory::zeroed(len);
    let mut memory = memory.map_err(|e| Error::Memory(format!("{len} bytes of weights: {e}")))?;
    let (start, mut rest) = memory.as_mut_slice().split_at_mut(head.len());
    start.copy_from_slice(head);
    let mut work = Vec::new();
    let mut pos = head.len();
    for (part, tensor) in parts.iter().zip(layout.tensors()) {
        let range = tensor.range.clone();
        let (_, from) = rest.split_at_mut(range.start - pos);
        let (bytes, after) = from.split_at_mut(range.len());
        (rest, pos) = (after, range.end);
        work.extend(bytes.chunks_mut(chunk_bytes(part.ty)).enumerate().map(|c| (part, c)));
    }
    let work = Mutex::new(work.into_iter());
    let next = || work.lock().expect("no thread panics while it holds the queue").next();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((part, (chunk, bytes))) = next() {
                    fill(part, chunk, bytes);
                }
            });
        }
    });
    Ok(Gguf::from_bytes(name, memory.freeze()?)?)
}

/// Bytes of a chunk: whole blocks.
fn chunk_bytes(ty: TensorType) -> usize {
    CHUNK_BYTES / ty.block_bytes() * ty.block_bytes()
}

/// Bytes of a tensor.
///
/// # Panics
/// If rows are no whole blocks: shapes and formats here are our own.
pub(crate) fn spec_bytes(spec: &TensorSpec, ty: TensorType) -> usize {
    let dims = spec.dims.iter().map(|d| usize::try_from(*d).expect("our own size"));
    let dims: Vec<usize> = dims.collect();
    let row = ty.row_bytes(dims[0]).unwrap_or_else(|| panic!("{}: no whole {ty}", spec.name));
    row * dims[1..].iter().product::<usize>()
}

/// Distribution of a tensor's values: matrices keep the size of what they multiply, times a gain.
fn noise_of(spec: &TensorSpec) -> Noise {
    let is = |part: &str| spec.name.contains(part);
    let vector = |mean: f32, std: f32| Noise { mean, std };
    let matrix = |gain: f32| vector(0.0, gain / (spec.dims[0] as f32).sqrt());
    match spec.form {
        Form::Vector if is("_ape.") || is("attn_sinks") => vector(0.0, 1.0),
        Form::Vector if is("_scale.") => vector(1.0, 0.3),
        Form::Vector if is("_base.") => vector(0.0, 0.6),
        Form::Vector if is("exp_probs_b") => vector(0.0, 0.2),
        Form::Vector => vector(1.0, 0.2),
        Form::Experts => matrix(1.5),
        Form::Matrix if is("token_embd") => vector(0.0, 1.0),
        Form::Matrix if is("_shexp") => matrix(1.5),
        Form::Matrix if is("output.") || is("attn_output_") => matrix(2.0),
        Form::Matrix | Form::Ids => matrix(1.0),
    }
}

/// Raises the diagonal of `comb` in a hyper-connection's base, as training does: streams keep
/// their identity.
fn favour_own_stream(n_hc: usize, out: &mut [u8]) {
    let (values, _) = out.as_chunks_mut::<4>();
    for value in values[2 * n_hc..].iter_mut().step_by(n_hc + 1) {
        *value = (f32::from_le_bytes(*value) + 1.5).to_le_bytes();
    }
}

/// Expert ids of each token, distinct within a row and independent of chunk boundaries.
fn fill_ids(base: u64, n_expert: usize, dims: &[u64], chunk: usize, out: &mut [u8]) {
    let n_used = usize::try_from(dims[0]).expect("our own size");
    let first = chunk * chunk_bytes(TensorType::I32) / 4;
    let mut row = usize::MAX;
    let mut ids: Vec<u32> = Vec::new();
    let (values, _) = out.as_chunks_mut::<4>();
    for (i, value) in values.iter_mut().enumerate() {
        let at = first + i;
        if at / n_used != row {
            row = at / n_used;
            let mut rng = Rng::new(base ^ (row as u64 + 1).wrapping_mul(GAMMA));
            ids.clear();
            while ids.len() < n_used {
                #[expect(clippy::cast_possible_truncation, reason = "below n_expert")]
                let id = (rng.next() % n_expert as u64) as u32;
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
        }
        *value = ids[at % n_used].to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelFile;

    #[test]
    fn q2_sizes_are_the_published_ones() {
        assert_eq!(flash_bytes(43), 86_714_775_900);
        let mtp = layout::mtp(&shapes::flash());
        let bytes: usize = mtp.iter().map(|s| spec_bytes(s, Types::MTP.of(s))).sum();
        assert_eq!(bytes, 3_807_600_108);
    }

    #[test]
    fn the_largest_shape_that_fits_is_found() {
        assert_eq!(layers_that_fit(86_714_775_900), Some(43));
        assert_eq!(layers_that_fit(86_714_775_899), Some(42));
        assert_eq!(layers_that_fit(flash_bytes(5)), Some(5));
        assert_eq!(layers_that_fit(1 << 30), None);
        assert!(flash(0, 1).is_err());
        assert!(flash(44, 1).is_err());
    }

    #[test]
    fn a_recipe_loads_and_repeats() {
        let dims = Dims {
            n_embd: 256,
            n_vocab: 300,
            n_head: 4,
            head_dim: 96,
            rope_dim: 32,
            q_rank: 32,
            n_out_group: 2,
            out_rank: 32,
            index_dim: 32,
            n_index_head: 4,
            n_expert: 6,
            n_expert_used: 3,
            n_ff: 256,
            ..shapes::flash_with(4)
        };
        let name = "recipe".to_owned();
        let (types, mtp) = (Types::Q2, Some(Types::MTP));
        let mut recipe = Recipe { name, dims, types, mtp, seed: 3, meta: Vec::new() };
        let first = ModelFile::new(recipe.build().unwrap(), None).unwrap();
        assert_eq!(first.dims, recipe.dims);
        assert!(first.has_mtp());
        let again = recipe.build().unwrap();
        assert_eq!(first.gguf.data(), again.data());
        recipe.seed = 4;
        assert_ne!(first.gguf.data(), recipe.build().unwrap().data());
    }

    #[test]
    fn ids_do_not_depend_on_chunks() {
        // Rows of 3 ids cross the boundary of the first chunk.
        let per_chunk = chunk_bytes(TensorType::I32);
        let mut whole = vec![0; per_chunk + 12];
        let dims = [3, whole.len() as u64 / 12];
        fill_ids(9, 16, &dims, 0, &mut whole);
        let mut tail = vec![0; 12];
        fill_ids(9, 16, &dims, 1, &mut tail);
        assert_eq!(whole[per_chunk..], tail);
    }
}
