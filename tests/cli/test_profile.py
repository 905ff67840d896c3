"""Profiles: they limit and save typing; they agree to nothing, and strangers cannot write them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cli.conftest import Run, write_films, write_manifest

from apikley_async.cli import journal_location
from apikley_async.simulator import Constant, Simulator, Terms

pytestmark = pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")


def write_profile(text: str, path: Path | None = None) -> Path:
    """Write a profile, by default the user's own."""
    path = path or Path(os.environ["XDG_CONFIG_HOME"], "apikley", "config.toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


@pytest.fixture
def _own_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


pytestmark = [pytestmark, pytest.mark.usefixtures("_own_profile")]


def test_key_folder_and_price_come_from_the_profile(
    service: Simulator, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Places are relative to the profile; options and the environment come first."""
    profile = write_profile('key_file = "key"\nfolder = "films"\nprice = {10 = 150}\n')
    key = profile.with_name("key")
    key.write_text(f"{os.environ['APIKLEY_API_KEY']}\n", encoding="utf-8")
    key.chmod(0o600)
    monkeypatch.delenv("APIKLEY_API_KEY")
    write_films("tea")

    priced = run("generate", "tea.json", "--dry-run")
    made = run("generate", "tea.json", "--yes")
    elsewhere = run("generate", "tea.json", "--yes", "-o", "here")
    monkeypatch.setenv("APIKLEY_API_KEY", "another-key-that-opens-nothing")

    assert "1 film to be paid, 150 credits" in priced.out
    assert made.code == 0
    assert (profile.parent / "films" / "tea.mp4").exists()
    assert elsewhere.code == 0
    assert Path("here/tea.mp4").exists()
    assert run("credits").code == 4, "the environment's key comes first"


def test_of_two_bounds_the_stricter_holds(service: Simulator, run: Run) -> None:
    write_profile("price = 150\nmax_credits = 300\nmax_tasks = 5\n")
    files = write_films("a", "b", "c", "d")

    fits = run("generate", *files, "--dry-run", "--max-credits", "1000")
    lower = run("generate", *files, "--dry-run", "--max-credits", "150")
    made = run("generate", *files, "--yes", "--max-credits", "1000")

    assert "the bounds let 2 films through" in fits.out
    assert "the bounds let 1 film through" in lower.out
    assert made.code == 4
    assert len(service.ledger.paid) == 2


def test_a_balance_to_be_left_over_is_the_larger_one(service: Simulator, run: Run) -> None:
    write_profile("price = 150\nmin_balance = 9999700\n")
    files = write_films("a", "b", "c")

    result = run("generate", *files, "--dry-run", "--min-balance", "10")

    assert "the bounds let 2 films through" in result.out


def test_a_profile_is_never_consent(service: Simulator, run: Run) -> None:
    """A bound of the profile is not what a person has said to this command."""
    write_profile("price = 150\nmax_credits = 300\n")

    result = run("generate", *write_films("tea"))

    assert (result.code, "nobody to ask" in result.err) == (2, True)
    assert service.ledger.creations == []


def test_a_profile_that_others_can_write_is_refused(service: Simulator, run: Run) -> None:
    """And so is one that is no file; nothing is sent."""
    profile = write_profile("price = 150\n")
    profile.chmod(0o620)
    group = run("credits")
    profile.unlink()
    profile.mkdir()
    folder = run("credits")

    assert (group.code, "chmod go-w" in group.err) == (2, True)
    assert folder.code == 2


def test_the_file_beside_a_manifest_is_not_read(
    service: Simulator, run: Run, tmp_path: Path
) -> None:
    """It may come from somebody else, together with the manifest."""
    for name in ("config.toml", "apikley.toml", ".apikley.toml", "apikley/config.toml"):
        write_profile("max_tasks = 1\nprice = 1\n", tmp_path / name)
    files = write_films("a", "b")

    assert run("generate", *files, "--yes").code == 0


WRONG = {
    "colour = 1": "colour",
    "base_url = 'https://elsewhere.test'": "base_url",
    "yes = true": "yes",
    "max_credits = nan": "max_credits",
    "max_credits = -1": "max_credits",
    "max_credits = true": "max_credits",
    "max_tasks = 1.5": "max_tasks",
    "price = 'many'": "price",
    "price = {10 = inf}": "price",
    "folder = 3": "folder",
    "folder = '~nobody-of-that-name/films'": "folder",
    'key_file = "a\\u0000b"': "key_file",
    f"# {'long ' * 14_000}\nmax_credits = 5": "bytes at most",
    "[": "Invalid",
}


def test_what_a_profile_may_say(service: Simulator, run: Run, tmp_path: Path) -> None:
    """Numbers and places; no address, and no permission. `--config` names another file."""
    found = {}
    for text, word in WRONG.items():
        path = write_profile(text, tmp_path / "mine.toml")
        result = run("credits", "--config", path)
        found[text] = (result.code, "mine.toml: " in result.err and word in result.err)

    assert found == dict.fromkeys(WRONG, (2, True))
    assert run("credits", "--config", "missing.toml").code == 2
    assert run("credits", "--config", write_profile("", tmp_path / "mine.toml")).code == 0


@pytest.mark.parametrize("terms", [Terms(duration=Constant(600))])
def test_a_folder_of_the_profile_does_not_pay_again_what_was_sent_before_it(
    service: Simulator, run: Run
) -> None:
    """The journal of `generate` moves with the folder: that is said, and the old one counts."""
    line = ("generate", "--yes", "--timeout", "0.05", *write_films("tea"))
    run(*line)
    profile = write_profile('folder = "mine"\n')
    journal = profile.parent / "mine" / "apikley.db"

    same = run(*line)
    new = run(*line[:-1], *write_films("sea"))
    again = run(*line[:-1], "sea.json")
    old = run(*line, "--journal", "films/apikley.db")
    explicit = run(*line, "-o", "films")

    assert (same.code, "sent already, as " in same.err) == (4, True)
    assert f"--journal {Path('films/apikley.db').absolute()};" in same.err
    said = f"The films go to {journal.parent}, as {profile} says. Their journal"
    assert f"{said} will be {journal}" in new.err
    assert f"{said} is {journal}" in again.err
    assert (old.code, explicit.code) == (4, 4), "still in the making, where it was paid"
    assert said not in explicit.err
    assert len(service.ledger.paid) == 2


@pytest.mark.parametrize("terms", [Terms(duration=Constant(600))])
def test_a_profile_that_names_another_folder_does_not_pay_again(
    service: Simulator, run: Run
) -> None:
    """Nor one that is gone: the folders that profiles have named are remembered."""
    line = ("generate", "--yes", "--timeout", "0.05", *write_films("tea"))
    profile = write_profile('folder = "one"\n')
    run(*line)
    write_profile('folder = "two"\n')

    moved = run(*line)
    other = run(*line[:-1], *write_films("sea"))
    profile.unlink()
    gone = [run(*line[:-1], file) for file in ("tea.json", "sea.json")]
    explicit = run(*line, "-o", "here")

    one, two = (profile.parent / name / "apikley.db" for name in ("one", "two"))
    assert (moved.code, f"sent already, as {one} says" in moved.err) == (4, True)
    assert f"--journal {one}" in moved.err
    assert (other.code, [result.code for result in gone]) == (4, [4, 4])
    assert [
        f"as {journal} says" in result.err for journal, result in zip((one, two), gone, strict=True)
    ] == [
        True,
        True,
    ]
    assert "sent already" not in explicit.err, "a folder that the user names is another film"
    assert len(service.ledger.paid) == 3


def test_the_folders_of_commands_that_begin_at_once_are_all_remembered(tmp_path: Path) -> None:
    """Else a film that went into a forgotten one would be paid again, some day."""
    folders = [tmp_path / str(number) for number in range(6)]

    with ThreadPoolExecutor(len(folders)) as commands:
        _ = [*commands.map(journal_location.remember_folder, folders)]

    assert sorted(journal_location.remembered_folders()) == folders


def test_the_same_folder_is_remembered_once(tmp_path: Path) -> None:
    """However many commands begin at once."""
    with ThreadPoolExecutor(6) as commands:
        _ = [*commands.map(journal_location.remember_folder, [tmp_path] * 6)]

    assert journal_location.remembered_folders() == [tmp_path]


def test_folders_with_the_longest_names_are_all_remembered(tmp_path: Path) -> None:
    """What is not remembered is not compared, and may be paid again."""
    names = tmp_path.joinpath(*["я" * 120] * 8)
    folders = [names / str(number) for number in range(100)]
    for folder in folders:
        journal_location.remember_folder(folder)

    assert journal_location.remembered_folders() == folders


def test_a_batch_goes_on_where_its_films_are(service: Simulator, run: Run) -> None:
    """A profile that comes later does not part them; a first run goes where it says."""
    path = write_manifest("tea", "sea")
    run("batch", "run", path, "--yes", "--max-tasks", "1", "-o", "out")
    profile = write_profile('folder = "mine"\n')

    again = run("batch", "run", path, "--yes")
    new = run("batch", "run", write_manifest("bee", name="other.jsonl"), "--yes")
    outside = run("batch", "run", "other.jsonl", "--yes")

    assert [result.code for result in (again, new, outside)] == [0, 0, 0]
    assert sorted(film.name for film in Path("out").glob("*.mp4")) == ["sea.mp4", "tea.mp4"]
    assert [film.name for film in (profile.parent / "mine").glob("*.mp4")] == ["bee.mp4"]
    assert not Path("films").exists()
