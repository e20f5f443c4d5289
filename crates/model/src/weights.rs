//! The weight table: tensor name to typed handle, one place that knows GGUF names.

use std::ops::Range;
use std::sync::Arc;

use ds4_gguf::{Gguf, TensorInfo, TensorType};

/// A matrix, or a stack of `n_expert` matrices, still in the file's format.
///
/// Cheap to clone; keeps the mapping alive.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// GGUF name, for messages.
    pub name: String,
    /// Storage format.
    pub ty: TensorType,
    /// Output rows of one matrix.
    pub rows: usize,
    /// Input columns; a row is `ty.row_bytes(cols)` bytes.
    pub cols: usize,
    /// Matrices in the stack, 1 for a plain matrix.
    pub stack: usize,
    file: Arc<Gguf>,
    range: Range<usize>,
}

impl Matrix {
    /// All bytes: `stack × rows` rows.
    pub fn bytes(&self) -> &[u8] {
        &self.file.data()[self.range.clone()]
    }

    /// Bytes of matrix `ix` of the stack.
    pub fn slice(&self, ix: usize) -> &[u8] {
        assert!(ix < self.stack, "{}: matrix {ix} of {}", self.name, self.stack);
        let n = self.range.len() / self.stack;
        &self.bytes()[ix * n..(ix + 1) * n]
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.range.len() / (self.stack * self.rows)
    }

    /// Bytes of row `ix`, counted through the stack.
    pub fn row(&self, ix: usize) -> &[u8] {
        let rows = self.stack * self.rows;
        assert!(ix < rows, "{}: row {ix} of {rows}", self.name);
        let n = self.row_bytes();
        &self.bytes()[ix * n..(ix + 1) * n]
    }

    /// The file that holds it, for hints to the system about [`Matrix::range`].
    pub fn file(&self) -> &Arc<Gguf> {
        &self.file
    }

    /// Where it lies in [`Gguf::data`].
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// All values, decoded.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.stack * self.rows * self.cols];
        ds4_gguf::dequantize_row(self.ty, self.bytes(), &mut out);
        out
    }

    /// Handle to a tensor of `file`; its third dimension is the stack.
    pub(crate) fn of(file: &Arc<Gguf>, tensor: &TensorInfo) -> Self {
        let cols = tensor.cols();
        let stack = match tensor.dims.as_slice() {
            [_, _, n, ..] => usize::try_from(*n).expect("the stack fits into the file"),
            _ => 1,
        };
        Self {
            name: tensor.name.clone(),
            ty: tensor.ty,
            rows: tensor.rows() / stack,
            cols,
            stack,
            file: Arc::clone(file),
            range: tensor.range.clone(),
        }
    }
}

/// `fn`, `base` and `scale` of one hyper-connection (§2.2).
#[derive(Clone, Debug)]
pub struct HyperWeights {
    /// `[hc_mix or n_hc, n_hc · n_embd]`.
    pub mix: Matrix,
    /// `[hc_mix or n_hc]`.
    pub base: Vec<f32>,
    /// 3 values in a layer, 1 in a head.
    pub scale: Vec<f32>,
}

/// One compressor (§2.7): of attention rows (`dim` = `head_dim`) or of index rows (`index_dim`).
#[derive(Clone, Debug)]
pub struct CompressorWeights {
    /// `[lanes · dim, n_embd]`.
    pub kv: Matrix,
    /// `[lanes · dim, n_embd]`.
    pub gate: Matrix,
    /// `[ratio][lanes · dim]`.
    pub ape: Vec<f32>,
    /// `[dim]`.
    pub norm: Vec<f32>,
}

/// The indexer of a ratio-4 layer (§2.8).
#[derive(Clone, Debug)]
pub struct IndexerWeights {
    /// `[n_index_head · index_dim, q_rank]`.
    pub q_b: Matrix,
    /// `[n_index_head, n_embd]`.
    pub proj: Matrix,
    /// Its own compressor.
    pub comp: CompressorWeights,
}

/// How a layer chooses its experts (§2.9).
#[derive(Clone, Debug)]
pub enum Router {
    /// By token id: `[n_vocab][n_expert_used]`.
    Hash(Vec<u16>),
    /// By score plus this bias: `[n_expert]`.
    Score(Vec<f32>),
}

/// Gate, up and down matrices of an expert or a stack of experts.
#[derive(Clone, Debug)]
pub struct FfnWeights {
    /// `[n_ff, n_embd]`.
    pub gate: Matrix,
    /// `[n_ff, n_embd]`.
    pub up: Matrix,
    /// `[n_embd, n_ff]`.
    pub down: Matrix,
}

/// One transformer block: a trunk layer or the MTP block.
#[derive(Clone, Debug)]
pub struct BlockWeights {
    /// Hyper-connection around attention.
    pub hc_attn: HyperWeights,
    /// Hyper-connection around the FFN.
    pub hc_ffn: HyperWeights,
    /// `[n_embd]`.
    pub attn_norm: Vec<f32>,
    /// `[q_rank, n_embd]`.
    pub q_a: Matrix,
    /// `[q_rank]`.
    pub q_a_norm: Vec<f32>,
    /// `[n_head · head_dim, q_rank]`.
    pub q_b: Matrix,
    /// `[head_dim, n_embd]`.
    pub kv: Matrix,
    /// `[head_dim]`.
    pub kv_norm: Vec<f32>,
    /// `[n_head]`.
    pub sinks: Vec<f32>,
    /// `[n_out_group · out_rank, n_head · head_dim / n_out_group]`, groups stacked by rows.
    pub out_a: Matrix,
    /// `[n_embd, n_out_group · out_rank]`.
    pub out_b: Matrix,
    /// Present when the ratio is not 0.
    pub comp: Option<CompressorWeights>,
    /// Present when the ratio is 4.
    pub indexer: Option<IndexerWeights>,
    /// `[n_embd]`.
    pub ffn_norm: Vec<f32>,
    /// `[n_expert, n_embd]`.
    pub router_in: Matrix,
    /// Choice of experts.
    pub router: Router,
    /// Routed experts, stacks of `n_expert`.
    pub experts: FfnWeights,
    /// The shared expert.
    pub shared: FfnWeights,
}

/// The MTP block and what surrounds it (§4).
#[derive(Clone, Debug)]
pub struct MtpWeights {
    /// `[n_embd, n_embd]`.
    pub e_proj: Matrix,
    /// `[n_embd, n_embd]`.
    pub h_proj: Matrix,
    /// `[n_embd]`.
    pub enorm: Vec<f32>,
    /// `[n_embd]`.
    pub hnorm: Vec<f32>,
    /// Output norm of its head: `[n_embd]`.
    pub norm: Vec<f32>,
    /// Its own head hyper-connection.
    pub hc_head: HyperWeights,
    /// Ratio 0, score routing.
    pub block: BlockWeights,
}

/// All weights of a model.
#[derive(Clone, Debug)]
pub struct Weights {
    /// `[n_vocab, n_embd]`.
    pub embd: Matrix,
    /// Trunk layers.
    pub layers: Vec<BlockWeights>,
    /// Hyper-connection of the output head.
    pub hc_head: HyperWeights,
    /// `[n_embd]`.
    pub output_norm: Vec<f32>,
    /// `[n_vocab, n_embd]`.
    pub output: Matrix,
    /// The MTP block, when a file with it was given.
    pub mtp: Option<MtpWeights>,
}
