import openai
import pytest

from conftest import MODEL


def ask(client, **more):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    return client.chat.completions.create(**{**body, **more})


@pytest.mark.parametrize("change, word", [
    ({"messages": "Hi"}, "messages"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": 5}]}, "tool_call_id"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"n": 2}, "n"),
    ({"stop": [""]}, "stop"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}},
      "tools": [{"type": "function", "function": {"name": "g"}}]}, "f"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "regex", "regex": "("}}, "regex"),
])
def test_bad_requests_say_what_is_wrong(client, change, word):
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, **change)
    body = error.value.body
    assert word in body["message"] and "\n" not in body["message"]
    assert body["type"] == "invalid_request_error" and {"param", "code"} <= set(body)


def test_a_context_that_is_too_small(client):
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, messages=[{"role": "user", "content": "word " * 200_000}])
    assert error.value.code == "context_length_exceeded"


def test_unknown_addresses(client):
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_unknown")
    with pytest.raises(openai.NotFoundError):
        client.post("/nothing", cast_to=object, body={})


def test_bodies_that_are_no_json(url, key):
    import json
    import urllib.error
    import urllib.request

    for body in (b"", b"{", b"[]", b"\xff", b'{"messages": ' + b"[" * 100_000):
        request = urllib.request.Request(
            url + "/v1/chat/completions", data=body, headers={"Authorization": f"Bearer {key}"}
        )
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=30)
        assert error.value.code == 400
        assert json.load(error.value)["error"]["message"]
