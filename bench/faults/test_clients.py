"""Clients that go away, that are slow, and that are too many.

`test_noticed` measures: with DS4_RESULTS=FILE its times are appended there as JSON lines, and the
limit of 100 ms holds; without, on a machine that may be busy, the limit is a second."""

import json
import os
import statistics
import threading
import time

import pytest

from conftest import CHAT, Background
from serving import Server, answer_of, cached_of, chat, events, read_head

MEASURED = os.environ.get("DS4_RESULTS")
LIMIT_MS = 100 if MEASURED else 1000
TRIALS = 20 if MEASURED else 3
LONG = " ".join(f"{n} little" for n in range(1500))
SCRIPT = [{"when": "[long]", "text": LONG, "repeat": True}]


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "script.json"
    path.write_text(json.dumps(SCRIPT), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def server(script):
    flags = ["--ctx", 32768, "--parallel", 2, "--max-queue", 4, "--stall-sec", 2]
    with Server(*flags, "--test-script", script) as server:
        yield server
        assert server.is_alive(), server.tail()


def long_answer(n=0, **more):
    """A request whose answer takes a while."""
    return chat(f"[long] {n}", max_tokens=100_000, **more)


def long_prompt(n):
    """A request whose prompt takes a while."""
    words = " ".join(str((n * 7919 + i * 104_729) % 991) for i in range(4000))
    return chat(f"{n} {words}", max_tokens=8)


def cancelled(line):
    return line["message"] == "request" and line["finish"] == "cancelled"


def until_idle(server):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        load = json.loads(server.get("/health")[2])
        if load["active"] == load["queue"] == 0:
            return
        time.sleep(0.02)
    raise AssertionError(f"requests stay at work: {load}")


def until_load(server, **want):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        load = json.loads(server.get("/health")[2])
        if all(load[key] == value for key, value in want.items()):
            return
        time.sleep(0.005)
    raise AssertionError(f"{load} is not {want}")


def vanish(server, connection):
    """Closes a connection; milliseconds until the server has ended its request."""
    since = server.mark()
    at = time.monotonic()
    # Whatever still reads from it: a socket with a file on it outlives its `close`.
    os.close(connection.detach())
    noticed, _ = server.wait_line(cancelled, 30, since)
    return 1000 * (noticed - at)


def in_queue(server, stream, n):
    holders = [server.send(CHAT, long_answer(10 + i, stream=True)) for i in range(2)]
    until_load(server, active=2)
    connection = server.send(CHAT, chat(f"wait {n}", stream=stream))
    until_load(server, queue=1)
    took = vanish(server, connection)
    for holder in holders:
        holder.close()
    return took


def in_prefill(server, stream, n):
    connection = server.send(CHAT, {**long_prompt(n), "stream": stream})
    until_load(server, active=1)
    time.sleep(0.05 + 0.01 * (n % 10))
    return vanish(server, connection)


def in_decode(server, stream, n):
    connection = server.send(CHAT, long_answer(n, stream=stream))
    if stream:
        pieces = events(start(connection))
        for _ in range(5):
            next(pieces)
    else:
        until_load(server, active=1)
        time.sleep(0.2)
    return vanish(server, connection)


def start(connection):
    stream = connection.makefile("rb")
    status, _ = read_head(stream)
    assert status == 200
    return stream


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("phase", [in_queue, in_prefill, in_decode])
def test_noticed(server, phase, stream):
    times = []
    for n in range(TRIALS):
        times.append(phase(server, stream, 1000 * stream + n))
        until_idle(server)
    if MEASURED:
        with open(MEASURED, "a", encoding="utf-8") as file:
            row = {"phase": phase.__name__, "stream": stream, "trials": len(times),
                   "median_ms": round(statistics.median(times), 1), "max_ms": round(max(times), 1)}
            file.write(json.dumps(row) + "\n")
    assert max(times) <= LIMIT_MS, times


def test_what_was_computed_stays(server):
    """A client that gives up during its prompt and asks again goes on where it was."""
    body = long_prompt(77)
    connection = server.send(CHAT, body)
    until_load(server, active=1)
    time.sleep(0.5)
    vanish(server, connection)
    prompt, cached = cached_of(server.ask(CHAT, body))
    assert cached > 0, (prompt, cached)


def test_others_do_not_notice(server):
    """Clients come and go in every phase; a conversation goes on and says the same."""
    background = Background(server)
    for n in range(10):
        for connection in [server.send(CHAT, long_prompt(2000 + n)),
                           server.send(CHAT, long_answer(n, stream=True)),
                           server.send(CHAT, long_answer(n, stream=False))]:
            time.sleep(0.03 * (n % 4))
            connection.close()
    background.end()
    until_idle(server)


def test_a_slow_client_gets_everything(server):
    """It reads a little at a time, pausing for less than the stall limit."""
    want = answer_of(server.ask(CHAT, long_answer()))
    background = Background(server)
    connection = server.send(CHAT, long_answer(stream=True, logprobs=True, top_logprobs=20),
                             seconds=60, SO_RCVBUF=4096)
    stream = start(connection)
    text, n = "", 0
    for data in events(stream):
        if data == b"[DONE]":
            break
        choices = json.loads(data)["choices"]
        text += "".join(choice["delta"].get("content") or "" for choice in choices)
        n += 1
        if n in (50, 100, 400):
            time.sleep(1)
    background.end()
    assert text == want[0]


def test_a_client_that_takes_nothing_is_dropped(server):
    """Its session is free again after the stall limit; meanwhile others are served."""
    background = Background(server)
    since = server.mark()
    connection = server.send(CHAT, long_answer(stream=True, logprobs=True, top_logprobs=20),
                             SO_RCVBUF=2048)
    at = time.monotonic()
    noticed, _ = server.wait_line(cancelled, 60, since)
    background.end()
    assert noticed - at > 2, "it was not waited for"
    rest = connection.makefile("rb")
    with pytest.raises((ConnectionError, ValueError)):
        list(events(start_of(rest)))
    connection.close()


def start_of(stream):
    read_head(stream)
    return stream


def test_a_full_queue(server):
    """Two at work, four wait, and the rest is told when to come back; nobody is forgotten."""
    holders = [server.send(CHAT, long_answer(20 + i, stream=True)) for i in range(2)]
    until_load(server, active=2)
    answers = []

    def ask(n):
        answers.append(server.post(CHAT, chat(f"Say hello. {n}", max_tokens=4), seconds=120))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    until_load(server, queue=4)
    time.sleep(0.3)
    for holder in holders:
        holder.close()
    for thread in threads:
        thread.join()
    refused = [(headers, body) for status, headers, body in answers if status == 429]
    assert len(refused) == 8 and sum(status == 200 for status, _, _ in answers) == 4
    for headers, body in refused:
        assert int(headers["retry-after"]) > 0
        assert json.loads(body)["error"]["type"] == "rate_limit_error"
    until_idle(server)


def test_the_sdk_retries_a_full_queue(server):
    """What `Retry-After` is for: the SDK waits and asks again."""
    openai = pytest.importorskip("openai")
    holders = [server.send(CHAT, long_answer(30 + i, stream=True)) for i in range(2)]
    until_load(server, active=2)
    waiting = [server.send(CHAT, chat(f"wait {n}", max_tokens=2)) for n in range(4)]
    until_load(server, queue=4)
    with openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0) as client:
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**sdk(chat("x")))
    threading.Timer(1, lambda: [c.close() for c in [*holders, *waiting]]).start()
    with openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=4) as client:
        assert client.chat.completions.create(**sdk(chat("x"))).choices
    until_idle(server)


def sdk(body):
    extra = {"thinking": body.pop("thinking")}
    return {**body, "extra_body": extra}
