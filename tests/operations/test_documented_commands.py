"""Every `rollouts ...` in the documentation is a command that there is, with options that it takes."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from model_rollouts.cli import app
from model_rollouts.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*.md")])
EXACT = ("runbook.md", "backup.md")  # their blocks are there to be copied: every argument has to be right
_BLOCK = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(rollouts [^`]+)`")
_ENDS = re.compile(r"\s*(?:\|\||&&|;|\||\)|>|2>)\s*")
_OWN = re.compile(r"(?:^|[\s(])rollouts\s")


def commands(text: str) -> list[list[str]]:
    """The words of each call of `rollouts` in lines of a shell."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for part in _ENDS.split(line.partition(" #")[0]):
            if match := _OWN.search(part):
                words = shlex.split(part[match.start() :].lstrip("( "))
                found.append([word for word in words if word not in ("[", "]")][1:])
    return found


def parse(words: list[str], *, exact: bool) -> None:
    """Have the command line parse the words, and run nothing.

    Raises:
        click.ClickException: There is no such command or option, or a value is wrong or missing.
    """
    command: click.Command = typer.main.get_command(app)
    path, rest = ["rollouts"], list(words)
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        if not rest or rest[0].startswith("-") or rest[0] == "COMMAND":
            return  # `rollouts --help`, or of any command
        found = command.commands.get(rest[0])  # type: ignore[attr-defined]
        if found is None:
            raise click.UsageError(f"there is no command {' '.join([*path, rest[0]])}")
        path.append(rest.pop(0))
        command = found
    if exact:
        command.make_context(" ".join(path), rest)
        return
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in rest if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known | {"--help"}]
    if unknown:
        raise click.UsageError(f"{' '.join(path)} takes no {', '.join(unknown)}")


def told(page: Path) -> list[tuple[list[str], bool]]:
    """The calls on a page, and whether all of their arguments are to be there."""
    text = page.read_text()
    blocks = [(words, page.name in EXACT) for block in _BLOCK.findall(text) for words in commands(block)]
    return blocks + [(words, False) for span in _INLINE.findall(text) for words in commands(span)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_on_a_page_are_there(page: Path) -> None:
    wrong = []
    for words, exact in told(page):
        try:
            parse(words, exact=exact)
        except Exception as error:
            wrong.append(f"rollouts {' '.join(words)}: {getattr(error, 'message', error)}")
    assert wrong == []


def test_there_is_something_to_look_at() -> None:
    found = {page.name: len(told(page)) for page in PAGES}
    assert found["runbook.md"] > 25
    assert found["backup.md"] > 8
    assert found["cli.md"] > 2


@pytest.mark.parametrize(
    ("line", "exact"),
    [
        ("rollouts undo MODEL", False),
        ("rollouts db restore x", False),
        ('rollouts rollback MODEL --because "x"', False),
        ("rollouts rollback MODEL", True),  # without a reason
        ("true && rollouts history", True),
    ],
)
def test_a_command_that_is_not_there_would_be_seen(line: str, exact: bool) -> None:
    (words,) = commands(line)
    with pytest.raises(Exception, match=r"no command|takes no|[Mm]issing"):
        parse(words, exact=exact)


def test_the_settings_that_the_runbook_names_are_there() -> None:
    from model_rollouts.gateway.settings import GatewaySettings

    known = {f"MODEL_ROLLOUTS_{name.upper()}" for name in (*Settings.model_fields, *GatewaySettings.model_fields)}
    for name in EXACT:
        named = set(re.findall(r"MODEL_ROLLOUTS_[A-Z_]+", (ROOT / "docs" / name).read_text()))
        assert named
        assert named - known == set()
