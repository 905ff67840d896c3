"""The commands. Each says what it wants, and leaves the doing to the rooms beside it.

Those rooms are imported by the command that needs them: `apikley --help` loads only click.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from apikley_async import __version__
from apikley_async.cli import options
from apikley_async.cli.commands.batch import batch
from apikley_async.cli.options import BATCH_EVENTS, EVENTS, Settings, Spending

if TYPE_CHECKING:
    from apikley_async.cli.client_factory import Session
    from apikley_async.cli.commands.tasks import Tasks

__all__ = ["apikley", "run"]

FILMS = Path("films")
WAIT = 60.0  # seconds for another `generate` in the same folder to end
STORYBOARDS = Path(__file__).with_name("storyboards")
INTERRUPTED, OURS = 130, 70

EXIT_CODES = """
\b
Exit codes:
  0  all is well
  1  some films failed
  2  usage or input; nothing was bought
  3  needs a decision: a submission may have been heard, and paid
  4  stopped early (key, credits, maintenance, network, time); the same again goes on
  70 a fault of apikley itself
  130, 143  interrupted by Ctrl-C, SIGTERM: once in good order, twice at once
\b
The key is read from APIKLEY_API_KEY or from --key-file. NO_COLOR is honoured.
To see it work without a key: apikley demo
"""

task_ids = click.argument("task_ids", nargs=-1, required=True, metavar="TASK_ID...")
given_files = click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
kind_of_films = click.option(
    "--films",
    "kind",
    type=click.Choice(["animatic", "placeholder"]),
    default="animatic",
    show_default=True,
    help="Films that show their storyboards, or the same small one for all.",
)


def run(args: Sequence[str] | None = None) -> int:
    """Run one command, and give its exit code; foreseen errors are one line on stderr."""
    from apikley_async.cli.output.reporter import clean
    from apikley_async.errors import ApikleyError

    try:
        words = list(sys.argv[1:] if args is None else args)
        with clean_logs():
            code = apikley.main(words, prog_name="apikley", standalone_mode=False, obj=words)
    except click.ClickException as error:
        told = io.StringIO()
        error.show(told)
        click.echo(clean(told.getvalue()), nl=False, err=True)
        return error.exit_code
    except click.Abort:
        click.echo("Stopped; nothing was bought.", err=True)
        return INTERRUPTED
    except ApikleyError as error:
        click.echo(clean(f"Error: {error}"), err=True)
        return 2
    except Exception as error:  # noqa: BLE001 - shown, made harmless, with a code of its own
        click.echo(clean("".join(traceback.format_exception(error))), nl=False, err=True)
        click.echo("A fault of apikley itself. What was paid stands in the journal.", err=True)
        return OURS
    return code or 0


@contextlib.contextmanager
def clean_logs() -> Iterator[None]:
    """Show what the library warns of on stderr, made harmless, unless somebody else shows it."""
    from apikley_async.cli.output.reporter import clean

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with contextlib.suppress(OSError, ValueError):  # nobody reads there any more
                click.echo(clean(record.getMessage()), err=True)

    logger = logging.getLogger("apikley_async")
    shown = Shown(logging.WARNING)
    if not logger.hasHandlers():
        logger.addHandler(shown)
    try:
        yield
    finally:
        logger.removeHandler(shown)


@click.group(
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def apikley() -> None:
    """Videos from storyboards, by the Apikley API."""


apikley.add_command(batch)


# --- films ----------------------------------------------------------------------------------------


@apikley.command(epilog=BATCH_EVENTS)
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(path_type=Path),  # all that are missing are named, not only the first
)
@options.folder(FILMS, "Where the films go, named after their files.")
@click.option(
    "--journal",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Where it is written down.  [default: apikley.db beside the films]",
)
@click.option("--takes", type=click.IntRange(1, 100), metavar="N", help="Of each film, in all.")
@click.option("--again", is_flag=True, help="A file that has changed becomes a new film.")
@options.spending
@options.patience
@options.hooks
@options.service
def generate(
    files: tuple[Path, ...],
    folder: Path,
    journal: Path | None,
    takes: int | None,
    again: bool,
    spending: Spending,
    **others: Any,
) -> int:
    r"""Make one film of each FILE, and save it.

    \b
    A FILE is a storyboard, or a task of any model, as .json, .yaml, .toml or .csv:
      {"shots": [{"scene": "A kitten eats cake.", "duration": 7.5}],
       "duration": 15, "aspect_ratio": "landscape", "image": "kitten.png"}
      {"task": {"model": "kling-2.6/text-to-video",
                "input": {"prompt": "A lighthouse at dawn.", "duration": 5}}}

    The image lies beside its FILE; a URL is used as it is. All files are checked before the first
    film is paid.

    The same line again goes on where it stopped, and pays for nothing twice: what was bought
    stands in a journal, films/apikley.db. A FILE that has changed since is refused; --again makes
    another film of it (kitten.v2), once.
    """
    from apikley_async.cli.commands.generate import make
    from apikley_async.cli.placement import place_beside, place_named

    async def plan(films: Any) -> Any:
        duplicates = spending.allow_duplicates
        return await films.add_films(files, takes=takes, again=again, allow_duplicates=duplicates)

    return make(
        lambda: (
            place_named(journal, folder, wait=WAIT) if journal else place_beside(folder, wait=WAIT)
        ),
        plan,
        named=", ".join(map(str, files)) if len(files) < 4 else f"{len(files)} files",
        folder=folder,
        spending=spending,
        repeats=True,
        **others,
    )


@apikley.command(epilog=EVENTS)
@task_ids
@options.folder(None, "Save the films there; without it their links are printed.")
@options.patience
@options.service
def wait(
    task_ids: tuple[str, ...], folder: Path | None, timeout: float | None, settings: Settings
) -> int:
    """Wait for films that were submitted before, wherever that was."""
    settings = settings._replace(timeout=timeout)
    return on_tasks(task_ids, folder, settings, lambda tasks, own: tasks.wait(own.client))


@apikley.command(epilog=EVENTS)
@task_ids
@options.folder(FILMS, "Where the films go, named after their tasks.")
@click.option("--overwrite", is_flag=True, help="Replace another file of the same name.")
@options.service
def download(task_ids: tuple[str, ...], folder: Path, overwrite: bool, settings: Settings) -> int:
    """Save films that are finished; those that are not are named, not waited for."""
    return on_tasks(
        task_ids,
        folder,
        settings,
        lambda tasks, own: tasks.download(own.client),
        overwrite=overwrite,
        finished=True,
    )


def on_tasks(
    task_ids: Sequence[str],
    folder: Path | None,
    settings: Settings,
    act: Callable[[Tasks, Session], Awaitable[int]],
    *,
    overwrite: bool = False,
    finished: bool = False,
) -> int:
    """Let *act* happen to the films of tasks that exist already."""
    from apikley_async.cli.client_factory import prepare
    from apikley_async.cli.commands.generate import make_folder
    from apikley_async.cli.commands.tasks import Tasks
    from apikley_async.cli.runner import play, telling

    ids = list(dict.fromkeys(task_ids))
    opening = prepare(settings, ids, finished=finished)
    if folder is not None:
        make_folder(folder)
    tell = telling(as_json=settings.as_json, films=len(ids), ends="saved" if folder else "ready")
    tasks = Tasks(ids, tell, folder=folder, settings=settings, overwrite=overwrite)
    return play(opening, lambda own: act(tasks, own), tell, tasks)


# --- questions ------------------------------------------------------------------------------------


@apikley.command()
@task_ids
@options.service
def status(task_ids: tuple[str, ...], settings: Settings) -> int:
    r"""Say how far films are.

    \b
    With --json: {"event": "status", "task_id", "state", "progress", "urls", "fail_code",
    "fail_message", "credits"}, or {"event": "failed", ...} as in `apikley wait --help`.
    """
    from apikley_async.cli.commands import free_calls as questions

    ids = list(dict.fromkeys(task_ids))
    return questions.ask(settings, lambda own, tell: questions.status(own, tell, ids), ids)


@apikley.command()
@given_files
@options.service
def upload(files: tuple[Path, ...], settings: Settings) -> int:
    r"""Store images at the service, and print their URLs. Costs nothing.

    \b
    With --json: {"event": "uploaded", "file", "url"}, or {"event": "failed", ...}.
    """
    from apikley_async.cli.commands import free_calls as questions

    return questions.ask(settings, lambda own, tell: questions.upload(own, tell, files))


@apikley.command(name="credits")
@options.service
def credits_left(settings: Settings) -> int:
    r"""Print how many credits are left.

    \b
    With --json: {"event": "credits", "credits"}.
    """
    from apikley_async.cli.commands import free_calls as questions

    return questions.ask(settings, questions.credits_left)


# --- before paying --------------------------------------------------------------------------------


@apikley.command()
@given_files
@options.as_json
def check(files: tuple[Path, ...], as_json: bool) -> int:
    r"""Say everything that is wrong with manifests, images included. Sends nothing.

    \b
    With --json: {"event": "checked", "file", "faults", "remarks", "films", "shots", "seconds"}.
    Exit code 2 if there are faults.
    """
    from apikley_async.cli.commands.check import check_files
    from apikley_async.cli.runner import telling

    return check_files(files, telling(as_json=as_json))


@apikley.command(epilog=BATCH_EVENTS)
@click.argument("path", metavar="FILE", type=click.Path(exists=True, path_type=Path))
@options.folder(Path("preview"), "Where the previews go, named after their keys.")
@kind_of_films
@options.as_json
def preview(path: Path, folder: Path, kind: str, as_json: bool) -> int:
    """Draw the films of a manifest on this machine, before they are paid.

    Each shot's text over its image or a card of colour, in the right length and shape.
    """
    from apikley_async.cli.commands import check as manifests
    from apikley_async.cli.commands.generate import make_folder
    from apikley_async.cli.embedded import drawing

    drawing(kind, "apikley preview FILE --films placeholder")
    make_folder(folder)
    return manifests.preview(path, folder, kind, as_json=as_json)


# --- on this machine ------------------------------------------------------------------------------


@apikley.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True)
@click.option(
    "--speed",
    type=click.FloatRange(0, 100_000, min_open=True),
    default=1.0,
    show_default=True,
    help="Its seconds in one of ours: at 60 a film of three minutes takes three seconds.",
)
@click.option(
    "--films",
    type=click.Choice(["animatic", "placeholder"]),
    help="Films that show their storyboards, or one for all.  [default: the first, if installed]",
)
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, metavar="N")
@click.option(
    "--per",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="It lets N creations in per so many of its seconds, and answers 429 to more.",
)
@click.option("--max-running", type=click.IntRange(1), default=100, show_default=True, metavar="N")
@click.option(
    "--credits", "balance", type=float, default=10_000_000.0, metavar="N", help="To begin with."
)
@click.option(
    "--fail-rate",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of the films that fail.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is chance.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="ENDPOINT:FAULT=SHARE",
    help='What goes wrong by chance, such as "create:reset after=0.1"; may be given again.',
)
@click.option(
    "--latency",
    nargs=2,
    type=click.FloatRange(0),
    metavar="LOW HIGH",
    help="Seconds that a request and its answer travel.",
)
@click.option(
    "--webhook-key",
    envvar="APIKLEY_SIMULATOR_WEBHOOK_KEY",
    metavar="WORD",
    help="Signs callbacks with this word, which opens nothing else.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help='Another model that is served, with any input; "*" for all. One that makes images, by its '
    "name, gives a still. May be given again.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A host that callbacks may go to, and files may be fetched from; localhost for this "
    "machine. May be given again.",
)
@options.as_json
def simulate(host: str, port: int, as_json: bool, **world: Any) -> int:
    """Serve a simulated service on this machine until Ctrl-C.

    It prints the two lines that lead a client to it, with a key of this time. Nothing it does
    costs anything.
    """
    from apikley_async.cli.commands.simulate import announced, simulator
    from apikley_async.cli.runner import serve, telling

    tell = telling(as_json=as_json)
    return serve(lambda: announced(simulator(host, port, **world), tell), tell)


@apikley.group()
def webhook() -> None:
    """The service's callbacks, received apart from what makes the films."""


