import sys
from pathlib import Path

from tasks.bench.catalog import bench_catalog


def test_a_growing_catalog_stays_quick(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows.cli.main"]
    small, large = (bench_catalog(tmp_path / str(n), n, artifacts=12, command=command) for n in (100, 1000))
    assert (large.volumes, large.artifacts, large.files) == (1000, 12, 1007)
    # of the processor, so that other work on the machine does not count; on two idle cores it is a quarter of a second
    for told in ("help_cpu_seconds", "ls_cpu_seconds", "show_cpu_seconds", "lineage_cpu_seconds"):
        before, after = getattr(small, told), getattr(large, told)
        assert 0 < after < 1, told
        # ten times the volumes; the start of a process does not grow, but varies by 0.1 s on a busy machine
        assert after - before < 0.3, told
