"""Reading messages and tools in the forms that people have them in."""

import json
from typing import Any

from letgo.data.conversations import Message
from letgo.errors import InputError

# The roles in use, by the names that chat templates have for them.
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "ipython"), "tool"),
}
# What a chat template may read of a message besides its role, content and tool calls.
KEPT = ("name", "tool_call_id", "reasoning_content", "thinking")
WEIGHTS = ("weight", "loss_weight")  # 0: the message is not learned


def read_messages(value: Any, name: str) -> list[Message]:
    """The messages of a field as chat templates take them.

    Args:
        value: messages with role and content or from and value, or JSON of them.
        name: of the field, for error messages.

    Raises:
        InputError: what is wrong, and with which message.
    """
    value = parsed(value, name)
    if not isinstance(value, list):
        raise InputError(f"{name!r} is not a list of messages but {type(value).__name__}")
    if not value:
        raise InputError(f"{name!r} has no message")
    if not all(isinstance(message, dict) for message in value):
        raise InputError(f"{name!r} has a message that is no object with a role and a content")
    if any("from" in message for message in value):
        from trl.data_utils import maybe_convert_to_chatml

        value = maybe_convert_to_chatml({"messages": [dict(message) for message in value]})[
            "messages"
        ]
    messages = []
    for number, message in enumerate(value, start=1):
        try:
            messages.append(_read_message(message))
        except InputError as error:
            raise InputError(f"message {number} of {name!r}: {error}") from error
    return messages


def _read_message(message: Message) -> Message:
    role, content = message.get("role"), message.get("content")
    # Nearly all messages are so, and nothing else is to be looked for.
    if len(message) == 2 and isinstance(content, str) and role in ("user", "assistant"):
        return {"role": role, "content": valid_text(content, "content")}
    # A table has every field in every row: a field that is null is not there.
    message = {key: value for key, value in message.items() if value is not None}
    role = message.get("role", "")
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join(ROLES)
        found = f"unknown role {role!r}" if role else f"no role (found: {', '.join(message)})"
        raise InputError(f"{found}; use one of {known}")
    calls, content = message.get("tool_calls"), message.get("content", "")
    if role == "function_call":
        calls, content = parsed(content, "function_call") or [None], ""
    elif "function_call" in message:  # OpenAI's name for a single call
        calls = [message["function_call"]]
    read: Message = {"role": ROLES[role], "content": read_content(content)}
    for name in KEPT:
        if name in message:
            read[name] = _valid(message[name], name)
    if calls := parsed(calls, "tool_calls"):
        calls = [calls] if isinstance(calls, dict) else calls
        if not isinstance(calls, list):
            raise InputError(f"'tool_calls' is not a list but {type(calls).__name__}")
        read["tool_calls"] = [_read_call(call) for call in calls]
    for name in WEIGHTS:
        if message.get(name, 1) not in (0, 1):
            raise InputError(f"{name!r} must be 0 or 1, not {message[name]}")
        if message.get(name, 1) == 0 and read["role"] == "assistant":
            read["weight"] = 0
    return read


def read_content(content: Any) -> str:
    """The text of a message, which may be a list of content parts.

    Raises:
        InputError: it has something other than text.
    """
    if isinstance(content, list):
        return "".join(map(_read_part, content))
    return _valid(content, "content")


def _read_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise InputError(f"a part of 'content' is not an object but {type(part).__name__}")
    kind = part.get("type", "text")
    if kind not in ("text", "input_text", "output_text"):
        raise InputError(f"a part of 'content' is {kind!r}; letgo trains on text only")
    text = next((part[k] for k in ("text", "value", "content") if part.get(k) is not None), None)
    return _valid(text, "text")


def _valid(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name!r} is not a string but {type(value).__name__}")
    return valid_text(value, name)


def valid_text(value: str, name: str) -> str:
    """The text itself.

    Raises:
        InputError: it has half a surrogate pair.
    """
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{name!r} is not valid text") from error
    return value


def _read_call(call: Any) -> Message:
    """A tool call with its arguments as an object; a bare one has no "function" around it."""
    call = parsed(call, "a tool call")
    function = parsed(call.get("function", call), "function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not function.get("name"):
        raise InputError("a tool call has no name")
    arguments = function.get("arguments", function.get("parameters"))
    arguments = without_nulls(_arguments(arguments))
    read: Message = {"type": "function"}
    if call.get("id"):
        read["id"] = _valid(call["id"], "id")
    name = _valid(function["name"], "name")
    return read | {"function": {"name": name, "arguments": arguments or {}}}


def _arguments(value: Any) -> Any:
    """Arguments as an object; a text that is no JSON is an argument by itself."""
    if isinstance(value, str):
        try:
            return parsed(value, "arguments", anything=True)
        except InputError:
            return value
    return value


def read_tools(value: Any) -> list[dict[str, Any]]:
    """The tools of a conversation as functions with a name.

    Raises:
        InputError: a tool has no name.
    """
    value = parsed(value, "tools")
    if not value:
        return []
    if not isinstance(value, list):
        raise InputError(f"'tools' is not a list but {type(value).__name__}")
    tools = []
    for tool in value:
        tool = parsed(tool, "tools")
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InputError("a tool has no name")
        tools.append({"type": "function", "function": without_nulls(function)})
    return tools


def without_nulls(value: Any) -> Any:
    """The value without null fields: a table fills up with them what a record does not have."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two values of one field neither is the right one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"has {twice!r} more than once")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def parsed(value: Any, name: str, anything: bool = False) -> Any:
    """The value; of a text that is JSON of a list or an object, what it holds.

    Args:
        anything: whether the text need not be JSON of a list or an object.

    Raises:
        InputError: the text is not JSON.
    """
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        found = DECODER.decode(valid_text(value, name).strip())
    except (ValueError, RecursionError) as error:
        reason = f": {error}" if isinstance(error, InputError) else ""
        raise InputError(f"{name!r} is text but not JSON{reason}") from error
    if not anything and not isinstance(found, list | dict):
        raise InputError(f"{name!r} is not a list but {type(found).__name__}")
    return found
