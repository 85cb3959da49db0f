"""Where public datasets are downloaded from: configuration, not code (`sources.yml`)."""

from importlib.resources import files

import yaml
from pydantic import BaseModel, ConfigDict

from configs.resolve import nearest
from gem3d_core.errors import BadInput


class Download(BaseModel):
    """Address and checksum of one archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    checksum: str
    """SHA-256, or MD5 where the publisher states no better; hexadecimal."""


def source(name: str) -> Download:
    """The download of a dataset by name. Raises BadInput for an unknown one, naming the nearest."""
    known = yaml.safe_load((files("configs.profiles") / "sources.yml").read_text())
    if name not in known:
        raise BadInput(f"no download called {name!r}{nearest(name, known)}")
    return Download.model_validate(known[name])
