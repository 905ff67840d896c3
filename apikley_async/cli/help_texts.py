"""Texts below the help of commands: the exit codes, and the events of `--json`."""

from __future__ import annotations

__all__ = ["BATCH_EVENTS", "EXIT_CODES", "TASK_EVENTS"]

EXIT_CODES = """
\b
Exit codes:
  0  all is well
  1  some films failed
  2  usage or input; nothing was paid
  3  needs a decision: a submission may have been received, and paid
  4  stopped early (key, credits, maintenance, network, time); the same command resumes
  70 an internal error of apikley
  130, 143  interrupted by Ctrl-C, SIGTERM: once in good order, twice at once
\b
The key is read from APIKLEY_API_KEY or from --key-file. NO_COLOR is honoured.
To see it work without a key: apikley demo
"""

BATCH_EVENTS = """
\b
Events, one JSON object a line; each has "event" and "at", of a film its "key" and "item_state":
  submitted    the film is paid, and has a task_id
  delayed      throttled or not sent yet, retrying: reason
  state        state, progress (per cent, if the service says)
  pace         takes, per: the service takes so many submissions in so many seconds
  ready        urls (they live about a day), expires_at, credits
  saved        paths, credits
  failed       error, message
  stopped      the same; nothing is lost
  remark       message: what should be known before paying
  listening    cause: it is uncertain, and a callback may still tell what became of it
  uncertain    cause: it may be paid, and its film may be running; before a decision also
               sent_at, model, words
  undecided    cause, sent_at, model, words, if_found, if_not_found (commands)
  balance      before, after, began_at, ended_at; films and their cost in between, unexplained
  stopping     signal, out (submissions whose answer is awaited)
  estimate     films, credits, unpriced, fitting (into the bounds): what is still to be paid
  batch        how many films are in which state, spent, at_risk, unpriced, stopped (why
               nothing more was submitted), takes, per
  report       path, url: a page about the whole batch
  decided      item_state after a decision, cause of one that was forced
  error        error, code, message, advice: the whole command failed
  end          exit_code, reason: the last event of every command
"""

TASK_EVENTS = """
\b
Events, one JSON object a line; each has "event", "at", and where there is one "task_id":
  state        state, progress (per cent, if the service says)
  ready        urls (they live about a day), credits, expires_at
  saved        paths
  failed       error, code, message, advice
  stopped      the same; nothing is lost, see unfinished
  unfinished   task_ids that are paid, resume (a command)
  stopping     signal, out (submissions whose answer is awaited)
  summary      films, ready, saved, failed, resumable, seconds
  error        error, code, message, advice: the whole command failed
  end          exit_code, reason: the last event of every command
"""
