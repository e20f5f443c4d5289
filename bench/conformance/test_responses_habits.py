"""What agents really send to Responses: items of other servers, answers that were cut. Each
gets an answer where there is a sensible one, else an error that says what to do."""

import openai
import pytest

from conftest import HELLO, MODEL, WEATHER

pytestmark = pytest.mark.scripted


def respond(client, items, **more):
    body = {"model": MODEL, "reasoning": {"effort": "none"}, "max_output_tokens": 200,
            "input": items, **more}
    return client.post("/responses", body=body, cast_to=object)


def response_text(client, items, **more):
    items = [item for item in respond(client, items, **more)["output"] if item["type"] == "message"]
    return "".join(part["text"] for item in items for part in item["content"])


def call_item(ident="call_a", name="get_weather", arguments='{"city":"Oslo"}', **more):
    return {"type": "function_call", "call_id": ident, "name": name, "arguments": arguments, **more}


def output_item(ident="call_a", output="18", **more):
    return {"type": "function_call_output", "call_id": ident, "output": output, **more}


def reasoning_item(**more):
    return {"type": "reasoning", "id": "rs_1", "summary": [], **more}


def message_item(text, role="assistant", kind="output_text", **more):
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}], **more}


@pytest.mark.parametrize("history", [
    pytest.param([call_item()], id="call-without-output"),
    pytest.param([output_item()], id="output-without-call"),
    pytest.param([call_item("x"), call_item("y"), output_item("y"), output_item("x")], id="order"),
    pytest.param([call_item(), output_item(), call_item(), output_item()], id="same-ids"),
    pytest.param([call_item(arguments=""), output_item()], id="no-arguments"),
    pytest.param([call_item(arguments="{not json"), output_item()], id="bad-arguments"),
    pytest.param([call_item(namespace="mcp__gone"), output_item()], id="gone-namespace"),
    pytest.param([call_item(), output_item(output=[{"type": "input_text", "text": "x"},
                 {"type": "input_image", "image_url": "data:,"}])], id="output-parts"),
    pytest.param([call_item(), output_item(output=None)], id="null-output"),
    pytest.param([reasoning_item(encrypted_content="gAAAA-of-another-server"),
                  message_item("x")], id="foreign-reasoning"),
    pytest.param([reasoning_item(encrypted_content=None, content=None), call_item(),
                  output_item()], id="null-reasoning"),
    pytest.param([reasoning_item(content=[{"type": "reasoning_text", "text": "hm"}])],
                 id="reasoning-alone"),
    pytest.param([message_item("cut sh", id="msg_1", status="incomplete")], id="incomplete"),
    pytest.param([reasoning_item(status="incomplete"), message_item("x", status=None)],
                 id="incomplete-reasoning"),
    pytest.param([message_item("x", phase="commentary", status="completed")], id="phase"),
    pytest.param([{"role": "assistant", "content": "x"}], id="no-type"),
    pytest.param([message_item("Be brief.", "developer", "input_text")], id="developer"),
    pytest.param([message_item("Be brief.", "system", "input_text")], id="system"),
    pytest.param([{"type": "message", "role": "user", "content": []}], id="no-parts"),
    pytest.param([{"type": "custom_tool_call", "call_id": "c", "name": "apply_patch",
                   "input": "*** Begin Patch\n*** End Patch"},
                  {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"}],
                 id="custom"),
    pytest.param([{"type": "local_shell_call", "call_id": "c", "status": "completed",
                   "action": {"type": "exec", "command": ["ls"]}}, output_item("c")], id="shell"),
    pytest.param([{"type": "web_search_call", "id": "ws_1", "status": "completed",
                   "action": {"type": "search", "query": "x"}}], id="web-search"),
    pytest.param([{"type": "image_generation_call", "id": "ig_1", "status": "completed",
                   "result": "AAAA"}], id="image"),
    pytest.param([{"type": "compaction", "encrypted_content": "AAAA"}], id="compaction"),
    pytest.param([{"type": "ghost_snapshot", "ghost_commit": {}}], id="snapshot"),
])
def test_response_histories(client, history):
    tools = [{"type": "function", **WEATHER}]
    user = message_item("[say hello]", "user", "input_text")
    assert response_text(client, [*history, user], tools=tools) == HELLO


@pytest.mark.parametrize("fields", [
    {"store": True, "include": None, "truncation": "auto", "metadata": {}, "user": "u"},
    {"previous_response_id": None, "conversation": None, "prompt": None, "background": False},
    {"text": {"verbosity": "low"}, "service_tier": "priority", "prompt_cache_key": "k"},
    {"client_metadata": {"x": "y"}, "max_tool_calls": 5, "safety_identifier": "s"},
    {"reasoning": {"effort": "none", "summary": None, "encrypted": True}},
    {"tools": [{"type": "web_search"}, {"type": "image_generation"}, {"type": "mcp"},
               {"type": "code_interpreter", "container": {"type": "auto"}}, {"type": "future"}]},
    {"tools": [{"type": "function", "name": "f", "parameters": None, "strict": None}]},
    {"stream_options": {"include_obfuscation": False}, "instructions": None},
])
def test_response_fields_of_other_servers(client, fields):
    assert response_text(client, "[say hello]", **fields) == HELLO


def test_an_answer_that_was_cut_can_be_sent_back(client):
    """A client appends what it got, whole or not."""
    cut = respond(client, "[count]", max_output_tokens=2)
    assert cut["status"] == cut["output"][-1]["status"] == "incomplete"
    items = [message_item("[count]", "user", "input_text"), *cut["output"],
             message_item("[say hello]", "user", "input_text")]
    assert response_text(client, items) == HELLO


@pytest.mark.parametrize("body, code, word", [
    ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_not_found", "resp_1"),
    ({"input": "x", "conversation": "conv_1"}, None, "conversation"),
    ({"prompt": {"id": "pmpt_1"}, "input": "x"}, None, "prompt"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, None, "item_reference"),
    ({"input": []}, None, "empty"),
    ({"input": 5}, None, "input"),
    ({"input": [{"role": "robot", "content": "x"}]}, None, "role"),
    ({"input": [{"content": "x"}]}, None, "type"),
    ({"input": [{"type": "function_call", "call_id": "a", "arguments": "{}"}]}, None, "name"),
    ({}, None, "input"),
])
def test_responses_without_sense(client, body, code, word):
    with pytest.raises(openai.APIStatusError) as error:
        client.post("/responses", body={"model": MODEL, **body}, cast_to=object)
    assert error.value.status_code in (400, 404)
    assert word in error.value.body["message"], error.value.body
    assert code is None or error.value.body["code"] == code


def test_sealed_reasoning_comes_back(client):
    """What a client keeps unread is the reasoning again, so that the whole turn is found."""
    more = {"tools": [{"type": "function", **WEATHER}], "include": ["reasoning.encrypted_content"],
            "reasoning": {"effort": "high"}, "store": False}
    user = message_item("[think and weather]", "user", "input_text")
    first = respond(client, [user], **more)
    kinds = [item["type"] for item in first["output"]]
    assert kinds == ["reasoning", "function_call"], kinds
    done = output_item(first["output"][-1]["call_id"], "[result 18]")
    for kept in (first["output"], first["output"][1:]):
        usage = respond(client, [user, *kept, done], **more)["usage"]
        assert usage["input_tokens_details"]["cached_tokens"] >= first["usage"]["input_tokens"]


def test_a_call_for_websockets_is_refused(client):
    with pytest.raises(openai.APIStatusError) as error:
        client.get("/responses", cast_to=object,
                   options={"headers": {"Upgrade": "websocket", "Connection": "Upgrade"}})
    assert error.value.status_code in (404, 405, 426)
