"""Access control of the review: requests need its token and must come from its own page."""

import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    # Even markup that slipped through the escaping of a text could load nothing from elsewhere.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'"
    "; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; object-src 'none'; frame-ancestors 'none'; form-action 'self'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-dns-prefetch-control": "off",
}


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
        response = self._reject(HTTPConnection(scope))
        if response is None and scope["type"] == "http":
            return await self.app(scope, receive, _with_headers(send))
        if scope["type"] == "http" and response is not None:
            return await response(scope, receive, _with_headers(send))
        await send({"type": "websocket.close", "code": 1008})  # the page opens no websocket

    def _reject(self, request: HTTPConnection) -> Response | None:
        """The response to a request that must not be passed on; None for the others."""
        host = request.headers.get("host", "")
        if self.hosts is not None and host not in self.hosts:
            return PlainTextResponse("letgo review: unknown host name", 403)
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
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


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return wrapped
