"""The answers of the service and, as small as their clients allow, of the peers' services."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs
from bench.films import ID_LENGTH, input_of, link_of

__all__ = ["DIALECTS", "Dialect", "Shape"]

Shape: TypeAlias = Callable[[str, str], Any]
"""Makes the answer's JSON from a task id and the service's own URL."""

TIME = "2026-11-26T09:44:01.123456Z"
PLACEHOLDER = "0" * ID_LENGTH  # as long as an id, so that answers are made once and filled in


@attrs.frozen
class Dialect:
    """How one service is asked and answers.

    Attributes:
        submits: the path of a POST that creates a task.
        polls: what stands before the id in the path of a GET, and what stands behind it.
        created, waiting, ready: the answers.
        status: the HTTP status of *created*.
        result: the answer where the finished film is asked for in a request of its own: a poll's
            path without what stands behind the id.
    """

    submits: str
    polls: tuple[str, str]
    created: Shape
    waiting: Shape
    ready: Shape
    status: int = 200
    result: Shape | None = None


def envelope(data: Any) -> dict[str, Any]:
    return {"code": 200, "msg": "success", "data": data}


def record(task: str, state: str, **more: Any) -> dict[str, Any]:
    """A task's record; it repeats the whole request in `param`, as the service does."""
    request = {"model": "sora-2-pro-storyboard", "input": input_of(1)}
    return envelope(
        {
            "taskId": task,
            "model": "sora-2-pro-storyboard",
            "state": state,
            "param": json.dumps(request),
            "resultJson": "",
            "failCode": "",
            "failMsg": "",
            "createTime": 1790000000001,
            "updateTime": 1790000611950,
            "completeTime": None,
            "progress": 40,
            **more,
        }
    )


def ready_record(task: str) -> dict[str, Any]:
    links = json.dumps({"resultUrls": [link_of(task)]})
    return record(
        *(task, "success"),
        resultJson=links,
        completeTime=1790000611900,
        costTime=611,
        creditsConsumed=270,
        progress=100,
    )


def prediction(task: str, url: str, status: str, **more: Any) -> dict[str, Any]:
    here = f"{url}/v1/predictions/{task}"
    return {
        "id": task,
        "model": "some/model",
        "version": "1f" * 32,
        "input": input_of(1),
        "logs": "",
        "output": None,
        "error": None,
        "status": status,
        "created_at": TIME,
        "started_at": TIME,
        "completed_at": None,
        "metrics": {},
        "urls": {"get": here, "cancel": f"{here}/cancel"},
        **more,
    }


def video(task: str, status: str, progress: int) -> dict[str, Any]:
    return {
        "id": task,
        "object": "video",
        "model": "sora-2-pro",
        "created_at": 1790000000,
        "completed_at": 1790000611 if progress == 100 else None,
        "expires_at": None,
        "error": None,
        "progress": progress,
        "prompt": input_of(1)["shots"][0]["Scene"],
        "remixed_from_video_id": None,
        "seconds": "12",
        "size": "1280x720",
        "status": status,
    }


def fal_request(task: str, url: str) -> dict[str, Any]:
    here = f"{url}/fal/some/model/requests/{task}"
    return {
        "request_id": task,
        "response_url": here,
        "status_url": f"{here}/status",
        "cancel_url": f"{here}/cancel",
        "queue_position": 0,
    }


DIALECTS = (
    Dialect(
        "/api/v1/jobs/createTask",
        ("/api/v1/jobs/recordInfo?taskId=", ""),
        lambda task, _: envelope({"taskId": task}),
        lambda task, _: record(task, "generating"),
        lambda task, _: ready_record(task),
    ),
    Dialect(
        "/v1/predictions",
        ("/v1/predictions/", ""),
        lambda task, url: prediction(task, url, "starting"),
        lambda task, url: prediction(task, url, "processing"),
        lambda task, url: prediction(
            task, url, "succeeded", output=[link_of(task)], completed_at=TIME
        ),
        status=201,
    ),
    Dialect(
        "/openai/videos",
        ("/openai/videos/", ""),
        lambda task, _: video(task, "queued", 0),
        lambda task, _: video(task, "in_progress", 40),
        lambda task, _: video(task, "completed", 100),
    ),
    Dialect(
        "/runway/v1/text_to_video",
        ("/runway/v1/tasks/", ""),
        lambda task, _: {"id": task},
        lambda task, _: {
            "id": task,
            "createdAt": TIME,
            "status": "RUNNING",
            "progress": 0.4,
            "estimatedCost": {"credits": 270},
        },
        lambda task, _: {
            "id": task,
            "createdAt": TIME,
            "status": "SUCCEEDED",
            "output": [link_of(task)],
            "cost": {"credits": 270},
        },
    ),
    Dialect(
        "/fal/some/model",
        ("/fal/some/model/requests/", "/status?logs=false"),
        fal_request,
        lambda task, url: {"status": "IN_PROGRESS", "logs": None, **fal_request(task, url)},
        lambda task, url: {
            "status": "COMPLETED",
            "logs": None,
            "metrics": {"inference_time": 611.9},
            **fal_request(task, url),
        },
        result=lambda task, _: {"video": {"url": link_of(task), "content_type": "video/mp4"}},
    ),
)
