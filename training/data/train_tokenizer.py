"""Trains the byte-level BPE vocabulary on the mixed data.

Digits never join: in training every digit is split off, so no merge has a digit and each digit is
one token although the protocol's pre-tokeniser (joyai-llm, used at run time) groups up to three.
usage: python3 train_tokenizer.py --corpus corpus.txt.xz [--vocab 4096]
writes tokenizer.json (Hugging Face) and vocab.json {tokens, types, merges} for the GGUF metadata
"""
import argparse
import json
import os
import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import mixture
import toolbox
import words
from render2604 import render
from specials import HEAD, TAIL

BOOST = 600
HERE = os.path.dirname(os.path.abspath(__file__))
CJK = "[一-龥぀-ゟ゠-ヿ]+"
WORDS = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
         r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def splits(digits):
    """The pre-tokeniser with runs of at most `digits` digits."""
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(rf"\p{{N}}{{1,{digits}}}"), "isolated"),
        pre_tokenizers.Split(Regex(CJK), "isolated"),
        pre_tokenizers.Split(Regex(WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def training_text(corpus):
    """Natural documents and the plain segments of generated ones."""
    rng = random.Random(11)
    docs = mixture.read_corpus(corpus)
    rng.shuffle(docs)
    for source, text in docs:
        if rng.random() < 0.25 * mixture.SOURCE_WEIGHTS[source]:
            yield text
    for family, count in (("chat", 9000), ("math", 3000), ("task", 6000), ("lookup", 5000),
                          ("tools", 6000)):
        for _ in range(count):
            made = mixture.example(rng, family)
            for text, kind in render(made.messages, made.thinking):
                if kind not in ("c", "ac") and text and (kind != "f" or rng.random() < 0.3):
                    yield text
    for _ in range(4000):
        yield mixture.story_page(rng)
    # A word that is copied must be one token with and without the space before it: else the
    # small model has to learn, word by word, how " Paris" is spelled after a quote.
    for listed in (words.NAMES, words.CITIES, words.COMMON, words.COLORS, words.DAYS,
                   words.MONTHS, words.FOODS, words.SURNAMES, toolbox.VERBS, toolbox.NOUNS,
                   [p for p, _ in toolbox.PARAMS]):
        for word in listed:
            for part in word.split():
                yield "\n".join([part, " " + part] * BOOST)
    for word in toolbox.VERBS + toolbox.NOUNS:
        yield "\n".join(["_" + word] * BOOST)


def gpt2_alphabet():
    """The 256 printable stand-ins of the bytes, in byte order."""
    direct = [*range(33, 127), *range(161, 173), *range(174, 256)]
    out, extra = [], 0
    for byte in range(256):
        if byte in direct:
            out.append(chr(byte))
        else:
            out.append(chr(256 + extra))
            extra += 1
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--vocab", type=int, default=4096)
    args = parser.parse_args()
    room = args.vocab - len(HEAD) - len(TAIL) - 256
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = splits(1)
    trained.train_from_iterator(training_text(args.corpus), trainers.BpeTrainer(
        vocab_size=256 + room, min_frequency=4, show_progress=False, max_token_length=16,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    tokens = list(HEAD) + gpt2_alphabet()
    known, kept = set(tokens), []
    for left, right in merges:
        kept.append([left, right])
        if left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
    bad = [t for t in tokens[259:] if any(c.isdigit() and c.isascii() for c in t)]
    assert not bad, bad
    tokens += [t for t, _ in TAIL]
    types = [3] * len(HEAD) + [1] * (len(tokens) - len(HEAD) - len(TAIL)) + [k for _, k in TAIL]
    assert len(set(tokens)) == len(tokens) == len(types), "duplicate token"
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": types[i] == 4, "special": types[i] == 3}
             for i, t in enumerate(tokens) if types[i] != 1]
    out = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)},
                               merges=[tuple(m) for m in kept]))
    out.pre_tokenizer = splits(3)
    out.decoder = decoders.ByteLevel()
    data = json.loads(out.to_str())
    data["added_tokens"] = added
    with open(os.path.join(HERE, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(data, f, ensure_ascii=False, indent=0)
    with open(os.path.join(HERE, "vocab.json"), "w", encoding="utf-8") as f:
        json.dump({"tokens": tokens, "types": types, "merges": [" ".join(m) for m in kept]}, f,
                  ensure_ascii=False, indent=0)
    print(len(tokens), "tokens,", len(kept), "merges")


if __name__ == "__main__":
    main()
