"""GGUF names of every tensor of the model, in file order, with the class that decides its type."""


def _hc(module, prefix, kind):
    yield f"{prefix}.hc_{kind}_fn.weight", module.fn, "hc"
    yield f"{prefix}.hc_{kind}_scale.weight", module.scale, "f32"
    yield f"{prefix}.hc_{kind}_base.weight", module.base, "f32"


def _compressor(comp, prefix, cls):
    yield f"{prefix}_ape.weight", comp.ape, "ape"
    yield f"{prefix}_kv.weight", comp.kv, cls
    yield f"{prefix}_gate.weight", comp.gate, cls
    yield f"{prefix}_norm.weight", comp.norm, "f32"


def _attention(attn, p):
    yield f"{p}.attn_q_a.weight", attn.q_a, "dense"
    yield f"{p}.attn_q_a_norm.weight", attn.q_a_norm, "f32"
    yield f"{p}.attn_q_b.weight", attn.q_b, "dense"
    yield f"{p}.attn_kv.weight", attn.kv, "dense"
    yield f"{p}.attn_kv_a_norm.weight", attn.kv_norm, "f32"
    yield f"{p}.attn_sinks.weight", attn.sinks, "f32"
    yield f"{p}.attn_output_a.weight", attn.out_a, "dense"
    yield f"{p}.attn_output_b.weight", attn.out_b, "dense"
    if attn.comp is not None:
        yield from _compressor(attn.comp, f"{p}.attn_compressor", "compressor")
    if attn.index is not None:
        yield f"{p}.indexer.attn_q_b.weight", attn.index.q_b, "indexer"
        yield f"{p}.indexer.proj.weight", attn.index.proj, "indexer"
        yield from _compressor(attn.index.comp, f"{p}.indexer_compressor", "indexer")


def _experts(ffn, p, hash_routed):
    yield f"{p}.ffn_gate_inp.weight", ffn.router, "router"
    if hash_routed:
        yield f"{p}.ffn_gate_tid2eid.weight", ffn.table, "i32"
    else:
        yield f"{p}.exp_probs_b.bias", ffn.bias, "f32"
    yield f"{p}.ffn_gate_exps.weight", ffn.gate, "gate_up"
    yield f"{p}.ffn_up_exps.weight", ffn.up, "gate_up"
    yield f"{p}.ffn_down_exps.weight", ffn.down, "down"
    yield f"{p}.ffn_gate_shexp.weight", ffn.sh_gate, "shared"
    yield f"{p}.ffn_up_shexp.weight", ffn.sh_up, "shared"
    yield f"{p}.ffn_down_shexp.weight", ffn.sh_down, "shared"


def _block(block, p, hash_routed):
    yield from _hc(block.hc_attn, p, "attn")
    yield from _hc(block.hc_ffn, p, "ffn")
    yield f"{p}.attn_norm.weight", block.attn_norm, "f32"
    yield f"{p}.ffn_norm.weight", block.ffn_norm, "f32"
    yield from _attention(block.attn, p)
    yield from _experts(block.ffn, p, hash_routed)


def tensors(model):
    """(name, tensor, class) of the trunk, then of the MTP block (prefix mtp.0)."""
    yield "token_embd.weight", model.embed, "embed"
    yield "output_hc_base.weight", model.hc_head.base, "f32"
    yield "output_hc_fn.weight", model.hc_head.fn, "hc"
    yield "output_hc_scale.weight", model.hc_head.scale, "f32"
    yield "output_norm.weight", model.norm, "f32"
    yield "output.weight", model.output, "output"
    for i, layer in enumerate(model.layers):
        yield from _block(layer, f"blk.{i}", i < model.c.n_hash_layer)
    m = model.mtp
    yield "mtp.0.hc_head_base.weight", m.head.base, "f32"
    yield "mtp.0.hc_head_fn.weight", m.head.fn, "hc"
    yield "mtp.0.hc_head_scale.weight", m.head.scale, "f32"
    yield "mtp.0.e_proj.weight", m.e_proj, "dense"
    yield "mtp.0.h_proj.weight", m.h_proj, "dense"
    yield "mtp.0.enorm.weight", m.enorm, "f32"
    yield "mtp.0.hnorm.weight", m.hnorm, "f32"
    yield "mtp.0.norm.weight", m.norm, "f32"
    yield from _block(m.block, "mtp.0", False)
