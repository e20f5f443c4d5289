"""The special tokens: the real vocabulary's functional ones, by the same strings.

The real vocabulary also has 800 place holders and the image tokens; the demo model has no use
for them. Ids 0, 1 and 2 are fixed (BOS, EOS, pad); all others come last, after the merges.
"""

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, END_THINK, DSML = "<think>", "</think>", "｜DSML｜"
LATEST_REMINDER = "<｜latest_reminder｜>"

TASK_NAMES = ("action", "query", "authority", "domain", "task", "political", "entity", "title",
              "safety", "answer", "search")

# First in the vocabulary, GGUF type 3 (control).
HEAD = (BOS, EOS, PAD)

# Last in the vocabulary: (text, GGUF token type: 3 control, 4 user defined).
TAIL = (
    [(f"<｜fim▁{n}｜>", 4) for n in ("hole", "begin", "end")]
    + [(USER, 4), (ASSISTANT, 4), ("<|EOT|>", 4)]
    + [(f"<｜tool▁{n}｜>", 4) for n in (
        "calls▁begin", "calls▁end", "call▁begin", "call▁end", "outputs▁begin", "outputs▁end",
        "output▁begin", "output▁end", "sep")]
    + [(f"<｜{e}▁of▁{n}｜>", 4) for n in ("repo▁name", "file▁name", "file")
       for e in ("begin", "end")]
    + [(THINK, 4), (END_THINK, 4)]
    + [("<｜place▁holder▁for▁copy｜>", 4), ("<｜place▁holder▁for▁pointer▁replace｜>", 4)]
    + [(DSML, 4), ("<｜begin▁sys｜>", 4), ("<｜end▁sys｜>", 4), (LATEST_REMINDER, 4)]
    + [(f"<｜{n}｜>", 4) for n in TASK_NAMES]
    + [("<dsml:", 4), ("</dsml:", 4), ("<｜search▁begin｜>", 4), ("<｜search▁end｜>", 4)]
    + [("<｜extracted_url｜>", 4), ("<｜read_url｜>", 4), ("<｜end_of_query｜>", 3)]
)


def task_token(name):
    """The control token of a quick task (`action`, `title`, `read_url`, …)."""
    return f"<｜{name}｜>"
