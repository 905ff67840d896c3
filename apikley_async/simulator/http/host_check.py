"""Checks the `Host` header: requests over loopback must name this machine.

A web page of any site can point its own name at this machine (DNS rebinding), send requests and
read the responses. It cannot choose the `Host` header, which then has that name.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from apikley_async._urls import is_loopback

__all__ = ["INERT_HEADERS", "names_this_machine", "require_local_host_name"]

INERT_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
"""Headers that let a browser display a file and never run it."""


@web.middleware
async def require_local_host_name(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a request over loopback that does not name this machine as its host."""
    if is_loopback(request.remote or "") and not names_this_machine(request):
        error = "Host: localhost or an address of this machine, for requests from this machine"
        return web.json_response({"error": error}, status=403)
    return await handler(request)


def names_this_machine(request: web.Request) -> bool:
    """Whether a request has exactly one `Host` header, and it names this machine."""
    hosts = request.headers.getall("Host", [])
    if len(hosts) != 1:
        return False
    host, colon, port = hosts[0].rpartition(":")
    if not colon or port.endswith("]"):
        host = hosts[0]
    elif not port.isdecimal():
        return False
    return is_loopback(host.removeprefix("[").removesuffix("]") if host[:1] == "[" else host)
