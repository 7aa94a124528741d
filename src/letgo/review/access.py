"""Access control of the review: what a browser needs for its page, and nothing else."""

import hmac
import re
from collections.abc import Collection

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from letgo.review.requests import LARGEST_BODY, problem_with, read_body, replay, shorten_errors

HEADERS = {
    # Even markup that slipped through the escaping of a text could load nothing from elsewhere.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'"
    "; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; object-src 'none'; frame-ancestors 'none'; form-action 'self'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-dns-prefetch-control": "off",
}


# What the page asks for. Everything else that gradio serves, such as uploads, files, proxies and
# descriptions of its interface, does not exist here.
PAGES = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/gradio_api/heartbeat/\w+|/(?:assets|static)/.+"
)
CALL = re.compile(r"/gradio_api/run/predict/?")
# Proxies tell where a request came from by headers; there is none here. gradio would take a host
# out of them, and has some of its own ("x-gradio-server").
UNTRUSTED = re.compile(rb"x-.*|forwarded")


class Guard:
    """Middleware that passes on requests with the token, a known host and its own origin.

    The first request has the token in its address, later ones have it in a cookie. The host is
    checked because a foreign page may resolve its own name to this machine (DNS rebinding), the
    origin because browsers send a cookie to every port of a host.

    Args:
        app: the protected app.
        token: the secret.
        hosts: accepted hosts with ports; None for any.
        cookie: name of the cookie; different for every port, as a browser may open two reviews.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str] | None, cookie: str):
        self.app, self.token, self.hosts, self.cookie = app, token, hosts, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})  # the page opens none
        send = _with_headers(send)
        body = await read_body(receive)
        response = self._reject(HTTPConnection(scope)) or _reject_request(scope, body)
        if response is not None:
            return await response(scope, receive, send)
        headers = [pair for pair in scope["headers"] if not UNTRUSTED.fullmatch(pair[0])]
        scope = {**scope, "headers": headers}
        await self.app(scope, replay(body or b"", receive), shorten_errors(send))

    def _reject(self, request: HTTPConnection) -> Response | None:
        """The response to a browser that must not see the page; None for the others."""
        host = request.headers.get("host", "")
        if self.hosts is not None and host not in self.hosts:
            return PlainTextResponse("letgo review: unknown host name", 403)
        if request.headers.get("origin", f"http://{host}") != f"http://{host}":
            return PlainTextResponse("letgo review: request from a foreign page", 403)
        if self._is_token(request.query_params.get("token", "")):
            # Redirect, so that the address bar and the history do not keep the token.
            response = RedirectResponse(str(request.url.remove_query_params("token")), 303)
            response.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
            return response
        if self._is_token(request.cookies.get(self.cookie, "")):
            return None
        return PlainTextResponse(
            "letgo review: open the address, with its token, that the command printed", 403
        )

    def _is_token(self, value: str) -> bool:
        return hmac.compare_digest(value.encode(), self.token.encode())


def _reject_request(scope: Scope, body: bytes | None) -> Response | None:
    """The response to a request that the page does not make; None for the others."""
    if body is None:
        return PlainTextResponse(f"letgo review: over {LARGEST_BODY:,} bytes", 413)
    is_call = CALL.fullmatch(scope["path"])
    if not is_call and not PAGES.fullmatch(scope["path"]):
        return PlainTextResponse("letgo review: no such page", 404)
    if scope["method"] not in (["POST"] if is_call else ["GET", "HEAD"]):
        return PlainTextResponse("letgo review: no such method", 405)
    if is_call and (problem := problem_with(body)):
        return JSONResponse({"error": problem}, 400)
    return None


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return wrapped
