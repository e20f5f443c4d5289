import json
import urllib.request

import openai
import pytest

from conftest import MODEL


def get(url, key):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.read().decode()


def test_models_are_listed(client, claude):
    assert MODEL in [model.id for model in client.models.list()]
    model = client.models.retrieve(MODEL)
    assert model.id == MODEL and model.object == "model" and model.created > 0
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")
    listed = claude.models.list()
    assert MODEL in [model.id for model in listed.data]
    assert claude.models.retrieve(MODEL).type == "model"


def test_health_metrics_and_document(url, key):
    assert json.loads(get(url + "/health", key))["status"] == "ok"
    assert "# TYPE ds4_" in get(url + "/metrics", key)
    document = json.loads(get(url + "/openapi.json", key))
    assert {"/v1/chat/completions", "/v1/messages", "/v1/responses"} <= set(document["paths"])


def test_tokens_go_both_ways(url, key):
    def post(path, body):
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        data = json.dumps(body).encode()
        request = urllib.request.Request(url + path, data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    text = "Grüße, 世界 🌍!"
    tokens = post("/tokenize", {"content": text})["tokens"]
    assert tokens and all(isinstance(token, int) for token in tokens)
    assert post("/detokenize", {"tokens": tokens})["content"] == text


def test_lists_of_models_are_asked_for_in_every_way(client, claude):
    names = [model["id"] for model in client.get("/models", cast_to=object)["data"]]
    assert MODEL in names
    listed = claude.get("/v1/models?limit=1000&beta=true", cast_to=object)
    assert [model["id"] for model in listed["data"]] == names and listed["has_more"] is False
    assert json.dumps(claude.get(f"/v1/models/{MODEL}", cast_to=object))
