"""The forms of records, found by their columns: each becomes a prompt and an answer."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from letgo.data.alternatives import answers_of
from letgo.data.conversations import Message, answer_of, prompt_of
from letgo.data.messages import parsed, read_content, read_messages, read_tools, valid_text
from letgo.errors import InputError

Row = dict[str, Any]
Pair = tuple[str, str | None]  # prompt and answer
MEDIA = ("image", "images", "audio", "audios", "video", "videos")


class Form(NamedTuple):
    """A form of records.

    Args:
        name: for messages.
        asked: the columns that a record must have.
        answer: the column of the answer, which a prompt may lack.
        others: columns that it may have besides.
        read: makes a record a prompt and its answer, and raises `InputError`.
    """

    name: str
    asked: tuple[str, ...]
    answer: str
    others: tuple[str, ...]
    read: Callable[[Row], Pair]

    def used(self, columns: Iterable[str]) -> list[str]:
        """Those of the columns that this form reads, in their order."""
        return [c for c in columns if c in (*self.asked, self.answer, *self.others)]


def _prompt_completion(row: Row) -> Pair:
    prompt, completion = row["prompt"], row.get("completion")
    if completion is None and (right := answers_of(row)):
        completion = right[0]
    if type(prompt) is str and (completion is None or type(completion) is str):
        if not prompt.strip():
            raise InputError("the prompt is empty")
        valid_text(completion or "", "completion")
        return valid_text(prompt, "prompt"), completion
    asked = _messages(prompt, "prompt", "user")
    answers = [] if completion is None else _messages(completion, "completion", "assistant")
    if len(answers) > 1:
        raise InputError(
            f"'completion' has {len(answers)} messages; put the conversation in 'messages', of "
            f"which the last answer is learned"
        )
    if answers and answers[0]["role"] != "assistant":
        raise InputError(f"'completion' is a message of the {answers[0]['role']}, not an answer")
    return _pair([*asked, *answers], row, answered=bool(answers))


def _messages(value: Any, name: str, role: str) -> list[Message]:
    """Messages of a list of them, of one message, or of a text."""
    if isinstance(value, str):
        return [{"role": role, "content": valid_text(value, name)}]
    value = [value] if isinstance(value, dict) else value
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        kind = type(value).__name__
        raise InputError(f"{name!r} is not a string but {kind}, which is no list of messages")
    if value and all("type" in part and "role" not in part for part in value):
        return [{"role": role, "content": read_content(value)}]  # content parts alone
    return read_messages(value, name)


def _pair(messages: list[Message], row: Row, answered: bool | None = None) -> Pair:
    """The prompt and the answer of a conversation, which ends with one if it has any.

    Args:
        answered: whether it does; by default if its last message is the assistant's.
    """
    if isinstance(system := row.get("system"), str) and system.strip():
        messages = [{"role": "system", "content": valid_text(system, "system")}, *messages]
    last = messages[-1]
    answered = last["role"] == "assistant" if answered is None else answered
    asked = messages[:-1] if answered else messages
    if not any(m["content"].strip() or "tool_calls" in m for m in asked):
        raise InputError("the prompt is empty" if asked else "nothing is asked before the answer")
    if answered and not last["content"].strip() and "tool_calls" not in last:
        raise InputError("the last answer is empty")
    if answered and last.get("weight", 1) == 0:
        raise InputError("the last answer has the weight 0; take such records out")
    prompt = prompt_of(asked, read_tools(row.get("tools")))
    return prompt, answer_of(last) if answered else None


def _chat(row: Row) -> Pair:
    return _pair(read_messages(row["messages"], "messages"), row)


def _sharegpt(row: Row) -> Pair:
    return _pair(read_messages(row["conversations"], "conversations"), row)


def _alpaca(row: Row) -> Pair:
    texts = {name: _string(row, name) for name in ("instruction", "input", "output")}
    asked = "\n".join(text for name, text in texts.items() if name != "output" and text.strip())
    if not asked:
        raise InputError("the prompt is empty")
    messages: list[Message] = []
    for earlier in parsed(row.get("history"), "history") or []:
        if not isinstance(earlier, list) or len(earlier) != 2:
            raise InputError("'history' is not a list of pairs of an instruction and an answer")
        for role, text in zip(("user", "assistant"), earlier, strict=True):
            messages.append({"role": role, "content": read_content(text)})
    prompt, _ = _pair([*messages, {"role": "user", "content": asked}], row, answered=False)
    return prompt, None if row.get("output") is None else texts["output"]


def _string(row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str | None):
        raise InputError(f"{name!r} is not a string but {type(value).__name__}")
    return valid_text(value or "", name)


def _text(row: Row) -> Pair:
    if not _string(row, "text").strip():
        raise InputError("the text is empty")
    return "", row["text"]


def _preference(row: Row) -> Pair:
    from trl.data_utils import extract_prompt

    chosen, rejected = (_listed(row[name], name) for name in ("chosen", "rejected"))
    if not chosen or not rejected or type(chosen) is not type(rejected):
        raise InputError("'chosen' and 'rejected' are not two texts or two lists of messages")
    if chosen == rejected:
        raise InputError("'chosen' and 'rejected' are the same")
    prompt = row.get("prompt")
    # The prompt may stand before both answers, and be there as a text besides.
    is_inside = isinstance(chosen, list) and len(chosen) > 1 and not isinstance(prompt, list)
    if prompt is None or is_inside:
        prompt, chosen, _ = extract_prompt({"chosen": chosen, "rejected": rejected}).values()
    return _prompt_completion({**row, "prompt": prompt, "completion": chosen})


def _listed(value: Any, name: str) -> Any:
    """A text, or a list of messages in one form."""
    if isinstance(value, str):
        return valid_text(value, name)
    return _messages(value, name, "assistant")


WEIGHT = "weight"  # of a learning example
TOOLS = ("tools", "system", WEIGHT)
ASKED = (*TOOLS, "answers", "choices")  # further right answers, and the options of a question
FORMS = (
    Form("prompt and completion", ("prompt",), "completion", ASKED, _prompt_completion),
    Form("messages", ("messages",), "messages", TOOLS, _chat),
    Form("ShareGPT", ("conversations",), "conversations", TOOLS, _sharegpt),
    Form("Alpaca", ("instruction",), "output", ("input", "history", *TOOLS), _alpaca),
    Form("preference pairs", ("chosen", "rejected"), "chosen", ("prompt", *TOOLS), _preference),
    Form("text", ("text",), "text", (WEIGHT,), _text),
)
NAMES = {name for form in FORMS for name in (*form.asked, form.answer, *form.others)}
