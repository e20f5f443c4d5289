import anthropic
import pytest

from conftest import MODEL, SCRIPTED_CITY, TIME, WEATHER, check_weather

OFF = {"type": "disabled"}
ON = {"type": "enabled", "budget_tokens": 1024}


def tool(function):
    return {
        "name": function["name"],
        "description": function["description"],
        "input_schema": function["parameters"],
    }


TOOLS = [tool(WEATHER), tool(TIME)]


def request(messages, **more):
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return {"model": MODEL, "max_tokens": 2000, "thinking": OFF, "messages": messages, **more}


@pytest.mark.scripted
def test_an_answer(claude):
    message = claude.messages.create(**request("[say hello]", system="Be brief."))
    assert message.type == "message" and message.role == "assistant" and message.model == MODEL
    assert message.id.startswith("msg_")
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].text == "Hello there."
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    usage = message.usage
    assert usage.output_tokens > 0 and usage.input_tokens >= 0
    assert usage.cache_read_input_tokens >= 0 and usage.cache_creation_input_tokens >= 0


@pytest.mark.scripted
def test_a_stream(claude):
    with claude.messages.stream(**request("[unicode]")) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == message.content[0].text == "Grüße, 世界 🌍! <b>&amp;</b>"
    assert message.stop_reason == "end_turn" and message.usage.output_tokens > 0


@pytest.mark.scripted
def test_events_come_in_order(claude):
    names, index, is_open = [], -1, False
    for event in claude.messages.create(**request("[think]", thinking=ON), stream=True):
        names.append(event.type)
        if event.type == "content_block_start":
            assert not is_open and event.index == index + 1
            index, is_open = event.index, True
        elif event.type in ("content_block_delta", "content_block_stop"):
            assert is_open and event.index == index
            is_open = event.type != "content_block_stop"
    assert names[0] == "message_start" and names[-2:] == ["message_delta", "message_stop"]
    assert index == 1 and not is_open


@pytest.mark.scripted
@pytest.mark.parametrize("streams", [False, True])
def test_thinking(claude, streams):
    if streams:
        with claude.messages.stream(**request("[think]", thinking=ON)) as stream:
            message = stream.get_final_message()
    else:
        message = claude.messages.create(**request("[think]", thinking=ON))
    thinking, text = message.content
    assert thinking.type == "thinking" and thinking.thinking == "Two and two are four."
    assert thinking.signature and text.text == "The answer is 4."
    # Sent back as it was, or without the thinking.
    for content in (message.content, [text]):
        history = [
            {"role": "user", "content": "[think]"},
            {"role": "assistant", "content": content},
            {"role": "user", "content": "[say hello]"},
        ]
        answer = claude.messages.create(**request(history))
        assert answer.content[0].text == "Hello there."


@pytest.mark.scripted
@pytest.mark.parametrize("streams", [False, True])
def test_a_call_and_its_result(claude, streams):
    asked = request("[weather]", tools=TOOLS)
    if streams:
        with claude.messages.stream(**asked) as stream:
            message = stream.get_final_message()
    else:
        message = claude.messages.create(**asked)
    assert message.stop_reason == "tool_use"
    text, call = message.content
    assert text.text == "Let me look." and call.type == "tool_use"
    assert call.name == "get_weather" and call.id.startswith("toolu_")
    assert call.input == {"city": SCRIPTED_CITY, "days": 3}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "[result 18]"}
    history = [
        {"role": "user", "content": "[weather]"},
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    answer = claude.messages.create(**request(history, tools=TOOLS))
    assert answer.content[0].text == "It is 18 degrees."
    assert answer.usage.cache_read_input_tokens > 0


@pytest.mark.scripted
def test_several_calls_at_once(claude):
    message = claude.messages.create(**request("[weather and time]", tools=TOOLS))
    calls = [block for block in message.content if block.type == "tool_use"]
    assert [call.name for call in calls] == ["get_weather", "get_time"]
    results = [
        {"type": "tool_result", "tool_use_id": calls[1].id, "content": "noon"},
        {"type": "tool_result", "tool_use_id": calls[0].id, "is_error": True,
         "content": [{"type": "text", "text": "[result 18]"}]},
    ]
    history = [
        {"role": "user", "content": "[weather and time]"},
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": results},
    ]
    answer = claude.messages.create(**request(history, tools=TOOLS))
    assert answer.content[0].text == "It is 18 degrees."


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_forced_calls(claude, choice):
    choice = {**choice, "disable_parallel_tool_use": True}
    message = claude.messages.create(
        **request("Good morning!", tools=TOOLS, tool_choice=choice),
        extra_body={"temperature": 0},
    )
    assert message.stop_reason == "tool_use"
    (call,) = [block for block in message.content if block.type == "tool_use"]
    if call.name == "get_weather":
        check_weather(call.input)
    else:
        assert choice["type"] == "any" and isinstance(call.input["zone"], str)


@pytest.mark.scripted
def test_stop_sequences(claude):
    message = claude.messages.create(**request("[count]", stop_sequences=["five"]))
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "five")
    assert message.content[0].text.rstrip() == "one two three four"


@pytest.mark.scripted
def test_the_budget_ends_an_answer(claude):
    message = claude.messages.create(**{**request("[count]"), "max_tokens": 2})
    assert message.stop_reason == "max_tokens" and message.usage.output_tokens == 2


@pytest.mark.scripted
def test_tokens_are_counted_as_they_are_used(claude):
    asked = request("[say hello]", tools=TOOLS, system=[{"type": "text", "text": "Be brief."}])
    counted = claude.messages.count_tokens(
        **{key: value for key, value in asked.items() if key != "max_tokens"}
    )
    usage = claude.messages.create(**asked).usage
    used = (
        usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    )
    assert counted.input_tokens == used


@pytest.mark.scripted
def test_what_one_client_sends(claude):
    """The first request of Claude Code: billing line, cache marks, adaptive thinking."""
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=12ab;"},
        {"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}},
    ]
    message = claude.beta.messages.create(
        model="claude-sonnet-5", max_tokens=500, system=system,
        messages=[{"role": "user", "content": [
            {"type": "text", "text": "<system-reminder>Today.</system-reminder>"},
            {"type": "text", "text": "[say hello]", "cache_control": {"type": "ephemeral"}},
        ]}],
        metadata={"user_id": "u"}, betas=["interleaved-thinking-2025-05-14"],
        tools=[*TOOLS, {"type": "web_search_20250305", "name": "web_search"}],
        thinking={"type": "disabled"},
    )
    assert message.content[0].text == "Hello there." and message.model == "claude-sonnet-5"


def test_errors_are_theirs(claude):
    with pytest.raises(anthropic.BadRequestError) as error:
        claude.messages.create(**request([]))
    assert error.value.body["type"] == "error"
    assert error.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.BadRequestError) as error:
        claude.messages.create(**request("word " * 200_000))
    assert "prompt is too long" in error.value.body["error"]["message"]
