"""Agents as their users start them, without a screen: each calls a tool, uses its result, and goes on
with the conversation in a new process.

The model's words come from a script (nano cannot choose a tool under a prompt of 20,000 tokens); the
model, its state, the parser and the wire are the real ones. What the tool reads is random, and
the script's second answer is given only to a request whose last turn has it: so the final answer
proves that the tool ran and its result came back."""

import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from serving import Server, program  # noqa: E402

CTX = 65_536
AGENTS = Path(os.environ.get("DS4_AGENTS_DIR", "/tmp/ds4-agents"))
BIN = AGENTS / "node_modules" / ".bin"
PATIENCE = int(os.environ.get("DS4_AGENT_SECONDS", "300"))
COMMAND = "cat secret.txt | tee proof.txt"


@dataclass(frozen=True)
class Agent:
    """How to start an agent and what its shell is called."""

    name: str
    tool: str
    argument: str
    first: tuple
    second: tuple
    env: tuple = ()


CLAUDE = ("claude", "--settings", "{home}/.claude/ds4.settings.json", "--allowedTools", "Bash")
CODEX = ("codex", "exec", "--profile", "ds4", "--skip-git-repo-check")
CODEX_FREE = ("-c", "sandbox_mode=danger-full-access")
OPENCODE = ("opencode", "run", "-m", "ds4/deepseek-v4-flash", "--auto")
PI = ("pi", "--provider", "ds4", "--model", "deepseek-v4-flash", "--offline", "-p")

ALL = [
    Agent("claude", "Bash", "command", (*CLAUDE, "-p", "{text}"), (*CLAUDE, "-c", "-p", "{text}")),
    Agent("codex", "exec_command", "cmd", (*CODEX, *CODEX_FREE, "{text}"),
          ("codex", "exec", "--profile", "ds4", "--skip-git-repo-check", *CODEX_FREE,
           "resume", "--last", "{text}")),
    Agent("opencode", "bash", "command", (*OPENCODE, "{text}"), (*OPENCODE, "-c", "{text}"),
          (("OPENCODE_DISABLE_AUTOUPDATE", "1"), ("OPENCODE_DISABLE_MODELS_FETCH", "1"))),
    Agent("pi", "bash", "command", (*PI, "{text}"), (*PI, "-c", "{text}"), (("PI_OFFLINE", "1"),)),
]


def call(agent):
    """The tool call as the model writes it."""
    more = ""
    if agent.name in ("claude", "opencode"):
        more = parameter("description", "Reads the file")
    return (f"I read the file.</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"{agent.tool}\">\n"
            f"{parameter(agent.argument, COMMAND)}{more}</｜DSML｜invoke>\n</｜DSML｜tool_calls>")


def parameter(name, value):
    return f'<｜DSML｜parameter name="{name}" string="true">{value}</｜DSML｜parameter>\n'


def script(agent, secret):
    """The first fitting answer is given. Side requests (titles, topics) quote the user: they come
    first where they can be told, last where not."""
    return [
        {"when": "Generate a title for this conversation", "text": "A title", "repeat": True},
        {"when": secret, "text": f"Now I know.</think>The file says {secret}."},
        {"when": "[turn one]", "text": call(agent)},
        {"when": "[turn two]", "text": "Again.</think>As I said, all is well."},
        {"text": "A short title", "repeat": True},
    ]


