"""Writes the held-out evaluation: testdata/nano_eval (format: its README.md) and, for the training
loop, token-level copies of the same cases.

usage: python3 eval_cases.py --heldout .carry/heldout.txt [--tokens .carry]
"""
import argparse
import json
import os
import random
import zlib

import numpy as np

import gen_chat
import gen_lookup
import gen_math
import gen_story
import gen_text
import gen_tools
import mixture
from base import held_out, join_turns
from render2604 import render
from tok import Encoder

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "../../testdata/nano_eval")
NEEDLES = (("needle-1k", 1024, 60), ("needle-4k", 4096, 40), ("needle-16k", 16384, 25))
HAYSTACK_CHARS = 130_000
NOVEL_CHARS = 24_000
STORIES = 40
SAMPLES = (
    "Hello!", "Who are you?", "What can you do?", "What is the capital of France?",
    "Tell me a short story about a fox.", "Write a sentence about the moon.", "What is a river?",
    "How do you say thank you in German?", "What is the opposite of hot?", "I am sad.",
    "Name three animals.", "What sound does a cow make?", "What is 17 + 25?",
    "Write a short poem about a cat.", "How many days are in a week?", "Tell me about Japan.",
    "Repeat after me: the green boat", "What should I do when it rains?",
    "My name is Lena. What is my name?", "Thank you, goodbye!")


def case(made, ident, category, expect):
    """The common form of a case; the final answer is taken off."""
    messages = [{k: v for k, v in m.items() if k != "reasoning_content" or made.thinking}
                for m in made.messages[:-1]]
    return {"id": ident, "category": category, "thinking": made.thinking, "messages": messages,
            "expect": expect}


def single_cases(rng, category, count, make, both=True):
    """Cases of single-turn generators, half of them with thinking."""
    out, seen = [], set()
    while len(out) < count:
        thinking = both and len(out) % 2 == 1
        turn = make(rng, thinking)
        if not turn.key or not held_out(turn.key) or turn.user in seen:
            continue
        seen.add(turn.user)
        made = join_turns(rng, [turn], thinking)
        expect = {"answer": turn.expect or turn.answer, "match": turn.check}
        out.append((case(made, f"{category}-{len(out):03d}", category, expect), made))
    return out


def tool_cases(rng):
    """Calls, no calls, and answers from results."""
    out = []
    wanted = {"call": 200, "none": 30, "result": 40}
    while any(wanted.values()):
        thinking = rng.random() < 0.5
        made = gen_tools.tool_use(rng, thinking, evaluation=True)
        if not any(held_out(k) for k in made.keys):
            continue
        calls, answer = made.extra["calls"], made.extra["answer"]
        kind = "none" if not calls else "result" if rng.random() < 0.17 else "call"
        if not wanted[kind]:
            continue
        wanted[kind] -= 1
        if kind == "call":
            at = next(i for i, m in enumerate(made.messages) if m.get("tool_calls"))
            made.messages = made.messages[:at + 1]
            expect = {"tool_calls": [{"name": n, "arguments": a} for n, a in calls]}
        elif kind == "result":
            expect = {"answer": answer, "match": "contains", "tool_calls": []}
        else:
            expect = {"answer": answer, "match": "contains" if "no tool" in answer else "any",
                      "tool_calls": []}
        number = {"call": 200, "none": 30, "result": 40}[kind] - wanted[kind]
        out.append((case(made, f"tools-{kind}-{number:03d}", "tools", expect), made))
    return sorted(out, key=lambda c: c[0]["id"])


def needle_cases(rng, encoder, lines):
    """Secrets in runs of the committed haystack; the prompt is as long as its name says."""
    lengths = [len(encoder.text(" " + line)) for line in lines]
    out = []
    for category, limit, count in NEEDLES:
        for i in range(count):
            secrets = mixture.pick_secrets(rng, rng.choice((1, 2, 3, 4)), heldout=True)
            secrets.sort(key=lambda s: not held_out("needle|" + s[4]))
            opening = rng.choice(gen_lookup.ASK)
            room = limit - 24 * len(secrets) - 40
            while True:
                start = rng.randrange(len(lines))
                end, size = start, 0
                while end < len(lines) and size + lengths[end] <= room:
                    size += lengths[end]
                    end += 1
                if end < len(lines):
                    break
            # The asked secret goes through all depths; the others lie anywhere.
            depth = (i + rng.random()) / count
            spots = [start + 1 + int(depth * (end - start - 2))]
            spots += [rng.randrange(start + 1, end) for _ in secrets[1:]]
            insert = sorted(({"before": at, "text": s[0]} for at, s in zip(spots, secrets)),
                            key=lambda x: x["before"])
            haystack = {"from": start, "to": end, "insert": insert}
            content = (opening + "\n\n" if opening else "") + "{haystack}\n\n" + secrets[0][1]
            thinking = i % 3 == 2
            turns = {"id": f"{category}-{i:03d}", "category": category, "thinking": thinking,
                     "messages": [{"role": "user", "content": content}],
                     "expect": {"answer": secrets[0][3], "match": "contains"},
                     "haystack": haystack}
            full = [{"role": "user", "content": expand(turns, lines)},
                    {"role": "assistant", "content": secrets[0][2],
                     "reasoning_content": f"The text says: {secrets[0][0]}"}]
            out.append((turns, full))
    return out


def expand(entry, lines):
    """The user text of a needle case: the lines of the haystack with the secrets put in."""
    hay = entry["haystack"]
    parts = []
    for i in range(hay["from"], hay["to"]):
        parts += [x["text"] for x in hay["insert"] if x["before"] == i]
        parts.append(lines[i])
    return entry["messages"][-1]["content"].replace("{haystack}", " ".join(parts))


