"""The same request gives the same answer alone, together with others, after a cache hit, and after a
restart from the disk cache: through every API, greedy and sampled, with tools and with JSON."""

import json
import threading

import pytest

from conftest import CHAT
from serving import MODEL, Server, chat

FLAGS = ["--ctx", 8192, "--parallel", 8, "--kv-cache-min-tokens", 64,
         "--kv-cache-boundary-align-tokens", 64, "--kv-cache-continued-interval-tokens", 64]
SYSTEM = "You are a guide to a small town. " + " ".join(
    f"House {n} is {colour}." for n, colour in enumerate(["red", "blue", "old", "tall"] * 20))
TOOL = {"name": "visit", "description": "Visit a house",
        "parameters": {"type": "object", "properties": {"house": {"type": "integer"}},
                       "required": ["house"], "additionalProperties": False}}
SCHEMA = {"type": "object", "properties": {"house": {"type": "integer", "minimum": 0, "maximum": 79},
                                           "is_red": {"type": "boolean"}},
          "required": ["house", "is_red"], "additionalProperties": False}
SAMPLED = {"temperature": 1.2, "seed": 77}


def conversation(text):
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


REQUESTS = {
    "greedy": (CHAT, chat(conversation("Which house is red?"))),
    "sampled": (CHAT, chat(conversation("Tell me a story."), max_tokens=60, **SAMPLED)),
    "thinking": (CHAT, {**chat(conversation("How many houses?"), max_tokens=60, seed=5),
                        "thinking": {"type": "enabled"}}),
    "a call": (CHAT, chat(conversation("Visit one."), max_tokens=200, tool_choice="required",
                          tools=[{"type": "function", "function": TOOL}], **SAMPLED)),
    "JSON": (CHAT, chat(conversation("Describe one."), max_tokens=200, **SAMPLED, response_format={
        "type": "json_schema", "json_schema": {"name": "house", "schema": SCHEMA}})),
    "log probabilities": (CHAT, chat(conversation("Say hello."), logprobs=True, top_logprobs=5)),
    "messages": ("/v1/messages", {
        "model": MODEL, "system": SYSTEM, "max_tokens": 40, "temperature": 0,
        "thinking": {"type": "disabled"},
        "messages": [{"role": "user", "content": "Which house is blue?"}]}),
    "responses": ("/v1/responses", {
        "model": MODEL, "instructions": SYSTEM, "input": "Which house is tall?",
        "max_output_tokens": 40, "temperature": 0, "reasoning": {"effort": "none"}}),
    "a text": ("/v1/completions", {"model": MODEL, "prompt": SYSTEM + " So", "max_tokens": 40,
                                   **SAMPLED}),
    "several texts": ("/v1/completions", {"model": MODEL, "prompt": [SYSTEM + " A", SYSTEM + " B"],
                                          "max_tokens": 20, **SAMPLED}),
}


def said(value):
    """An answer without what is new in each one: ids, times, and how much was cached."""
    if isinstance(value, dict):
        skip = {"id", "created", "created_at", "usage", "call_id", "signature"}
        return {key: said(item) for key, item in value.items() if key not in skip}
    if isinstance(value, list):
        return [said(item) for item in value]
    return value


def ask_all(server, names=REQUESTS):
    return {name: said(server.ask(*REQUESTS[name])) for name in names}


@pytest.fixture(scope="module")
def alone():
    """Each request on a server that has seen nothing else."""
    answers = {}
    for name in REQUESTS:
        with Server(*FLAGS) as server:
            answers.update(ask_all(server, [name]))
    return answers


def same(answers, alone):
    for name, want in alone.items():
        assert answers[name] == want, name


def test_after_a_cache_hit(alone):
    with Server(*FLAGS) as server:
        same(ask_all(server), alone)
        hits = server.mark()
        same(ask_all(server), alone)
        same(ask_all(server, reversed(REQUESTS)), alone)
        assert all(line["cached"] > 0 for line in server.requests(hits))


def test_together(alone):
    with Server(*FLAGS) as server:
        for _ in range(5):
            answers = {}
            threads = [threading.Thread(target=lambda n=name: answers.update(ask_all(server, [n])))
                       for name in REQUESTS]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            same(answers, alone)


@pytest.mark.parametrize("end", [Server.stop, Server.kill])
def test_after_a_restart(tmp_path, alone, end):
    cache = ["--kv-disk-dir", tmp_path / "kv"]
    with Server(*FLAGS, *cache) as server:
        same(ask_all(server), alone)
        end(server)
    with Server(*FLAGS, *cache) as server:
        same(ask_all(server), alone)
        assert any(line["source"] == "disk" for line in server.requests())


def test_streamed(alone):
    """A stream says what the body says."""
    with Server(*FLAGS) as server:
        for name in ("greedy", "sampled", "thinking"):
            path, body = REQUESTS[name]
            _, _, data = server.post(path, {**body, "stream": True})
            chunks = [json.loads(line[6:]) for line in data.split(b"\n")
                      if line.startswith(b"data: {")]
            deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
            message = alone[name]["choices"][0]["message"]
            for field in ("content", "reasoning_content"):
                text = "".join(delta.get(field) or "" for delta in deltas)
                assert text == (message.get(field) or ""), name
