"""Records in a recorded form: the simulator's own values where there are any, else filler."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apikley_async.cli.doctor import form_of
from apikley_async.simulator import RecordForm

RECORD = {"taskId": "task_1", "state": "success", "progress": 100, "resultJson": "{}"}
SHAPES: list[tuple[Any, Any]] = [
    # a recorded value, and what is made of its form where nothing is known
    (None, None),
    (True, False),
    (270, 0),
    (0.5, 0.0),
    ("a prompt", "xxxxxxxx"),
    ("https://results.test/a.mp4?sign=1", "http://here/1.mp4"),
    (["a", "b"], ["x", "x"]),
    ({"cover": "a", "n": 3}, {"cover": "x", "n": 0}),
    ('{"urls": ["https://a.test/1", "https://a.test/2"]}', {"urls": ["http://here/1.mp4", ""]}),
]


@pytest.mark.parametrize(("recorded", "made"), SHAPES)
def test_filler_has_the_recorded_form(recorded: Any, made: Any) -> None:
    form = RecordForm("success", {"result": form_of(recorded, 5)})

    value = form.shape(RECORD, ["http://here/1.mp4"])["result"]

    assert type(value) is type(recorded)
    if isinstance(made, dict) and isinstance(value, str):
        value = json.loads(value)
    assert value == made


def test_what_is_known_stays_in_the_recorded_type() -> None:
    form = RecordForm("success", {"taskId": {"type": "str"}, "progress": {"type": "str"}})

    assert form.shape(RECORD, []) == {"taskId": "task_1", "progress": "100"}


def test_records_of_other_states_are_as_usual() -> None:
    assert RecordForm("fail", {}).shape(RECORD, []) == RECORD


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(JSON)
def test_whatever_was_recorded_has_a_form_that_can_be_read_and_made(recorded: Any) -> None:
    kept = json.dumps({"state": "success", "fields": {"result": form_of(recorded, 5)}})

    made = RecordForm.from_json(kept).shape(RECORD, ["http://here/1.mp4"])["result"]

    assert type(made) is type(recorded)
    assert json.dumps(made)
