"""Chat messages → prompt segments, profile 2604 (protocol: roles, merging, tools, reasoning).

A segment is `(text, kind)`. Kind 'c' is one control token; every other kind is plain text that is
encoded without the added vocabulary, so content can never become control:
'f' fixed template text, 's' system text and tool schemas, 'u' user and tool text,
'a' assistant text. Control tokens that the assistant writes have kind 'ac'.
Checked against every prompt of the rendering fixtures by test_data.py.
"""
import json

from specials import (ASSISTANT, BOS, DSML, END_THINK, EOS, LATEST_REMINDER, THINK, USER,
                      task_token)

TOOLS_HEAD = (
    "## Tools\n\nYou have access to a set of tools to help answer the user's question. You can "
    "invoke tools by writing a \"<", DSML, "tool_calls>\" block like the following:\n\n<", DSML,
    "tool_calls>\n<", DSML, 'invoke name="$TOOL_NAME">\n<', DSML,
    'parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</', DSML,
    "parameter>\n...\n</", DSML, "invoke>\n<", DSML, 'invoke name="$TOOL_NAME2">\n...\n</', DSML,
    "invoke>\n</", DSML, "tool_calls>\n\nString parameters should be specified as is and set "
    "`string=\"true\"`. For all other types (numbers, booleans, arrays, objects), pass the value "
    "in JSON format and set `string=\"false\"`.\n\nIf thinking_mode is enabled (triggered by ",
    THINK, "), you MUST output your complete reasoning inside ", THINK, "...", END_THINK,
    " BEFORE any tool calls or final response.\n\nOtherwise, output directly after ", END_THINK,
    " with tool calls or final response.\n\n### Available Tool Schemas\n\n")
TOOLS_TAIL = ("\n\nYou MUST strictly follow the above defined tool name and parameter schemas to "
              "invoke tool calls.\n")
RESPONSE_FORMAT = ("## Response Format:\n\nYou MUST strictly adhere to the following schema to "
                   "reply:\n")
EFFORT_MAX = (
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\nYou MUST be very thorough "
    "in your thinking and comprehensively decompose the problem to resolve the root cause, "
    "rigorously stress-testing your logic against all potential paths, edge cases, and "
    "adversarial scenarios.\nExplicitly write out your entire deliberation process, documenting "
    "every intermediate step, considered alternative, and rejected hypothesis to ensure "
    "absolutely no assumption is left unchecked.\n\n")
CONTROLS = {DSML, THINK, END_THINK}
TURN_ROLES = ("user", "developer")


class RenderError(ValueError):
    """The messages cannot be rendered."""


def dumps(value):
    """JSON as the protocol writes it: Python separators, non-ASCII raw."""
    return json.dumps(value, ensure_ascii=False)


def _tools_text(message, out):
    """Tools and response-format text of a system or developer message."""
    tools = message.get("tools")
    if tools:
        out.append(("\n\n", "f"))
        out.extend((t, "c" if t in CONTROLS else "f") for t in TOOLS_HEAD)
        out.append(("\n".join(dumps(t["function"]) for t in tools), "s"))
        out.append((TOOLS_TAIL, "f"))
    if message.get("response_format"):
        out.append(("\n\n" + RESPONSE_FORMAT + dumps(message["response_format"]), "s"))


def _call_text(calls, out):
    """The DSML block of an assistant's tool calls."""
    def tag(before, text):
        out.append((before, "a"))
        out.append((DSML, "ac"))
        out.append((text, "a"))

    tag("\n\n<", "tool_calls>\n")
    for i, call in enumerate(calls):
        function = call["function"]
        arguments = function.get("arguments")
        if isinstance(arguments, str) or arguments is None:
            try:
                parsed = json.loads(arguments)
            except (ValueError, TypeError):
                parsed = {"arguments": arguments}
            arguments = parsed
        if not isinstance(arguments, dict):
            raise RenderError("tool call arguments are not an object")
        tag("\n<" if i else "<", f'invoke name="{function["name"]}">\n')
        for j, (key, value) in enumerate(arguments.items()):
            is_text = isinstance(value, str)
            flag = "true" if is_text else "false"
            tag("\n<" if j else "<", f'parameter name="{key}" string="{flag}">'
                + (value if is_text else dumps(value)))
            tag("</", "parameter>")
        tag("\n</", "invoke>")
    tag("\n</", "tool_calls>")


