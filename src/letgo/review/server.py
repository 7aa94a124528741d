"""The local web server of the review."""

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
    """Serve the review of a run until interrupted; port 0 takes any free port.

    Raises:
        InputError: a folder is not a run or has no scores, or the port is not available.
    """
    if compare is not None:
        open_texts(compare)  # fails here rather than on the page
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
        print(f"anyone who can reach {host} and has this address can read and decide")
    name = LOCAL[0] if host in EVERYWHERE else own
    print(f"review of {folder}: http://{name}:{port}/?token={token}", flush=True)
    print("press Ctrl-C to stop; every decision is saved at once", flush=True)
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
        listening.listen()  # now, because the address is printed before the server starts
    except (OSError, OverflowError) as error:
        message = f"--host {host} --port {port}: cannot listen there ({error}); try --port 0"
        raise InputError(message) from error
    return listening
