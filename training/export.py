"""Checkpoint -> GGUF with the published names, metadata and tokenizer keys.

  python export.py CHECKPOINT OUT.gguf [--type f32|q8|ship] [--vocab data/vocab.json] [--name NAME]

Types: f32 = everything F32 (the master that `ds4 quantize` reads); q8 = Q8_0 matrices, experts too;
ship = Q8_0 matrices and Q4_K routed experts. Hyper-connection matrices, routers and compressor position tables
are F16 in q8 and ship, as published. The MTP block lies in the same file under `mtp.0.*`.
CHECKPOINT may be `random` for an untrained model of the final shape.
"""
import argparse
import json
import os

import gguf
import numpy as np
import torch

from kquants import quantize_q4_k
from model import Config, Nano
from names import tensors

_Q = gguf.GGMLQuantizationType
DENSE = ("dense", "shared", "output", "embed", "compressor", "indexer")


def type_of(cls, kind):
    """GGUF type of a tensor class in a file kind."""
    if cls == "i32":
        return "I32"
    if kind == "f32" or cls == "f32":
        return "F32"
    if cls in ("gate_up", "down"):
        return "Q4_K" if kind == "ship" else "Q8_0"
    return "Q8_0" if cls in DENSE else "F16"


def metadata(w, c, name):
    """Every key the loaders require, as in the published files."""
    key = lambda k: "deepseek4." + k
    ints = {
        "block_count": c.n_layer, "context_length": c.ctx_max, "embedding_length": c.n_embd,
        "vocab_size": c.n_vocab, "attention.head_count": c.n_head, "attention.head_count_kv": 1,
        "attention.key_length": c.head_dim, "attention.value_length": c.head_dim,
        "rope.dimension_count": c.rope_dim, "attention.q_lora_rank": c.q_rank,
        "attention.output_lora_rank": c.out_rank, "attention.output_group_count": c.n_out_group,
        "expert_count": c.n_expert, "expert_used_count": c.n_expert_used, "expert_shared_count": 1,
        "expert_feed_forward_length": c.n_ff, "expert_gating_func": 4, "hash_layer_count": c.n_hash_layer,
        "attention.sliding_window": c.window, "attention.indexer.head_count": c.n_index_head,
        "attention.indexer.key_length": c.index_dim, "attention.indexer.top_k": c.index_top_k,
        "hyper_connection.count": c.n_hc, "hyper_connection.sinkhorn_iterations": c.sinkhorn_iters,
        "nextn_predict_layers": 1, "rope.scaling.original_context_length": c.yarn_ctx,
    }
    floats = {
        "rope.freq_base": c.rope_base, "rope.scaling.factor": c.yarn_factor,
        "rope.scaling.yarn_beta_fast": c.yarn_beta_fast, "rope.scaling.yarn_beta_slow": c.yarn_beta_slow,
        "attention.compress_rope_freq_base": c.rope_base_comp, "expert_weights_scale": c.expert_scale,
        "attention.layer_norm_rms_epsilon": c.rms_eps, "hyper_connection.epsilon": c.hc_eps,
    }
    w.add_name(name)
    w.add_license("mit")
    w.add_quantization_version(2)
    for k, v in ints.items():
        w.add_uint32(key(k), int(v))
    for k, v in floats.items():
        w.add_float32(key(k), float(v))
    w.add_string(key("rope.scaling.type"), "yarn")
    w.add_bool(key("expert_weights_norm"), True)
    w.add_array(key("attention.compress_ratios"), [int(r) for r in c.ratios] + [0])
    w.add_array(key("swiglu_clamp_exp"), [float(c.swiglu_clamp)] * c.n_layer)


def tokenizer(w, vocab):
    """vocab: {"tokens": [str in the byte alphabet], "types": [int], "merges": ["left right"]}."""
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("joyai-llm")
    w.add_token_list(vocab["tokens"])
    w.add_token_types(vocab["types"])
    w.add_token_merges(vocab["merges"])
    w.add_bos_token_id(0)
    w.add_eos_token_id(1)
    w.add_pad_token_id(2)
    w.add_add_bos_token(False)
    w.add_add_eos_token(False)


def encode(x, kind):
    """f32 array [.., out, in] -> raw data as the writer wants it."""
    if kind == "F16":
        return x.astype(np.float16)
    if kind == "Q8_0":
        return gguf.quants.quantize(x, _Q.Q8_0)
    if kind == "Q4_K":
        return quantize_q4_k(x)
    return x


def write(model, vocab, path, kind, name):
    """Write the file; returns its size in bytes."""
    w = gguf.GGUFWriter(path, "deepseek4")
    metadata(w, model.c, name)
    tokenizer(w, vocab)
    for tensor, value, cls in tensors(model):
        t = type_of(cls, kind)
        x = value.detach().cpu().numpy()
        x = np.ascontiguousarray(x, np.int32 if t == "I32" else np.float32)
        raw = encode(x, t)
        if t in ("F32", "F16", "I32"):
            w.add_tensor(tensor, raw)
        else:
            w.add_tensor(tensor, raw, raw_dtype=_Q[t])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return os.path.getsize(path)


def load(path):
    """Model from a training checkpoint, or an untrained one for `random`."""
    if path == "random":
        return Nano(Config())
    data = torch.load(path, map_location="cpu", weights_only=True)
    model = Nano(Config(**data["config"]))
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in data["model"].items()})
    return model


def main():
    a = argparse.ArgumentParser()
    a.add_argument("checkpoint")
    a.add_argument("out")
    a.add_argument("--type", default="ship", choices=("f32", "q8", "ship"))
    a.add_argument("--vocab", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "data/vocab.json"))
    a.add_argument("--name", default="nano")
    o = a.parse_args()
    with open(o.vocab, encoding="utf-8") as f:
        vocab = json.load(f)
    size = write(load(o.checkpoint), vocab, o.out, o.type, o.name)
    print(f"{o.out}: {size} bytes ({size / 2 ** 20:.2f} MiB)")


if __name__ == "__main__":
    main()
