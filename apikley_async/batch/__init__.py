"""Batches: a manifest in, films out, nothing paid twice, whatever happens in between."""

from apikley_async.batch.batch import Batch
from apikley_async.batch.destination import Destination
from apikley_async.batch.manifest.payload import work_of
from apikley_async.batch.manifest.reader import (
    ManifestSummary,
    check_manifest,
    is_manifest,
    summarize_manifest,
)
from apikley_async.batch.more_work import MoreWork
from apikley_async.batch.rehearsal import REHEARSAL_MARK, is_rehearsal
from apikley_async.batch.reports import BatchStatus, CostEstimate
from apikley_async.batch.run import GRACE
from apikley_async.batch.states import TRANSITIONS, ItemEvent, ItemState
from apikley_async.batch.store.journal import Journal
from apikley_async.batch.store.protocol import Store
from apikley_async.batch.store.values import (
    AttemptCost,
    Bounds,
    ExpectedCallback,
    Item,
    LearnedValue,
    ManifestEntry,
    Owner,
    PlanResult,
    Spending,
    StoredFile,
    Transition,
)
from apikley_async.batch.stored_pace import ServicePace
from apikley_async.batch.task_matching import TaskMatch
from apikley_async.batch.uncertain import BalanceEvidence, UncertainItem

__all__ = [
    "GRACE",
    "REHEARSAL_MARK",
    "TRANSITIONS",
    "AttemptCost",
    "BalanceEvidence",
    "Batch",
    "BatchStatus",
    "Bounds",
    "CostEstimate",
    "Destination",
    "ExpectedCallback",
    "Item",
    "ItemEvent",
    "ItemState",
    "Journal",
    "LearnedValue",
    "ManifestEntry",
    "ManifestSummary",
    "MoreWork",
    "Owner",
    "PlanResult",
    "ServicePace",
    "Spending",
    "Store",
    "StoredFile",
    "TaskMatch",
    "Transition",
    "UncertainItem",
    "check_manifest",
    "is_manifest",
    "is_rehearsal",
    "summarize_manifest",
    "work_of",
]
