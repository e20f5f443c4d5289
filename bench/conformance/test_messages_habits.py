"""What agents really send to Messages: thinking of other models, results out of place, servers'
tools. Each gets an answer where there is a sensible one, else an error that says what to do."""

import anthropic
import pytest

from conftest import HELLO, MODEL, SAY_HELLO, WEATHER
from pixel import PIXEL

OFF = {"type": "disabled"}

pytestmark = pytest.mark.scripted


def message(claude, messages, **more):
    body = {"model": MODEL, "thinking": OFF, "max_tokens": 200, "messages": messages, **more}
    return claude.post("/v1/messages?beta=true", body=body, cast_to=object)


def message_text(claude, messages, **more):
    blocks = message(claude, messages, **more)["content"]
    return "".join(block["text"] for block in blocks if block["type"] == "text")


def count(claude, messages, **more):
    body = {"model": MODEL, "thinking": OFF, "messages": messages, **more}
    path = "/v1/messages/count_tokens?beta=true"
    return claude.post(path, body=body, cast_to=object)["input_tokens"]


def use(ident="toolu_a", name="get_weather", **more):
    return {"type": "tool_use", "id": ident, "name": name, "input": {"city": "Oslo"}, **more}


def told(ident="toolu_a", **more):
    return {"type": "tool_result", "tool_use_id": ident, **more}


def thought(text, **more):
    return {"type": "thinking", "thinking": text, **more}


def said(*blocks):
    return {"role": "assistant", "content": list(blocks)}


def asked(*blocks):
    return {"role": "user", "content": [*blocks, {"type": "text", "text": "[say hello]"}]}


TEXT = {"type": "text", "text": "Let me see."}


@pytest.mark.parametrize("messages", [
    pytest.param([asked(told(content="18"))], id="result-without-use"),
    pytest.param([said(use()), asked()], id="use-without-result"),
    pytest.param([said(use()), asked(told())], id="result-without-content"),
    pytest.param([said(use()), asked(told(content=None))], id="null-content"),
    pytest.param([said(use()), asked(told(content=[]))], id="no-blocks"),
    pytest.param([said(use()), asked(told(content="", is_error=True))], id="error"),
    pytest.param([said(use()), asked(told(content=[{"type": "image", "source": {
        "type": "base64", "media_type": "image/png", "data": PIXEL}}]))], id="image-result"),
    pytest.param([said(use()), {"role": "user", "content": [{"type": "text", "text": "and"},
                 told(content="18")]}, SAY_HELLO], id="text-before-result"),
    pytest.param([said(use("a"), use("b")), {"role": "user", "content": [told("b", content="2")]},
                  asked(told("a", content="1"))], id="results-apart"),
    pytest.param([said(use(input='{"city": "Oslo"}')), asked(told(content="x"))], id="text-input"),
    pytest.param([said(use(input=None)), asked(told(content="x"))], id="null-input"),
    pytest.param([said(TEXT, use(), TEXT), asked(told(content="x"))], id="text-after-use"),
    pytest.param([said(thought("hm", signature="forged"), TEXT), SAY_HELLO], id="forged"),
    pytest.param([said(thought("hm", signature=""), TEXT), SAY_HELLO], id="empty-signature"),
    pytest.param([said(thought("hm"), use()), asked(told(content="x"))], id="no-signature"),
    pytest.param([said(thought("", signature="s"), TEXT), SAY_HELLO], id="empty-thinking"),
    pytest.param([said({"type": "redacted_thinking", "data": "AAAA"}, TEXT), SAY_HELLO],
                 id="redacted"),
    pytest.param([said({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search",
                        "input": {"query": "x"}},
                       {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1",
                        "content": []}, TEXT), SAY_HELLO], id="server-tools"),
    pytest.param([said({"type": "mcp_tool_use", "id": "m", "name": "f", "server_name": "s",
                        "input": {}}, TEXT), SAY_HELLO], id="mcp"),
    pytest.param([{"role": "user", "content": ""}, said(TEXT), SAY_HELLO], id="empty-text"),
    pytest.param([{"role": "user", "content": []}, SAY_HELLO], id="no-content"),
    pytest.param([said(), SAY_HELLO], id="empty-assistant"),
    pytest.param([said({"type": "text", "text": ""}), SAY_HELLO], id="empty-block"),
    pytest.param([{"role": "system", "content": "Be brief."}, SAY_HELLO], id="system-role"),
    pytest.param([SAY_HELLO, {"role": "system", "content": [TEXT]}], id="system-last"),
    pytest.param([asked({"type": "document", "source": {"type": "base64", "data": "AAAA",
                         "media_type": "application/pdf"}})], id="pdf"),
    pytest.param([asked({"type": "document", "title": "t", "context": "c",
                         "source": {"type": "text", "media_type": "text/plain", "data": "text"},
                         "citations": {"enabled": True}})], id="text-document"),
    pytest.param([asked({"type": "container_upload", "file_id": "f"})], id="upload"),
    pytest.param([{"role": "assistant", "content": "I begin."}, SAY_HELLO], id="assistant-first"),
])
def test_message_histories(claude, messages):
    tools = [{"name": "get_weather", "input_schema": WEATHER["parameters"]}]
    assert message_text(claude, messages, tools=tools) == HELLO
    assert count(claude, messages, tools=tools) > 0


