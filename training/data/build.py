"""Packs training sequences: natural text, stories, chats, tasks, needles, tool use.

usage: python3 build.py --out DIR --seed S --procs P --target-tokens N
                        [--lens 1024,4096,16384] [--len-shares 80,13,7] [--corpus corpus.txt.xz]
Writes DIR/T{len}/shard_{k:05d}.tok.npy (uint16 [n, len+2]) and .wt.npy (uint8, 255 = full weight
of the loss on predicting that token). Every document begins with BOS; a chat is never cut; natural
text fills the rest of a sequence. Shards appear under their name only when complete. Shards with
k < procs * --warm are recall practice. Keys that `base.held_out` accepts never occur.
"""
import argparse
import json
import multiprocessing
import os
import random
import time

import numpy as np

import gen_lookup
import mixture
from specials import ASSISTANT, END_THINK, THINK, USER
from tok import Encoder

HERE = os.path.dirname(os.path.abspath(__file__))
SHARD_TOKENS = 1_000_000
POOL = 48


class Corpus:
    """Natural text, encoded once: documents for reading, sentences for haystacks."""

    def __init__(self, encoder, path):
        docs = mixture.read_corpus(path)
        self.docs = self._flat(encoder, [t for _, t in docs])
        weights = np.array([mixture.SOURCE_WEIGHTS[s] for s, _ in docs])
        self.cumulative = np.cumsum(weights / weights.sum())
        plain = [s for source, t in docs if source != "plrabn12" for s in mixture.sentences(t)]
        # Encoded with the space before it, so that sentences can be joined as ids.
        self.sentences = self._flat(encoder, [" " + s for s in plain])
        self.texts = plain

    @staticmethod
    def _flat(encoder, texts):
        got = encoder.plain.encode_batch(texts, add_special_tokens=False)
        ends = np.cumsum([0] + [len(e.ids) for e in got])
        ids = np.empty(ends[-1], np.uint16)
        for i, e in enumerate(got):
            ids[ends[i]:ends[i + 1]] = e.ids
        return ids, ends

    def document(self, rng):
        ids, ends = self.docs
        at = int(np.searchsorted(self.cumulative, rng.random()))
        at = min(at, len(ends) - 2)
        return ids[ends[at]:ends[at + 1]].tolist()

    def haystack(self, rng, size):
        """(first sentence, last sentence) of a run of at most `size` tokens, at least three."""
        ids, ends = self.sentences
        while True:
            at = rng.randrange(len(ends) - 10)
            end = int(np.searchsorted(ends, ends[at] + size)) - 1
            if end - at >= 3 and end < len(ends) - 1:
                return at, end

    def run(self, start, end):
        ids, ends = self.sentences
        return ids[ends[start]:ends[end]].tolist()


