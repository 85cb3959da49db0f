import sys
from pathlib import Path

from tasks.bench_catalog import bench_catalog


def test_a_growing_catalog_stays_quick(tmp_path: Path) -> None:
    speed = bench_catalog(tmp_path, volumes=500, artifacts=12, command=[sys.executable, "-m", "flows.cli"])
    assert (speed.volumes, speed.artifacts, speed.files) == (500, 12, 507)
    # of the processor, so that other work on the machine does not count; on two idle cores it is a quarter of a second
    for seconds in (speed.help_cpu_seconds, speed.ls_cpu_seconds, speed.show_cpu_seconds, speed.lineage_cpu_seconds):
        assert 0 < seconds < 2
