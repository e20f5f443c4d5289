"""Which documents the training data is made of, and in which shares."""
import lzma
import re

import gen_chat
import gen_lookup
import gen_math
import gen_more
import gen_story
import gen_text
import gen_tools
from base import held_out, join_turns

# Share of tokens per family and window length; text also fills the rest of every window.
SHARES = {
    1024: {"text": 8, "page": 4, "pairs": 3, "ledger": 6, "echo": 4, "chat": 15, "math": 15, "task": 11, "lookup": 8,
           "needle": 10, "tools": 22},
    4096: {"text": 8, "page": 2, "pairs": 2, "ledger": 6, "echo": 4, "chat": 11, "math": 12, "task": 8, "lookup": 6,
           "needle": 21, "tools": 22},
    16384: {"text": 5, "page": 1, "pairs": 2, "ledger": 6, "echo": 5, "chat": 7, "math": 9, "task": 5, "lookup": 4,
            "needle": 42, "tools": 14},
}
# The first shards of a run teach recall first: many answers, each out of what was said before.
WARM = {"text": 7, "page": 3, "pairs": 16, "ledger": 20, "echo": 10, "chat": 5, "math": 6, "task": 7, "lookup": 8,
        "needle": 10, "tools": 8}
# A last run that polishes tool use.
POLISH = {"text": 6, "page": 3, "pairs": 1, "ledger": 3, "echo": 2, "chat": 9, "math": 10, "task": 7, "lookup": 9,
          "needle": 9, "tools": 41}
# Weight of a family's loss in percent: prose must not drown what there is a right answer for.
SCALE = {"text": 40, "page": 40, "chat": 60}
# How often a source's documents are taken, relative to their number.
SOURCE_WEIGHTS = {"austen": 1.0, "alice29": 3.0, "asyoulik": 0.5, "plrabn12": 0.2, "devil": 0.4,
                  "elements": 1.0, "factbook": 1.0, "wordnet": 0.8, "python": 0.3, "rust": 0.3}
SYSTEMS = ("You are a helpful assistant.", "You are nano, a small assistant.", "Answer shortly.",
           "You are a friendly assistant.", "Be kind and clear.", "You are a helpful assistant. "
           "Answer in simple English.", "Help the user.", "You are nano.")


def read_corpus(path):
    """(source, text) of every natural document."""
    data = lzma.open(path, "rt", encoding="utf-8").read()
    out = []
    for doc in data.split("\f"):
        source, _, text = doc.partition("\n")
        if text.strip():
            out.append((source, text.strip()))
    gen_more.learn_words(out)
    return out


def sentences(text):
    """Sentences of a document, white space normalised."""
    return [s for s in re.split(r"(?<=[.!?\"])\s+(?=[\"A-Za-z])", " ".join(text.split()))
            if 12 <= len(s) <= 700]


def single(rng, family, thinking):
    """One turn of a family."""
    if family == "chat":
        roll = rng.random()
        if roll < 0.22:
            return gen_story.story(rng)
        if roll < 0.25:
            return gen_story.poem(rng)
        return gen_more.more_talk(rng) if roll < 0.42 else gen_chat.small_talk(rng)
    if family == "math":
        return gen_math.any_math(rng, thinking)
    if family == "task":
        return gen_text.text_task(rng)
    return gen_lookup.table(rng) if rng.random() < 0.75 else gen_story.story_question(rng)


def quiz(rng, thinking):
    """A table with many questions."""
    return join_turns(rng, gen_lookup.quiz(rng), thinking)


def conversation(rng, family, thinking):
    """One to six turns, mostly of one family."""
    count = rng.choice((1, 1, 1, 1, 2, 2, 3, 4, 6))
    turns = []
    while len(turns) < count:
        roll = rng.random() if family == "chat" else 1
        if roll < 0.08:
            turns += gen_chat.memory(rng)
        elif roll < 0.15:
            turns.append(gen_chat.memory_at_once(rng))
        elif roll < 0.25:
            turns.append(gen_chat.lists(rng))
        else:
            kind = family if rng.random() < 0.75 or len(turns) == count - 1 else rng.choice(
                ("chat", "math", "task"))
            turns.append(single(rng, kind, thinking and len(turns) == count - 1))
    # A memory question needs its first turn, so the conversation may grow by one.
    system = rng.choice(SYSTEMS) if rng.random() < 0.25 else None
    return join_turns(rng, turns, thinking, system)


def example(rng, family, heldout=False):
    """A chat example of a family from the wanted side of the split."""
    while True:
        thinking = rng.random() < 0.4
        if family == "tools":
            made = gen_tools.tool_use(rng, thinking, evaluation=heldout)
        elif family == "lookup" and not heldout and rng.random() < 0.35:
            made = quiz(rng, thinking)
        elif heldout:
            made = join_turns(rng, [single(rng, family, thinking)], thinking)
        else:
            made = conversation(rng, family, thinking)
        if any(held_out(k) for k in made.keys if k) == heldout:
            break
    if thinking and rng.random() < 0.04:
        made.effort = "max"
    if family == "task":
        made.ask_weight = 4
    return made


def pick_secrets(rng, count, heldout=False):
    """Needles from the wanted side of the split."""
    while True:
        chosen = gen_lookup.secrets(rng, count)
        if any(held_out("needle|" + s[4]) for s in chosen) == heldout:
            return chosen


def training_secrets(rng, count):
    """`count` needles none of which is held out, with different questions."""
    chosen, seen = [], set()
    while len(chosen) < count:
        for secret in gen_lookup.secrets(rng, count - len(chosen)):
            if secret[1] not in seen and not held_out("needle|" + secret[4]):
                seen.add(secret[1])
                chosen.append(secret)
    return chosen


def story_page(rng):
    """A plain story."""
    return gen_story.story_page(rng)
