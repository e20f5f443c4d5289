import pytest

from conftest import MODEL

OFF = {"thinking": {"type": "disabled"}}


def ask(client, text, **more):
    more = {"extra_body": OFF, "max_tokens": 200, **more}
    return client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": text}], **more
    )


def texts(stream):
    """Content, reasoning, finish reason and last usage of a stream."""
    content, reasoning, finish, usage = "", "", None, None
    for chunk in stream:
        assert chunk.object == "chat.completion.chunk" and chunk.model == MODEL
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert finish is None, "something comes after the end"
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            finish = choice.finish_reason or finish
    return content, reasoning, finish, usage


@pytest.mark.scripted
def test_an_answer(client):
    answer = ask(client, "[say hello]")
    assert answer.object == "chat.completion" and answer.model == MODEL and answer.id
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and choice.message.content == "Hello there."
    assert choice.finish_reason == "stop" and not choice.message.tool_calls
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens


@pytest.mark.scripted
@pytest.mark.parametrize("text, expected", [
    ("[say hello]", "Hello there."),
    ("[unicode]", "Grüße, 世界 🌍! <b>&amp;</b>"),
])
def test_a_stream_says_the_same(client, text, expected):
    assert ask(client, text).choices[0].message.content == expected
    stream = ask(client, text, stream=True, stream_options={"include_usage": True})
    content, reasoning, finish, usage = texts(stream)
    assert (content, reasoning, finish) == (expected, "", "stop")
    assert usage.completion_tokens > 0


@pytest.mark.scripted
def test_usage_comes_when_asked_for(client):
    *_, usage = texts(ask(client, "[say hello]", stream=True))
    assert usage is None


@pytest.mark.scripted
@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_is_apart(client, stream):
    on = {"thinking": {"type": "enabled"}}
    answer = ask(client, "[think]", extra_body=on, stream=stream)
    if stream:
        content, reasoning, finish, _ = texts(answer)
    else:
        message = answer.choices[0].message
        content, reasoning = message.content, message.reasoning_content
        finish = answer.choices[0].finish_reason
        assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    assert (content, reasoning, finish) == (
        "The answer is 4.", "Two and two are four.", "stop",
    )


@pytest.mark.scripted
def test_reasoning_comes_back(client):
    """Clients repeat the reasoning, under either name, or drop it."""
    for field in ({"reasoning_content": "Two and two are four."}, {"reasoning": "x"}, {}):
        messages = [
            {"role": "user", "content": "[think]"},
            {"role": "assistant", "content": "The answer is 4.", **field},
            {"role": "user", "content": "[say hello]"},
        ]
        answer = client.chat.completions.create(model=MODEL, messages=messages, extra_body=OFF)
        assert answer.choices[0].message.content == "Hello there."


@pytest.mark.scripted
@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(client, stream):
    for stop in ("five", ["nine", " five"]):
        answer = ask(client, "[count]", stop=stop, stream=stream)
        if stream:
            content, _, finish, _ = texts(answer)
        else:
            content, finish = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert content.rstrip() == "one two three four" and finish == "stop"


@pytest.mark.scripted
def test_the_budget_ends_an_answer(client):
    answer = ask(client, "[count]", max_tokens=2)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 2
    content = answer.choices[0].message.content
    assert "one two three four five six seven eight".startswith(content)
    assert texts(ask(client, "[count]", max_tokens=2, stream=True))[:3] == (content, "", "length")
    answer = ask(client, "[count]", max_tokens=None, max_completion_tokens=2)
    assert answer.choices[0].finish_reason == "length"


def test_seeds_repeat_answers(client):
    def answer(seed):
        result = ask(client, "Write something.", seed=seed, max_tokens=30, temperature=1.5)
        return result.choices[0].message.content

    assert answer(7) == answer(7)
    assert len({answer(seed) for seed in range(4)}) > 1


def test_zero_temperature_is_certain(client):
    first, second = (
        ask(client, "What is 7 plus 5?", temperature=0, max_tokens=30).choices[0].message.content
        for _ in range(2)
    )
    assert first == second and first


def test_log_probabilities(client):
    answer = ask(client, "Hi", logprobs=True, top_logprobs=3, max_tokens=5, temperature=0)
    entries = answer.choices[0].logprobs.content
    assert 0 < len(entries) <= 5
    for entry in entries:
        assert entry.logprob <= 0 and len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob
        assert entry.token == entry.top_logprobs[0].token
        assert entry.bytes is None or bytes(entry.bytes).decode(errors="replace")
    text = b"".join(bytes(entry.bytes) for entry in entries).decode(errors="replace")
    assert text.startswith(answer.choices[0].message.content)


@pytest.mark.scripted
def test_parts_roles_and_unknown_fields(client):
    parts = [
        {"type": "text", "text": "See this:"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "[say hello]"},
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": parts, "name": "someone"},
    ]
    answer = client.chat.completions.create(
        model="gpt-5-codex", messages=messages, user="u", metadata={"a": "b"}, store=False,
        extra_body={**OFF, "something_new": {"x": 1}},
    )
    assert answer.choices[0].message.content == "Hello there."
    assert answer.model == "gpt-5-codex"


def test_a_repeated_prompt_is_cached(client):
    text = "A prompt with many words. " * 40
    ask(client, text, max_tokens=1)
    second = ask(client, text, max_tokens=1).usage
    assert second.prompt_tokens_details.cached_tokens > second.prompt_tokens * 0.8


def test_completions_continue_text(client):
    answer = client.completions.create(model=MODEL, prompt="Once upon a", max_tokens=4)
    assert answer.object == "text_completion" and answer.choices[0].text
    stream = client.completions.create(
        model=MODEL, prompt="Once upon a", max_tokens=4, temperature=0, stream=True
    )
    chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks if c.choices)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
