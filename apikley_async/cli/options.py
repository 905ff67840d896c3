"""The options that several commands share, and the values that commands get of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import attrs
import click
from click.core import ParameterSource

from apikley_async.cli.key_files import has_api_key
from apikley_async.cli.option_types import (
    CREDITS,
    PLACE,
    SECONDS,
    PerKind,
    Place,
    Whole,
    read_address,
    read_expected,
    read_price,
)
from apikley_async.cli.output.shell_words import without_password
from apikley_async.cli.profile import Profile, read_profile

__all__ = [
    "Bounds",
    "CallbackOptions",
    "RunOptions",
    "ServiceOptions",
    "SpendingOptions",
    "as_json",
    "bounds_options",
    "callback_options",
    "hmac_key_file",
    "output_folder",
    "plain",
    "price",
    "real_service_options",
    "rendered_films",
    "run_options",
    "service_options",
    "spending_options",
    "task_timeout",
]

Command = TypeVar("Command", bound=Callable[..., Any])


def _with_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """A command with options, in the order in which `--help` lists them."""
    for option in reversed(options):
        command = option(command)
    return command


# --- the service ----------------------------------------------------------------------------------


@attrs.frozen
class ServiceOptions:
    """Which service a command talks to, and how it is reached.

    Attributes:
        key_file: has the API key in its first line.
        base_url: the address of the service.
        proxy: leads to the service and to the hosts of films.
        allow_private: whether films may come from private networks.
        simulate: whether the service is simulated in this process.
        as_json: whether events are printed on stdout.
        plain: whether no bars are drawn.
        config: the profile, if the user has named one.
        profile: what it says, or the usual one.
    """

    key_file: Path | None = None
    base_url: str | None = None
    proxy: str | None = None
    allow_private: bool = False
    simulate: bool = False
    as_json: bool = False
    plain: bool = False
    config: Path | None = None
    profile: Profile = attrs.field(factory=Profile)

    @property
    def words(self) -> tuple[str, ...]:
        """The options that lead another command to the same service."""
        return (
            *(("--config", str(self.config)) if self.config else ()),
            *(("--key-file", str(self.key_file)) if self.key_file else ()),
            *(("--base-url", self.base_url) if self.base_url else ()),
            *(("--proxy", without_password(self.proxy)) if self.proxy else ()),
            *(("--allow-private",) if self.allow_private else ()),
        )


Option: TypeAlias = Callable[[Any], Any]
"""A decorator that gives a command an option."""

as_json: Option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print events on stdout, one JSON object a line; text for people stays on stderr.",
)

plain: Option = click.option(
    "--plain",
    is_flag=True,
    help="Print lines instead of bars, as for screen readers; the default when CI is set.",
)

GIVEN = ("base_url", "proxy", "allow_private", "as_json", "plain")  # handed over as they are
REAL_SERVICE_OPTIONS = (
    as_json,
    plain,
    click.option(
        "--key-file",
        metavar="PATH",
        type=click.Path(path_type=Path),
        help="File whose first line is the API key; by default APIKLEY_API_KEY has it.",
    ),
    click.option(
        "--config",
        metavar="PATH",
        type=click.Path(path_type=Path),
        help="Your profile: key file, folder, price, bounds.  [default: "
        "~/.config/apikley/config.toml]",
    ),
    click.option(
        "--base-url",
        metavar="URL",
        help="Address of the service; by default APIKLEY_BASE_URL, else the real one.",
    ),
    click.option(
        "--proxy",
        metavar="URL",
        help="An http(s) proxy that leads to the service and to the hosts of films.",
    ),
    click.option(
        "--allow-private",
        is_flag=True,
        help="Allow films from private networks, and over http.",
    ),
)
simulate: Option = click.option(
    "--simulate",
    is_flag=True,
    help="Use a service simulated in this process: no key, no network, nothing paid.",
)


def service_options(command: Callable[..., int]) -> Callable[..., int]:
    """The options of every command that talks to the service, handed over as `service`."""
    return _with_options(_with_service(command), *REAL_SERVICE_OPTIONS, simulate)


def real_service_options(command: Callable[..., int]) -> Callable[..., int]:
    """The same for the films of a journal, which no simulated service has."""
    return _with_options(_with_service(command), *REAL_SERVICE_OPTIONS)


def _with_service(command: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(command)
    def wrapped(
        *, key_file: Path | None, config: Path | None, simulate: bool = False, **others: Any
    ) -> int:
        profile = Profile() if simulate else read_profile(config)
        if key_file is None and not has_api_key(None):
            key_file = profile.key_file
        given = {name: others.pop(name) for name in GIVEN}
        service = ServiceOptions(
            key_file, simulate=simulate, config=config, profile=profile, **given
        )
        return command(service=service, **others)

    return wrapped


task_timeout: Option = click.option(
    "--timeout",
    type=SECONDS,
    metavar="SECONDS",
    help="How long to wait for each film; it goes on at the service.  [default: 1800]",
)


# --- callbacks ------------------------------------------------------------------------------------


@attrs.frozen
class CallbackOptions:
    """How the service calls back.

    Attributes:
        url: what it calls.
        listen: host and port where the calls come in.
        inbox: where another process stores them.
        key_file: has the keys that they may be signed with.
    """

    url: str | None = None
    listen: tuple[str, int] | None = None
    inbox: Place | None = None
    key_file: Path | None = None


hmac_key_file: Option = click.option(
    "--hmac-key-file",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="File with the keys that callbacks are signed with, one a line; by default "
    "APIKLEY_WEBHOOK_HMAC_KEY has them.",
)


def callback_options(command: Callable[..., int]) -> Callable[..., int]:
    """The options of commands that receive callbacks, handed over as `callbacks`."""

    @functools.wraps(command)
    def wrapped(
        *,
        callback_url: str | None,
        listen: tuple[str, int] | None,
        inbox: Place | None,
        hmac_key_file: Path | None,
        **others: Any,
    ) -> int:
        callbacks = CallbackOptions(callback_url, listen, inbox, hmac_key_file)
        return command(callbacks=callbacks, **others)

    return _with_options(
        wrapped,
        click.option(
            "--callback-url",
            metavar="URL",
            help="Public https URL that the service calls when a film is ready; your proxy "
            "forwards it to --listen.",
        ),
        click.option(
            "--listen",
            metavar="HOST:PORT",
            callback=read_address,
            help="Where callbacks come in.  [default: 127.0.0.1:8787]",
        ),
        click.option(
            "--inbox",
            metavar="FILE|DSN",
            type=PLACE,
            help="Read callbacks from there, where `apikley webhook serve` stores them.",
        ),
        hmac_key_file,
    )


# --- money ----------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Bounds:
    """What a run may spend, and how.

    Attributes:
        max_credits: credits of the whole journal.
        max_tasks: films of the whole journal.
        min_balance: credits to be left over.
        price: credits for a film: a number, or by duration or model.
        retry: how often a failed film is made again, each time paid.
        overwrite: whether other files of the films' names are replaced.
        max_running: films in the making at once.
        expected: seconds that a film is expected to take: a number, or by duration or model.
    """

    max_credits: float | None = None
    max_tasks: int | None = None
    min_balance: float | None = None
    price: PerKind = None
    retry: int = 0
    overwrite: bool = False
    max_running: int = 100
    expected: PerKind = None


@attrs.frozen
class SpendingOptions:
    """What a command that pays may do.

    Attributes:
        bounds: what it may spend.
        agreed: whether nobody has to be asked.
        dry_run: whether it only checks and estimates.
        allow_duplicates: whether one content under two keys is paid twice.
        not_created: codes that mean that nothing was created.
    """

    bounds: Bounds
    agreed: bool
    dry_run: bool
    allow_duplicates: bool
    not_created: tuple[int, ...] = ()

    def limited_by(self, profile: Profile) -> SpendingOptions:
        """The same within a profile's bounds, of which the stricter hold; it agrees to nothing."""
        ours = self.bounds
        bounds = attrs.evolve(
            ours,
            price=profile.price if ours.price is None else ours.price,
            max_credits=_of_both(min, ours.max_credits, profile.max_credits),
            max_tasks=_of_both(min, ours.max_tasks, profile.max_tasks),
            min_balance=_of_both(max, ours.min_balance, profile.min_balance),
        )
        return attrs.evolve(self, bounds=bounds)


