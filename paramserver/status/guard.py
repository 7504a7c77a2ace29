"""Who may ask what: the Host check against DNS rebinding, the methods, and the security headers.

A page of a foreign site can point its own name at this peer's address and then read the answers as
its own. The name that the browser was asked for is in the Host header, so only names that such a
site cannot own are answered: loopback's, the configured host, and the very address that the
connection came in on, which is no name.
"""

from __future__ import annotations

import ipaddress

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from paramserver.config import is_loopback

METHODS = ("GET", "HEAD")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "paramserver",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def host_of(header: str) -> str | None:
    """Return the host of a Host header, lower case, without port and brackets; None: malformed."""
    header = header.strip().lower()
    if header.startswith("["):
        host, bracket, rest = header[1:].partition("]")
        if not bracket or not _is_address(host):
            return None
    else:
        host, colon, rest = header.partition(":")
        rest = colon + rest
    port = rest[1:]
    if not host or (rest and (rest[0] != ":" or not (port.isascii() and port.isdigit()))):
        return None
    return host


def allowed(header: str, configured: str, arrived: str | None) -> bool:
    """Say whether to answer a request for this Host header.

    ``configured`` is the host the server was told to listen on, ``arrived`` the local address of
    the connection. Any port will do: a tunnel may change it.
    """
    host = host_of(header)
    if host is None:
        return False
    return (
        is_loopback(host)
        or host == configured.strip("[]").lower()
        or (arrived is not None and _same_address(host, arrived))
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _same_address(one: str, other: str) -> bool:
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return False


def host_check(configured: str) -> Middleware:
    """Return the middleware that answers 403 to other hosts and 405 to other methods."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = request.headers.getall(hdrs.HOST, [])
        name = request.transport.get_extra_info("sockname") if request.transport else None
        arrived = str(name[0]) if name else None
        if len(hosts) != 1 or not allowed(hosts[0], configured, arrived):
            raise web.HTTPForbidden(
                text="this host name is not served here: ask by address, "
                "or set status.host to the name\n"
            )
        if request.method not in METHODS:
            raise web.HTTPMethodNotAllowed(
                request.method, METHODS, text=f"only {' and '.join(METHODS)} are served here\n"
            )
        return await handler(request)

    return check


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Give every answer, errors included, the security headers."""
    response.headers.update(HEADERS)
