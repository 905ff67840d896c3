"""Batches: a manifest in, films out, nothing paid twice, whatever happens in between."""

from apikley_async._budget import Price
from apikley_async.batch._batch import Batch, Estimate, Status
from apikley_async.batch._entries import work_of
from apikley_async.batch._evidence import Balance, Doubt
from apikley_async.batch._journal import Journal
from apikley_async.batch._manifest import Survey, check, is_manifest, survey
from apikley_async.batch._rehearsal import REHEARSAL_MARK, is_rehearsal
from apikley_async.batch._states import TABLE, Event, State
from apikley_async.batch._store import Charge, Entry, Expected, File, Item, Plan, Step, Store

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
