"""The reference of the command line, from what `--help` prints."""

from collections.abc import Iterator

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from flows.cli.main import app


def command_reference() -> str:
    """Every command with its arguments, options and example."""
    found = list(commands(get_command(app), "gem3d"))
    return "\n\n".join(part for name, command in found for part in _section(name, command))


def commands(command: object, name: str) -> Iterator[tuple[str, TyperCommand]]:
    """Every command that does something, by its full name."""
    if isinstance(command, TyperGroup):
        for word, below in command.commands.items():
            yield from commands(below, f"{name} {word}")
    elif isinstance(command, TyperCommand):
        yield name, command


def _section(name: str, command: TyperCommand) -> Iterator[str]:
    context = command.context_class(command, info_name=name)
    yield f"## `{name}`"
    yield " ".join((command.help or "").split())
    yield f"```\n{command.get_usage(context).removeprefix('Usage: ')}\n```"
    records = [parameter.get_help_record(context) for parameter in command.params]
    lines = [f"| `{option}` | {_cell(told)} |" for option, told in filter(None, records)]
    if lines:
        yield "\n".join(["| option | what it does |", "| --- | --- |", *lines])
    if command.epilog:
        yield f"```\n{command.epilog.removeprefix('Example: ')}\n```"


def _cell(text: str) -> str:
    """Brackets would be links in Markdown, bars another column."""
    return " ".join(text.split()).replace("|", "\\|").replace("[", "\\[").replace("]", "\\]")
