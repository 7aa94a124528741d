"""Who may talk to the review: a browser that was given its token, from the review's own page."""

import hmac
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = {
    # The page works without a network, and a text that got markup past us could load nothing.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'"
    "; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; object-src 'none'; frame-ancestors 'none'; form-action 'self'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-dns-prefetch-control": "off",
}


class Guard:
    """Passes on requests with the token, under a known name, from the review's own page.

    The token comes in the address once and in a cookie from then on. A name is checked because a
    foreign page may have its own name resolved to this machine (DNS rebinding), an origin because
    cookies do not tell the ports of a machine apart.

    Args:
        app: what is guarded.
        token: a secret.
        hosts: names with ports by which this server may be called; None for any.
        cookie: its name, another one for every port so that two reviews get along in one browser.
    """

    def __init__(self, app: App, token: str, hosts: Collection[str] | None, cookie: str):
        self.app, self.token, self.hosts, self.cookie = app, token, hosts, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        answer = self._answer(HTTPConnection(scope))
        if answer is None and scope["type"] == "http":
            return await self.app(scope, receive, _with_headers(send))
        if scope["type"] == "http" and answer is not None:
            return await answer(scope, receive, _with_headers(send))
        await send({"type": "websocket.close", "code": 1008})  # the page opens none

    def _answer(self, request: HTTPConnection) -> Response | None:
        """The answer to a request that is not passed on."""
        host = request.headers.get("host", "")
        if self.hosts is not None and host not in self.hosts:
            return PlainTextResponse("letgo review: called by a foreign name", 403)
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("letgo review: asked by a foreign page", 403)
        if self._is_token(request.query_params.get("token", "")):
            # The address is then one without the secret.
            answer = RedirectResponse(str(request.url.remove_query_params("token")), 303)
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
            return answer
        if self._is_token(request.cookies.get(self.cookie, "")):
            return None
        return PlainTextResponse(
            "letgo review: open the address that it has printed, with its token", 403
        )

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def _with_headers(send: Send) -> Send:
    async def wrapped(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message["headers"] = [*message.get("headers", []), *added]
        await send(message)

    return wrapped
