"""Conversations: messages of several roles with tool calls, and the text that people read."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

Message = dict[str, Any]
THOUGHTS = ("reasoning_content", "thinking")
# Lines of a text that begin a message, or would seem to.
HEADING = re.compile(r"^(\\*\[(?:tools|system|user|assistant|tool|thoughts|call)\b)", re.MULTILINE)


class Conversation(str):
    """Messages up to an answer, or those of an answer; as a string, the text that people read.

    Different conversations have different texts, so that the text identifies the conversation.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]


def prompt_of(messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> str:
    """The prompt that messages are; a single message of the user is its plain text."""
    if len(messages) == 1 and not tools and _is_text(messages[0], "user"):
        return str(messages[0]["content"])
    lines = ["[tools]", *map(_json, tools)] if tools else []
    for message in messages:
        names = (str(message[name]) for name in ("name", "tool_call_id") if name in message)
        lines += [f"[{' '.join([message['role'], *names])}]", *_lines(message)]
    prompt = Conversation("\n".join(lines))
    prompt.messages, prompt.tools = tuple(messages), tuple(tools)
    return prompt


def answer_of(message: Message) -> str:
    """The answer that a message is, its tool calls as JSON; without any it is its plain text."""
    if _is_text(message, "assistant"):
        return str(message["content"])
    calls = [_json(call["function"]) for call in message.get("tool_calls", ())]
    answer = Conversation("\n".join(filter(None, [message["content"], *calls])))
    answer.messages, answer.tools = (message,), ()
    return answer


def _is_text(message: Message, role: str) -> bool:
    return message["role"] == role and message.keys() <= {"role", "content", "weight"}


def _lines(message: Message) -> list[str]:
    """What a message says, its thoughts and its calls, below its heading."""
    lines = [HEADING.sub(r"\\\1", message["content"])] if message["content"] else []
    for name in THOUGHTS:
        if name in message:
            lines += ["[thoughts]", HEADING.sub(r"\\\1", str(message[name]))]
    for call in message.get("tool_calls", ()):
        lines += ["[call]", _json(call["function"])]
    return lines


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def messages_of(text: str, role: str = "user") -> list[Message]:
    """The messages of a prompt or, by the role of the assistant, of an answer."""
    if isinstance(text, Conversation):
        return list(text.messages)
    return [{"role": role, "content": text}]


def pieces(text: str) -> list[str]:
    """The texts that must reach the model, whatever its chat template puts between them."""
    if not isinstance(text, Conversation):
        return [text]
    found = [tool["function"]["name"] for tool in text.tools]
    for message in text.messages:
        found.append(message["content"])
        for call in message.get("tool_calls", ()):
            found += [call["function"]["name"], *_strings(call["function"]["arguments"])]
    return [piece for piece in found if piece.strip()]


def _strings(value: object) -> Iterable[str]:
    """All strings inside the arguments of a call, in which JSON writes nothing otherwise."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str) and json.dumps(value, ensure_ascii=False) == f'"{value}"':
        yield value


def earlier_answers(prompt: str) -> Iterable[tuple[str, str]]:
    """The answers inside a conversation but those of weight 0, each with what it answers."""
    if isinstance(prompt, Conversation):
        for number, message in enumerate(prompt.messages):
            asked = prompt.messages[:number]
            learned = message["role"] == "assistant" and message.get("weight", 1)
            says = message["content"].strip() or "tool_calls" in message
            if learned and says and any(m["content"].strip() for m in asked):
                yield prompt_of(asked, prompt.tools), answer_of(message)


def as_given(text: str | None) -> object:
    """The text, or the messages and tools of a conversation, as JSON can hold them."""
    if isinstance(text, Conversation):
        return {"messages": list(text.messages), "tools": list(text.tools)}
    return text
