"""A server at a URL, and the SDKs' clients for it."""

import os

import anthropic
import openai
import pytest

MODEL = "deepseek-v4-flash"


@pytest.fixture(scope="session")
def url():
    return os.environ.get("DS4_URL", "http://127.0.0.1:8000").rstrip("/")


@pytest.fixture(scope="session")
def key():
    return os.environ.get("DS4_API_KEY", "none")


@pytest.fixture(scope="session")
def client(url, key):
    with openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def claude(url, key):
    with anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=120) as client:
        yield client


def pytest_configure(config):
    config.addinivalue_line("markers", "scripted: needs answers from script.json")


def pytest_collection_modifyitems(items):
    if os.environ.get("DS4_SCRIPTED") == "1":
        return
    skip = pytest.mark.skip(reason="the server was not started with the script")
    for item in items:
        if "scripted" in item.keywords:
            item.add_marker(skip)


WEATHER = {
    "name": "get_weather",
    "description": "Get the weather of a city",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Name of the city"},
            "days": {"type": "integer", "minimum": 1, "maximum": 7},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city"],
        "additionalProperties": False,
    },
}

TIME = {
    "name": "get_time",
    "description": "Get the time in a time zone",
    "parameters": {
        "type": "object",
        "properties": {"zone": {"type": "string"}},
        "required": ["zone"],
        "additionalProperties": False,
    },
}


def check_weather(arguments):
    """Holds arguments of get_weather to their schema."""
    assert set(arguments) <= {"city", "days", "unit"}
    assert isinstance(arguments["city"], str)
    if "days" in arguments:
        assert type(arguments["days"]) is int and 1 <= arguments["days"] <= 7
    assert arguments.get("unit", "celsius") in ("celsius", "fahrenheit")


# The city that script.json calls for: quotes, a bracket, a line break, another alphabet.
SCRIPTED_CITY = 'Paris "é" <3\n'

# What script.json answers to this.
SAY_HELLO = {"role": "user", "content": "[say hello]"}
HELLO = "Hello there."