class Maker:
    """Makes documents: (ids, weights in percent)."""

    def __init__(self, encoder, corpus, seed):
        self.encoder, self.corpus, self.rng = encoder, corpus, random.Random(seed)

    def make(self, family, room):
        """One document of at most `room` tokens."""
        while True:
            ids, weights = getattr(self, f"_{family}")(room) if family in (
                "text", "page", "echo", "pairs", "ledger", "needle") else self.encoder.example(
                    mixture.example(self.rng, family))
            if len(ids) <= room:
                scale = mixture.SCALE.get(family, 100)
                return ids, weights if scale == 100 else [w * scale // 100 for w in weights]

    def _text(self, room):
        body = self.corpus.document(self.rng)
        limit = min(room, self.rng.choice((200, 400, 800, 2000))) - 2
        e = self.encoder
        ids = [e.bos] + (body if len(body) <= limit else body[:limit])
        if len(body) <= limit:
            ids.append(e.eos)
        return ids, [0] + [100] * (len(ids) - 1)

    def filler(self, room):
        """Natural text of exactly `room` tokens."""
        ids = [self.encoder.bos]
        while len(ids) < room:
            ids += self.corpus.document(self.rng)
        return ids[:room], [0] + [mixture.SCALE["text"]] * (room - 1)

    def _page(self, _room):
        e = self.encoder
        ids = [e.bos] + e.text(mixture.story_page(self.rng)) + [e.eos]
        return ids, [0] + [100] * (len(ids) - 1)

    def _echo(self, room):
        """Random tokens, some time later repeated: practice of recall at every distance."""
        rng, e = self.rng, self.encoder
        most = min(room - 2, rng.choice((60, 150, 400, 1000, room)))
        length = rng.randint(6, max(6, min(most // 2, 120)))
        low, high = 3 + 256, 4046
        seq = [rng.randrange(low, high) for _ in range(length)]
        ids, weights = [e.bos] + seq, [0] * (length + 1)
        while len(ids) + length + 8 < most:
            if rng.random() < 0.5:
                far = max(2, most - len(ids) - length)
                gap = [rng.randrange(low, high)
                       for _ in range(int(np.exp(rng.uniform(0, np.log(far)))))]
                ids += gap
                weights += [0] * len(gap)
            start = rng.randrange(0, length - 4)
            part = seq[start:start + rng.randint(4, length - start)]
            ids += part
            weights += [0, 40] + [100] * (len(part) - 2)
            if rng.random() < 0.3:
                break
        return ids, weights

    def _pairs(self, room):
        """Random keys with random values, stated once and asked for again and again."""
        rng, e = self.rng, self.encoder
        size = int(np.exp(rng.uniform(np.log(60), np.log(room)))) - 8
        width = rng.choice((1, 1, 2, 3))
        draw = lambda n: [rng.randrange(3 + 256, 4046) for _ in range(n)]
        link = draw(rng.choice((0, 0, 1, 2)))
        fresh = rng.uniform(0.1, 0.6)
        known, ids, weights = [], [e.bos], [0]
        while len(ids) + len(link) + width + 1 <= size:
            again = len(known) > 3 and rng.random() > fresh
            if not again:
                known.append((draw(1), draw(width)))
            key, value = rng.choice(known) if again else known[-1]
            ids += key + link + value
            weights += [0] * (1 + len(link)) + [100 if again else 0] * width
        return ids, weights

    def valued(self, text, value, plain=30):
        """Ids of `text`, which ends with `value` and a full stop; what is before the value weighs `plain`."""
        ids = self.encoder.text(text)
        before = len(self.encoder.text(text[:text.rindex(value)].rstrip()))
        return ids, [plain] * before + [100] * (len(ids) - before)

    def _ledger(self, room):
        """Facts, natural text between some of them, then the facts again in another order."""
        rng, e, c = self.rng, self.encoder, self.corpus
        size = int(np.exp(rng.uniform(np.log(200), np.log(room)))) - 40
        facts = mixture.training_secrets(rng, max(3, int(size * rng.uniform(0.25, 0.5) / 13)))
        gaps = rng.choice((0.0, 0.0, 0.2, 0.5))
        ids, weights = [e.bos], [0]
        for fact in facts:
            if len(ids) > 0.7 * size:
                break
            if rng.random() < gaps:
                start, end = c.haystack(rng, 120)
                run = c.run(start, end)
                ids += run
                weights += [4] * len(run)
            new = e.text(" " + fact[0])
            ids += new
            weights += [4] * len(new)
        else:
            fact = None
        facts = facts[:facts.index(fact)] if fact else facts
        asks, order = rng.random() < 0.4, []
        for _ in range(4 * len(facts)):
            if len(ids) > size:
                break
            order = order or rng.sample(facts, len(facts))
            said, question, _, value, _ = order.pop()
            new, wt = self.valued(f" {question} {value}." if asks else " " + said, value, 8)
            ids += new
            weights += wt
        return ids, weights

    def _needle(self, room):
        """A long user turn with secrets in natural text and one or more questions."""
        rng, e, c = self.rng, self.encoder, self.corpus
        asked = 1 if rng.random() < 0.25 else rng.choice((2, 3, 4, 6, 8, 12, 16, 24))
        asked = max(1, min(asked, (room - 300) // 70))
        room -= 60 + 46 * asked + 24 * 4
        size = room if rng.random() < 0.4 else int(
            np.exp(rng.uniform(np.log(120), np.log(max(room, 200)))))
        secrets = mixture.training_secrets(rng, asked + rng.choice((0, 1, 2, 3)))
        start, end = c.haystack(rng, max(100, size))
        thinking = rng.random() < 0.4
        # At most one secret per place; the first and last sentences are joined as text.
        spots = sorted(rng.randrange(start + 1, end) for _ in secrets)
        opening = rng.choice(gen_lookup.ASK)
        ids = [e.bos, e.control[USER]]
        ids += e.text((opening + "\n\n" if opening else "") + c.texts[start])
        at = start + 1
        for spot, secret in zip(spots, rng.sample(secrets, len(secrets))):
            ids += c.run(at, spot) + e.text(" " + secret[0])
            at = spot
        ids += c.run(at, end - 1)
        weights = [0] * 2 + [4] * (len(ids) - 2)
        head = " " + c.texts[end - 1] + "\n\n"
        for i, (said, question, answer, value, _) in enumerate(secrets[:asked]):
            think = thinking and i == asked - 1
            new = ([] if i == 0 else [e.control[USER]]) + e.text(head + question)
            new += [e.control[ASSISTANT], e.control[THINK if think else END_THINK]]
            ids += new
            weights += [0] * len(new)
            if think:
                new, wt = self.valued(f"The text says: {said}", value)
                ids += new + [e.control[END_THINK]]
                weights += wt + [50]
            new, wt = self.valued(answer, value)
            ids += new + [e.eos]
            weights += wt + [50]
            head = ""
        return ids, weights


class Packer:
    """Fills windows of `length` + 2 tokens from a pool of pending documents."""

    def __init__(self, maker, length):
        self.maker, self.window, self.length = maker, length + 2, length
        self.pool, self.counts, self.seen = [], {}, {}

    def _pick(self, shares):
        """A family, drawn so that token shares come out as wanted."""
        families = list(shares)
        chance = [shares[f] * self.seen.get(f, 1) / max(1, self.counts.get(f, 1))
                  for f in families]
        return self.maker.rng.choices(families, chance)[0]

    def _refill(self, shares):
        while len(self.pool) < POOL:
            family = self._pick(shares)
            doc = self.maker.make(family, self.window)
            self.counts[family] = self.counts.get(family, 1) + len(doc[0])
            self.seen[family] = self.seen.get(family, 1) + 1
            self.pool.append(doc)

    def fill(self, shares, tokens, weights):
        """Writes one window."""
        at = 0
        rng = self.maker.rng
        while at < self.window:
            self._refill(shares)
            room = self.window - at
            fit = [i for i, d in enumerate(self.pool) if len(d[0]) <= room]
            if not fit:
                break
            ids, wt = self.pool.pop(fit[0] if at == 0 else rng.choice(fit))
            tokens[at:at + len(ids)] = ids
            weights[at:at + len(ids)] = wt
            at += len(ids)
        room = self.window - at
        if room >= 16:
            tokens[at:], weights[at:] = self.maker.filler(room)


def worker(index, args, corpus):
    """One process: writes its shards until its part of the tokens is done."""
    encoder = Encoder()
    maker = Maker(encoder, corpus, f"{args.seed}/{index}")
    packers = {n: Packer(maker, n) for n in args.lens}
    written = {n: 0 for n in args.lens}
    goal = args.target_tokens / args.procs
    shard = 0
    while sum(written.values()) < goal:
        total = sum(written.values()) + 1
        length = max(args.lens, key=lambda n: args.shares[n] - written[n] / total)
        warm = length == args.lens[0] and written[length] < args.warm * SHARD_TOKENS
        if warm:
            shares = mixture.WARM
        elif args.polish:
            shares = mixture.POLISH
        else:
            shares = mixture.SHARES[min(mixture.SHARES, key=lambda n: abs(n - length))]
        rows = max(1, SHARD_TOKENS // (length + 2))
        tokens = np.full((rows, length + 2), encoder.pad, np.uint16)
        weights = np.zeros((rows, length + 2), np.uint8)
        for row in range(rows):
            packers[length].fill(shares, tokens[row], weights[row])
        weights = (weights.astype(np.uint16) * 255 // 100).astype(np.uint8)
        name = os.path.join(args.out, f"T{length}", f"shard_{index + shard * args.procs:05d}")
        for array, kind in ((weights, "wt"), (tokens, "tok")):
            np.save(f"{name}.{kind}.part.npy", array)
        os.rename(f"{name}.wt.part.npy", f"{name}.wt.npy")
        os.rename(f"{name}.tok.part.npy", f"{name}.tok.npy")
        written[length] += rows * (length + 2)
        shard += 1
    if index == 0 and args.verbose:
        for n, p in packers.items():
            total = sum(p.counts.values()) or 1
            print(n, {f: round(100 * c / total) for f, c in p.counts.items()},
                  {f: round(c / p.seen[f]) for f, c in p.counts.items()}, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--procs", type=int, default=os.cpu_count())
    parser.add_argument("--target-tokens", type=float, default=1e7)
    parser.add_argument("--lens", default="1024,4096,16384")
    parser.add_argument("--len-shares", default="80,13,7")
    parser.add_argument("--warm", type=float, default=0, help="million tokens of recall practice "
                        "per process before the normal mixture")
    parser.add_argument("--polish", action="store_true", help="the mixture of a last run for tool use")
    parser.add_argument("--corpus", default=os.path.join(HERE, "../../.carry/corpus.txt.xz"))
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(args.procs)
    args.lens = [int(n) for n in args.lens.split(",")]
    wanted = [float(x) for x in args.len_shares.split(",")][:len(args.lens)]
    args.shares = {n: w / sum(wanted) for n, w in zip(args.lens, wanted)}
    for n in args.lens:
        os.makedirs(os.path.join(args.out, f"T{n}"), exist_ok=True)
    begin = time.time()
    corpus = Corpus(Encoder(), args.corpus)
    print(f"corpus: {len(corpus.docs[0])} tokens, {len(corpus.texts)} sentences, "
          f"{time.time() - begin:.1f} s", flush=True)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=worker, args=(i, args, corpus)) for i in range(args.procs)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    failed = [j.exitcode for j in jobs if j.exitcode]
    print(json.dumps({"seconds": round(time.time() - begin, 1), "failed": len(failed)}))
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