@pytest.mark.parametrize("fields", [
    {"metadata": {"user_id": "u"}, "service_tier": "auto", "container": None, "mcp_servers": []},
    {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
    {"cache_control": {"type": "ephemeral"}, "inference_geo": "eu", "speed": "fast"},
    {"output_config": {"effort": "medium"}, "stop_sequences": [], "system": []},
    {"system": "", "tools": [], "tool_choice": {"type": "auto"}},
    {"system": [{"type": "text", "text": "", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]},
    {"max_tokens": None},
    {"max_tokens": 1_000_000},
    {"tools": [{"type": "bash_20250124", "name": "bash"}]},
    {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
     "tool_choice": {"type": "tool", "name": "web_search"}},
    {"tools": [{"name": "f", "input_schema": None, "defer_loading": True}]},
    {"tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"},
                "eager_input_streaming": True, "input_examples": [{}]}]},
])
def test_message_fields_of_other_servers(claude, fields):
    assert message_text(claude, [SAY_HELLO], **fields) == HELLO


def test_a_billing_line_changes_nothing(claude):
    """Claude Code's first system block differs in every request."""
    def system(mark):
        billing = f"x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli; cch={mark};"
        return [{"type": "text", "text": billing},
                {"type": "text", "text": "You are an agent. " * 20}]

    assert count(claude, [SAY_HELLO], system=system("00001")) == count(
        claude, [SAY_HELLO], system="You are an agent. " * 20)
    message(claude, [SAY_HELLO], system=system("00002"))
    usage = message(claude, [SAY_HELLO], system=system("ab3ff"))["usage"]
    assert usage["cache_read_input_tokens"] > 0 and usage["input_tokens"] <= 1, usage


def test_a_beginning_is_continued(claude):
    """A last message of the assistant is the beginning of the answer, as it is."""
    beginning = {"role": "assistant", "content": "Well. "}
    body = {"model": MODEL, "max_tokens": 200, "messages": [SAY_HELLO, beginning]}
    answer = claude.post("/v1/messages", body=body, cast_to=object)
    assert [(b["type"], b["text"]) for b in answer["content"]] == [("text", HELLO)]


def test_dropped_reasoning_is_found_again(claude, client):
    """Neither the turn nor what comes before it is computed again when a client drops reasoning."""
    tools = [{"name": "get_weather", "input_schema": WEATHER["parameters"]}]
    question = {"role": "user", "content": "[think and weather] once more"}
    on = {"type": "enabled", "budget_tokens": 1024}
    first = message(claude, [question], tools=tools, thinking=on)
    kinds = [block["type"] for block in first["content"]]
    assert kinds == ["thinking", "tool_use"], kinds
    call = first["content"][-1]
    done = {"role": "user", "content": [told(call["id"], content="[result 18]")]}
    second = message(claude, [question, said(call), done], tools=tools, thinking=on)
    assert second["usage"]["cache_read_input_tokens"] >= whole(first), second["usage"]


def whole(answer):
    """The tokens of an answer's prompt."""
    kinds = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(answer["usage"][kind] for kind in kinds)


def test_a_reminder_that_vanishes_costs_what_follows_it(claude):
    """Claude Code adds reminders to its latest turn and leaves them out afterwards."""
    system = "You are an agent that forgets. " * 30
    first = message(claude, [SAY_HELLO], system=system)
    reminder = {"type": "text", "text": "<system-reminder>Nothing is to do.</system-reminder>"}
    turn, hello = asked(), {"role": "assistant", "content": HELLO}
    with_it = {**turn, "content": [*turn["content"], reminder]}
    message(claude, [SAY_HELLO, hello, with_it], system=system)
    third = message(claude, [SAY_HELLO, hello, turn, hello, SAY_HELLO], system=system)
    assert third["usage"]["cache_read_input_tokens"] >= whole(first), third["usage"]


def test_a_found_tool_leaves_the_prompt_as_it_was(claude):
    """Claude Code sends most tools only after a search for them, above all others by name."""
    search = {"name": "search", "input_schema": {"type": "object"}}
    weather = {"name": "get_weather", "input_schema": WEATHER["parameters"], "defer_loading": True}
    first = message(claude, [SAY_HELLO], tools=[search])
    found = told(content=[{"type": "tool_reference", "tool_name": "get_weather"}])
    question = {"role": "user", "content": [found, {"type": "text", "text": "[weather]"}]}
    second = message(claude, [SAY_HELLO, said(use(name="search")), question],
                     tools=[weather, search])
    assert second["usage"]["cache_read_input_tokens"] >= whole(first), second["usage"]
    assert [b["name"] for b in second["content"] if b["type"] == "tool_use"] == ["get_weather"]


def test_side_requests_leave_the_session_alone(claude):
    """Titles, summaries and subagents come between the turns."""
    system = "You are an agent with company. " * 150
    first = message(claude, [SAY_HELLO], system=system)
    for side in range(6):
        message(claude, [SAY_HELLO], system=f"{side} is what this side request is about.")
    again = message(claude, [SAY_HELLO], system=system)
    assert again["usage"]["cache_read_input_tokens"] >= whole(first) - 1, again["usage"]


@pytest.mark.parametrize("messages, word", [
    ([{"role": "tool", "content": "x"}], "role"),
    ([{"role": "user", "content": [{"text": "x"}]}], "type"),
    ([{"role": "user", "content": 5}], "content"),
    ([said({"type": "tool_use", "id": "a", "input": {}}), SAY_HELLO], "name"),
])
def test_messages_without_sense(claude, messages, word):
    for ask in (message, count):
        with pytest.raises(anthropic.BadRequestError) as error:
            ask(claude, messages)
        assert word in error.value.body["error"]["message"], error.value.body
