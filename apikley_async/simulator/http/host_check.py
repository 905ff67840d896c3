"""Who is let in to the simulator: programs, and no web page that has found its way to loopback.

A page of any site may lead its own name to this machine (DNS rebinding), and then send what it
likes and read what comes back. It cannot choose the `Host` header: that is its own name.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from apikley_async.simulator.outbound import is_loopback

__all__ = ["INERT", "by_its_name", "guarded"]

INERT = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
"""Headers that make a browser show bytes, and never run them."""


@web.middleware
async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what comes over loopback and was not asked under a name of this machine."""
    if is_loopback(request.remote or "") and not by_its_name(request):
        told = "Host: localhost or an address of this machine, for what comes from this machine"
        return web.json_response({"error": told}, status=403)
    return await handler(request)


def by_its_name(request: web.Request) -> bool:
    """Whether a request names this machine as its host, once and beyond doubt."""
    named = request.headers.getall("Host", [])
    if len(named) != 1:
        return False
    host, colon, port = named[0].rpartition(":")
    if not colon or port.endswith("]"):
        host = named[0]
    elif not port.isdecimal():
        return False
    return is_loopback(host.removeprefix("[").removesuffix("]") if host[:1] == "[" else host)
