"""Reads the three forms of upload requests: multipart, Base64, and a URL to fetch."""

from __future__ import annotations

import base64
import mimetypes
import posixpath
import re
from urllib.parse import unquote, urlsplit

import attrs
from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from apikley_async.simulator.outbound import FetchError, OutboundClient
from apikley_async.simulator.service.file_store import FileStore
from apikley_async.simulator.service.request_rules import Refusal, is_uri, parse_object

__all__ = ["UploadedFile", "read_base64", "read_form", "read_url"]

FOLDER = re.compile(r"[^/\\\x00-\x1f\ud800-\udfff]([^\\\x00-\x1f\ud800-\udfff]*(?<!/))?")
NAME = re.compile(r"[^/\\\x00-\x1f\ud800-\udfff]{1,255}")


@attrs.frozen
class UploadedFile:
    """An uploaded file. With an empty *name* it will get one that ends in *suffix*."""

    folder: str
    name: str
    data: bytes = attrs.field(repr=False)
    suffix: str = ".bin"


async def read_form(request: web.Request) -> UploadedFile | Refusal:
    """A file from `multipart/form-data`."""
    # Not with `request.post()`, which writes files to the disk in a thread.
    fields: dict[str, bytes] = {}
    filename = ""
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name is None:
                continue
            if part.name == "file":
                filename = part.filename or ""
            fields[part.name] = bytes(await part.read())
        texts = {n: fields[n].decode() for n in ("uploadPath", "fileName") if n in fields}
    except (HttpProcessingError, ValueError, AssertionError):
        # aiohttp asserts some of what callers can get wrong.
        return Refusal(400, "multipart/form-data is expected")
    if "file" not in fields:
        return Refusal(400, "file is required")
    return _checked(texts.get("uploadPath"), texts.get("fileName") or filename, fields["file"])


async def read_base64(request: web.Request) -> UploadedFile | Refusal:
    """A file from Base64, plain or in a data URL."""
    body = parse_object(await request.read())
    if isinstance(body, Refusal):
        return body
    text = body.get("base64Data")
    if not isinstance(text, str) or not text:
        return Refusal(400, "base64Data is required")
    kind = ""
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        kind = head.removeprefix("data:").partition(";")[0]
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return Refusal(400, "base64Data is not Base64")
    suffix = mimetypes.guess_extension(kind) or ".bin"
    return _checked(body.get("uploadPath"), body.get("fileName"), data, suffix=suffix)


async def read_url(
    request: web.Request, files: FileStore, outbound: OutboundClient
) -> UploadedFile | Refusal:
    """A file from a URL: an earlier upload, or a file on a host that *outbound* allows."""
    body = parse_object(await request.read())
    if isinstance(body, Refusal):
        return body
    url = body.get("fileUrl")
    if not isinstance(url, str) or not is_uri(url):
        return Refusal(400, "fileUrl must be a URI")
    upload = files.upload_of(url)
    try:
        data = upload.data if upload is not None else await outbound.fetch(url)
    except FetchError as error:
        return Refusal(400, f"fileUrl could not be fetched: {error}")
    name = upload.name if upload is not None else _last_name(url)
    return _checked(body.get("uploadPath"), body.get("fileName") or name, data)


def _last_name(url: str) -> str:
    """The last part of the path of *url*, if it is a valid name."""
    name = posixpath.basename(unquote(urlsplit(url).path))
    return name if NAME.fullmatch(name) and name not in {".", ".."} else ""


def _checked(
    folder: object, name: object, data: bytes, *, suffix: str = ".bin"
) -> UploadedFile | Refusal:
    if not isinstance(folder, str) or not folder:
        return Refusal(400, "uploadPath is required")
    if not FOLDER.fullmatch(folder) or {".", "..", ""} & set(folder.split("/")):
        return Refusal(400, "uploadPath must have no slash at either end")
    if name is None or name == "":
        return UploadedFile(folder, "", data, suffix)
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in {".", ".."}:
        return Refusal(400, "fileName must be a plain name")
    return UploadedFile(folder, name, data)
