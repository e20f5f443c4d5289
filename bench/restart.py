#!/usr/bin/env python3
"""Time to the first token of a long conversation: cold, after SIGTERM, after SIGKILL.

    bench/restart.py [--tokens 10000] [--repeat 3] [--model FILE]

A conversation of about so many tokens is held, the server is ended, and the next turn is asked of a
new server with the same cache folder. Prints one JSON object. Exit status 1 when tokens that were
saved are computed again, or when an answer differs from a server's that was never ended."""

import argparse
import json
import statistics
import sys
import tempfile
import time

from serving import NANO, Server, chat, events, read_head
from results import header

CHAT = "/v1/chat/completions"
WORDS = "sea sky red old tree walk house river stone green light door quiet early under".split()


def conversation(tokens):
    """A system prompt of a fifth, and turns of some hundred words."""
    def words(n, seed):
        return " ".join(WORDS[(seed * 31 + i * i + i // 7) % len(WORDS)] for i in range(n))
    messages = [{"role": "system", "content": words(tokens // 5, 1)}]
    while sum(len(m["content"].split()) + 4 for m in messages) < tokens:
        turn = len(messages)
        messages.append({"role": "user", "content": f"{turn}: {words(300, turn)}"})
        messages.append({"role": "assistant", "content": words(100, turn)})
    return messages


def ask(server, messages):
    """Time to the first token in ms, prompt, cached tokens, where they came from, and the answer."""
    since = server.mark()
    began = time.monotonic()
    connection = server.send(CHAT, chat(messages, stream=True), seconds=600)
    stream = connection.makefile("rb")
    assert read_head(stream)[0] == 200
    first, text = None, ""
    for data in events(stream):
        if data == b"[DONE]":
            break
        delta = json.loads(data)["choices"][0]["delta"]
        if delta.get("content"):
            first = first or time.monotonic()
            text += delta["content"]
    connection.close()
    _, line = server.wait_line(lambda line: line["message"] == "request", since=since)
    return {"ttft_ms": round(1000 * (first - began), 1), "prompt": line["prompt"],
            "cached": line["cached"], "source": line["source"], "text": text}


def saved(server):
    """Tokens of the longest file that was written."""
    lines = [line["message"] for line in server.said("kv cache: stored")]
    return max([int(line.split("tokens=")[1].split()[0]) for line in lines], default=0)


def run(options, end, folder):
    """Holds the conversation, ends the server, and asks for the next turn."""
    flags = ["--ctx", options.ctx, "--parallel", 2, "--kv-disk-dir", folder]
    messages = conversation(options.tokens)
    with Server(*flags, model=options.model) as server:
        messages.append({"role": "user", "content": "And then?"})
        cold = ask(server, messages)
        messages += [{"role": "assistant", "content": cold["text"]},
                     {"role": "user", "content": "What else?"}]
        kept = ask(server, messages)
        if end == "SIGTERM":
            server.stop()
        else:
            # What is being written when a server is killed is lost; what matters is what was saved.
            time.sleep(1)
            server.kill()
        at_end = saved(server)
    messages += [{"role": "assistant", "content": kept["text"]},
                 {"role": "user", "content": "Go on."}]
    with Server(*flags, model=options.model) as server:
        resumed = ask(server, messages)
    with Server(*flags[:4], model=options.model) as server:
        fresh = ask(server, messages)
    assert resumed["text"] == fresh["text"], "another answer after the restart"
    assert resumed["cached"] >= at_end > 0, (resumed, at_end)
    return {"saved_tokens": at_end, "resumed": resumed, "cold": fresh, "live": kept}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--ctx", type=int, default=16_384)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--model", default=NANO)
    options = parser.parse_args()
    out = {**header(options.model), "what": "time to the first token after a restart", "runs": {}}
    for end in ("SIGTERM", "SIGKILL"):
        rows = []
        for _ in range(options.repeat):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(run(options, end, folder))
        last = rows[-1]
        out["runs"][end] = {
            "prompt_tokens": last["resumed"]["prompt"], "saved_tokens": last["saved_tokens"],
            "cached_tokens": last["resumed"]["cached"], "source": last["resumed"]["source"],
            **{f"ttft_ms_{name}": [row[name]["ttft_ms"] for row in rows]
               for name in ("cold", "live", "resumed")},
            "ttft_ms_median": {name: statistics.median(row[name]["ttft_ms"] for row in rows)
                               for name in ("cold", "live", "resumed")},
        }
    json.dump(out, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
