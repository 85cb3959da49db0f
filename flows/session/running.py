"""How a command runs a flow in its own process, and how it ends: exit codes, errors, one JSON document."""

import json
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from flows.session.ledger import Summary


FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

P = TypeVar("P")
S = TypeVar("S", bound="Summary")


def run_flow(
    check: Callable[[], P], prepare: Callable[[P], Callable[[], S]], tell: Callable[[S], str], *, as_json: bool
) -> S:
    """Run a flow in this process, on a server of its own where none is named; print and return what it made.

    check: returns the parameters; what is wrong with them is said before a server is started.
    prepare: imports the flow and returns what starts it; its imports take about as long as the server.
    """
    from flows.session.environment import quieten

    quieten()
    try:
        summary = _started(partial(prepare, check()))
    except KeyboardInterrupt:
        fail(_interrupted(), INTERRUPTED)
    if as_json:
        print_json(summary.model_dump())
    else:
        sys.stdout.write(f"{tell(summary)}\n")
    return summary


def _interrupted() -> str:
    """Which stage was left, and where the same command goes on."""
    from tasks.frame.stage import under_way

    if not under_way:
        return "interrupted between two stages; the same command goes on from what is finished"
    return f"interrupted in stage {under_way[-1]}; the same command goes on from its last checkpoint or finished part"


def fail(message: str, code: int) -> NoReturn:
    """End with a message on stderr, and with a JSON document where one was asked for."""
    sys.stderr.write(f"gem3d: {message}\n")
    if "--json" in sys.argv:
        print_json({"error": message, "code": code})
    sys.exit(code)


def print_json(document: object) -> None:
    """The one document on standard output."""
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


def _started(prepare: Callable[[], Callable[[], S]]) -> S:
    """Run a flow; Ctrl-C and SIGTERM both end it by KeyboardInterrupt, after which nothing stays behind."""
    from flows.session.server import own_server  # imports Prefect, which reads the environment once

    signal.signal(signal.SIGTERM, _terminated)
    with own_server() as wait:
        start = prepare()
        wait()
        return start()


def _terminated(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt("terminated")
