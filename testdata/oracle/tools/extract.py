#!/usr/bin/env python3
"""Short references of an oracle model, small enough for the repository.

  extract.py OUT MODEL.gguf [MTP.gguf] [--tokens N] [--decode N] [--seed N] MODE=REGEX ...

Runs ref_numpy.py in float64 over N random prompt tokens in every MODE named (plain, official, ds4), then over
the decode tokens one by one, and drafts with the MTP block after every prompt token. Writes OUT/ref_MODE.npz:
tokens, decode_tokens, logits, decode_logits and all stages whose name matches REGEX, as float32.
"""
import re, sys, numpy as np
from ref_numpy import Model, Cache, Flags, LayerCache

FLAGS = dict(plain=Flags(), official=Flags.official(), ds4=Flags.ds4())

def reference(paths, flags, n, n_dec, seed):
    m, tr = Model(*paths, dtype=np.float64, flags=flags), {}
    rng = np.random.default_rng(seed + 1000)
    toks, dec = np.concatenate([[0], rng.integers(8, min(264, m.c.n_vocab), n - 1)]), rng.integers(8, min(264, m.c.n_vocab), n_dec)
    c = Cache(m); _, H = m.forward(toks, c, trace=tr)
    tr["decode_logits"] = np.stack([m.forward([t], c)[0][0] for t in dec])
    m.mtp(H[:-1], toks[1:], np.arange(n - 1), LayerCache(m.c, 0, m.dt), trace=tr)
    tr["tokens"], tr["decode_tokens"] = toks, dec
    return tr

def option(name, default):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default

if __name__ == "__main__":
    paths = [a for a in sys.argv[2:] if a.endswith(".gguf")]
    modes = dict(a.split("=", 1) for a in sys.argv[2:] if a.split("=")[0] in FLAGS)
    always = ("tokens", "decode_tokens", "logits", "decode_logits")
    for mode, regex in modes.items():
        tr = reference(paths, FLAGS[mode], option("--tokens", 40), option("--decode", 8), option("--seed", 1))
        keep = {k: v for k, v in tr.items() if k in always or re.fullmatch(regex, k)}
        np.savez_compressed(f"{sys.argv[1]}/ref_{mode}.npz", **{k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in keep.items()})
        print(mode, len(keep), "arrays, logits std", float(tr["logits"].std()))
