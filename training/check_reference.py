"""Compares the PyTorch model with the numpy reference (`ref_numpy.py`) on one exported random model.

  python check_reference.py PATH/TO/DIR_OF_ref_numpy [--tokens 700]

Exports an F32 file, runs both over the same tokens in f32 and prints the largest differences of the
logits, plain (no rounding simulation) and official (FP8 rows, FP4 index vectors), and of the MTP block.
Exit code 1 if the plain difference exceeds 1e-3.
"""
import argparse
import os
import sys
import tempfile

import numpy as np
import torch

from export import write
from model import Config, Mode, Nano, Rope


def stand_in_vocab(n):
    return {"tokens": [f"t{i}" for i in range(n)], "types": [1] * n, "merges": ["t 0"]}


def shake(model):
    """Random values everywhere, so that no zero or one hides a mistake."""
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p += 0.2 * torch.randn(p.shape, generator=g)
        for layer in [*model.layers, model.mtp.block]:
            layer.ffn.bias += 0.2 * torch.randn(layer.ffn.bias.shape, generator=g)
            for hc in (layer.hc_attn, layer.hc_ffn):
                hc.fn *= 3


def ours(model, tokens, sim):
    t = len(tokens)
    padded = torch.tensor(np.pad(tokens, (0, -t % 128)))[None]
    tables = Rope(model.c, padded.shape[1], "cpu").tables
    mode = Mode(dtype=torch.float32, sim=sim, exact_ties=True)
    with torch.no_grad():
        x, _, _ = model.trunk(padded, tables, mode)
        y, _ = model.draft(x, torch.roll(padded, -1, 1), tables, mode)
        return model.logits(x, mode)[0, :t].numpy(), model.logits(y, mode, mtp=True)[0, :t - 1].numpy()


def main():
    a = argparse.ArgumentParser()
    a.add_argument("reference")
    a.add_argument("--tokens", type=int, default=700)
    o = a.parse_args()
    sys.path.insert(0, o.reference)
    import ref_numpy as ref
    model = Nano(Config(index_top_k=32), seed=3)
    shake(model)
    tokens = np.random.default_rng(1).integers(0, model.c.n_vocab, o.tokens)
    bad = False
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "m.gguf")
        write(model, stand_in_vocab(model.c.n_vocab), path, "f32", "check")
        for label, flags in (("plain", ref.Flags()), ("official", ref.Flags.official())):
            r = ref.Model(path, flags=flags)
            want, state = r.forward(tokens)
            wmtp, _ = r.mtp(state[:-1], tokens[1:], np.arange(len(tokens) - 1), ref.LayerCache(r.c, 0, r.dt))
            got, gmtp = ours(model, tokens, label == "official")
            e, em = np.abs(got - want).max(-1), np.abs(gmtp - wmtp).max(-1)
            print(f"{label}: logits std {want.std():.3f}  max diff {e.max():.2e}  positions within 1e-3: "
                  f"{(e < 1e-3).mean():.3f}  MTP max diff {em.max():.2e}  within: {(em < 1e-3).mean():.3f}")
            bad |= label == "plain" and max(e.max(), em.max()) > 1e-3
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
