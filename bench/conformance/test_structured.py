import json
from enum import Enum

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from conftest import MODEL


class Colour(str, Enum):
    red = "red"
    green = "green"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=20)
    count: int = Field(ge=0, le=999)


class Machine(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: str = Field(max_length=30)
    colour: Colour
    parts: list[Part] = Field(min_length=1, max_length=2)
    note: str | None = Field(max_length=20)


def ask(client, response_format, **more):
    more = {"extra_body": {"thinking": {"type": "disabled"}}, "max_tokens": 600, **more}
    messages = [{"role": "user", "content": "Hello! How are you?"}]
    return client.chat.completions.create(
        model=MODEL, messages=messages, response_format=response_format, **more
    )


@pytest.mark.parametrize("thinking", ["disabled", "enabled"])
@pytest.mark.parametrize("seed", [1, 2])
def test_parse_gives_the_model(client, thinking, seed):
    answer = client.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": "Describe a machine."}],
        response_format=Machine, seed=seed, max_tokens=1500,
        extra_body={"thinking": {"type": thinking}},
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    machine = choice.message.parsed
    assert isinstance(machine, Machine) and 1 <= len(machine.parts) <= 2


def test_a_stream_of_json(client):
    schema = {"name": "machine", "schema": Machine.model_json_schema()}
    stream = ask(client, {"type": "json_schema", "json_schema": schema}, stream=True)
    text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    Machine.model_validate_json(text)


def test_any_object(client):
    answer = ask(client, {"type": "json_object"}, temperature=0, max_tokens=400)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
    else:
        assert answer.choices[0].message.content.startswith("{")


def test_a_schema_that_cannot_be(client):
    for schema in ({"type": "strin"}, {"$ref": "#/nowhere"}, 7):
        with pytest.raises(openai.BadRequestError) as error:
            ask(client, {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
        assert "schema" in error.value.message


def test_responses_parse(client):
    answer = client.responses.parse(
        model=MODEL, input="Describe a machine.", text_format=Machine,
        reasoning={"effort": "none"}, max_output_tokens=600,
    )
    assert answer.status == "completed" and isinstance(answer.output_parsed, Machine)
