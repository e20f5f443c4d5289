import json

import pytest

from conftest import MODEL, SCRIPTED_CITY, TIME, WEATHER, check_weather

OFF = {"effort": "none"}
TOOLS = [{"type": "function", **function} for function in (WEATHER, TIME)]


def ask(client, text, **more):
    more = {"reasoning": OFF, "max_output_tokens": 400, "store": False, **more}
    return client.responses.create(model=MODEL, input=text, **more)


@pytest.mark.scripted
def test_an_answer(client):
    answer = ask(client, "[say hello]", instructions="Be brief.")
    assert answer.object == "response" and answer.status == "completed"
    assert answer.id.startswith("resp_") and answer.output_text == "Hello there."
    usage = answer.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_tokens_details.cached_tokens >= 0
    assert usage.output_tokens_details.reasoning_tokens == 0


@pytest.mark.scripted
def test_a_stream(client):
    events = list(ask(client, "[unicode]", stream=True))
    names = [event.type for event in events]
    assert names[:2] == ["response.created", "response.in_progress"]
    assert names[-1] == "response.completed" and names.count("response.completed") == 1
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == events[-1].response.output_text == "Grüße, 世界 🌍! <b>&amp;</b>"
    opened = names.index("response.output_item.added")
    assert names.index("response.content_part.added") > opened
    assert names.index("response.output_item.done") > names.index("response.content_part.done")


@pytest.mark.scripted
@pytest.mark.parametrize("streams", [False, True])
def test_reasoning(client, streams):
    wanted = {"effort": "high", "summary": "auto"}
    if streams:
        events = list(ask(client, "[think]", reasoning=wanted, stream=True))
        answer = events[-1].response
        deltas = [e.delta for e in events if e.type == "response.reasoning_summary_text.delta"]
        assert "".join(deltas) == "Two and two are four."
    else:
        answer = ask(client, "[think]", reasoning=wanted)
    reasoning, message = answer.output
    assert reasoning.type == "reasoning" and message.type == "message"
    assert reasoning.summary[0].text == "Two and two are four."
    assert answer.output_text == "The answer is 4."
    assert answer.usage.output_tokens_details.reasoning_tokens > 0


@pytest.mark.scripted
@pytest.mark.parametrize("streams", [False, True])
def test_a_call_and_its_result(client, streams):
    if streams:
        events = list(ask(client, "[weather]", tools=TOOLS, stream=True))
        answer = events[-1].response
        deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
        done = [e for e in events if e.type == "response.function_call_arguments.done"]
        assert "".join(deltas) == done[0].arguments
    else:
        answer = ask(client, "[weather]", tools=TOOLS)
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert call.name == "get_weather" and call.call_id and call.status == "completed"
    assert json.loads(call.arguments) == {"city": SCRIPTED_CITY, "days": 3}
    items = [
        {"role": "user", "content": "[weather]"},
        *[item.model_dump(exclude_none=True) for item in answer.output],
        {"type": "function_call_output", "call_id": call.call_id, "output": "[result 18]"},
    ]
    second = ask(client, items, tools=TOOLS)
    assert second.output_text == "It is 18 degrees."
    assert second.usage.input_tokens_details.cached_tokens > 0


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_forced_calls(client, choice):
    answer = ask(
        client, "Good morning!", tools=TOOLS, tool_choice=choice, parallel_tool_calls=False,
        temperature=0,
    )
    (call,) = [item for item in answer.output if item.type == "function_call"]
    if call.name == "get_weather":
        check_weather(json.loads(call.arguments))
    else:
        assert choice == "required"


@pytest.mark.scripted
def test_the_budget_ends_an_answer(client):
    answer = ask(client, "[count]", max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    events = list(ask(client, "[count]", max_output_tokens=2, stream=True))
    assert events[-1].type == "response.incomplete"


@pytest.mark.scripted
def test_what_one_client_sends(client):
    """A request of Codex: tools of many types, encrypted reasoning, a cache key."""
    tools = [
        *TOOLS,
        {"type": "custom", "name": "apply_patch", "description": "Apply a patch"},
        {"type": "web_search"},
        {"type": "local_shell"},
    ]
    answer = ask(
        client, [{"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "[say hello]"},
        ]}],
        tools=tools, tool_choice="auto", parallel_tool_calls=True, prompt_cache_key="k",
        include=["reasoning.encrypted_content"],
    )
    assert answer.output_text == "Hello there."