def _result_text(content):
    if isinstance(content, list):
        return "\n\n".join(c.get("text", "") if c.get("type") == "text"
                           else f"[Unsupported {c.get('type')}]" for c in content)
    return content or ""


def merge_turns(messages):
    """Collapses runs of user and tool messages into user turns with ordered parts."""
    out, order = [], {}
    for message in messages:
        role = message["role"]
        if role == "assistant" and message.get("tool_calls"):
            order = {c.get("id"): i for i, c in enumerate(message["tool_calls"])
                     if c.get("id")}
        if role == "tool":
            part = ("tool", message.get("tool_call_id", ""), _result_text(message.get("content")))
        elif role == "user":
            part = ("text", "", message.get("content") or "")
        else:
            out.append(message)
            continue
        last = out[-1] if out else None
        joins = last and last["role"] == "user" and (role == "tool" or not last.get("task"))
        if joins:
            last["parts"].append(part)
        else:
            last = {"role": "user", "parts": [part], "order": order}
            out.append(last)
        last["order"] = order
        if role == "user" and message.get("task"):
            last["task"] = message["task"]
    for message in out:
        if "parts" in message:
            _sort_results(message)
    return out


def _sort_results(turn):
    slots = [i for i, p in enumerate(turn["parts"]) if p[0] == "tool"]
    if len(slots) > 1:
        order = turn["order"]
        results = sorted((turn["parts"][i] for i in slots), key=lambda p: order.get(p[1], 0))
        for i, part in zip(slots, results):
            turn["parts"][i] = part


def _turn_text(turn):
    return "\n\n".join(t if kind == "text" else f"<tool_result>{t}</tool_result>"
                       for kind, _, t in turn["parts"])


def render(messages, thinking=False, drop_thinking=True, reasoning_effort=None):
    """The prompt of `messages` as segments; see the module header for the kinds."""
    messages = merge_turns(messages)
    if any(m.get("tools") for m in messages):
        drop_thinking = False
    last_user = max((i for i, m in enumerate(messages) if m["role"] in TURN_ROLES), default=-1)
    if thinking and drop_thinking:
        messages = [m for i, m in enumerate(messages)
                    if m["role"] != "developer" or i >= last_user]
        last_user = max((i for i, m in enumerate(messages) if m["role"] in TURN_ROLES),
                        default=-1)
    out = [(BOS, "c")]
    for i, message in enumerate(messages):
        if i == 0 and thinking and reasoning_effort == "max":
            out.append((EFFORT_MAX, "f"))
        keep = thinking and (not drop_thinking or i >= last_user)
        before_task = i > 0 and messages[i - 1].get("task")
        _message_text(message, keep and not before_task, out)
        follower = messages[i + 1]["role"] if i + 1 < len(messages) else None
        if follower not in (None, "assistant", "latest_reminder"):
            continue
        _transition(message, keep, out)
    return out


def _message_text(message, keep, out):
    role = message["role"]
    if role == "system":
        out.append((message.get("content") or "", "s"))
        _tools_text(message, out)
    elif role == "developer":
        if not message.get("content"):
            raise RenderError("a developer message needs content")
        out.append((USER, "c"))
        out.append((message["content"], "u"))
        _tools_text(message, out)
    elif role == "user":
        out.append((USER, "c"))
        out.append((_turn_text(message), "u"))
    elif role == "latest_reminder":
        out.append((LATEST_REMINDER, "c"))
        out.append((message.get("content") or "", "u"))
    elif role == "assistant":
        if keep:
            out.append((message.get("reasoning_content") or message.get("reasoning") or "", "a"))
            out.append((END_THINK, "ac"))
        out.append((message.get("content") or "", "a"))
        if message.get("tool_calls"):
            _call_text(message["tool_calls"], out)
        if not message.get("wo_eos"):
            out.append((EOS, "ac"))
    else:
        raise RenderError(f"unknown role {role}")


def _transition(message, keep, out):
    task = message.get("task")
    think = (THINK if keep else END_THINK, "c")
    if message["role"] not in TURN_ROLES:
        if task:
            out.append((task_token(task), "c"))
    elif task == "action":
        out.extend([(ASSISTANT, "c"), think, (task_token(task), "c")])
    elif task:
        out.append((task_token(task), "c"))
    else:
        out.extend([(ASSISTANT, "c"), think])


def text_of(segments):
    """The prompt as one string, control tokens as their literal text."""
    return "".join(t for t, _ in segments)
