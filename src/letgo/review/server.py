"""The local web server of the review."""

import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from letgo.errors import InputError, printable
from letgo.review.access import Guard
from letgo.review.app import mount
from letgo.review.session import Review
from letgo.review.texts import open_texts

LOCAL = ("127.0.0.1", "localhost")


def serve(folder: Path, compare: Sequence[Path], host: str, port: int) -> None:
    """Serve the review of a run until interrupted; port 0 takes any free port.

    Args:
        compare: other runs, which the page may compare with.

    Raises:
        InputError: a folder is not a run or has no scores, or the port is not available.
    """
    for other in compare:
        open_texts(other)  # fails here rather than on the page
    review = Review(folder)
    try:
        _serve(review, compare, host, port)
    finally:
        review.close()


def _serve(review: Review, compare: Sequence[Path], host: str, port: int) -> None:
    listening = _listen(host, port)
    address, port = listening.getsockname()[:2]
    everywhere = ip_address(address).is_unspecified
    token = secrets.token_urlsafe(24)
    own = LOCAL[0] if everywhere else f"[{host}]" if ":" in host else host.lower()
    hosts = None if everywhere else {f"{name}:{port}" for name in (*LOCAL, own)}
    server = FastAPI(openapi_url=None)  # no description of the interface
    app = Guard(mount(server, review, compare), token, hosts, f"letgo_review_{port}")
    notes = [f"read-only: {review.read_only}"] * bool(review.read_only)
    notes += [f"warning: {warning}" for warning in review.warnings]
    if not ip_address(address).is_loopback:
        notes.append(f"anyone who can reach {host} and has this address can read and decide")
    url = f"http://{own}:{port}/?token={token}"
    print(*map(printable, [*notes, f"review of {review.folder}: {url}"]), sep="\n", flush=True)
    print("press Ctrl-C to stop; every decision is saved at once", flush=True)
    # Nobody stands before this server, so headers of proxies would be made up.
    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=1, proxy_headers=False
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


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
