import json

import pytest

from conftest import MODEL, SCRIPTED_CITY, TIME, WEATHER, check_weather

OFF = {"thinking": {"type": "disabled"}}
TOOLS = [{"type": "function", "function": function} for function in (WEATHER, TIME)]


def ask(client, messages, **more):
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    more = {"tools": TOOLS, "extra_body": OFF, "max_tokens": 400, **more}
    return client.chat.completions.create(model=MODEL, messages=messages, **more)


def collect(stream):
    """Content, reasoning, calls and finish reason of a stream, as a client puts them together."""
    content, reasoning, calls, finish = "", "", {}, None
    for chunk in stream:
        for choice in chunk.choices:
            delta = choice.delta
            content += delta.content or ""
            reasoning += getattr(delta, "reasoning_content", None) or ""
            for piece in delta.tool_calls or []:
                call = calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
                call["id"] += piece.id or ""
                call["name"] += piece.function.name or ""
                call["arguments"] += piece.function.arguments or ""
            finish = choice.finish_reason or finish
    return content, reasoning, [calls[i] for i in sorted(calls)], finish


@pytest.mark.scripted
def test_a_call_and_its_result(client):
    first = ask(client, "[weather]")
    (choice,) = first.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Let me look."
    (call,) = choice.message.tool_calls
    assert call.type == "function" and call.function.name == "get_weather" and call.id
    assert json.loads(call.function.arguments) == {"city": SCRIPTED_CITY, "days": 3}
    messages = [
        {"role": "user", "content": "[weather]"},
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "[result 18]"},
    ]
    second = ask(client, messages)
    assert second.choices[0].message.content == "It is 18 degrees."
    assert second.choices[0].finish_reason == "stop"
    # The turn that was sampled is found again, not computed.
    details, total = second.usage.prompt_tokens_details, first.usage.total_tokens
    assert details.cached_tokens >= first.usage.prompt_tokens, (details, total)


@pytest.mark.scripted
def test_a_streamed_call(client):
    content, _, (call,), finish = collect(ask(client, "[weather]", stream=True))
    assert (content, finish) == ("Let me look.", "tool_calls")
    assert call["id"] and call["name"] == "get_weather"
    assert json.loads(call["arguments"]) == {"city": SCRIPTED_CITY, "days": 3}


@pytest.mark.scripted
@pytest.mark.parametrize("stream", [False, True])
def test_several_calls_at_once(client, stream):
    answer = ask(client, "[weather and time]", stream=stream)
    if stream:
        _, _, calls, finish = collect(answer)
    else:
        message, finish = answer.choices[0].message, answer.choices[0].finish_reason
        calls = [{"id": c.id, **c.function.model_dump()} for c in message.tool_calls]
    assert finish == "tool_calls"
    assert [call["name"] for call in calls] == ["get_weather", "get_time"]
    assert len({call["id"] for call in calls}) == 2
    assert json.loads(calls[1]["arguments"]) == {"zone": "Europe/Oslo"}
    messages = [
        {"role": "user", "content": "[weather and time]"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": call["id"], "type": "function",
             "function": {"name": call["name"], "arguments": call["arguments"]}}
            for call in calls
        ]},
        # In the other order.
        {"role": "tool", "tool_call_id": calls[1]["id"], "content": "noon"},
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": "[result 18]"},
    ]
    assert ask(client, messages).choices[0].message.content == "It is 18 degrees."


@pytest.mark.scripted
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_after_reasoning(client, stream):
    on = {"thinking": {"type": "enabled"}}
    answer = ask(client, "[think and weather]", extra_body=on, stream=stream)
    if stream:
        content, reasoning, (call,), finish = collect(answer)
        arguments = call["arguments"]
    else:
        message, finish = answer.choices[0].message, answer.choices[0].finish_reason
        content, reasoning = message.content, message.reasoning_content
        arguments = message.tool_calls[0].function.arguments
    assert (content or "", reasoning, finish) == ("", "I should look.", "tool_calls")
    assert json.loads(arguments) == {"city": "Rome"}


def named(name):
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize("thinking", ["disabled", "enabled"])
@pytest.mark.parametrize("choice", ["required", named("get_weather")])
@pytest.mark.parametrize("stream", [False, True])
def test_forced_calls(client, choice, thinking, stream):
    """Nothing here makes the model want to call: the grammar does, and the schema holds."""
    answer = ask(
        client, "Good morning!", tool_choice=choice, stream=stream, temperature=0,
        max_tokens=1200, extra_body={"thinking": {"type": thinking}},
    )
    if stream:
        _, _, calls, finish = collect(answer)
    else:
        finish = answer.choices[0].finish_reason
        calls = [c.function.model_dump() for c in answer.choices[0].message.tool_calls]
    assert finish == "tool_calls" and calls
    for call in calls:
        arguments = json.loads(call["arguments"])
        if call["name"] == "get_weather":
            check_weather(arguments)
        else:
            assert call["name"] == "get_time" and choice == "required"
            assert list(arguments) == ["zone"] and isinstance(arguments["zone"], str)


def test_one_call_at_most(client):
    for seed in range(3):
        answer = ask(
            client, "Good morning!", tool_choice="required", parallel_tool_calls=False, seed=seed
        )
        assert len(answer.choices[0].message.tool_calls) == 1


@pytest.mark.scripted
def test_no_calls_when_none_are_wanted(client):
    answer = ask(client, "[say hello]", tool_choice="none")
    assert answer.choices[0].message.content == "Hello there."
    assert not answer.choices[0].message.tool_calls


@pytest.mark.scripted
def test_unknown_ids_and_empty_arguments(client):
    """Histories from elsewhere: ids that this server never gave, arguments that are empty."""
    for arguments in ("", "{}", "null"):
        messages = [
            {"role": "user", "content": "What time is it?"},
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": "call_from_elsewhere", "type": "function",
                 "function": {"name": "get_time", "arguments": arguments}},
            ]},
            {"role": "tool", "tool_call_id": "call_from_elsewhere", "content": "[result 18]"},
        ]
        assert ask(client, messages).choices[0].message.content == "It is 18 degrees."
