//! Bytes that one decoded token must read: the floor under its time (§5.4).

use ds4_model::{BlockWeights, CompressorWeights, Dims, INDEXED_RATIO, Matrix, Weights};

/// Bytes of an f32 value, as sequences keep their rows.
const F32: usize = 4;

/// Bytes of weights read for a token of the trunk: every matrix once, of the routed experts those
/// that are used, of the embedding one row. The MTP block is not counted.
pub(crate) fn weights(weights: &Weights, dims: &Dims) -> u64 {
    let layers: usize = weights.layers.iter().map(|layer| block(layer, dims)).sum();
    let head = bytes(&weights.hc_head.mix) + bytes(&weights.output);
    (layers + head + weights.embd.row_bytes()) as u64
}

fn bytes(matrix: &Matrix) -> usize {
    matrix.bytes().len()
}

fn block(layer: &BlockWeights, dims: &Dims) -> usize {
    let dense = [
        &layer.hc_attn.mix,
        &layer.hc_ffn.mix,
        &layer.q_a,
        &layer.q_b,
        &layer.kv,
        &layer.out_a,
        &layer.out_b,
        &layer.router_in,
        &layer.shared.gate,
        &layer.shared.up,
        &layer.shared.down,
    ];
    let dense: usize = dense.into_iter().map(bytes).sum();
    let compressor = |comp: &CompressorWeights| bytes(&comp.kv) + bytes(&comp.gate);
    let comp = layer.comp.as_ref().map_or(0, compressor);
    let indexer = layer.indexer.as_ref();
    let indexer = indexer.map_or(0, |ix| bytes(&ix.q_b) + bytes(&ix.proj) + compressor(&ix.comp));
    let experts = [&layer.experts.gate, &layer.experts.up, &layer.experts.down];
    let experts: usize = experts.into_iter().map(|m| bytes(m) / m.stack * dims.n_expert_used).sum();
    dense + comp + indexer + experts
}

/// Bytes of a sequence's rows read for the token at position `pos`, rows kept as f32.
pub(crate) fn rows(dims: &Dims, pos: usize) -> u64 {
    let layer = |&ratio: &usize| {
        let raw = dims.window.min(pos + 1);
        if ratio == 0 {
            return raw * dims.head_dim * F32;
        }
        let visible = (pos + 1) / ratio;
        let (chosen, index) = if ratio == INDEXED_RATIO && visible > dims.index_top_k {
            (dims.index_top_k, visible * dims.index_dim)
        } else {
            (visible, 0)
        };
        ((raw + chosen) * dims.head_dim + index) * F32
    };
    dims.ratios.iter().map(layer).sum::<usize>() as u64
}

/// Multiply-adds of attention for the token at position `pos`: every head with every row that it
/// sees, once for the score and once for the sum.
pub(crate) fn row_macs(dims: &Dims, pos: usize) -> u64 {
    let rows = |&ratio: &usize| {
        let raw = dims.window.min(pos + 1);
        let visible = (pos + 1).checked_div(ratio).unwrap_or(0);
        raw + if ratio == INDEXED_RATIO { visible.min(dims.index_top_k) } else { visible }
    };
    let rows: usize = dims.ratios.iter().map(rows).sum();
    (2 * rows * dims.n_head * dims.head_dim) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_follow_the_layers_kinds() {
        let dims = ds4_model::shapes::flash();
        assert_eq!(rows(&dims, 0), 43 * 512 * 4);
        // 128 raw rows everywhere, 512 chosen of 8192 with all index rows, 256 dense ones.
        let indexed = 21 * ((128 + 512) * 512 + 8192 * 128);
        let dense = 20 * (128 + 256) * 512;
        assert_eq!(rows(&dims, 32_767), 4 * (2 * 128 * 512 + indexed + dense));
        assert_eq!(row_macs(&dims, 0), 43 * 2 * 64 * 512);
        let seen = 2 * 128 + 21 * (128 + 512) + 20 * (128 + 256);
        assert_eq!(row_macs(&dims, 32_767), seen * 2 * 64 * 512);
    }
}