def _of_both(stricter: Callable[[list[Any]], Any], *bounds: Any) -> Any:
    """The stricter one of two bounds; None if there is none."""
    stated = [bound for bound in bounds if bound is not None]
    return stricter(stated) if stated else None


price: Option = click.option(
    "--price",
    metavar="CREDITS",
    callback=read_price,
    help="Credits for a film: a number, or by its seconds or model: 10=150,15=270,25=270.",
)


BOUNDS_OPTIONS = (
    click.option(
        "--max-credits",
        type=CREDITS,
        metavar="N",
        help="Spend at most N credits, earlier runs of the journal included; needs a price.",
    ),
    click.option(
        "--max-tasks",
        type=Whole(1),
        metavar="N",
        help="Submit at most N films, earlier runs of the journal included.",
    ),
    click.option(
        "--min-balance", type=CREDITS, metavar="N", help="Leave at least N credits in the account."
    ),
    price,
    click.option(
        "--retry",
        type=Whole(0, 10),
        default=0,
        metavar="N",
        help="Make a failed film again, up to N times; each time is paid.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace files that have the films' names."),
    click.option(
        "--not-created",
        type=Whole(400),
        multiple=True,
        metavar="CODE",
        help="An answer after which nothing was made or charged, as your provider guarantees, "
        "such as 500: the film is sent again, three times at most; bounds count each as paid.",
    ),
    click.option(
        "--max-running",
        type=Whole(1, 10_000),
        default=100,
        show_default=True,
        metavar="N",
        help="Films in the making at once.",
    ),
    click.option(
        "--expected",
        metavar="SECONDS",
        callback=read_expected,
        help="How long films take to make, if you know: the first poll comes then. A number, or "
        "by the film's seconds or model: 10=120,15=200. A batch learns it by itself.",
    ),
)
SPENDING_OPTIONS = (
    click.option(
        "--allow-duplicates",
        is_flag=True,
        help="Allow the same content under two keys; it is paid twice.",
    ),
    click.option("--yes", is_flag=True, help="Do not ask before spending; needed in scripts."),
    click.option("--dry-run", is_flag=True, help="Only check and estimate."),
)


