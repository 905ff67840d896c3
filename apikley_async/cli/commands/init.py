"""`apikley init`: a manifest to start from."""

from __future__ import annotations

import os
from pathlib import Path

import click

from apikley_async.cli import options
from apikley_async.cli.exit_codes import OK, RefusedError
from apikley_async.cli.help_format import command
from apikley_async.cli.output.shell_words import quoted
from apikley_async.cli.output.terminal_text import plain
from apikley_async.cli.runner import new_reporter

__all__ = ["init"]

MANIFEST = """\
# Films for `apikley batch run`. Nothing is paid before you say yes:
#   apikley check {name}
#   apikley preview {name}
#   apikley batch run {name} --simulate -o rehearsal
#   apikley batch run {name} --price 10=150,15=270,25=270 --max-credits 1000
defaults:
  duration: 15               # seconds: 10, 15 or 25
  aspect_ratio: landscape    # or portrait
films:
  - key: kitten              # names the file: kitten.mp4
    # image: kitten.png      # beside this file, or a URL
    # takes: 2               # kitten and kitten.2, each paid
    shots:                   # 1 to 10; together no longer than the film
      - scene: A kitten in orange headphones eats a slice of cake, cosy indoor light.
        duration: 7.5
      - scene: The cake is gone; the same kitten licks its lips, calm and content.
        duration: 7.5
  - key: lighthouse
    duration: 10
    aspect_ratio: portrait
    shots:
      - scene: A lighthouse at dawn, seen from the sea; the light goes out.
  # Any other model of the service, with its own input:
  # - key: waves
  #   task:
  #     model: kling-2.6/text-to-video
  #     input: {{prompt: Waves at dawn., duration: 5}}
"""


@command()
@click.argument(
    "path",
    metavar="[FILE]",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("storyboards.yaml"),
)
@options.as_json
def init(path: Path, as_json: bool) -> int:
    """Write a manifest to start from: two films, with every field explained.

    FILE is storyboards.yaml unless you name another; a file that exists is never replaced.
    """
    reporter = new_reporter(as_json=as_json)
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise RefusedError(f"{plain(path)}: name a .yaml file")
    try:
        # Exclusively: what somebody has written is not replaced.
        # In UTF-8 whatever the locale is: no other manifest is read.
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(opened, "w", encoding="utf-8") as file:
            file.write(MANIFEST.format(name=quoted(str(path))))
    except FileExistsError:
        raise RefusedError(f"{plain(path)} exists, and is left alone: name another file") from None
    except OSError as error:
        raise RefusedError(f"{plain(path)}: cannot be written: {error.strerror}") from None
    reporter.event("written", path=str(path))
    reporter.result(path)
    reporter.message(f"Edit it, then: apikley check {quoted(str(path))}")
    reporter.close()
    return OK
