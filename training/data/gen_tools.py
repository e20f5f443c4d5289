"""Tool use: choose the tool, fill the parameters, two calls, no call, answers from results."""
import json

from base import Example, listing, upper_first, vary
from gen_chat import small_talk
from toolbox import FAMILIES, catalogue_tool, composed_tool

SYSTEMS = ("", "", "You are a helpful assistant.", "You are nano, a small assistant.",
           "You can use tools.", "Help the user with the tools.", "Answer shortly.",
           "You are a friendly assistant with tools.")
MARKS = ("my", "do", "tool", "new", "the", "api", "run", "v2", "quick", "call", "home", "simple")
TAILS = ("name", "value", "text", "arg", "in", "field", "1", "a")
ERRORS = ("not found", "timeout", "no access", "service not available", "invalid value",
          "connection failed", "limit reached")


def _toolset(rng, evaluation):
    """(target tool, all declared tools in random order)."""
    if not evaluation:
        return _practice_toolset(rng)
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


def _restyled(rng, tool):
    """The tool under a name that only its declaration tells, so that names are read, not guessed."""
    old = tool["function"]["name"]
    if "verb" in tool:
        verb, noun = tool["verb"], tool["noun"]
        parts = [verb, noun] if rng.random() < 0.5 else [noun, verb]
    else:
        parts = old.split("_")
        if rng.random() < 0.3:
            rng.shuffle(parts)
        if rng.random() < 0.25:
            parts.insert(rng.choice((0, len(parts))), rng.choice(MARKS))
    joint = rng.choice(("_", "_", "_", ".", ""))
    name = joint.join(parts) if joint else parts[0] + "".join(upper_first(p) for p in parts[1:])
    return {**tool, "function": {**tool["function"], "name": name}}


def _renamed_fields(rng, tool):
    """The tool with some parameters under other names."""
    function = tool["function"]
    schema = function["parameters"]
    new = {k: k if rng.random() < 0.5 else rng.choice((f"{k}_{rng.choice(TAILS)}", f"{rng.choice(MARKS)}_{k}"))
           for k in schema["properties"]}
    renamed = {**schema, "properties": {new[k]: v for k, v in schema["properties"].items()}}
    if "required" in schema:
        renamed["required"] = [new[k] for k in schema["required"]]

    def ask(r):
        user, arguments, result, answer = tool["ask"](r)
        return user, {new[k]: v for k, v in arguments.items()}, result, answer

    return {**tool, "function": {**function, "parameters": renamed}, "ask": ask}


def _practice_toolset(rng):
    """Like the evaluation's, but larger, with more look-alikes and freer names."""
    tools, groups, names = [], set(), set()
    wanted = rng.choice((1, 2, 2, 3, 3, 4, 5, 6, 8))
    composed = rng.random() < 0.6
    while len(tools) < wanted:
        alike = [t for t in tools if "verb" in t]
        if composed and alike and rng.random() < 0.6:
            near, same_verb = rng.choice(alike), rng.random() < 0.5
            tool = composed_tool(rng, verb=near["verb"] if same_verb else None,
                                 noun=None if same_verb else near["noun"])
        else:
            tool = composed_tool(rng) if rng.random() < (0.6 if composed else 0.3) else catalogue_tool(rng)
        if rng.random() < 0.6:
            tool = _restyled(rng, tool)
        if "verb" not in tool and rng.random() < 0.35:
            tool = _renamed_fields(rng, tool)
        if tool["group"] not in groups and tool["function"]["name"] not in names:
            groups.add(tool["group"])
            names.add(tool["function"]["name"])
            tools.append(tool)
    rng.shuffle(tools)
    return rng.choice(tools), tools


def _call(tool, arguments, ident):
    return {"id": ident, "type": "function",
            "function": {"name": tool["function"]["name"],
                         "arguments": json.dumps(arguments, ensure_ascii=False)}}


def _shown(arguments):
    parts = [f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in arguments.items()]
    return listing(parts) if parts else "no parameters"


def _think_call(rng, calls):
    first = calls[0]
    if len(calls) > 1:  # short: the calls themselves follow, and an answer is to stay short
        second = calls[1]
        return f"Two calls are needed: {first[0]['function']['name']} and {second[0]['function']['name']}."
    return f"I use {first[0]['function']['name']} with {_shown(first[2])}."


def _requests(rng, target, tools, twice):
    """One or, with chance `twice`, two (tool, sentence, arguments, result, answer)."""
    calls = [(target, *target["ask"](rng))]
    if rng.random() < twice:
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


def _ask_and_call(rng, target, tools, messages, turn, twice):
    """One request with its calls, results and the answer; returns (expected calls, answer)."""
    calls = _requests(rng, target, tools, twice)
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


def _missing_tool(rng, tools, evaluation):
    """A tool that is not declared; in practice often one that resembles a declared one."""
    declared = {t["group"] for t in tools}
    alike = [t for t in tools if "verb" in t and not evaluation]
    while True:
        if alike and rng.random() < 0.5:
            near, same_verb = rng.choice(alike), rng.random() < 0.5
            other = composed_tool(rng, verb=near["verb"] if same_verb else None,
                                  noun=None if same_verb else near["noun"])
        else:
            other = catalogue_tool(rng) if rng.random() < 0.5 else composed_tool(rng)
        if other["group"] not in declared:
            return other


def _no_call(rng, tools, messages, evaluation):
    """A request that needs no tool, or one for which there is none."""
    if rng.random() < (0.65 if evaluation else 0.4):
        turn = small_talk(rng)
        while "weather" in turn.user.lower() or "time is" in turn.user or "Translate" in turn.user:
            turn = small_talk(rng)
        think = f"No tool is needed. {turn.think}"
        user, answer, key = turn.user, turn.answer, turn.key
    else:
        key = ""
        user = _missing_tool(rng, tools, evaluation)["ask"](rng)[0]
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
    turns = 1 if evaluation else rng.choice((1, 1, 2, 2, 3, 4, 5))
    for turn in range(turns):
        if rng.random() < 0.2 and not force_call:
            user, answer, key = _no_call(rng, tools, messages, evaluation)
            keys.append(key or "tool|" + user)
            calls = []
        else:
            tool = target if turn == 0 else rng.choice(tools)
            user, calls, answer = _ask_and_call(rng, tool, tools, messages, turn, 0.22 if evaluation else 0.45)
            keys.append("tool|" + user)
        expect = {"calls": [(c[0]["function"]["name"], c[2]) for c in calls], "answer": answer}
    return Example(messages, thinking, keys, "tools", extra=expect)


assert FAMILIES and upper_first
