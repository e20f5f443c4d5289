"""A server of its own for a measurement or a test, and a plain HTTP client that hides nothing.

Needs Python 3.9 and nothing else. The program is `$DS4`, or the release build of this checkout."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NANO = ROOT / "models" / "nano.gguf"
MODEL = "deepseek-v4-flash"
START_SECONDS = 60


def program():
    """The `ds4` to test."""
    path = Path(os.environ.get("DS4") or ROOT / "target" / "release" / "ds4")
    if not path.exists():
        raise SystemExit(f"{path} is missing: cargo build --release -p ds4-cli, or set DS4")
    return path


class Server:
    """A running `ds4 serve`, whose log lines are kept with the time they came."""

    def __init__(self, *flags, model=NANO, env=None, prefix=()):
        args = [*prefix, str(program()), "serve", "--model", str(model), "--port", "0", "--log-json"]
        args += [str(flag) for flag in flags]
        self.lines = []
        self.news = threading.Condition()
        self.process = subprocess.Popen(
            args, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env={**os.environ, **(env or {})}
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        try:
            _, line = self.wait_line(lambda line: "listening on http" in line["message"], START_SECONDS)
        except AssertionError:
            self.process.kill()
            raise
        self.host, port = re.search(r"http://([\d.]+):(\d+)", line["message"]).groups()
        self.port = int(port)
        self.url = f"http://{self.host}:{self.port}"
        self.pid = self.process.pid

    def _read(self):
        for raw in self.process.stderr:
            at = time.monotonic()
            try:
                line = json.loads(raw)
            except ValueError:
                line = {"level": "RAW", "message": raw.decode(errors="replace").rstrip()}
            line.setdefault("message", "")
            with self.news:
                self.lines.append((at, line))
                self.news.notify_all()
        with self.news:
            self.lines.append((time.monotonic(), {"level": "END", "message": "end of the log"}))
            self.news.notify_all()

    def wait_line(self, fits, seconds=10, since=0):
        """The first log line, from number `since`, that fits; with the time it came."""
        end = time.monotonic() + seconds
        with self.news:
            while True:
                for at, line in self.lines[since:]:
                    if fits(line):
                        return at, line
                    if line["level"] == "END":
                        raise AssertionError(f"the server ended: {self.tail()}")
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"no such log line: {self.tail()}")
                self.news.wait(left)

    def mark(self):
        """The number of the next log line."""
        with self.news:
            return len(self.lines)

    def requests(self, since=0):
        """Log lines of requests that ended."""
        with self.news:
            return [line for _, line in self.lines[since:] if line["message"] == "request"]

    def said(self, text, since=0):
        """Log lines with a text in them."""
        with self.news:
            return [line for _, line in self.lines[since:] if text in line["message"]]

    def tail(self, n=15):
        return "\n".join(json.dumps(line) for _, line in self.lines[-n:])

    def is_alive(self):
        return self.process.poll() is None

    def kill(self):
        """SIGKILL: nothing is saved."""
        self.process.kill()
        self.process.wait()
        self.reader.join()

    def stop(self, seconds=30):
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(seconds)
        finally:
            if self.is_alive():
                self.kill()
        self.reader.join()
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.is_alive():
            self.stop()

    def resident(self):
        """Resident bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) * 1024

    def connect(self, seconds=30, **options):
        """A plain connection."""
        connection = socket.socket()
        for option, value in options.items():
            connection.setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)
        connection.settimeout(seconds)
        connection.connect((self.host, self.port))
        return connection

    def send(self, path, body, headers=(), **options):
        """Sends a request; the connection, unread."""
        connection = self.connect(**options)
        connection.sendall(request(path, body, headers))
        return connection

    def post(self, path, body, headers=(), **options):
        """Status, headers and body of an answer."""
        with self.send(path, body, headers, **options) as connection:
            return read_response(connection.makefile("rb"))

    def ask(self, path, body, headers=()):
        """The JSON of an answer that must be one."""
        status, _, data = self.post(path, body, headers, seconds=300)
        if status != 200:
            raise AssertionError(f"{path}: {status} {data[:2000]!r}")
        return json.loads(data)

    def get(self, path):
        with self.connect() as connection:
            head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode())
            return read_response(connection.makefile("rb"))

    def metric(self, name):
        """The sum of a metric's series."""
        _, _, text = self.get("/metrics")
        values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text.decode(), re.M)
        return sum(map(float, values))


def request(path, body, headers=(), method="POST"):
    """The bytes of a request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json",
             f"Content-Length: {len(data)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + data


def read_head(stream):
    """Status and headers, names in lower case."""
    first = stream.readline()
    if not first:
        raise ConnectionError("closed without an answer")
    status = int(first.split()[1])
    headers = {}
    while (line := stream.readline().strip()):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return status, headers


def read_response(stream):
    status, headers = read_head(stream)
    if headers.get("transfer-encoding") == "chunked":
        return status, headers, b"".join(chunks(stream))
    return status, headers, stream.read(int(headers.get("content-length", 0)))


def chunks(stream):
    """The pieces of a chunked body; a body that breaks off is an error."""
    while True:
        line = stream.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the body breaks off")
        size = int(line, 16)
        piece = stream.read(size + 2)
        if len(piece) != size + 2:
            raise ConnectionError("the body breaks off")
        if size == 0:
            return
        yield piece[:-2]


def events(stream):
    """The data of each event of a stream."""
    rest = b""
    for piece in chunks(stream):
        *whole, rest = (rest + piece).split(b"\n\n")
        for event in whole:
            for line in event.split(b"\n"):
                if line.startswith(b"data: "):
                    yield line[6:]
    if rest:
        raise ConnectionError(f"half an event: {rest!r}")


def chat(text, **more):
    """The body of a chat request that answers the same every time."""
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 32,
            "thinking": {"type": "disabled"}, **more}


def answer_of(body):
    """Text and finish reason of a chat's answer."""
    choice = body["choices"][0]
    return choice["message"]["content"], choice["finish_reason"]


def cached_of(body):
    """Prompt tokens, and how many of them were not computed."""
    usage = body["usage"]
    return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]
