"""What all generators share: a turn, the train/held-out split, small text helpers."""
import zlib
from dataclasses import dataclass, field

HELD_OUT_SHARE = 32  # one in 32 keys is held out


@dataclass
class Turn:
    """One question and its answer.

    `key` decides the split; `check` says how an answer is compared (see nano_eval/README.md).
    """

    user: str
    answer: str
    key: str
    think: str = ""
    check: str = "exact"
    expect: str = ""
    category: str = "chat"

    def __post_init__(self):
        # The same small talk can come from two generators: there the request itself decides.
        if self.category in ("chat", "story") and self.key:
            self.key = "ask|" + self.user.lower().strip(".?! ")


@dataclass
class Example:
    """A whole conversation, the last message being the assistant's."""

    messages: list
    thinking: bool
    keys: list
    category: str
    check: str = "exact"
    expect: str = ""
    effort: str | None = None
    ask_weight: int | None = None
    extra: dict = field(default_factory=dict)


def held_out(key):
    """True when content with this key must never be in the training data ("" never is)."""
    return key != "" and zlib.crc32(("split1:" + key).encode()) % HELD_OUT_SHARE == 0


def held_out_name(name):
    """True for tool names that only the evaluation uses."""
    return zlib.crc32(("name1:" + name).encode()) % 20 == 0


def article(noun):
    """'an apple', 'a dog'."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def listing(items, last="and"):
    """'a, b and c'."""
    items = list(items)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def upper_first(text):
    return text[:1].upper() + text[1:]


PREFIXES = ("Please ", "Can you ", "Could you ", "Hey, ", "Hi! ", "OK, ", "Now ", "Hello! ")


def vary(rng, text):
    """Small changes of a question that do not change its meaning."""
    roll = rng.random()
    if roll < 0.12:
        text = text[:1].lower() + text[1:]
    elif roll < 0.18 and text[-1] in ".?!":
        text = text[:-1]
    elif roll < 0.26 and text[-1] in ".?!":
        text = text[:1].lower() + text[1:-1]
    elif roll < 0.30:
        text = rng.choice(("Hey, ", "OK, ", "Now ", "Hi! ", "Hello! ")) + (
            text[:1].lower() + text[1:] if not text.startswith("I ") else text)
    return text


def join_turns(rng, turns, thinking, system=None, category=None):
    """A conversation of single turns."""
    messages = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        messages.append({"role": "user", "content": turn.user})
        messages.append({"role": "assistant", "content": turn.answer,
                         "reasoning_content": turn.think})
    last = turns[-1]
    return Example(messages, thinking, [t.key for t in turns], category or last.category,
                   last.check, last.expect or last.answer)
