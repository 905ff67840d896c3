"""The recipes of docs/howto/observability.md, against the SDKs of Prometheus and OpenTelemetry."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from pages import ROOT, module_of
from prometheus_client import CollectorRegistry, generate_latest

from apikley_async import Client, Environment, JobFailedError, Shot, Storyboard
from apikley_async.errors import SubmissionUncertainError
from apikley_async.simulator import Constant, Failure, Fault, Simulator, Terms, Throttle
from apikley_async.testing import LoopClock
from apikley_async.webhook import Callback

pytestmark = pytest.mark.virtual

PAGE = ROOT / "docs" / "howto" / "observability.md"
KITTEN = Storyboard([Shot("A kitten.")], duration=10)
MODEL = "sora-2-pro-storyboard"


async def eventful(folder: Path, on_event: Any, around: Any = None) -> list[str]:
    """A film that is saved, one that fails, one that is uncertain; gives what is secret."""
    terms = Terms(
        duration=Constant(60),
        decide=lambda request: Failure("422", "no cats") if "cat" in str(request) else None,
    )
    simulator = Simulator(terms, clock=LoopClock(), rng=random.Random(7))
    environment = Environment(clock=LoopClock(), rng=random.Random(1))
    async with (
        simulator,
        Client(
            simulator.api_key,
            base_url=simulator.base_url,
            environment=environment,
            on_event=on_event,
            callback=Callback("https://me.example/hook"),
        ) as client,
    ):
        simulator.script("create", [Fault.throttled(Throttle.SECONDS, 7)])
        simulator.script("record", [Fault.HTTP_502])
        simulator.script("file", [Fault.CUT])
        job = await client.submit(KITTEN)
        result = await job
        await client.save(result, folder)
        with pytest.raises(JobFailedError):
            await client.generate(Storyboard([Shot("A cat.")], duration=10))
        simulator.script("create", [Fault.RESET_AFTER])
        with pytest.raises(SubmissionUncertainError):
            await client.submit(KITTEN)
        return [simulator.api_key, job.token or "none", "me.example", "://", *result.urls]


async def test_what_prometheus_is_told(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    metrics = module_of(PAGE, "film_metrics.py", tmp_path).FilmMetrics(registry)

    secrets = await eventful(tmp_path, metrics)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"apikley_{name}", labels)

    assert value("submitted_total", model=MODEL) == 2
    assert value("finished_total", model=MODEL, state="success") == 1
    assert value("finished_total", model=MODEL, state="fail") == 1
    assert value("uncertain_total", model=MODEL) == 1
    assert value("throttled_total") == 1
    assert value("poll_failures_total", error="ServerError") == 1
    assert value("retries_total", call="download") == 1
    assert value("saved_bytes_total") == sum(p.stat().st_size for p in tmp_path.glob("*.mp4"))
    assert value("credits_total", model=MODEL)
    assert value("film_seconds_count", model=MODEL) == 2
    exposition = generate_latest(registry).decode()
    assert [secret for secret in secrets if secret in exposition] == []


async def test_what_opentelemetry_is_told(tmp_path: Path) -> None:
    """A span for each film, in the trace of whoever submits it; no secret in any."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("films")
    traces = module_of(PAGE, "film_traces.py", tmp_path).FilmTraces(tracer)

    with tracer.start_as_current_span("request"):
        secrets = await eventful(tmp_path, traces)

    spans = exporter.get_finished_spans()
    request = next(span for span in spans if span.name == "request")
    made, failed, uncertain = (span for span in spans if span.name == "film")
    [saved] = [span for span in spans if span.name == "save film"]
    assert request.context is not None
    for span in (made, failed, uncertain, saved):
        assert span.parent is not None
        assert span.parent.span_id == request.context.span_id
    assert dict(made.attributes or {})["apikley.state"] == "success"
    assert [event.name for event in made.events] == ["poll failed"]
    assert made.status.status_code is StatusCode.UNSET
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "no cats")
    assert str(uncertain.status.description).startswith("uncertain: ")
    assert dict(saved.attributes or {})["apikley.bytes"]
    assert traces.spans == {}
    shown = "\n".join(span.to_json() for span in spans)
    assert [secret for secret in secrets if secret in shown] == []
