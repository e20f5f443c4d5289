"""Agents as their users start them, without a screen: each calls a tool, uses its result, and goes
on with the conversation in a new process, where it calls two tools at once, one of which reads an
image.

The model's words come from a script (nano cannot choose a tool under a prompt of 20,000 tokens);
the model, its state, the parser and the wire are the real ones. What the tools read is random, and
the script's answers are given only to requests whose last turn has it: so the final answers prove
that the tools ran and their results came back."""

import base64
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

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[2])]

from pixel import PIXEL  # noqa: E402
from serving import Server, program  # noqa: E402

CTX = 65_536
AGENTS = Path(os.environ.get("DS4_AGENTS_DIR", "/tmp/ds4-agents"))
BIN = AGENTS / "node_modules" / ".bin"
PATIENCE = int(os.environ.get("DS4_AGENT_SECONDS", "300"))
FIRST, SECOND = "cat secret.txt | tee proof.txt", "cat second.txt"


@dataclass(frozen=True)
class Agent:
    """How to start an agent; tools with a parameter: the shell, and what reads images."""

    name: str
    shell: tuple
    sight: tuple
    first: tuple
    second: tuple
    env: tuple = ()


CLAUDE = ("claude", "--settings", "{home}/.claude/ds4.settings.json", "--allowedTools", "Bash")
CODEX = ("codex", "exec", "--profile", "ds4", "--skip-git-repo-check")
CODEX_FREE = ("-c", "sandbox_mode=danger-full-access")
OPENCODE = ("opencode", "run", "-m", "ds4/deepseek-v4-flash", "--auto")
PI = ("pi", "--provider", "ds4", "--model", "deepseek-v4-flash", "--offline", "-p")

ALL = [
    Agent("claude", ("Bash", "command"), ("Read", "file_path"),
          (*CLAUDE, "-p", "{text}"), (*CLAUDE, "-c", "-p", "{text}")),
    Agent("codex", ("exec_command", "cmd"), ("view_image", "path"),
          (*CODEX, *CODEX_FREE, "{text}"),
          ("codex", "exec", "--profile", "ds4", "--skip-git-repo-check", *CODEX_FREE,
           "resume", "--last", "{text}")),
    Agent("opencode", ("bash", "command"), ("read", "filePath"),
          (*OPENCODE, "{text}"), (*OPENCODE, "-c", "{text}"),
          (("OPENCODE_DISABLE_AUTOUPDATE", "1"), ("OPENCODE_DISABLE_MODELS_FETCH", "1"))),
    Agent("pi", ("bash", "command"), ("read", "path"), (*PI, "{text}"), (*PI, "-c", "{text}"),
          (("PI_OFFLINE", "1"),)),
]


def block(*calls):
    """Tool calls as the model writes them: each a name and parameters."""
    invokes = "".join(
        f'<｜DSML｜invoke name="{name}">\n{"".join(map(parameter, given.items()))}</｜DSML｜invoke>\n'
        for name, given in calls)
    return f"I look.</think>\n\n<｜DSML｜tool_calls>\n{invokes}</｜DSML｜tool_calls>"


def parameter(item):
    name, value = item
    return f'<｜DSML｜parameter name="{name}" string="true">{value}</｜DSML｜parameter>\n'


def shell(agent, command):
    name, argument = agent.shell
    more = {"description": "Reads"} if agent.name in ("claude", "opencode") else {}
    return name, {argument: command, **more}


def script(session):
    """The first fitting answer is given. Side requests (titles, topics) quote the user: they come
    first where they can be told, last where not."""
    agent = session.agent
    name, argument = agent.sight
    two = block((name, {argument: session.project / "pixel.png"}), shell(agent, SECOND))
    return [
        {"when": "Generate a title for this conversation", "text": "A title", "repeat": True},
        {"when": session.secret, "text": f"Now I know.</think>The file says {session.secret}."},
        {"when": session.second, "text": f"Both.</think>The second says {session.second}."},
        {"when": "[turn one]", "text": block(shell(agent, FIRST))},
        {"when": "[turn two]", "text": two},
        {"text": "A short title", "repeat": True},
    ]


class Session:
    """An agent's home, its project, and the server it talks to."""

    def __init__(self, agent, folder):
        self.agent, self.seconds = agent, []
        self.secret, self.second = secrets.token_hex(8), secrets.token_hex(8)
        self.home, self.project = folder / "home", folder / "project"
        self.home.mkdir()
        self.project.mkdir()
        (self.project / "secret.txt").write_text(self.secret + "\n", encoding="utf-8")
        (self.project / "second.txt").write_text(self.second + "\n", encoding="utf-8")
        (self.project / "pixel.png").write_bytes(base64.b64decode(PIXEL))
        subprocess.run(["git", "init", "-q", self.project], check=False)
        path = folder / "script.json"
        path.write_text(json.dumps(script(self)), encoding="utf-8")
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
        said = f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return f"{said}\n{self.server.tail()}\n{trace}"


@pytest.fixture(params=ALL, ids=lambda agent: agent.name)
def session(request, tmp_path):
    if not (BIN / request.param.name).exists():
        pytest.skip(f"{request.param.name} is not installed in {AGENTS}: see run.sh")
    session = Session(request.param, tmp_path)
    yield session
    session.server.stop()


def test_tools_their_results_and_a_second_turn(session):
    server = session.server
    done = session.run(session.agent.first, "[turn one] What does secret.txt say? Use a tool.")
    assert session.secret in done.stdout, session.report(done)
    proof = session.project / "proof.txt"
    assert proof.read_text(encoding="utf-8").strip() == session.secret, session.report(done)
    one, told = turn(server.requests())
    # What was computed for the call is not computed again for its result.
    assert told["cached"] >= one["prompt"], session.report(done)
    since = server.mark()
    done = session.run(session.agent.second, "[turn two] And second.txt, and the image?")
    assert session.second in done.stdout, session.report(done)
    two, both = turn(server.requests(since))
    assert two["cached"] >= told["prompt"] and both["cached"] >= two["prompt"], session.report(done)
    assert not [line for line in server.requests() if "error" in line], server.tail()
    assert not server.said("refused"), server.tail()
    print(figures(session, one, told, two, both))


def turn(lines):
    """The requests of a turn: that which was answered by calls, and that with their results."""
    (called,) = [line for line in lines if line["finish"] == "tool_calls"]
    return called, max((line for line in lines if line is not called), key=lambda l: l["prompt"])


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
