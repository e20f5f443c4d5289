//! All weights of a model on the device.

use ds4_gguf::TensorType;
use ds4_model::{
    BlockWeights, CompressorWeights, Dims, FfnWeights, HyperWeights, IndexerWeights, Matrix,
    ModelFile, MtpWeights, Result, Router,
};
use zerocopy::IntoBytes;

use crate::device::Buf;
use crate::matrix::{DeviceMatrix, device_bytes};
use crate::upload::Uploader;

/// One hyper-connection.
pub(crate) struct Hyper {
    pub mix: DeviceMatrix,
    pub base: Buf,
    pub scale: Buf,
}

/// One compressor.
pub(crate) struct Compressor {
    pub kv: DeviceMatrix,
    pub gate: DeviceMatrix,
    pub ape: Buf,
    pub norm: Buf,
}

/// The indexer of a ratio-4 layer.
pub(crate) struct Indexer {
    pub q_b: DeviceMatrix,
    pub proj: DeviceMatrix,
    pub comp: Compressor,
}

/// Gate, up and down of an expert or a stack of them.
pub(crate) struct Ffn {
    pub gate: DeviceMatrix,
    pub up: DeviceMatrix,
    pub down: DeviceMatrix,
}

/// How a layer chooses experts.
pub(crate) enum Choice {
    /// By token id.
    Hash(Buf),
    /// By score plus this bias.
    Score(Buf),
}

/// A trunk layer or the MTP block.
pub(crate) struct Block {
    /// Compression ratio.
    pub ratio: usize,
    /// SwiGLU clamps of routed and shared experts.
    pub clamps: (f32, f32),
    pub hc_attn: Hyper,
    pub hc_ffn: Hyper,
    pub attn_norm: Buf,
    pub q_a: DeviceMatrix,
    pub q_a_norm: Buf,
    pub q_b: DeviceMatrix,
    pub kv: DeviceMatrix,
    pub kv_norm: Buf,
    pub sinks: Buf,
    pub out_a: DeviceMatrix,
    pub out_b: DeviceMatrix,
    pub comp: Option<Compressor>,
    pub indexer: Option<Indexer>,
    pub ffn_norm: Buf,
    pub router_in: DeviceMatrix,
    pub choice: Choice,
    pub experts: Ffn,
    pub shared: Ffn,
}

/// The MTP block and what surrounds it.
pub(crate) struct Mtp {
    pub e_proj: DeviceMatrix,
    pub h_proj: DeviceMatrix,
    pub enorm: Buf,
    pub hnorm: Buf,
    pub norm: Buf,
    pub hc_head: Hyper,
    pub block: Block,
}

/// All weights.
pub(crate) struct DeviceWeights {
    pub embd: DeviceMatrix,
    pub layers: Vec<Block>,
    pub hc_head: Hyper,
    pub output_norm: Buf,
    pub output: DeviceMatrix,
    pub mtp: Option<Mtp>,
}

fn hyper(up: &mut Uploader, w: &HyperWeights) -> Result<Hyper> {
    Ok(Hyper {
        mix: DeviceMatrix::new(up, &w.mix)?,
        base: up.floats(&w.base)?,
        scale: up.floats(&w.scale)?,
    })
}

fn compressor(up: &mut Uploader, w: &CompressorWeights) -> Result<Compressor> {
    Ok(Compressor {
        kv: DeviceMatrix::new(up, &w.kv)?,
        gate: DeviceMatrix::new(up, &w.gate)?,
        ape: up.floats(&w.ape)?,
        norm: up.floats(&w.norm)?,
    })
}

fn indexer(up: &mut Uploader, w: &IndexerWeights) -> Result<Indexer> {
    Ok(Indexer {
        q_b: DeviceMatrix::new(up, &w.q_b)?,
        proj: DeviceMatrix::new(up, &w.proj)?,
        comp: compressor(up, &w.comp)?,
    })
}

fn shared(up: &mut Uploader, w: &FfnWeights) -> Result<Ffn> {
    Ok(Ffn {
        gate: DeviceMatrix::new(up, &w.gate)?,
        up: DeviceMatrix::new(up, &w.up)?,
        down: DeviceMatrix::new(up, &w.down)?,
    })
}

fn experts(up: &mut Uploader, w: &FfnWeights, n: usize) -> Result<Ffn> {
    Ok(Ffn {
        gate: DeviceMatrix::experts(up, &w.gate, n)?,
        up: DeviceMatrix::experts(up, &w.up, n)?,
        down: DeviceMatrix::experts(up, &w.down, n)?,
    })
}

