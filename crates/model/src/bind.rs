//! From a file to `Weights`: every tensor's name, shape and type is checked against the layout.

use std::collections::HashSet;
use std::sync::Arc;

use ds4_gguf::{Gguf, TensorInfo};

use crate::layout::{self, MTP, TensorSpec};
use crate::metadata::mismatch;
use crate::weights::{
    BlockWeights, CompressorWeights, FfnWeights, HyperWeights, IndexerWeights, Matrix, MtpWeights,
    Router, Weights,
};
use crate::{Dims, Error, INDEXED_RATIO, Result};

impl Weights {
    /// Checks every tensor of the files against `dims` and returns typed handles.
    ///
    /// The MTP block is taken from `mtp` if that is given, else from `main` if it is there.
    ///
    /// # Errors
    /// One message that names the first missing, unexpected or mismatched tensor, what was found
    /// and what was expected.
    pub fn bind(main: &Arc<Gguf>, mtp: Option<&Arc<Gguf>>, dims: &Dims) -> Result<Self> {
        refuse_foreign(main)?;
        let inside = main.tensors().iter().any(|t| is_mtp(&t.name));
        let mut specs = layout::trunk(dims);
        if inside {
            specs.extend(layout::mtp(dims));
        }
        let trunk = Binder::new(main, &specs, dims)?;
        let mtp = match mtp {
            Some(file) => Some(bind_mtp_file(file, dims)?),
            None if inside => Some(trunk.mtp()?),
            None => None,
        };
        let layers = (0..dims.n_layer)
            .map(|l| trunk.block(&format!("blk.{l}"), dims.ratios[l], l < dims.n_hash_layer))
            .collect::<Result<_>>()?;
        Ok(Self {
            embd: trunk.matrix("token_embd.weight"),
            layers,
            hc_head: trunk.hyper("output_hc")?,
            output_norm: trunk.vector("output_norm.weight")?,
            output: trunk.matrix("output.weight"),
            mtp,
        })
    }
}

fn bind_mtp_file(file: &Arc<Gguf>, dims: &Dims) -> Result<MtpWeights> {
    refuse_foreign(file)?;
    if !file.tensors().iter().any(|t| is_mtp(&t.name)) {
        let what = "has no MTP block (no tensor mtp.0.*); give an MTP file with --mtp";
        return Err(Error::Unsupported(format!("{}: {what}", file.name())));
    }
    Binder::new(file, &layout::mtp(dims), dims)?.mtp()
}

fn is_mtp(name: &str) -> bool {
    name.strip_prefix(MTP).is_some_and(|rest| rest.starts_with('.'))
}

/// Layouts that are known and not supported.
fn refuse_foreign(file: &Gguf) -> Result<()> {
    let has = |test: fn(&str) -> bool| file.tensors().iter().find(|t| test(&t.name));
    let refuse = |t: &TensorInfo, why: &str| {
        Err(Error::Unsupported(format!("{}: tensor {}: {why}", file.name(), t.name)))
    };
    if let Some(t) = has(|n| n.contains(".nextn.")) {
        let why = "the MTP block is stored as in llama.cpp, which is not supported; \
                   use a file without it and give the MTP file with --mtp";
        return refuse(t, why);
    }
    if let Some(t) = has(|n| n.starts_with("mtp.") && !is_mtp(n)) {
        let why = "several MTP stages belong to a later release (0731, DSpark), which is another \
                   architecture; use a file of the first DeepSeek V4 Flash release";
        return refuse(t, why);
    }
    Ok(())
}

/// A file whose directory matched a layout, so look-ups by name of that layout cannot fail.
struct Binder<'a> {
    file: &'a Arc<Gguf>,
    dims: &'a Dims,
}

impl<'a> Binder<'a> {
    fn new(file: &'a Arc<Gguf>, specs: &[TensorSpec], dims: &'a Dims) -> Result<Self> {
        for spec in specs {
            check_tensor(file, spec)?;
        }
        let known: HashSet<_> = specs.iter().map(|s| s.name.as_str()).collect();
        if let Some(t) = file.tensors().iter().find(|t| !known.contains(t.name.as_str())) {
            let expected = format!("no tensor of this name in a {}", dims.describe());
            return Err(mismatch(file.name(), &t.name, show(t), &expected));
        }
        Ok(Self { file, dims })
    }

    fn tensor(&self, name: &str) -> &TensorInfo {
        self.file.tensor(name).expect("the layout lists every name that is bound")
    }

    fn matrix(&self, name: &str) -> Matrix {
        Matrix::of(self.file, self.tensor(name))
    }

