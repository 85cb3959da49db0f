"""What has to be settled before Prefect is imported, and how its log is kept readable."""

import logging
import os
import warnings

DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_COLORS": "false",
}


def prepare_environment() -> None:
    """Set defaults that the user has not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def quieten() -> None:
    """Leave out what no user can act on: deprecations inside libraries, tracebacks of errors that explain themselves.

    The command line prints those errors itself.
    """
    warnings.filterwarnings("ignore", module=r"(torch|torchvision|monai|lpips|timm|diffusers|prefect)(\.|$)")
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_not_explained)


def _not_explained(record: logging.LogRecord) -> bool:
    from data_catalog.errors import CatalogError
    from gem3d_core.errors import Gem3dError

    error = record.exc_info[1] if record.exc_info else None
    told = "Finished in state Failed", "Crash detected"
    explained = isinstance(error, Gem3dError | CatalogError)
    return not (explained or any(part in record.getMessage() for part in told))