class Session:
    """An agent's home, its project, and the server it talks to."""

    def __init__(self, agent, folder):
        self.agent, self.secret, self.seconds = agent, secrets.token_hex(8), []
        self.home, self.project = folder / "home", folder / "project"
        self.home.mkdir()
        self.project.mkdir()
        (self.project / "secret.txt").write_text(self.secret + "\n", encoding="utf-8")
        subprocess.run(["git", "init", "-q", self.project], check=False)
        path = folder / "script.json"
        path.write_text(json.dumps(script(agent, self.secret)), encoding="utf-8")
        self.trace = folder / "trace.txt"
        self.server = Server("--ctx", CTX, "--parallel", 4, "--test-script", path,
                             "--trace", self.trace)
        self.setup()

    def env(self):
        """Nothing of the caller's but where programs are: no keys, no settings."""
        path = f"{BIN}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self.home), "LANG": "C.UTF-8", "TERM": "dumb",
                "NO_COLOR": "1", **dict(self.agent.env)}

    def setup(self):
        """The configuration that the product itself gives; it writes what it shows."""
        shown, written = (self.ds4_setup(*more) for more in ((), ("--write",)))
        (config,) = [path for path in self.home.rglob("*") if path.is_file()]
        head, rest = shown.split("\n", 1)
        text, rest = rest.split("\n\n# start it with\n")
        assert head == f"# {config}" and config.read_text(encoding="utf-8").strip() == text.strip()
        assert written.startswith(shown.split("\n\n# nothing was written")[0])
        # Without a screen there are more words, but none of these is left out.
        for words in (self.agent.first, self.agent.second):
            assert set(shlex.split(rest.split("\n")[0])) <= set(self.filled(words))

    def ds4_setup(self, *more):
        words = [program(), "setup", self.agent.name, "--url", self.server.url, *more]
        done = subprocess.run(words, env=self.env(), check=True, capture_output=True, text=True)
        return done.stdout

    def filled(self, words, text=""):
        return [word.format(home=self.home, text=text) for word in words]

    def run(self, words, text):
        words = self.filled(words, text)
        start = time.monotonic()
        done = subprocess.run([BIN / words[0], *words[1:]], cwd=self.project, env=self.env(),
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=PATIENCE, check=False)
        self.seconds.append(time.monotonic() - start)
        assert done.returncode == 0, self.report(done)
        return done

    def report(self, done):
        trace = self.trace.read_text(encoding="utf-8", errors="replace")[-6000:]
        return f"exit {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.server.tail()}\n{trace}"


@pytest.fixture(params=ALL, ids=lambda agent: agent.name)
def session(request, tmp_path):
    if not (BIN / request.param.name).exists():
        pytest.skip(f"{request.param.name} is not installed in {AGENTS}: see run.sh")
    session = Session(request.param, tmp_path)
    yield session
    session.server.stop()


def test_a_tool_its_result_and_a_second_turn(session):
    agent, server = session.agent, session.server
    done = session.run(agent.first, "[turn one] What does secret.txt say? Use a tool.")
    assert session.secret in done.stdout, session.report(done)
    proof = session.project / "proof.txt"
    assert proof.read_text(encoding="utf-8").strip() == session.secret, session.report(done)
    lines = server.requests()
    (called,) = [line for line in lines if line["finish"] == "tool_calls"]
    told = max((line for line in lines if line is not called), key=lambda line: line["prompt"])
    # What was computed for the call is not computed again for its result.
    assert told["cached"] >= called["prompt"], session.report(done)
    since = server.mark()
    done = session.run(agent.second, "[turn two] Are you sure?")
    assert "As I said, all is well." in done.stdout, session.report(done)
    again = max(server.requests(since), key=lambda line: line["prompt"])
    assert again["cached"] >= told["prompt"], session.report(done)
    assert not [line for line in server.requests() if "error" in line], server.tail()
    print(figures(session, called, told, again))


def figures(session, *rows):
    """A row of the table in the results."""
    tokens = " | ".join(f"{row['prompt']} | {row['cached']}" for row in rows)
    first, second = session.seconds
    name = f"{session.agent.name} {version(session.agent, session)}"
    return f"| {name} | {tokens} | {first:.1f} | {second:.1f} |"


def version(agent, session):
    done = subprocess.run([BIN / agent.name, "--version"], env=session.env(), capture_output=True,
                          text=True, check=False)
    found = re.search(r"[\d.]+", done.stdout + done.stderr)
    return found.group() if found else "?"
