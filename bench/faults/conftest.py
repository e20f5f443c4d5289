"""Servers for the tests, and a conversation in the background that nothing may disturb."""

import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from serving import Server, answer_of, chat  # noqa: E402

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server():
    with Server("--ctx", 32768, "--parallel", 4) as server:
        yield server
        assert server.is_alive(), server.tail()


class Background:
    """Asks the same few questions over and over; every answer must be the one that came alone."""

    QUESTIONS = ["Name three colours.", "Say hello.", "What is a river?"]

    def __init__(self, server):
        self.server, self.wrong, self.rounds = server, [], 0
        self.alone = [self.answer(question) for question in self.QUESTIONS]
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def answer(self, question):
        return answer_of(self.server.ask(CHAT, chat(question, max_tokens=24)))

    def run(self):
        while not self.is_over.is_set():
            number = self.rounds % len(self.QUESTIONS)
            try:
                answer = self.answer(self.QUESTIONS[number])
                if answer != self.alone[number]:
                    self.wrong.append((self.QUESTIONS[number], answer, self.alone[number]))
            except (AssertionError, OSError, ValueError) as error:
                self.wrong.append(repr(error))
            self.rounds += 1

    def end(self):
        self.is_over.set()
        self.thread.join(60)
        assert not self.wrong, self.wrong[:3]
        assert self.rounds > 0


@pytest.fixture
def background(server):
    """A conversation that goes on during a test, on its server."""
    background = Background(server)
    yield background
    background.end()
