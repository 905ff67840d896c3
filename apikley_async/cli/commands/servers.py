"""`apikley simulate` and `apikley webhook`: servers that run until Ctrl-C.

The servers are imported by the command that runs them: they take long to load, and every
other command is to begin quickly.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from apikley_async.cli import options
from apikley_async.cli.exit_codes import OK
from apikley_async.cli.help_format import HelpGroup, command
from apikley_async.cli.key_files import API_KEY, read_api_key
from apikley_async.cli.option_types import CREDITS, PLACE, SECONDS, Number, Place, Whole
from apikley_async.cli.options import Option
from apikley_async.cli.runner import new_reporter, run_server

__all__ = ["simulate", "webhook"]


def server_address(port: int) -> Option:
    """`--host` and `--port` of a server, which by default listens on *port*."""
    host_option: Option = click.option(
        "--host",
        default="127.0.0.1",
        show_default=True,
        metavar="HOST",
        help="Where to listen; only this machine reaches 127.0.0.1.",
    )
    port_option: Option = click.option(
        "--port",
        type=Whole(0, 65535),
        default=port,
        show_default=True,
        metavar="PORT",
        help="Where to listen; 0 for any port that is free.",
    )
    return lambda command: host_option(port_option(command))


@command()
@server_address(8765)
@click.option(
    "--speed",
    type=Number("speed", above=True, maximum=100_000),
    metavar="TIMES",
    default=1.0,
    show_default=True,
    help="Simulated seconds in one real second: at 60 a film of 3 minutes takes 3 seconds.",
)
@click.option(
    "--films",
    type=click.Choice(["animatic", "placeholder"]),
    help="Films that show their storyboards (animatic), or the same small one for all, which "
    "takes no time to make.  [default: animatic, if its libraries are installed]",
)
@click.option(
    "--limit",
    type=Whole(1),
    default=20,
    show_default=True,
    metavar="N",
    help="Submissions that are accepted in --per simulated seconds; more get a 429.",
)
@click.option(
    "--per",
    type=SECONDS,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="The simulated seconds that --limit counts in.",
)
@click.option(
    "--max-running",
    type=Whole(1),
    default=100,
    show_default=True,
    metavar="N",
    help="Films in the making at once; more get a 429.",
)
@click.option(
    "--credits",
    "balance",
    type=CREDITS,
    default=10_000_000.0,
    metavar="N",
    help="Credits in the account when it starts.  [default: 10000000]",
)
@click.option(
    "--fail-rate",
    type=Number("a share", maximum=1),
    metavar="SHARE",
    default=0.0,
    show_default=True,
    help="Share of the films that fail, from 0 to 1.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Seed of all random choices.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="ENDPOINT:FAULT=SHARE",
    help='What goes wrong, at random: "create:reset after=0.1" breaks the connection of one in '
    "ten submissions after it was received. May be given again.",
)
@click.option(
    "--latency",
    nargs=2,
    type=Number("seconds"),
    metavar="LOW HIGH",
    help="Seconds that a request and its answer take on the network.",
)
@click.option(
    "--clock-offset",
    type=Whole(-1_000_000_000, 1_000_000_000),
    metavar="SECONDS",
    default=0,
    help="Set the service's clock so far ahead of this machine's, as if the clock here were wrong; "
    "a negative number sets it behind.",
)
@click.option(
    "--webhook-key",
    envvar="APIKLEY_SIMULATOR_WEBHOOK_KEY",
    metavar="WORD",
    help="Sign callbacks with this word, to try a receiver with; it is used for nothing else.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help='Another model to serve, with any input; "*" for all. One that makes images, by its '
    "name, gives a picture. May be given again.",
)
@click.option(
    "--replay",
    "recordings",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A record that `apikley doctor --record` has kept of the real service: polls get the "
    "same fields and types, with values of the simulator. May be given again, for other states.",
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
def simulate(host: str, port: int, as_json: bool, **settings: Any) -> int:
    """Serve a simulated service on this machine until Ctrl-C.

    It prints two export lines: paste them into another terminal, and every program there uses it,
    with a new API key. It costs nothing. A line says so when films take longer to render than
    --speed allows for.
    """
    from apikley_async.cli.simulator_server import new_simulator, serve_simulator

    reporter = new_reporter(as_json=as_json)

    async def serve() -> None:
        simulator = new_simulator(host, port, **settings, say=reporter.message)
        await serve_simulator(simulator, reporter)

    return run_server(serve, reporter)


@click.group(cls=HelpGroup)
def webhook() -> None:
    """Receive the service's callbacks in a process of its own."""


@webhook.command(name="serve")
@click.option(
    "--inbox",
    required=True,
    type=PLACE,
    metavar="FILE|DSN",
    help="Where callbacks are stored for `apikley batch run --inbox`, or `apikley worker --inbox`.",
)
@server_address(8787)
@options.hmac_key_file
@click.option(
    "--token-secret-file",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="File with what `apikley webhook secret` prints, one line for each API key; by default "
    "APIKLEY_WEBHOOK_TOKEN_SECRET has it. Callbacks with other tokens are refused.",
)
@options.as_json
def serve(
    inbox: Place,
    host: str,
    port: int,
    hmac_key_file: Path | None,
    token_secret_file: Path | None,
    as_json: bool,
) -> int:
    """Receive callbacks and store them until Ctrl-C.

    Put a proxy with https before it; GET /healthz is answered with 200 while callbacks can be
    stored. A batch that runs with --inbox reads them from there, so the receiver and the batch
    may each be stopped, or killed, without the other.
    """
    from apikley_async.cli.callback_server import receive_into_inbox

    reporter = new_reporter(as_json=as_json)
    files = {"hmac_key_file": hmac_key_file, "token_secret_file": token_secret_file}
    return run_server(
        lambda: receive_into_inbox(host, port, inbox, **files, reporter=reporter), reporter
    )


@webhook.command(name="secret")
@click.option(
    "--key-file",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="File whose first line is the API key; by default APIKLEY_API_KEY has it.",
)
def secret(key_file: Path | None) -> int:
    """Print the secret with which a receiver recognises callbacks of this API key's films.

    The key cannot be derived from it. Keep it as private as the inbox, and give it to
    `apikley webhook serve --token-secret-file`.
    """
    from apikley_async.webhook import token_secret

    click.echo(token_secret(read_api_key(key_file) or os.environ[API_KEY]))
    return OK
