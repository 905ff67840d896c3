"""Texts below the help of commands: the exit codes, and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["ARGUMENTS", "BATCH_ARGUMENTS", "EXAMPLES", "EXIT_CODES"]

EXIT_CODES = """
\b
Exit codes:
  0   all is well
  1   some films failed, or a check found a fault
  2   usage or input; nothing was paid
  3   needs a decision: a submission may have been received, and paid
  4   stopped early (key, credits, maintenance, network, a bound, a timeout,
      a full disk, a journal in use); the same command resumes
  70  an internal error of apikley
  130, 143  interrupted by Ctrl-C, SIGTERM: once in good order, twice at once

\b
The key is read from APIKLEY_API_KEY or from --key-file. NO_COLOR is honoured.
To see it work without a key: apikley demo
"""

ARGUMENTS: Mapping[str, str] = {  # by how the usage line calls them
    "TASK_ID...": "Ids that the service has given to films, such as task_123.",
    "[TASK_ID...]": "Ids that the service has given to films, such as task_123.",
}
BATCH_ARGUMENTS: Mapping[str, str] = {  # of `apikley batch ...`, where each command has them
    "FILE": "The manifest, or its journal: the .db beside it, or, for one that several machines "
    "share, postgresql://USER@HOST/DATABASE (a DSN).",
    "[KEY...]": "Films, by their names in the manifest (key).",
    "[FILE|JOURNAL]": "The manifest, or its journal, which `generate` calls films/apikley.db.",
    "COPY": "The new file, which must not exist yet.",
    "OLD": "What the journal calls the film.",
    "NEW": "What the manifest calls it now.",
}

EXAMPLES: Mapping[str, Sequence[str]] = {  # by the words of the command
    "": (
        "apikley demo",
        "apikley generate kitten.json --simulate",
        "apikley batch run campaign.yaml --price 270 --max-credits 5000",
    ),
    "generate": (
        "apikley generate kitten.json",
        "apikley generate kitten.json --takes 3 --price 270 --max-credits 1000",
        "apikley generate *.json --simulate -o rehearsal",
    ),
    "batch run": (
        "apikley batch run campaign.yaml --dry-run --price 270",
        "apikley batch run campaign.yaml --price 10=150,15=270 --max-credits 5000",
        "apikley batch run campaign.yaml --simulate -o rehearsal",
    ),
    "batch status": (
        "apikley batch status campaign.yaml",
        "apikley batch status campaign.yaml kitten",
        "apikley batch status campaign.yaml --follow",
        "apikley wait $(apikley batch status campaign.yaml --ids)",
    ),
    "batch estimate": ("apikley batch estimate campaign.yaml --price 10=150,15=270",),
    "batch report": (
        "apikley batch report campaign.yaml",
        "apikley batch report films/apikley.db -o films/report.html",
    ),
    "batch resolve": (
        "apikley batch resolve campaign.yaml kitten --task-id task_123",
        'apikley batch resolve campaign.yaml --task-id "task_1 task_2 task_3"',
    ),
    "batch resubmit": (
        "apikley batch resubmit campaign.yaml kitten owl",
        "apikley batch resubmit campaign.yaml --undecided",
    ),
    "batch drop": ("apikley batch drop campaign.yaml kitten",),
    "batch adopt": ("apikley batch adopt campaign.db",),
    "batch retry": (
        "apikley batch retry campaign.yaml",
        "apikley batch retry campaign.yaml kitten --changed",
    ),
    "batch save": ("apikley batch save campaign.yaml",),
    "batch rename": ("apikley batch rename campaign.yaml kitten cat",),
    "wait": ("apikley wait task_123 task_124 -o films",),
    "download": ("apikley download task_123 -o films",),
    "status": ("apikley status task_123 --json",),
    "upload": ("apikley upload kitten.png",),
    "doctor": ("apikley doctor", "apikley doctor task_123 --record records"),
    "init": ("apikley init campaign.yaml",),
    "check": ("apikley check campaign.yaml --price 10=150,15=270",),
    "preview": (
        "apikley preview campaign.yaml -o preview",
        "apikley preview campaign.yaml --sheet",
    ),
    "simulate": (
        "apikley simulate --speed 60",
        'apikley simulate --fault "create:reset after=0.1" --latency 0.1 0.4',
    ),
    "webhook serve": (
        "apikley webhook secret > token.secret",
        "apikley webhook serve --inbox calls.db --token-secret-file token.secret",
    ),
    "worker": (
        "apikley worker --journal postgresql://apikley@db/apikley -o films",
        "apikley worker --journal postgresql://?service=films --destination s3:bucket",
    ),
    "demo": ("apikley demo", "apikley demo -o elsewhere --films placeholder"),
}