def bounds_options(command: Callable[..., int]) -> Callable[..., int]:
    """The options of what may be spent, handed over as `bounds`, and as `not_created`."""

    @functools.wraps(command)
    def wrapped(**others: Any) -> int:
        bounds = Bounds(**{field.name: others.pop(field.name) for field in attrs.fields(Bounds)})
        return command(bounds=bounds, **others)

    return _with_options(wrapped, *BOUNDS_OPTIONS)


def spending_options(command: Callable[..., int]) -> Callable[..., int]:
    """The options of commands that pay, handed over as `spending`."""

    @bounds_options
    @functools.wraps(command)
    def wrapped(
        *,
        bounds: Bounds,
        yes: bool,
        dry_run: bool,
        allow_duplicates: bool,
        not_created: tuple[int, ...],
        **others: Any,
    ) -> int:
        agreed = yes or bounds.max_credits is not None
        spending = SpendingOptions(bounds, agreed, dry_run, allow_duplicates, not_created)
        return command(spending=spending, **others)

    return _with_options(wrapped, *SPENDING_OPTIONS)


# --- runs -----------------------------------------------------------------------------------------


@attrs.frozen
class RunOptions:
    """The options of a run of films.

    Attributes:
        spending: what may be paid.
        timeout: seconds for which each job is polled; None for the default.
        callbacks: how the service calls back.
        service: which service.
        folder_from: the profile that names the folder of the films, if one does.
    """

    spending: SpendingOptions
    timeout: float | None
    callbacks: CallbackOptions
    service: ServiceOptions
    folder_from: Path | None = None


def run_options(command: Callable[..., int]) -> Callable[..., int]:
    """All options of commands that make films, handed over as `run_options`."""

    @spending_options
    @task_timeout
    @callback_options
    @service_options
    @functools.wraps(command)
    def wrapped(
        *,
        spending: SpendingOptions,
        timeout: float | None,
        callbacks: CallbackOptions,
        service: ServiceOptions,
        folder: Path | None,
        **others: Any,
    ) -> int:
        limited = spending.limited_by(service.profile)
        source, folder_from = click.get_current_context().get_parameter_source("folder"), None
        named = source is ParameterSource.COMMANDLINE
        # Without a folder of its own, the command goes on where the journal's films are.
        if not named and folder is not None and service.profile.folder is not None:
            folder, folder_from = service.profile.folder, service.profile.path
        run_options = RunOptions(limited, timeout, callbacks, service, folder_from)
        return command(run_options=run_options, folder=folder, **others)

    return wrapped


# --- files ----------------------------------------------------------------------------------------


def output_folder(default: Path | None, purpose: str) -> Callable[[Command], Command]:
    """`-o DIR`; *purpose* is the text of its help."""
    return click.option(
        "-o",
        "--output",
        "folder",
        type=click.Path(file_okay=False, path_type=Path),
        default=default,
        show_default=default is not None,
        metavar="DIR",
        help=purpose,
    )


rendered_films: Option = click.option(
    "--films",
    "kind",
    type=click.Choice(["animatic", "placeholder"]),
    default="animatic",
    show_default=True,
    help="Films that show their storyboards, or the same small one for all.",
)
