#!/usr/bin/env python3
"""Many streaming clients at once: no error, no lost or mixed-up event, memory flat.

    bench/load.py --clients 64 --seconds 60               # a server of its own, with nano
    bench/load.py --flags "--parallel 64 --ctx 4096"      # the same with other flags
    bench/load.py --url http://127.0.0.1:8000 --pid 1234  # one that runs already

Every client asks questions of its own, over and over, with a seed, through one of three APIs. The
answer to each question is asked for alone first; under load it must be the same, event by event in
order. Memory is flat when the second half of the load needs no more than the first. Prints one JSON
object; exit status 1 when anything was wrong. Needs Python 3.9 and nothing else."""

import argparse
import asyncio
import json
import shlex
import sys
import time
from urllib.parse import urlsplit

from results import header
from serving import NANO, Server

QUESTIONS = [
    "Name three colours.", "What is two plus two?", "Write a short poem about the sea.",
    "Why is the sky blue?", "Say hello.", "Count to five.", "Name a city.", "What is a river?",
]
HISTORY = [
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hello, how can I help you today?"},
]


class Wrong(Exception):
    """The server did what it must not do."""


def request(client, turn, tokens):
    """Path and body of a client's request."""
    question = QUESTIONS[(client + turn) % len(QUESTIONS)] + f" ({client % 16})"
    messages = HISTORY + [{"role": "user", "content": question}]
    common = {"stream": True, "temperature": 1.0, "seed": client}
    api = client % 3
    if api == 0:
        body = {"messages": messages, "max_tokens": tokens, "thinking": client % 2 == 0,
                "stream_options": {"include_usage": True}, **common}
        return "/v1/chat/completions", body
    if api == 1:
        # This API has no seed; the most likely tokens are the same every time.
        body = {"messages": messages, "max_tokens": tokens, "thinking": {"type": "disabled"},
                "stream": True, "temperature": 0}
        return "/v1/messages", body
    prompt = f"Once upon a time, in {question}"
    return "/v1/completions", {"prompt": prompt, "max_tokens": tokens, **common}


async def ask(host, port, path, body, headers):
    """Sends a request; yields the data of each event with the time it came."""
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 22)
    try:
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n"
        writer.write((head + headers + "\r\n").encode() + data)
        await writer.drain()
        status = await reader.readline()
        if b" 200 " not in status:
            raise Wrong(f"{path}: {status!r} {await reader.read(2000)!r}")
        while (await reader.readline()).strip():
            pass
        buffer = b""
        while True:
            size = int((await reader.readline()).strip() or b"0", 16)
            chunk = await reader.readexactly(size + 2)
            if size == 0:
                break
            buffer += chunk[:-2]
            *events, buffer = buffer.split(b"\n\n")
            for event in events:
                for line in event.split(b"\n"):
                    if line.startswith(b"data: "):
                        yield time.monotonic(), line[6:]
        if buffer:
            raise Wrong(f"{path}: half an event: {buffer!r}")
    finally:
        writer.close()


def scrub(value):
    """An event without what differs from answer to answer."""
    if isinstance(value, dict):
        # How much was cached depends on what came before, and ids and times are new every time.
        skipped = {"id", "created", "usage", "signature"}
        return {key: scrub(item) for key, item in value.items() if key not in skipped}
    if isinstance(value, list):
        return [scrub(item) for item in value]
    return value


async def answer(target, client, turn, tokens):
    """One answer: its events, when the first token came, and how many there were."""
    path, body = request(client, turn, tokens)
    began, first, pieces, events, ids = time.monotonic(), None, 0, [], set()
    async for at, data in ask(*target[:2], path, body, target[2]):
        if data == b"[DONE]":
            events.append("[DONE]")
            continue
        event = json.loads(data)
        if "error" in event:
            raise Wrong(f"{path}: {event}")
        if event.get("type") == "ping":
            continue
        if "id" in event:
            ids.add(event["id"])
        is_piece = event.get("type") == "content_block_delta" or event.get("choices")
        if is_piece:
            pieces += 1
            first = first or at
        events.append(scrub(event))
    if len(ids) > 1:
        raise Wrong(f"{path}: events of {len(ids)} answers in one stream")
    last = events[-1] if events else None
    if last != "[DONE]" and not (isinstance(last, dict) and last.get("type") == "message_stop"):
        raise Wrong(f"{path}: no end: {last}")
    text = join(events)
    return text, (first or began) - began, pieces


