"""`apikley demo`: six storyboards become films on this machine."""

from __future__ import annotations

from pathlib import Path

from apikley_async.cli import options
from apikley_async.cli.help_format import command
from apikley_async.cli.output_folder import make_folder
from apikley_async.cli.runner import new_reporter, run_with_client

__all__ = ["STORYBOARDS", "demo"]

STORYBOARDS = Path(__file__).parents[1] / "storyboards"


@command()
@options.output_folder(Path("films"), "Where the films go.")
@options.rendered_films
@options.as_json
@options.plain
def demo(folder: Path, kind: str, as_json: bool, plain: bool) -> int:
    """A tour: six storyboards become films in about a minute, all on this machine.

    It is a batch on a simulated service: no key, no network, nothing to pay. Stop it when you
    like, kill it even, and run it again: it resumes, and submits nothing a second time.
    """
    # Imported only here: the simulator takes longer to load than all the rest.
    from apikley_async.cli.demo_run import DemoRun
    from apikley_async.cli.simulated_service import demo_service

    service = demo_service(kind)
    make_folder(folder)
    reporter = new_reporter(as_json=as_json, films=0, plain=plain)
    reporter.message(f"Six storyboards, to read and copy: {STORYBOARDS}")
    reporter.message(
        "A simulated service films them. Nothing leaves this machine, nothing is paid."
    )
    if kind == "placeholder":
        reporter.message("All get the same placeholder, which does not show them.")
    run = DemoRun(sorted(STORYBOARDS.glob("*.json")), folder, service, reporter)
    code = run_with_client(run.open_client, run.make_films, reporter, run.film_run)
    if code == 0:
        reporter.message(f"Look at the films: {folder.resolve()}")
        reporter.message("With your key in APIKLEY_API_KEY: apikley generate STORYBOARD.json")
    return code
