"""The resolved configuration of a run, kept in the catalog."""

import tempfile
from pathlib import Path
from typing import cast

import yaml

from configs import Config
from data_catalog import Catalog
from gem3d_core.errors import BadInput
from tasks.artifacts.lineage import run_of_model
from tasks.frame.stage import Run

KIND = "config"


def store_configuration(run: Run) -> str:
    """`config` NAME: the resolved configuration as YAML; the same configuration is the same version."""
    catalog = Catalog.open(run.catalog)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(as_yaml(run.config))
        artifact = catalog.put(
            KIND,
            run.name,
            files={"config.yaml": path},
            meta={"profile": run.config.profile},
            run_id=run.run_id,
            code_version="",
            config_hash="",
            seed=run.config.seed,
            key=_key(run.name, run.run_id),
        )
    return artifact.ref.full


def configuration_of_model(catalog: Catalog, model: str) -> Config:
    """The configuration of the run that trained the model. Raises BadInput when the catalog does not hold it."""
    artifact = catalog.get(model)
    stored = catalog.find(_key(run_of_model(artifact), artifact.run_id))
    if stored is None:
        raise BadInput(
            f"{catalog.address} does not hold the configuration of run {artifact.run_id}, which trained {model}: "
            "train it again with `gem3d enhance`"
        )
    return read_configuration(catalog, stored.ref.full)


def _key(name: str, run_id: str) -> str:
    return f"config-{name}-{run_id}"


def read_configuration(catalog: Catalog, ref: str) -> Config:
    """A stored configuration."""
    text = catalog.path(catalog.get(ref), "config.yaml").read_text()
    return Config.model_validate(cast("dict[str, object]", yaml.safe_load(text)))


def as_yaml(config: Config) -> str:
    """The whole configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
