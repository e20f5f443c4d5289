"""How far other formats of one checkpoint are from its F32 file, measured with the engine itself.

  python kl.py --ds4 PATH/TO/ds4 F32.gguf OTHER.gguf... [--texts ../testdata/nano_eval]

Every document of novel.txt and stories.txt (separated by a form feed on its own line) is BOS, text, EOS;
`ds4 logits` gives the logits of every position under each file. Printed for each file and text: bytes,
perplexity of the tokens after BOS, and against the first file the KL divergence KL(F32 || other) in nats per
token (mean, 99th percentile) and the share of positions with the same most probable token.
"""
import argparse
import json
import os
import subprocess
import tempfile

import numpy as np

BOS, EOS = 0, 1
HERE = os.path.dirname(os.path.abspath(__file__))


def documents(ds4, model, path):
    """Token ids of each document, with BOS and EOS."""
    with open(path, encoding="utf-8") as f:
        texts = f.read().split("\n\f\n")
    run = subprocess.run([ds4, "tokenize", "-m", model, "--json", "--plain"], input=json.dumps(texts), text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return [[BOS, *ids, EOS] for ids in json.loads(run.stdout)]


def log_probs(ds4, model, ids):
    """Log probabilities [tokens - 1, vocabulary] of every position but the last, f64."""
    with tempfile.TemporaryDirectory() as d:
        tokens, out = os.path.join(d, "t.json"), os.path.join(d, "l.npy")
        with open(tokens, "w", encoding="utf-8") as f:
            json.dump(ids, f)
        subprocess.run([ds4, "logits", "-m", model, "--tokens", tokens, "--out", out], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        x = np.load(out)[:-1].astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def compare(ds4, base, model, docs):
    """(perplexity, KL of every position, same most probable token of every position)."""
    nll, kl, same = [], [], []
    for ids in docs:
        p = log_probs(ds4, base, ids)
        q = p if model == base else log_probs(ds4, model, ids)
        nll.append(-q[np.arange(len(q)), ids[1:]])
        kl.append((np.exp(p) * (p - q)).sum(-1))
        same.append(p.argmax(-1) == q.argmax(-1))
    return float(np.exp(np.concatenate(nll).mean())), np.concatenate(kl), np.concatenate(same)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--ds4", default="ds4")
    a.add_argument("--texts", default=os.path.join(HERE, "../testdata/nano_eval"))
    a.add_argument("models", nargs="+", metavar="GGUF", help="the F32 file first")
    o = a.parse_args()
    print("| file | bytes | text | tokens | perplexity | KL mean | KL p99 | same top token % |")
    print("|---|---|---|---|---|---|---|---|")
    for name in ("novel", "stories"):
        docs = documents(o.ds4, o.models[0], os.path.join(o.texts, name + ".txt"))
        for model in o.models:
            ppl, kl, same = compare(o.ds4, o.models[0], model, docs)
            print(f"| {os.path.basename(model)} | {os.path.getsize(model)} | {name} | {len(kl)} | {ppl:.3f} | "
                  f"{kl.mean():.5f} | {np.percentile(kl, 99):.4f} | {100 * same.mean():.2f} |", flush=True)


if __name__ == "__main__":
    main()