def join(events):
    """Kinds of events and all of their text: where text is cut has no meaning."""
    out = []
    for event in events:
        text, kind = "", event
        if isinstance(event, dict) and event.get("type") == "content_block_delta":
            kind = event["delta"].pop("type")
            text = "".join(str(value) for value in event["delta"].values())
        elif isinstance(event, dict) and event.get("choices"):
            choice = event["choices"][0]
            delta = choice.get("delta", {"text": choice.get("text")})
            kind = f"{sorted(delta)} {choice.get('finish_reason')}"
            text = "".join(value for value in delta.values() if isinstance(value, str))
        elif isinstance(event, dict):
            kind = json.dumps(event, sort_keys=True)
        if out and out[-1][0] == kind and text:
            out[-1][1] += text
        else:
            out.append([kind, text])
    return json.dumps(out)


def memory(pid):
    """Resident bytes of a process."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return None


async def run(options):
    url = urlsplit(options.url)
    headers = f"Authorization: Bearer {options.key}\r\n" if options.key else ""
    target = (url.hostname, url.port or 80, headers)
    alone = {}
    for client in range(options.clients):
        for turn in range(options.turns):
            key = (client, turn)
            alone[key], _, _ = await answer(target, client, turn, options.tokens)
    speeds = {n: await throughput(target, n) for n in (1, 2, 4, 8)}
    before = memory(options.pid) if options.pid else None
    samples = []
    watch = asyncio.create_task(watch_memory(options, samples))
    result = await load(target, options, options.clients, alone, options.seconds)
    watch.cancel()
    after = memory(options.pid) if options.pid else None
    half = len(samples) // 2
    return {
        "tokens_per_second_by_sessions": speeds,
        "clients": options.clients, "seconds": options.seconds, "load": result,
        "memory": {"before": before, "after": after, "first_half_max": max(samples[:half] or [0]),
                   "second_half_max": max(samples[half:] or [0])},
    }


async def throughput(target, sessions, seconds=6):
    """Tokens that so many sessions generate in a second, all together: long answers to short prompts,
    not streamed, so that the client's own work does not count."""
    end, counts = time.monotonic() + seconds, []

    async def session(number):
        turn = 0
        while time.monotonic() < end:
            seed, turn = 1000 * number + turn, turn + 1
            body = {"prompt": f"{seed}: Once upon a time", "max_tokens": 256, "temperature": 1,
                    "seed": seed}
            _, answer = await post(target, "/v1/completions", body)
            counts.append(answer["usage"]["completion_tokens"])

    began = time.monotonic()
    await asyncio.gather(*(session(number) for number in range(sessions)))
    return round(sum(counts) / (time.monotonic() - began), 1)


async def post(target, path, body):
    """Status and JSON of an answer in one piece."""
    host, port, headers = target
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 22)
    try:
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        head += f"Content-Length: {len(data)}\r\n{headers}\r\n"
        writer.write(head.encode() + data)
        answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


async def watch_memory(options, samples):
    while options.pid:
        samples.append(memory(options.pid))
        await asyncio.sleep(1)


async def load(target, options, clients, alone, seconds):
    """Runs so many clients for so long."""
    end, wrong, firsts = time.monotonic() + seconds, [], []
    counts = {"answers": 0, "pieces": 0}

    async def client(number):
        turn = 0
        while time.monotonic() < end:
            try:
                key = (number, turn % options.turns)
                text, first, pieces = await answer(target, *key, options.tokens)
                if text != alone[key]:
                    raise Wrong(f"client {key}: another answer than alone\n{text}\n{alone[key]}")
                counts["answers"] += 1
                counts["pieces"] += pieces
                firsts.append(first)
            except (Wrong, OSError, ValueError, asyncio.IncompleteReadError) as error:
                wrong.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.2)
            turn += 1

    began = time.monotonic()
    await asyncio.gather(*(client(number) for number in range(clients)))
    took = time.monotonic() - began
    firsts.sort()
    return {
        **counts, "errors": len(wrong), "first_errors": wrong[:3],
        "pieces_per_second": round(counts["pieces"] / took, 1),
        "ttft_ms_median": round(1000 * firsts[len(firsts) // 2]) if firsts else None,
        "ttft_ms_p99": round(1000 * firsts[int(len(firsts) * 0.99)]) if firsts else None,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--url", help="a running server; else one is started")
    parser.add_argument("--flags", default="--ctx 4096", help="of a server that is started")
    parser.add_argument("--key")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--turns", type=int, default=2, help="questions of each client")
    parser.add_argument("--pid", type=int, help="the running server, to watch its memory")
    options = parser.parse_args()
    if options.url:
        result = asyncio.run(run(options))
    else:
        with Server(*shlex.split(options.flags)) as server:
            options.url, options.pid = server.url, server.pid
            result = {**header(NANO), "flags": options.flags, **asyncio.run(run(options))}
            said = server.said("")
            result["log"] = {level: sum(line["level"] == level for line in said)
                             for level in ("WARN", "ERROR")}
    print(json.dumps(result, indent=1))
    sys.exit(1 if result["load"]["errors"] or not result["load"]["answers"] else 0)


if __name__ == "__main__":
    main()
