"""Conversations as a chat template writes them, whatever form of messages it takes."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from letgo.data.conversations import Conversation, Message, messages_of

ASKED, SAID = "qzxj", "wvkf"  # texts that no template has
PROBE = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
TOOL = {
    "type": "function",
    "function": {
        "name": ASKED,
        "description": SAID,
        "parameters": {"type": "object", "properties": {SAID: {"type": "string"}}},
    },
}
CALL = {"type": "function", "function": {"name": ASKED, "arguments": {SAID: SAID}}}


class Taste(NamedTuple):
    """What a chat template takes.

    Args:
        in_parts: the roles whose text it drops unless the content is a list of parts.
        tools, calls: whether it writes tools and tool calls.
    """

    in_parts: frozenset[str]
    tools: bool
    calls: bool


_TASTES: dict[str, Taste] = {}  # by chat template


def rendered(tokenizer: Any, pairs: Sequence[tuple[str, str | None]]) -> list[list[int]]:
    """Token ids of prompts and answers by the chat template; without an answer, one is to follow.

    Either all of the pairs or none has an answer. A template without tools is given them as JSON:
    the tools in the message of the system, the calls in that of the assistant.
    """
    groups: dict[str, list[int]] = {}  # the tools are the same for all conversations of a call
    for index, (prompt, _) in enumerate(pairs):
        tools = prompt.tools if isinstance(prompt, Conversation) else ()
        groups.setdefault(json.dumps(tools) if tools else "", []).append(index)
    rows: dict[int, list[int]] = {}
    for indices in groups.values():
        found = _rendered_alike(tokenizer, [pairs[index] for index in indices])
        rows.update(zip(indices, found, strict=True))
    return [rows[index] for index in range(len(pairs))]


def _rendered_alike(tokenizer: Any, pairs: Sequence[tuple[str, str | None]]) -> list[list[int]]:
    taste = _taste(tokenizer)
    tools = list(getattr(pairs[0][0], "tools", ()))
    conversations = []
    for prompt, answer in pairs:
        messages = messages_of(prompt)
        if answer is not None:
            is_plain = not isinstance(answer, Conversation)
            messages += messages_of(answer.strip() if is_plain else answer, "assistant")
        if tools and not taste.tools:
            messages = _with_tools(messages, tools)
        conversations.append([_adapted(message, taste) for message in messages])
    options = {"tools": tools} if tools and taste.tools else {}
    result = tokenizer.apply_chat_template(
        conversations, add_generation_prompt=pairs[0][1] is None, return_dict=True, **options
    )
    return [list(ids) for ids in result["input_ids"]]


def _with_tools(messages: list[Message], tools: list[Any]) -> list[Message]:
    """The messages with the tools at the end of the system's."""
    text = "\n".join(["Tools:", *(json.dumps(t["function"], ensure_ascii=False) for t in tools)])
    if messages[0]["role"] == "system":
        first, *messages = messages
        text = f"{first['content']}\n\n{text}" if first["content"] else text
    return [{"role": "system", "content": text}, *messages]


def _adapted(message: Message, taste: Taste) -> Message:
    """A message as the template takes it."""
    adapted = {key: value for key, value in message.items() if key != "weight"}
    if "tool_calls" in message and not taste.calls:
        calls = [call["function"] for call in adapted.pop("tool_calls")]
        lines = [json.dumps(call, ensure_ascii=False) for call in calls]
        adapted["content"] = "\n".join(filter(None, [message["content"], *lines]))
    role = "user" if message["role"] in ("system", "tool") else message["role"]
    if role in taste.in_parts:
        adapted["content"] = [{"type": "text", "text": adapted["content"]}]
    return adapted


def _taste(tokenizer: Any) -> Taste:
    template = tokenizer.chat_template
    if template not in _TASTES:
        plain = Taste(_roles_in_parts(tokenizer), tools=True, calls=True)
        question = _adapted({"role": "user", "content": "?"}, plain)
        call = _adapted({"role": "assistant", "content": "", "tool_calls": [CALL]}, plain)
        _TASTES[template] = plain._replace(
            tools=ASKED in _text(tokenizer, [question], tools=[TOOL]),
            calls=ASKED in _text(tokenizer, [question, call]),
        )
    return _TASTES[template]


def _roles_in_parts(tokenizer: Any) -> frozenset[str]:
    """The roles whose text the chat template drops unless the content is a list of parts."""
    for roles in ((), ("user",), ("assistant",), ("user", "assistant")):
        taste = Taste(frozenset(roles), tools=True, calls=True)
        text = _text(tokenizer, [_adapted(message, taste) for message in PROBE])
        printed = "'type'" in text or '"type"' in text  # the list itself, as Python or JSON
        if ASKED in text and SAID in text and not printed:
            return taste.in_parts
    return frozenset()


def _text(tokenizer: Any, messages: list[Message], **options: Any) -> str:
    """What the template writes; nothing if it raises, which is reported where it is used."""
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except Exception:  # a template may raise anything
        return ""
