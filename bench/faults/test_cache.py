"""The disk cache under faults: kills while saving, a full disk, damaged and foreign files.

Every test ends with the same question: does a prompt still get the answer that a server without a
cache gives, and are all files on disk whole?"""

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from conftest import CHAT, Background
from serving import Server, answer_of, cached_of, chat, program

SAVING = ["--kv-cache-min-tokens", 64, "--kv-cache-boundary-align-tokens", 64,
          "--kv-cache-continued-interval-tokens", 64]
SESSION = ["--ctx", 8192, "--parallel", 2]
SEED = int(os.environ.get("DS4_SEED", "4"))
KILLS = int(os.environ.get("DS4_KILLS", "25"))
MUTATIONS = int(os.environ.get("DS4_MUTATIONS", "40"))


def start(folder, *more, **options):
    return Server(*SESSION, *SAVING, "--kv-disk-dir", folder, *more, **options)


def question(n, words=400):
    """A conversation of its own, which is stored on the way."""
    rng = random.Random(n)
    text = " ".join(rng.choice(["sea", "sky", "red", "old", "tree", "walk"]) for _ in range(words))
    return chat(f"{n}: {text}", max_tokens=16)


def files(folder, pattern="*.kv"):
    return sorted(Path(folder).glob(pattern))


@pytest.fixture(scope="module")
def alone():
    """Answers of a server without a cache."""
    with Server(*SESSION) as server:
        yield {n: answer_of(server.ask(CHAT, question(n))) for n in range(4)}


@pytest.fixture(scope="module")
def stored(tmp_path_factory, alone):
    """A folder with whole files of all conversations."""
    folder = tmp_path_factory.mktemp("stored") / "kv"
    with start(folder) as server:
        for n, want in alone.items():
            assert answer_of(server.ask(CHAT, question(n))) == want
        assert server.stop() == 0
    assert len(files(folder)) >= len(alone)
    return folder


def copy(stored, tmp_path):
    folder = tmp_path / "kv"
    shutil.copytree(stored, folder)
    return folder


def check_all(server, alone):
    """All questions are answered as without a cache; how many tokens were found on disk."""
    cached = 0
    for n, want in alone.items():
        body = server.ask(CHAT, question(n))
        assert answer_of(body) == want
        cached += cached_of(body)[1]
    return cached


def test_a_restart_finds_everything(stored, tmp_path, alone):
    with start(copy(stored, tmp_path)) as server:
        cached = check_all(server, alone)
        assert cached > 1000
        assert server.metric("ds4_kv_set_aside_total") == 0


def test_killed_while_saving(tmp_path, alone):
    """SIGKILL at random instants, most of them while a file is being written: what has its name
    afterwards is whole, temporary files go away, and the next server answers the same."""
    rng, folder = random.Random(SEED), tmp_path / "kv"
    in_save = 0
    for kill in range(KILLS):
        # A fresh folder now and then, so that files are written and not only found.
        if kill % 5 == 0:
            shutil.rmtree(folder, ignore_errors=True)
        server = start(folder)
        connections = [server.send(CHAT, question(100 * kill + n)) for n in range(2)]
        wait_for_saves(folder, rng)
        in_save += bool(files(folder, "*.tmp*"))
        server.kill()
        for connection in connections:
            connection.close()
        with start(folder) as server:
            assert not files(folder, "*.tmp*"), "temporary files are left"
            assert not server.said("set aside"), server.tail()
            for n in range(2):
                body = server.ask(CHAT, question(100 * kill + n))
                assert body["choices"]
            n = kill % len(alone)
            assert answer_of(server.ask(CHAT, question(n))) == alone[n]
            assert server.metric("ds4_kv_set_aside_total") == 0
            assert server.stop() == 0
        verify(folder)
    print(f"{KILLS} kills, {in_save} with a file half written")
    assert in_save > 0


def wait_for_saves(folder, rng):
    """Until a file is being written, or a random instant later."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if files(folder, "*.tmp*"):
            break
    delay = rng.choice([0, 0, 0.0005, 0.002, rng.random() * 0.05, rng.random() * 0.5])
    time.sleep(delay)


def verify(folder):
    """The program's own check of every file."""
    done = subprocess.run([program(), "cache", "verify", "--kv-disk-dir", folder],
                          capture_output=True, text=True, check=False)
    if done.returncode == 2 and "unrecognized subcommand" in done.stderr:
        return
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_servers_share_a_folder(stored, tmp_path, alone):
    folder = copy(stored, tmp_path)
    with start(folder) as one, start(folder) as two:
        for server in (one, two, one, two):
            check_all(server, alone)
        assert one.stop() == 0 and two.stop() == 0
    verify(folder)


def damage(rng, file):
    """Changes a file in one of the ways files change; says which."""
    data = bytearray(file.read_bytes())
    kind = rng.choice(["flip", "flip", "flip", "cut", "cut", "grow", "zero", "empty", "swap"])
    at = rng.randrange(len(data))
    if kind == "flip":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "grow":
        data += rng.randbytes(1000)
    elif kind == "zero":
        data[at:at + 4096] = bytes(len(data[at:at + 4096]))
    elif kind == "empty":
        data.clear()
    else:
        data[:64] = rng.randbytes(64)
    file.write_bytes(data)
    return f"{kind} at {at}"


