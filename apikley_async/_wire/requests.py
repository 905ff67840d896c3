"""The requests to the service: method, path and the fields that all models share.

They are spelled as the service documents them, and only documented fields are sent. A model's own
`input` is spelled by its class, such as `Storyboard`; each builder names the page behind it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

__all__ = ["File", "Request"]

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)  # `dumps` makes one each time

MAX_ANSWER_BYTES = 4 * 1024 * 1024  # no more is read of an answer
MAX_ECHO_BYTES = MAX_ANSWER_BYTES // 2  # a record repeats the request beside its other fields


@attrs.frozen
class File:
    """A file inside a form."""

    name: str
    content_type: str
    content: bytes = attrs.field(repr=False)


@attrs.frozen(repr=False)
class Request:
    """One request as the service spells it; the API key is not part of it.

    Attributes:
        method, path: of the endpoint, below the base URL.
        query: the query's fields, not yet encoded.
        body: what is sent as JSON.
        form: what is sent as multipart/form-data.
        repeatable: whether sending it twice costs nothing; False for createTask only.
    """

    method: str
    path: str
    query: Mapping[str, str] = attrs.field(factory=dict)
    body: Mapping[str, Any] | None = None
    form: Mapping[str, str | File] | None = None
    repeatable: bool = True

    @property
    def model(self) -> str:
        """The model that createTask names; empty for every other request."""
        return str((self.body or {}).get("model", ""))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of model and input, without the callback URL: equal works, equal fingerprints."""
        return fingerprint_of(self.body or {})

    def content(self) -> bytes | None:
        """The JSON body as it is sent."""
        if self.body is None:
            return None
        return _encoder.encode(self.body).encode()

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path}>"


def create_task(
    model: str, fields: Mapping[str, Any], *, callback_url: str | None = None
) -> Request:
    """Build the one request that costs money; therefore it is not repeatable.

    https://docs.apikley.ru/Sora-2/sora-2-pro-storyboard

    Args:
        model: the model's id.
        fields: the model's `input`.
        callback_url: where the service sends its callback; None for no callback.
    """
    body: dict[str, Any] = {"model": model, "input": dict(fields)}
    if callback_url:
        body["callBackUrl"] = callback_url
    return Request("POST", "/api/v1/jobs/createTask", body=body, repeatable=False)


def echo_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    """Say why a record of a task with this input would be too large to read.

    A record repeats the request as text inside text, and may escape every character beyond
    ASCII. Such a film would be paid and could never be polled.
    """
    text = json.dumps(fields)
    if 4 * len(text) < MAX_ECHO_BYTES // 2:  # each escaping doubles it at most
        return
    size = len(json.dumps(json.dumps({"input": text})))
    if size > MAX_ECHO_BYTES:
        yield (
            f"input: at most {MAX_ECHO_BYTES >> 20} MiB where the service repeats it, not "
            f"{size / 2**20:.1f}: the film would be paid and could never be polled"
        )


def record_info(task_id: str) -> Request:
    """Poll a task.

    https://docs.apikley.ru/get-task-detail
    """
    return Request("GET", "/api/v1/jobs/recordInfo", query={"taskId": task_id})


def get_credits() -> Request:
    """Read the account's balance.

    https://docs.apikley.ru/common-api/common-api_get-account-credits
    """
    return Request("GET", "/api/v1/chat/credit")


def get_download_url(url: str) -> Request:
    """Exchange a result's link, which may have expired, for a fresh one.

    https://docs.apikley.ru/common-api/common-api_download-url
    """
    return Request("POST", "/api/v1/common/download-url", body={"url": url})


def stream_upload(file: File, folder: str) -> Request:
    """Store a file that is sent as a form.

    https://docs.apikley.ru/file-upload-api/file-upload-api_upload-file-stream
    """
    form: dict[str, str | File] = {"file": file, "uploadPath": folder, "fileName": file.name}
    return Request("POST", "/file-upload/api/file-stream-upload", form=form)


def base64_upload(file: File, folder: str) -> Request:
    """Store a file that is sent as a data URL inside JSON.

    https://docs.apikley.ru/file-upload-api/file-upload-api_upload-file-base-64
    """
    data = f"data:{file.content_type};base64,{base64.b64encode(file.content).decode()}"
    body = {"base64Data": data, "uploadPath": folder, "fileName": file.name}
    return Request("POST", "/file-upload/api/file-base64-upload", body=body)


def url_upload(url: str, folder: str) -> Request:
    """Store a file that the service fetches from *url*.

    https://docs.apikley.ru/file-upload-api/file-upload-api_upload-file-url
    """
    body = {"fileUrl": url, "uploadPath": folder}
    return Request("POST", "/file-upload/api/file-url-upload", body=body)


def fingerprint_of(body: Mapping[str, Any]) -> str:
    """SHA-256 of a createTask body's model and input.

    Numbers count by their value (7 is 7.0), and the order of names does not matter.
    """
    known = {"model": body.get("model"), "input": _normalized(body.get("input"))}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _normalized(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _normalized(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_normalized(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
