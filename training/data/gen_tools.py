"""Tool use: choose the tool, fill the parameters, two calls, no call, answers from results."""
import json

from base import Example, listing, upper_first, vary
from gen_chat import small_talk
from toolbox import FAMILIES, catalogue_tool, composed_tool

SYSTEMS = ("", "", "You are a helpful assistant.", "You are nano, a small assistant.",
           "You can use tools.", "Help the user with the tools.", "Answer shortly.",
           "You are a friendly assistant with tools.")
ERRORS = ("not found", "timeout", "no access", "service not available", "invalid value",
          "connection failed", "limit reached")


def _toolset(rng, evaluation):
    """(target tool, all declared tools in random order)."""
    composed = rng.random() < 0.55
    target = (composed_tool(rng, evaluation=evaluation and rng.random() < 0.5) if composed
              else catalogue_tool(rng))
    tools, groups, names = [target], {target["group"]}, {target["function"]["name"]}
    wanted = rng.choice((0, 1, 1, 2, 2, 3, 4))
    while wanted:
        if composed and rng.random() < 0.6:
            # hard distractors: same verb or same noun
            same_verb = rng.random() < 0.5
            other = composed_tool(rng, verb=target["verb"] if same_verb else None,
                                  noun=None if same_verb else target["noun"])
        else:
            other = composed_tool(rng) if rng.random() < 0.4 else catalogue_tool(rng)
        if other["group"] not in groups and other["function"]["name"] not in names:
            groups.add(other["group"])
            names.add(other["function"]["name"])
            tools.append(other)
            wanted -= 1
    rng.shuffle(tools)
    return target, tools


def _call(tool, arguments, ident):
    return {"id": ident, "type": "function",
            "function": {"name": tool["function"]["name"],
                         "arguments": json.dumps(arguments, ensure_ascii=False)}}


def _shown(arguments):
    parts = [f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in arguments.items()]
    return listing(parts) if parts else "no parameters"


def _think_call(rng, calls):
    first = calls[0]
    text = f"I use {first[0]['function']['name']} with {_shown(first[2])}."
    if len(calls) > 1:
        second = calls[1]
        text = (f"Two calls are needed. {text} Then {second[0]['function']['name']} with "
                f"{_shown(second[2])}.")
    return text


def _requests(rng, target, tools):
    """One or two (tool, sentence, arguments, result, answer)."""
    calls = [(target, *target["ask"](rng))]
    if rng.random() < 0.22:
        others = [t for t in tools if t is not target]
        second = rng.choice(others) if others and rng.random() < 0.6 else target
        calls.append((second, *second["ask"](rng)))
        if calls[1][2] == calls[0][2] and second is target:
            calls.pop()
    return calls


def _sentence(rng, calls):
    text = calls[0][1]
    if len(calls) > 1:
        second = calls[1][1]
        text = text + rng.choice((" ", " Then: ", " And: ", "\n", " Also: ")) + second
    return vary(rng, text) if rng.random() < 0.6 else text


def _results(rng, calls, idents, messages):
    """Adds the tool results; returns the closing answer."""
    answers = []
    for (_, _, _, result, answer), ident in zip(calls, idents):
        if rng.random() < 0.1:
            error = rng.choice(ERRORS)
            content = rng.choice((json.dumps({"error": error}), f"Error: {error}"))
            answer = f"The tool reports an error: {error}."
        else:
            content = json.dumps(result)
        messages.append({"role": "tool", "tool_call_id": ident, "content": content})
        answers.append(answer)
    return " ".join(answers)


def _ask_and_call(rng, target, tools, messages, turn):
    """One request with its calls, results and the answer; returns (expected calls, answer)."""
    calls = _requests(rng, target, tools)
    idents = [f"call_{turn}{i}" for i in range(len(calls))]
    user = _sentence(rng, calls)
    messages.append({"role": "user", "content": user})
    messages.append({"role": "assistant", "content": "", "reasoning_content":
                     _think_call(rng, calls),
                     "tool_calls": [_call(c[0], c[2], i) for c, i in zip(calls, idents)]})
    answer = _results(rng, calls, idents, messages)
    messages.append({"role": "assistant", "content": answer,
                     "reasoning_content": "The tool gave a result. I tell the user."})
    return user, calls, answer


def _no_call(rng, tools, messages):
    """A request that needs no tool, or one for which there is none."""
    if rng.random() < 0.65:
        turn = small_talk(rng)
        while "weather" in turn.user.lower() or "time is" in turn.user or "Translate" in turn.user:
            turn = small_talk(rng)
        think = f"No tool is needed. {turn.think}"
        user, answer, key = turn.user, turn.answer, turn.key
    else:
        key = ""
        declared = {t["group"] for t in tools}
        while True:
            other = catalogue_tool(rng) if rng.random() < 0.5 else composed_tool(rng)
            if other["group"] not in declared:
                break
        user = other["ask"](rng)[0]
        answer = "I am sorry, I have no tool for that."
        think = "None of the tools can do this."
    messages.append({"role": "user", "content": user})
    messages.append({"role": "assistant", "content": answer, "reasoning_content": think})
    return user, answer, key


def tool_use(rng, thinking, evaluation=False, force_call=False):
    """A conversation with declared tools."""
    target, tools = _toolset(rng, evaluation)
    declared = [{"type": "function", "function": t["function"]} for t in tools]
    messages = [{"role": "system", "content": rng.choice(SYSTEMS), "tools": declared}]
    keys, expect = [], None
    turns = 1 if evaluation else rng.choice((1, 1, 1, 2, 2, 3))
    for turn in range(turns):
        if rng.random() < 0.2 and not force_call:
            user, answer, key = _no_call(rng, tools, messages)
            keys.append(key or "tool|" + user)
            calls = []
        else:
            tool = target if turn == 0 else rng.choice(tools)
            user, calls, answer = _ask_and_call(rng, tool, tools, messages, turn)
            keys.append("tool|" + user)
        expect = {"calls": [(c[0]["function"]["name"], c[2]) for c in calls], "answer": answer}
    return Example(messages, thinking, keys, "tools", extra=expect)


assert FAMILIES and upper_first
