"""Bodies of requests before gradio gets them, and its error messages before the browser does."""

import json
from typing import Any

from starlette.types import Message, Receive, Send

from letgo.review.query import LONGEST

LARGEST_BODY = 1_000_000  # bytes
LONGEST_ERROR = 300  # characters


async def read_body(receive: Receive) -> bytes | None:
    """The body of a request; None if it is larger than `LARGEST_BODY`.

    Such a body is read to its end, as many clients read no answer before that, but it is not kept.
    """
    body, size, more = bytearray(), 0, True
    while more:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size <= LARGEST_BODY:
            body += part
        more = message.get("more_body", False)
    return bytes(body) if size <= LARGEST_BODY else None


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that begins with this body."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def wrapped() -> Message:
        return waiting.pop() if waiting else await receive()

    return wrapped


def problem_with(body: bytes) -> str:
    """Why a request cannot come from the page's controls; empty if it can.

    Their values are short texts, numbers, booleans and null. gradio would repeat any other value
    in its error message, and print it.
    """
    try:
        values: Any = json.loads(body)["data"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return "the request does not come from this page"
    if not isinstance(values, list) or any(isinstance(value, list | dict) for value in values):
        return "the request does not come from this page"
    if any(isinstance(value, str) and len(value) > LONGEST for value in values):
        return f"a text may have {LONGEST:,} characters at most"
    return ""


def shorten_errors(send: Send) -> Send:
    """A `send` that cuts error messages, as those of libraries repeat what they complain about."""
    start: Message | None = None
    body = bytearray()

    async def wrapped(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start" and message["status"] >= 400:
            start = message
        elif start is None:
            await send(message)
        else:
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                content = json.dumps({"error": _first_words(body)}).encode()
                length = str(len(content)).encode()
                headers = [(b"content-type", b"application/json"), (b"content-length", length)]
                await send({**start, "headers": headers})
                await send({"type": "http.response.body", "body": content})

    return wrapped


def _first_words(body: bytearray) -> str:
    """The beginning of the message in an error of gradio's."""
    try:
        message = json.loads(body)["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        message = None
    return message[:LONGEST_ERROR] if isinstance(message, str) else "the request failed"
