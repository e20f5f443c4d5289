"""Segments → token ids and loss weights."""
import functools
import json
import os

from tokenizers import Tokenizer

from render2604 import render
from specials import BOS, EOS, PAD

HERE = os.path.dirname(os.path.abspath(__file__))
# Loss weight in percent of each segment kind (render2604); 'u' is overridden per document.
WEIGHTS = {"c": 0, "f": 0, "s": 0, "u": 10, "a": 100, "ac": 100}


class Encoder:
    """The plain tokenizer (no added vocabulary) and the control ids."""

    def __init__(self, path=os.path.join(HERE, "tokenizer.json")):
        data = json.load(open(path, encoding="utf-8"))
        self.control = {t["content"]: t["id"] for t in data["added_tokens"]}
        data["added_tokens"] = []
        self.plain = Tokenizer.from_str(json.dumps(data))
        self.size = len(data["model"]["vocab"])
        self.bos, self.eos, self.pad = (self.control[t] for t in (BOS, EOS, PAD))
        self.cached = functools.lru_cache(maxsize=20000)(self.text)

    def text(self, text):
        """Ids of plain text; content can never become control."""
        return self.plain.encode(text, add_special_tokens=False).ids

    def segments(self, segments, ask_weight=None):
        """(ids, weights in percent) of rendered segments."""
        ids, weights, held, kind = [], [], "", "f"
        for text, k in segments:
            if k == "c" or k == "ac":
                if held:
                    self._flush(held, kind, ask_weight, ids, weights)
                    held = ""
                ids.append(self.control[text])
                weights.append(WEIGHTS[k])
            elif text:
                held, kind = held + text, k
        if held:
            self._flush(held, kind, ask_weight, ids, weights)
        return ids, weights

    def _flush(self, text, kind, ask_weight, ids, weights):
        got = self.cached(text) if len(text) < 48 or kind == "f" else self.text(text)
        ids.extend(got)
        weight = ask_weight if kind == "u" and ask_weight is not None else WEIGHTS[kind]
        weights.extend([weight] * len(got))

    def example(self, example):
        """(ids, weights) of an `Example`."""
        segments = render(example.messages, example.thinking,
                          reasoning_effort=example.effort)
        return self.segments(segments, example.ask_weight)
