"""Checks of the data pipeline: rendering, tokenizer, needle seams, answers, the split.

usage: python3 training/data/test_data.py [--render render_2604.json] [--corpus corpus.txt.xz]
"""
import argparse
import json
import os
import random
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from tokenizers import Tokenizer  # noqa: E402

import build  # noqa: E402
import gen_math  # noqa: E402
import mixture  # noqa: E402
import render2604  # noqa: E402
from base import held_out  # noqa: E402
from tok import Encoder  # noqa: E402

EVAL = os.path.join(HERE, "../../testdata/nano_eval")


def check_render(path):
    """Every prompt of the fixtures, byte for byte; errors only as error or not."""
    cases = json.load(open(path, encoding="utf-8"))["cases"]
    for case in cases:
        try:
            got = render2604.text_of(render2604.render(
                case["messages"], case["thinking_mode"] == "thinking", case["drop_thinking"],
                case["reasoning_effort"]))
        except render2604.RenderError:
            got = None
        assert got == case.get("prompt"), case["id"]
    print(f"render: {len(cases)} fixtures equal")


def merge_by_rank(piece, ranks):
    """Byte-level BPE as the protocol states it (A.2): lowest rank first, left-most on ties."""
    parts = list(piece)
    while len(parts) > 1:
        best = min(range(len(parts) - 1),
                   key=lambda i: (ranks.get((parts[i], parts[i + 1]), 1 << 30), i))
        if (parts[best], parts[best + 1]) not in ranks:
            break
        parts[best:best + 2] = [parts[best] + parts[best + 1]]
    return parts


def check_vocabulary(encoder):
    """vocab.json alone (what the GGUF carries) gives the ids of tokenizer.json."""
    vocab = json.load(open(os.path.join(HERE, "vocab.json"), encoding="utf-8"))
    ids = {t: i for i, t in enumerate(vocab["tokens"])}
    ranks = {tuple(m.split(" ")): i for i, m in enumerate(vocab["merges"])}
    assert len(ids) == len(vocab["types"]) == encoder.size
    rng = random.Random(4)
    split = encoder.plain.pre_tokenizer.pre_tokenize_str
    pieces = 0
    for i in range(400):
        made = mixture.example(rng, ("chat", "math", "task", "lookup", "tools")[i % 5])
        text = render2604.text_of(render2604.render(made.messages, made.thinking))
        text += rng.choice(("Zürich naïve 東京 é½ 🙂", "\t x\r\n\r\n  y", "£5 “q” 12345,678"))
        want = encoder.text(text)
        got = [ids[t] for piece, _ in split(text) for t in merge_by_rank(piece, ranks)]
        assert got == want, text
        pieces += len(want)
    for digits in ("0", "48213", "2026"):
        assert len(encoder.text(digits)) == len(digits)
    print(f"vocabulary: {pieces} tokens equal by merges alone; digits are single tokens")


def check_joined(encoder):
    """Segment-wise ids equal whole-text encoding with added tokens (content has no literals)."""
    whole = Tokenizer.from_file(os.path.join(HERE, "tokenizer.json"))
    rng = random.Random(5)
    for i in range(500):
        made = mixture.example(rng, ("chat", "math", "task", "lookup", "tools")[i % 5])
        ids, weights = encoder.example(made)
        text = render2604.text_of(render2604.render(
            made.messages, made.thinking, reasoning_effort=made.effort))
        assert whole.encode(text).ids == ids and len(ids) == len(weights)
        assert ids[0] == encoder.bos and ids[-1] == encoder.eos and weights[-1] == 100
        assert not any(held_out(k) for k in made.keys)
    return whole


def check_needles(encoder, whole, path):
    """Needle documents, put together from ids, encode to themselves and hold their answers."""
    maker = build.Maker(encoder, build.Corpus(encoder, path), 6)
    for room in (700, 1026, 1026, 4098):
        for _ in range(60):
            ids, weights = maker.make("needle", room)
            text = whole.decode(ids, skip_special_tokens=False)
            assert whole.encode(text).ids == ids and len(ids) == len(weights) <= room
            user, *rest = text.split("<｜Assistant｜>")
            for reply in rest:
                fact = reply.split("</think>")[1].split("<｜end")[0]
                assert fact in user, fact
    print("needles: ids equal whole-text encoding, every answer is in its text")


def evaluate(a, op, b):
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // max(b, 1)}[op]


def check_math():
    """The written steps and results of exercises are true."""
    rng = random.Random(7)
    for _ in range(20000):
        a, op, b = gen_math.operands(rng, rng.random() < 0.5)
        result, steps = gen_math.solve(a, op, b)
        for left, sign, right, total in re.findall(
                r"(?<![\d+*/-])(\d+)([-+*/])(\d+)=(\d+)", steps):
            assert int(total) == evaluate(int(left), sign, int(right)), steps
        assert result == evaluate(a, op, b)
    print("arithmetic: results and steps are true")


def check_split():
    """No evaluation request is among many freshly generated training requests."""
    asked = set()
    for name in ("tools", "arithmetic", "copy", "text", "lookup", "chat", "thinking"):
        for line in open(os.path.join(EVAL, f"{name}.jsonl"), encoding="utf-8"):
            asked.add(json.loads(line)["messages"][-1].get("content"))
    rng = random.Random(8)
    for i in range(20000):
        made = mixture.example(rng, ("chat", "math", "task", "lookup", "tools")[i % 5])
        for message in made.messages:
            if message["role"] == "user":
                small = len(message["content"]) < 18  # tables of small numbers are facts
                assert small or message["content"] not in asked, message["content"]
    print(f"split: none of {len(asked)} evaluation requests in 20000 training examples")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--render", default=os.path.join(
        HERE, "../../testdata/protocol/render_2604.json"))
    parser.add_argument("--corpus", default=os.path.join(HERE, "../../.carry/corpus.txt.xz"))
    args = parser.parse_args()
    encoder = Encoder()
    check_render(args.render)
    check_vocabulary(encoder)
    whole = check_joined(encoder)
    check_math()
    check_split()
    if os.path.exists(args.corpus):
        check_needles(encoder, whole, args.corpus)
    else:
        print("needles: not checked, no corpus at", args.corpus)


if __name__ == "__main__":
    main()