@webhook.command(name="serve")
@click.option(
    "--inbox",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PATH",
    help="Where callbacks are kept for `apikley batch run --inbox`.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8787, show_default=True)
@options.hmac_key_file
@click.option(
    "--token-secret-file",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="File with what `apikley webhook secret` prints, one line for each API key; by default "
    "APIKLEY_WEBHOOK_TOKEN_SECRET has it. Callbacks with other tokens are refused.",
)
@options.as_json
def webhook_serve(
    inbox: Path,
    host: str,
    port: int,
    hmac_key_file: Path | None,
    token_secret_file: Path | None,
    as_json: bool,
) -> int:
    r"""Receive callbacks and keep them until Ctrl-C.

    Put a proxy with https before it. A batch that runs with --inbox takes them from there; so a
    receiver and the batch may be stopped, or killed, each by itself.

    \b
    With --json: {"event": "receiving", "host", "port", "inbox", "gate"}.
    """
    from apikley_async.cli.callback_options import received
    from apikley_async.cli.runner import serve, telling

    tell = telling(as_json=as_json)
    files = (hmac_key_file, token_secret_file)
    return serve(lambda: received(host, port, inbox, *files, tell), tell)


@webhook.command(name="secret")
@click.option(
    "--key-file",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="File whose first line is the API key; by default APIKLEY_API_KEY has it.",
)
def webhook_secret(key_file: Path | None) -> int:
    """Print the secret with which a receiver of its own knows the tokens of this API key.

    The key does not follow from it. Keep it as private as the inbox.
    """
    from apikley_async.cli.callback_options import print_secret

    return print_secret(key_file)


@apikley.command(epilog=BATCH_EVENTS)
@options.folder(FILMS, "Where the films go.")
@kind_of_films
@options.as_json
def demo(folder: Path, kind: str, as_json: bool) -> int:
    """The tour: six storyboards become films in half a minute, all on this machine.

    It is a batch on a simulated service: no key, no network, nothing to pay. Stop it when you
    like, kill it even, and run it again: it goes on, and submits nothing a second time.
    """
    from apikley_async.cli.commands.demo import Tour
    from apikley_async.cli.commands.generate import make_folder
    from apikley_async.cli.embedded import demo_stage
    from apikley_async.cli.runner import play, telling

    stage = demo_stage(kind)
    make_folder(folder)
    tell = telling(as_json=as_json, films=0)
    tell.say(f"Six storyboards, to be read and copied: {STORYBOARDS}")
    tell.say("A simulated service films them. Nothing leaves this machine, nothing is paid.")
    if kind == "placeholder":
        tell.say("All get the same placeholder, which does not show them.")
    tour = Tour(sorted(STORYBOARDS.glob("*.json")), folder, stage, tell)
    code = play(tour.opening, tour.flow, tell, tour.running)
    if code == 0:
        tell.say(f"Have a look: {folder.resolve()}")
        tell.say("With a key of yours in APIKLEY_API_KEY: apikley generate STORYBOARD.json")
    return code
