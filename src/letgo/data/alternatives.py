"""Further right answers of a record, and the choices that its question gives."""

from collections.abc import Mapping
from typing import Any

from letgo.data.messages import parsed, valid_text
from letgo.errors import InputError


def answers_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The right answers in the column `answers`: a text, a list of texts, or SQuAD's form.

    Raises:
        InputError: it is something else.
    """
    value = row.get("answers")
    if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
        return (valid_text(value, "answers"),) if value.strip() else ()
    return _texts(row, "answers")


def choices_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The column `choices`: a list of texts, alone or under "text"; a plain text is none.

    Raises:
        InputError: it is something else.
    """
    value = row.get("choices")
    if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
        return ()
    return _texts(row, "choices")


def _texts(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = parsed(row.get(name), name)
    if isinstance(value, dict):  # SQuAD: {"text": [...], "answer_start": [...]}
        value = value.get("text")
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InputError(
            f"{name!r} is no list of texts, nor {{'text': [...]}}; correct it, or give the column "
            f"another name"
        )
    return tuple(dict.fromkeys(valid_text(text, name) for text in value if text.strip()))