def test_damaged_files_under_a_running_server(stored, tmp_path, alone):
    """The server has listed its files; then they are damaged, before it loads one. Each answer is
    right, and a damaged file is looked at once."""
    rng = random.Random(SEED)
    for round_ in range(MUTATIONS):
        folder = tmp_path / str(round_)
        shutil.copytree(stored, folder)
        with start(folder) as server:
            done = {file.name: damage(rng, file) for file in files(folder)}
            n = round_ % len(alone)
            first = server.ask(CHAT, question(n))
            assert answer_of(first) == alone[n], (n, done)
            aside = server.metric("ds4_kv_set_aside_total")
            # Another session in between, so that the question is looked up on disk again.
            for other in (n + 1, n + 2):
                other %= len(alone)
                assert answer_of(server.ask(CHAT, question(other))) == alone[other], done
            after = server.metric("ds4_kv_set_aside_total")
            assert answer_of(server.ask(CHAT, question(n))) == alone[n], done
            assert server.metric("ds4_kv_set_aside_total") == after >= aside
            assert server.stop() == 0
        # The next start is clean: what is left with a name is whole, or is set aside now.
        with start(folder) as server:
            check_all(server, alone)
            assert server.stop() == 0


def test_files_that_vanish(stored, tmp_path, alone):
    folder = copy(stored, tmp_path)
    with start(folder) as server:
        for file in files(folder):
            file.unlink()
        check_all(server, alone)
        assert server.stop() == 0


def test_a_folder_that_vanishes(stored, tmp_path, alone):
    folder = copy(stored, tmp_path)
    with start(folder) as server:
        shutil.rmtree(folder)
        check_all(server, alone)
        assert server.stop() == 0


def test_things_that_are_no_files(stored, tmp_path, alone):
    """Names as of files, on pipes, folders, links in a circle and what is foreign: none of them
    may hold the server up."""
    folder = copy(stored, tmp_path)
    os.mkfifo(folder / f"{'a' * 40}.kv")
    (folder / f"{'b' * 40}.kv").mkdir()
    (folder / f"{'c' * 40}.kv").symlink_to(folder / f"{'c' * 40}.kv")
    (folder / f"{'d' * 40}.kv").symlink_to("/dev/zero")
    (folder / f"{'e' * 40}.kv").write_bytes(b"KVC\1" + os.urandom(5000))
    (folder / f"{'F' * 40}.kv").write_bytes(b"not one of ours")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    whole = files(folder)[0]
    shutil.copy(whole, folder / f"{'0' * 40}.kv")
    with start(folder) as server:
        check_all(server, alone)
        # Real names, replaced under the running server.
        for file in files(folder):
            if file.is_file() and file.name[0] not in "abcdef0":
                file.unlink()
                os.mkfifo(file)
        check_all(server, alone)
        assert server.stop() == 0
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder],
                          capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot mount: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk(small_disk, alone):
    """Answers go on, one warning is given, nothing half is left; after a restart with room the cache
    works again."""
    folder = small_disk / "kv"
    filler = small_disk / "filler"
    filler.write_bytes(bytes((2 << 20) - (256 << 10)))
    with start(folder) as server:
        background = Background(server)
        for n in range(8):
            body = server.ask(CHAT, question(n))
            if n in alone:
                assert answer_of(body) == alone[n]
        background.end()
        warnings = [line for line in server.said("") if line["level"] == "WARN"]
        assert len(warnings) == 1 and "disk full" in warnings[0]["message"], warnings
        assert not files(folder, "*.tmp*")
        assert server.stop() == 0
    verify(folder)
    filler.unlink()
    with start(folder) as server:
        check_all(server, alone)
        assert server.metric("ds4_kv_set_aside_total") == 0
        assert server.stop() == 0
    before = len(files(folder))
    with start(folder) as server:
        assert check_all(server, alone) > 0
    assert before > 0


def test_a_disk_that_is_full_when_the_server_ends(small_disk, alone):
    """The last save fails: the server still ends, with everything else in order."""
    folder = small_disk / "kv"
    with start(folder) as server:
        check_all(server, alone)
        try:
            (small_disk / "filler").write_bytes(bytes(4 << 20))
        except OSError:
            pass
        assert server.stop() == 0
    verify(folder)


def test_files_may_not_grow(tmp_path, alone):
    """A limit on file sizes, whose signal would end a program that does not expect it."""
    limited = ["bash", "-c", 'ulimit -f 64; exec "$@"', "bash"]
    with start(tmp_path / "kv", prefix=limited) as server:
        check_all(server, alone)
        assert server.stop() == 0
    assert not files(tmp_path / "kv", "*.tmp*")


def test_a_folder_that_cannot_be_written(stored, tmp_path, alone):
    """Read-only: what is there is used, what is new is not stored."""
    folder = copy(stored, tmp_path)
    made = subprocess.run(["mount", "--bind", "-r", folder, folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot mount: {made.stderr.decode().strip()}")
    try:
        with start(folder) as server:
            assert check_all(server, alone) > 0
            assert server.stop() == 0
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
