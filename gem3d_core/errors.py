"""The errors that reach a person: each names the file, the value, what was expected and what to do.

`exit_code` is what a command line ends with.
"""


class Gem3dError(RuntimeError):
    """Something that a person can act on went wrong."""

    exit_code = 1


class BadInput(Gem3dError):  # noqa: N818 - the noun is what the person gave
    """The input or the usage is at fault."""

    exit_code = 2


class NotAvailable(Gem3dError):  # noqa: N818 - a state, reported in tables rather than raised to the top
    """An optional resource (weights, a device) could not be found; says what to do to have it."""
