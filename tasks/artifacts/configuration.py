"""The resolved configuration of a run, kept in the catalog and in every model."""

import tempfile
from pathlib import Path
from typing import cast

import yaml

from configs import Config, Runtime, change
from data_catalog import Catalog
from gem3d_core.errors import BadInput
from tasks.frame.stage import Run

KIND, FILE = "config", "config.yaml"


def store_configuration(run: Run) -> str:
    """`config` NAME: the resolved configuration as YAML; the same configuration is the same version."""
    catalog = Catalog.open(run.catalog)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        path.write_text(as_yaml(run.config))
        artifact = catalog.put(
            KIND,
            run.name,
            files={FILE: path},
            meta={"profile": run.config.profile},
            run_id=run.run_id,
            code_version="",
            config_hash="",
            seed=run.config.seed,
            key=f"{KIND}-{run.name}-{run.run_id}",
        )
    return artifact.ref.full


def read_configuration(path: Path) -> Config:
    """A stored configuration. Raises BadInput, in one line, for one that this version does not understand."""
    try:
        return Config.model_validate(cast("dict[str, object]", yaml.safe_load(path.read_text())))
    except (ValueError, yaml.YAMLError) as error:  # pydantic's are ValueErrors
        reason = " ".join(str(error).split())[:300]
        raise BadInput(
            f"{path.name} was stored by another version of GEM-3D and is not understood by this one ({reason}): "
            "use that version, or train anew with `gem3d enhance`"
        ) from error


def as_yaml(config: Config) -> str:
    """The whole configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def without_machine(config: Config) -> Config:
    """The configuration without what belongs to one machine: where and how fast it ran, and where files lay."""
    file, weights = config.data.split.file, Path(config.codec.weights)
    changes: dict[str, object] = {"runtime": Runtime().model_dump()}
    changes |= {"data.split.file": Path(file).name} if file else {}
    return change(config, changes | ({"codec.weights": weights.name} if weights.is_absolute() else {}))
