"""What has to be settled before Prefect is imported, and how its log is kept readable."""

import logging
import os
import sysconfig
import warnings
from pathlib import Path

from gem3d_core.errors import Gem3dError

SHADOWING = ("argparse", "unittest2", "traceback2", "linecache2")
"""Backports that nnU-Net's requirements bring; argparse shadows the standard library's in Prefect's server."""
DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_COLORS": "false",
}


def prepare_environment() -> None:
    """Set defaults that the user has not set; raises Gem3dError where Prefect's own server could not start."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    shadow = Path(sysconfig.get_paths()["purelib"]) / "argparse.py"
    if shadow.exists() and not os.environ.get("PREFECT_API_URL"):
        raise Gem3dError(
            f"{shadow} shadows Python's own argparse and keeps Prefect's server from starting. Nothing needs it, so "
            f"remove it: `pip uninstall -y {' '.join(SHADOWING)}` (`make setup` does that), or set PREFECT_API_URL to "
            "a server"
        )


def quieten() -> None:
    """Leave out what no user can act on: deprecations inside libraries, tracebacks of errors that explain themselves.

    The command line prints those errors itself.
    """
    warnings.filterwarnings("ignore", module=r"(torch|torchvision|monai|lpips|timm|diffusers|prefect)(\.|$)")
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_not_explained)


def _not_explained(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, Gem3dError) or "Finished in state Failed" in record.getMessage())