fn block(
    up: &mut Uploader,
    w: &BlockWeights,
    ratio: usize,
    clamps: (f32, f32),
    n_expert: usize,
) -> Result<Block> {
    Ok(Block {
        ratio,
        clamps,
        hc_attn: hyper(up, &w.hc_attn)?,
        hc_ffn: hyper(up, &w.hc_ffn)?,
        attn_norm: up.floats(&w.attn_norm)?,
        q_a: DeviceMatrix::new(up, &w.q_a)?,
        q_a_norm: up.floats(&w.q_a_norm)?,
        q_b: DeviceMatrix::new(up, &w.q_b)?,
        kv: DeviceMatrix::new(up, &w.kv)?,
        kv_norm: up.floats(&w.kv_norm)?,
        sinks: up.floats(&w.sinks)?,
        out_a: DeviceMatrix::new(up, &w.out_a)?,
        out_b: DeviceMatrix::new(up, &w.out_b)?,
        comp: w.comp.as_ref().map(|c| compressor(up, c)).transpose()?,
        indexer: w.indexer.as_ref().map(|i| indexer(up, i)).transpose()?,
        ffn_norm: up.floats(&w.ffn_norm)?,
        router_in: DeviceMatrix::new(up, &w.router_in)?,
        choice: match &w.router {
            Router::Hash(table) => Choice::Hash(up.bytes(table.as_bytes())?),
            Router::Score(bias) => Choice::Score(up.floats(bias)?),
        },
        experts: experts(up, &w.experts, n_expert)?,
        shared: shared(up, &w.shared)?,
    })
}

impl DeviceWeights {
    /// Uploads the weights of a model, of every trunk layer the first `n_expert` experts; `progress`
    /// hears the layers done.
    pub(crate) fn new(
        up: &mut Uploader,
        file: &ModelFile,
        n_expert: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self> {
        let (w, dims) = (&file.weights, &file.dims);
        let mut layers = Vec::with_capacity(dims.n_layer);
        for (il, layer) in w.layers.iter().enumerate() {
            let clamps = (dims.swiglu_clamp[il], dims.swiglu_clamp_shared[il]);
            layers.push(block(up, layer, dims.ratios[il], clamps, n_expert)?);
            progress(il + 1);
        }
        Ok(Self {
            layers,
            embd: DeviceMatrix::new(up, &w.embd)?,
            hc_head: hyper(up, &w.hc_head)?,
            output_norm: up.floats(&w.output_norm)?,
            output: DeviceMatrix::new(up, &w.output)?,
            mtp: w.mtp.as_ref().map(|m| mtp(up, m, dims)).transpose()?,
        })
    }
}

fn mtp(up: &mut Uploader, m: &MtpWeights, dims: &Dims) -> Result<Mtp> {
    Ok(Mtp {
        e_proj: DeviceMatrix::new(up, &m.e_proj)?,
        h_proj: DeviceMatrix::new(up, &m.h_proj)?,
        enorm: up.floats(&m.enorm)?,
        hnorm: up.floats(&m.hnorm)?,
        norm: up.floats(&m.norm)?,
        hc_head: hyper(up, &m.hc_head)?,
        block: block(up, &m.block, 0, dims.mtp_clamps(), dims.n_expert)?,
    })
}

/// Bytes that the weights of a model take on a device, vectors left out.
pub(crate) fn weight_bytes(file: &ModelFile) -> u64 {
    let w = &file.weights;
    let dense = |m: &Matrix| device_bytes(m, false);
    let hyper = |h: &HyperWeights| dense(&h.mix);
    let comp = |c: &CompressorWeights| dense(&c.kv) + dense(&c.gate);
    let ffn = |f: &FfnWeights, e| {
        device_bytes(&f.gate, e) + device_bytes(&f.up, e) + device_bytes(&f.down, e)
    };
    let block = |b: &BlockWeights| {
        let matrices = [&b.q_a, &b.q_b, &b.kv, &b.out_a, &b.out_b, &b.router_in];
        let index = |i: &IndexerWeights| dense(&i.q_b) + dense(&i.proj) + comp(&i.comp);
        let hash = match &b.router {
            Router::Hash(table) => 2 * table.len() as u64,
            Router::Score(_) => 0,
        };
        matrices.into_iter().map(dense).sum::<u64>()
            + hyper(&b.hc_attn)
            + hyper(&b.hc_ffn)
            + b.comp.as_ref().map_or(0, comp)
            + b.indexer.as_ref().map_or(0, index)
            + ffn(&b.experts, true)
            + ffn(&b.shared, false)
            + hash
    };
    let mtp = w
        .mtp
        .as_ref()
        .map_or(0, |m| dense(&m.e_proj) + dense(&m.h_proj) + hyper(&m.hc_head) + block(&m.block));
    let embd = match w.embd.ty {
        TensorType::F16 | TensorType::Q8_0 => dense(&w.embd),
        _ => 4 * (w.embd.rows * w.embd.cols) as u64,
    };
    embd + dense(&w.output) + hyper(&w.hc_head) + mtp + w.layers.iter().map(block).sum::<u64>()
}

/// Whether the shape's compressed rows fit the kernels' idea of it.
pub(crate) fn index_rows(dims: &Dims, cap: u32) -> usize {
    let indexed = dims.ratios.contains(&ds4_model::INDEXED_RATIO);
    if indexed { cap as usize / ds4_model::INDEXED_RATIO } else { 0 }
}