def thinking_cases(rng):
    """Every kind of request, in both modes; only the form of the output is judged."""
    out = []
    for i in range(80):
        family = ("chat", "math", "task", "lookup", "tools")[i % 5]
        while True:
            made = mixture.example(rng, family, heldout=True)
            if made.thinking == (i % 2 == 0):
                break
        if family == "tools":
            at = next(i for i, m in enumerate(made.messages) if m["role"] == "assistant")
            made.messages = made.messages[:at + 1]
        made.effort = None
        out.append((case(made, f"thinking-{i:03d}", "thinking", {"match": "any"}), made))
    return out


def write(name, cases):
    with open(os.path.join(OUT, name), "w", encoding="utf-8") as f:
        for entry in cases:
            f.write(json.dumps(entry, ensure_ascii=False) + "\n")


def chat_turn(rng, _thinking):
    """A graded question of small talk."""
    while True:
        turn = gen_chat.small_talk(rng)
        if turn.check == "contains" and turn.expect:
            return turn


def copy_turn(rng, _thinking):
    return gen_text.copy_text(rng) if rng.random() < 0.9 else gen_text.repeat_word(rng)


def work_turn(rng, _thinking):
    """Text tasks other than copying."""
    while True:
        turn = gen_text.text_task(rng)
        if turn.category == "text" and turn.check != "any":
            return turn


def lookup_turn(rng, _thinking):
    return gen_lookup.table(rng) if rng.random() < 0.7 else gen_story.story_question(rng)


def held_out_texts(path, rng):
    """(haystack sentences, novel documents, story documents)."""
    docs = [d.partition("\n")[2].strip() for d in open(path, encoding="utf-8").read().split("\f")
            if d.strip()]
    lines = [s for d in docs for s in mixture.sentences(d)]
    hay, size = [], 0
    while size < HAYSTACK_CHARS:
        hay.append(lines[len(hay)])
        size += len(hay[-1]) + 1
    novel, size = [], 0
    for doc in docs[int(len(docs) * 0.6):]:
        if size < NOVEL_CHARS:
            novel.append(doc)
            size += len(doc)
    return hay, novel, [gen_story.story_page(rng) for _ in range(STORIES)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heldout", required=True)
    parser.add_argument("--tokens", help="also write eval_cases.jsonl and heldout_text.tok.npy")
    args = parser.parse_args()
    rng, encoder = random.Random(20260101), Encoder()
    hay, novel, stories = held_out_texts(args.heldout, rng)
    os.makedirs(OUT, exist_ok=True)
    with open(os.path.join(OUT, "haystack.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(hay) + "\n")
    for name, docs in (("novel.txt", novel), ("stories.txt", stories)):
        with open(os.path.join(OUT, name), "w", encoding="utf-8") as f:
            f.write("\n\f\n".join(docs) + "\n")
    groups = {
        "tools": tool_cases(rng),
        "arithmetic": single_cases(rng, "arithmetic", 200, gen_math.any_math),
        "copy": single_cases(rng, "copy", 150, copy_turn),
        "text": single_cases(rng, "text", 100, work_turn),
        "lookup": single_cases(rng, "lookup", 100, lookup_turn),
        "chat": single_cases(rng, "chat", 100, chat_turn),
        "thinking": thinking_cases(rng),
    }
    for name, cases in groups.items():
        write(f"{name}.jsonl", [c for c, _ in cases])
    needles = needle_cases(rng, encoder, hay)
    write("needle.jsonl", [c for c, _ in needles])
    write("samples.jsonl", [
        {"id": f"sample-{i:02d}", "category": "sample", "thinking": False,
         "messages": [{"role": "user", "content": text}]} for i, text in enumerate(SAMPLES)])
    size = 0
    for name in sorted(os.listdir(OUT)):
        data = open(os.path.join(OUT, name), "rb").read()
        size += len(zlib.compress(data, 9))
        print(name, len(data), "bytes")
    print("compressed", size)
    if args.tokens:
        write_tokens(args.tokens, encoder, groups, needles, novel + stories)


def write_tokens(folder, encoder, groups, needles, texts):
    """Token-level copies for the training loop."""
    short = {"arithmetic": "arith", "tools": "tool", "thinking": "think"}
    with open(os.path.join(folder, "eval_cases.jsonl"), "w", encoding="utf-8") as f:
        def put(kind, messages, thinking):
            prompt, _ = encoder.segments(render(messages[:-1], thinking))
            whole, _ = encoder.segments(render(messages, thinking))
            assert whole[:len(prompt)] == prompt
            f.write(json.dumps({"kind": kind, "prompt_ids": prompt,
                                "answer_ids": whole[len(prompt):]}) + "\n")
            return len(prompt)

        for name, cases in groups.items():
            for _, made in cases:
                put(short.get(name, name), made.messages, made.thinking)
        sizes = {}
        for entry, full in needles:
            kind = entry["category"].replace("-", "")
            n = put(kind, full, entry["thinking"])
            sizes.setdefault(kind, []).append(n)
    print({k: (min(v), max(v)) for k, v in sizes.items()})
    ids = []
    for text in texts:
        ids += [encoder.bos] + encoder.text(text) + [encoder.eos]
    rows = len(ids) // 1026
    np.save(os.path.join(folder, "heldout_text.tok.npy"),
            np.array(ids[:rows * 1026], np.uint16).reshape(rows, 1026))
    print("held-out text:", len(ids), "tokens")


if __name__ == "__main__":
    main()
