"""Batches: a manifest in, films out, nothing paid twice, whatever happens in between."""

from apikley_async._budget import Price
from apikley_async.batch.batch import Batch, Estimate, Status
from apikley_async.batch.evidence import Balance, Doubt
from apikley_async.batch.manifest.fields import work_of
from apikley_async.batch.manifest.reader import Survey, check, is_manifest, survey
from apikley_async.batch.rehearsal import REHEARSAL_MARK, is_rehearsal
from apikley_async.batch.states import TABLE, Event, State
from apikley_async.batch.store.protocol import (
    Charge,
    Entry,
    Expected,
    File,
    Item,
    Plan,
    Step,
    Store,
)
from apikley_async.batch.store.sqlite import Journal

__all__ = [
    "REHEARSAL_MARK",
    "TABLE",
    "Balance",
    "Batch",
    "Charge",
    "Doubt",
    "Entry",
    "Estimate",
    "Event",
    "Expected",
    "File",
    "Item",
    "Journal",
    "Plan",
    "Price",
    "State",
    "Status",
    "Step",
    "Store",
    "Survey",
    "check",
    "is_manifest",
    "is_rehearsal",
    "survey",
    "work_of",
]