    /// Decoded to f32; refuses values that are not finite.
    fn vector(&self, name: &str) -> Result<Vec<f32>> {
        let values = self.matrix(name).to_f32();
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            let found = format!("{} at {i}", values[i]);
            return Err(mismatch(self.file.name(), name, found, "finite values"));
        }
        Ok(values)
    }

    fn hyper(&self, name: &str) -> Result<HyperWeights> {
        Ok(HyperWeights {
            mix: self.matrix(&format!("{name}_fn.weight")),
            base: self.vector(&format!("{name}_base.weight"))?,
            scale: self.vector(&format!("{name}_scale.weight"))?,
        })
    }

    fn compressor(&self, name: &str) -> Result<CompressorWeights> {
        Ok(CompressorWeights {
            kv: self.matrix(&format!("{name}_kv.weight")),
            gate: self.matrix(&format!("{name}_gate.weight")),
            ape: self.vector(&format!("{name}_ape.weight"))?,
            norm: self.vector(&format!("{name}_norm.weight"))?,
        })
    }

    fn indexer(&self, p: &str) -> Result<IndexerWeights> {
        Ok(IndexerWeights {
            q_b: self.matrix(&format!("{p}.indexer.attn_q_b.weight")),
            proj: self.matrix(&format!("{p}.indexer.proj.weight")),
            comp: self.compressor(&format!("{p}.indexer_compressor"))?,
        })
    }

    fn ffn(&self, p: &str, kind: &str) -> FfnWeights {
        FfnWeights {
            gate: self.matrix(&format!("{p}.ffn_gate_{kind}.weight")),
            up: self.matrix(&format!("{p}.ffn_up_{kind}.weight")),
            down: self.matrix(&format!("{p}.ffn_down_{kind}.weight")),
        }
    }

    /// Routed experts; kernels compute gate and up together, so these have one type.
    fn experts(&self, p: &str) -> Result<FfnWeights> {
        let all = self.ffn(p, "exps");
        if all.gate.ty != all.up.ty {
            let expected = format!("{}, the type of {}", all.gate.ty, all.gate.name);
            return Err(mismatch(self.file.name(), &all.up.name, all.up.ty, &expected));
        }
        Ok(all)
    }

    fn router(&self, p: &str, hash: bool) -> Result<Router> {
        if !hash {
            return Ok(Router::Score(self.vector(&format!("{p}.exp_probs_b.bias"))?));
        }
        let table = self.matrix(&format!("{p}.ffn_gate_tid2eid.weight"));
        let n = self.dims.n_expert;
        let ids = table.bytes().chunks_exact(4).enumerate().map(|(i, b)| {
            let id = i32::from_le_bytes(b.try_into().expect("chunks of 4"));
            let valid = usize::try_from(id).ok().filter(|id| *id < n);
            valid.and_then(|id| u16::try_from(id).ok()).ok_or_else(|| {
                let found = format!("expert {id} at {i}");
                let expected = format!("expert ids below {n}");
                mismatch(self.file.name(), &table.name, found, &expected)
            })
        });
        Ok(Router::Hash(ids.collect::<Result<_>>()?))
    }

    fn block(&self, p: &str, ratio: usize, hash: bool) -> Result<BlockWeights> {
        let matrix = |name: &str| self.matrix(&format!("{p}.{name}.weight"));
        let vector = |name: &str| self.vector(&format!("{p}.{name}.weight"));
        let comp = (ratio != 0).then(|| self.compressor(&format!("{p}.attn_compressor")));
        let indexer = (ratio == INDEXED_RATIO).then(|| self.indexer(p));
        Ok(BlockWeights {
            hc_attn: self.hyper(&format!("{p}.hc_attn"))?,
            hc_ffn: self.hyper(&format!("{p}.hc_ffn"))?,
            attn_norm: vector("attn_norm")?,
            q_a: matrix("attn_q_a"),
            q_a_norm: vector("attn_q_a_norm")?,
            q_b: matrix("attn_q_b"),
            kv: matrix("attn_kv"),
            kv_norm: vector("attn_kv_a_norm")?,
            sinks: vector("attn_sinks")?,
            out_a: matrix("attn_output_a"),
            out_b: matrix("attn_output_b"),
            comp: comp.transpose()?,
            indexer: indexer.transpose()?,
            ffn_norm: vector("ffn_norm")?,
            router_in: matrix("ffn_gate_inp"),
            router: self.router(p, hash)?,
            experts: self.experts(p)?,
            shared: self.ffn(p, "shexp"),
        })
    }

    fn mtp(&self) -> Result<MtpWeights> {
        let matrix = |name: &str| self.matrix(&format!("{MTP}.{name}.weight"));
        let vector = |name: &str| self.vector(&format!("{MTP}.{name}.weight"));
        Ok(MtpWeights {
            e_proj: matrix("e_proj"),
            h_proj: matrix("h_proj"),
            enorm: vector("enorm")?,
            hnorm: vector("hnorm")?,
            norm: vector("norm")?,
            hc_head: self.hyper(&format!("{MTP}.hc_head"))?,
            block: self.block(MTP, 0, false)?,
        })
    }
}

/// Presence, shape and type of one tensor.
fn check_tensor(file: &Gguf, spec: &TensorSpec) -> Result<()> {
    let types = spec.form.types();
    let one_of = types.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ");
    let expected = format!("{:?} of type {one_of}", spec.dims);
    match file.tensor(&spec.name) {
        None => Err(mismatch(file.name(), &spec.name, "no such tensor", &expected)),
        Some(t) if same_shape(&t.dims, &spec.dims) && types.contains(&t.ty) => Ok(()),
        Some(t) => Err(mismatch(file.name(), &spec.name, show(t), &expected)),
    }
}

/// Equality up to trailing dimensions of 1, which writers add or leave out.
fn same_shape(a: &[u64], b: &[u64]) -> bool {
    let n = a.len().max(b.len());
    let at = |d: &[u64], i: usize| d.get(i).copied().unwrap_or(1);
    (0..n).all(|i| at(a, i) == at(b, i))
}

fn show(t: &TensorInfo) -> String {
    format!("{:?} of type {}", t.dims, t.ty)
}
