"""The review as a server on this machine."""

import secrets
import socket
from contextlib import suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from letgo.errors import InputError
from letgo.review.access import Guard
from letgo.review.app import mount
from letgo.review.session import Review
from letgo.review.texts import open_texts

LOCAL = ("127.0.0.1", "localhost")
EVERYWHERE = ("0.0.0.0", "::")


def serve(folder: Path, compare: Path | None, host: str, port: int) -> None:
    """Show a run in the browser until interrupted.

    Args:
        folder: of the run.
        compare: of another run to compare with.
        host: address to listen at.
        port: 0 for any that is free.

    Raises:
        InputError: no run, no scores, or an address that cannot be had.
    """
    if compare is not None:
        open_texts(compare)  # what cannot be compared is said before anything is opened
    review = Review(folder)
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    token = secrets.token_urlsafe(24)
    own = f"[{host}]" if ":" in host else host
    hosts = None if host in EVERYWHERE else {f"{name}:{port}" for name in (*LOCAL, own)}
    app = Guard(mount(FastAPI(), review, compare), token, hosts, f"letgo_review_{port}")
    if review.read_only:
        print(f"read-only: {review.read_only}")
    if host not in LOCAL:
        print(f"anyone who can reach {host} and knows this address can look and decide")
    shown = LOCAL[0] if host in EVERYWHERE else own
    print(f"review of {folder}: http://{shown}:{port}/?token={token}", flush=True)
    print("Ctrl-C ends it; every decision is saved as it is made", flush=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    try:
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        review.close()


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # who has the address may call at once
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--host {host} --port {port} cannot be had ({error}); give another, or --port 0"
        ) from error
    return listening
