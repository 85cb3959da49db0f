"""What can go wrong in the catalog. Every message is one line that names what to do.

`exit_code` is what a command line ends with: 1 where the catalog failed, 2 where the caller asked for what cannot be.
"""


class CatalogError(RuntimeError):
    """Base of all errors of the catalog."""

    exit_code = 1


class Invalid(CatalogError, ValueError):  # noqa: N818  # named by what was found
    """What the caller gave (a reference, a name, a path, a table) cannot be used."""

    exit_code = 2


class NotFound(CatalogError, LookupError):  # noqa: N818  # named by what was found
    """No artifact has this reference; the message names the nearest ones."""

    exit_code = 2


class Ambiguous(CatalogError, LookupError):  # noqa: N818  # named by what was found
    """A version prefix fits more than one version; the message lists them."""

    exit_code = 2


class Corrupt(CatalogError):  # noqa: N818  # named by what was found
    """A stored object is missing or its bytes are not the ones that were put."""
