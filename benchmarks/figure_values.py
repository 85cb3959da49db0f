"""Single numbers of docs/results, printed as README and docs print them."""

import csv
import json
import re
import statistics
from functools import cache
from typing import Any

from provenance import RESULTS

from gem3d_core.metrics.intervals import Interval, mean_interval
from gem3d_core.spec.terms import PLANES, Plane
from gem3d_core.study.claims import OF_CHANGES
from gem3d_core.study.record import system_from
from gem3d_core.study.rows import System

Json = dict[str, Any]
DIGITS = {"ms-ssim": 3, "lpips": 3, "border": 2, "agreement": 1}
"""Decimal places by measure; FID and Dice have one, smoothness, precision and recall two."""
PAPER_WINDOWS = (150_000 * 8, 50_000 * 8)
"""Windows that the paper's two stages see: steps times batch."""
VOLUMES = {"synthetic": "synthetic", "held-out": "held-out real"}


@cache
def measured(name: str) -> Json:
    """`NAME.json`, or the summary of a run in the folder NAME."""
    folder = RESULTS / name
    found: Json = json.loads((folder / "summary.json" if folder.is_dir() else RESULTS / f"{name}.json").read_text())
    return found


@cache
def tables_of(folder: str) -> Json:
    """`tables.json` of a folder."""
    found: Json = json.loads((RESULTS / folder / "tables.json").read_text())
    return found


@cache
def systems_of(folder: str) -> dict[str, System]:
    """The rows of `tables.json` and the held-out volumes, by name."""
    document = tables_of(folder)
    return {row["name"]: system_from(row) for row in [*document["rows"], document["held_out"]]}


@cache
def report_table(folder: str, heading: str) -> tuple[dict[str, str], ...]:
    """A table of `report.md` by its heading, cells by column.

    For what `summary.json` lacks: intervals of the arms, and minutes of a run that was made in several sittings.
    """
    text = (RESULTS / folder / "report.md").read_text()
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].replace("\\", "")
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    if len(lines) < 3:
        raise ValueError(f"{folder}/report.md has no table under {heading!r}")
    names = [re.sub(r" ?[\[↑↓].*", "", name) for name in lines[0]]
    return tuple(dict(zip(names, line, strict=True)) for line in lines[2:])


def of_report(folder: str, arm: str, what: str) -> str:
    """Dice in % or HD95 in mm of an arm, over all labels, with its interval."""
    column = {"dice": "Dice", "hd95": "HD95"}[what]
    rows = report_table(folder, "Downstream segmentation")
    cell = next(row[column] for row in rows if (row["trained on"], row["label"]) == (arm, "mean of labels"))
    mean, low, high = re.findall(r"[\d.]+", cell)
    unit = "%" if what == "dice" else " mm"
    return f"{float(mean):.1f}{unit} [{float(low):.1f}, {float(high):.1f}]"


def minutes_of(folder: str) -> dict[str, float]:
    """Minutes of each stage, however many sittings it took."""
    spent: dict[str, float] = {}
    for row in report_table(folder, "Stages"):
        spent[row["stage"]] = spent.get(row["stage"], 0.0) + float(row["minutes"])
    return spent


def minutes(folder: str) -> str:
    """The whole run, in hours and minutes."""
    whole = round(sum(minutes_of(folder).values()))
    return f"{whole // 60} h {whole % 60} min" if whole >= 60 else f"{whole} min"


@cache
def score_of(folder: str, row: str, measure: str) -> Interval:
    """A measure of a row of the tables. Raises KeyError for a row or a measure that is not there."""
    system = systems_of(folder)[row]
    kind, _, plane = measure.partition("-")
    if kind == "fid":
        fid = system.fid[_plane(plane)]
        return fid.interval or Interval(fid.value, None, None, system.scored)
    if kind in {"KID", "precision", "recall"}:
        return system.neighbours[f"{kind} {plane}"].times(1000 if kind == "KID" else 1)
    by_case = {"ms-ssim": system.ms_ssim, "lpips": system.lpips, "border": system.border}
    by_case |= {"agreement": {name: 100 * dice for name, dice in system.agreement.items()}}
    values = system.smoothness[_plane(plane)] if kind == "smoothness" else by_case[measure]
    if not values:
        raise KeyError(f"{measure} of {row}")
    return mean_interval(list(values.values()))


def _plane(name: str) -> Plane:
    return next(plane for plane in PLANES if plane == name)


@cache
def margin_of(folder: str, row: str, measure: str) -> Interval:
    """By how much a row is better than the one that it changes one thing of, in the measure's own units."""
    systems = systems_of(folder)
    system = systems[row]
    return margin_between(system, systems[str(system.beside)], measure)


def margin_between(better: System, worse: System, measure: str) -> Interval:
    """By how much one row is better than another. Raises KeyError where it was not measured in both."""
    names = {"ms-ssim": "MS-SSIM", "lpips": "LPIPS", "border": "border, distance from 1"}
    names |= {f"fid-{plane}": f"FID {plane}" for plane in PLANES} | {"agreement": "mask agreement, in %"}
    found = next(m for m in OF_CHANGES if m.name == names[measure]).margin(better, worse)
    if found is None:
        raise KeyError(f"{measure} of {better.name} and {worse.name}")
    return found


def printed(found: Interval, measure: str, *, interval: bool = True, unit: str | None = None) -> str:
    """`0.591 [0.579, 0.603]`, with a percent sign where it is a Dice, or with another unit."""
    kind = measure.partition("-")[0]
    digits = DIGITS.get(measure, 2 if kind in {"smoothness", "precision", "recall"} else 1)
    sign = "%" if measure == "agreement" else ""
    text = f"{found.mean:.{digits}f}{sign if unit is None else unit}"
    if found.low is None or found.high is None or not interval:
        return text
    return f"{text} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def peak(folder: str) -> str:
    """The most memory that a run's processes held together."""
    return f"{measured(folder)['peak_memory_gib']:.1f} GiB"


def of_run(folder: str, *metric: str) -> str:
    """A metric of a run's summary, by its name there."""
    return f"{measured(folder)['metrics'][' '.join(metric)]:.1f}"


def training_speedup() -> str:
    """How many times as fast a step on stored latents is as the literal one."""
    return f"{measured('training')['speedup']:.0f}"


def of_claims(folder: str, which: str, *words: str) -> str:
    """How many of the paper's findings or of our aims were judged, or judged so."""
    verdict = " ".join(words)
    kept = [c for c in tables_of(folder)["claims"] if (c["source"] == "our aim") == (which == "aims")]
    return str(sum(not verdict or claim["verdict"] == verdict for claim in kept))


def distances(volumes: str) -> list[float]:
    """Distance of each volume to its nearest training volume (RMSE, images in [-1, 1])."""
    with (RESULTS / "hippocampus-cpu" / "distances.csv").open() as file:
        return [float(row["distance"]) for row in csv.DictReader(file) if row["of"] == VOLUMES[volumes]]


def privacy(volumes: str, which: str) -> str:
    """The mean or the smallest distance."""
    found = distances(volumes)
    return f"{statistics.fmean(found) if which == 'mean' else min(found):.3f}"


def of_sampling(run: str, *words: str) -> str:
    """Print of a run of `gem3d bench sampling`: times as fast, seconds a volume, or the paired loss in %."""
    found = measured("sampling")[run]
    match words:
        case ["speedup"]:
            return f"{found['speedup']:.0f}"
        case ["seconds", "ours" | "reference" as which]:
            return f"{found[which]['seconds_per_volume']:.1f} s"
        case ["loss", "ms-ssim" | "lpips" as measure]:
            loss = found["ours"][f"{measure.replace('-', '_')}_loss"]
            mean, low, high = (100 * loss[name] for name in ("mean", "low", "high"))
            return f"{mean:.1f}% [{low:.1f}, {high:.1f}]"
    raise ValueError(" ".join(words))


def gpu_row(what: str) -> Json:
    """A row of gpu.json by the beginning of its name and its end."""
    start, _, end = what.partition("...")
    rows: list[Json] = measured("gpu")["results"]
    return next(row for row in rows if row["what"].startswith(start) and row["what"].endswith(end))


def of_gpu(*words: str) -> str:
    """Seconds and memory of the paper's size on a GPU; hours of its trainings, computed from the seconds of a step."""
    one = gpu_row("ours...1 at once")
    four = gpu_row("ours...4 at once, compiled")
    stages = [gpu_row(f"training, stage {stage}") for stage in (1, 2)]
    hours = [stage["seconds"] * windows / 3600 for stage, windows in zip(stages, PAPER_WINDOWS, strict=True)]
    known = {
        "hours stage-1": f"{hours[0]:.0f} h",
        "hours stage-2": f"{hours[1]:.0f} h",
        "seconds": f"{one['seconds']:.0f} s",
        "seconds compiled": f"{gpu_row('ours...1 at once, compiled')['seconds']:.1f} s",
        "memory": f"{one['peak_gib']:.1f} GiB",
        "speedup": f"{gpu_row('Algorithm 1')['seconds'] / one['seconds']:.0f}",
        "speedup most": f"{gpu_row('Algorithm 1')['seconds'] / four['seconds']:.0f}",
        "training memory": f"{max(stage['peak_gib'] for stage in stages):.1f} GiB",
    }
    return known[" ".join(words)]


def made(name: str) -> str:
    """Commit, machine and date of a measurement; of tables, of each of their runs."""
    if (RESULTS / name / "tables.json").exists() and not (RESULTS / name / "summary.json").exists():
        runs = [row["made"] for row in tables_of(name)["rows"]]
    elif name.endswith("/tables"):
        runs = [row["made"] for row in tables_of(name.removesuffix("/tables"))["rows"]]
    else:
        found = measured(name)
        runs = [found if "commit" in found else found["short"]]
    commits = list(dict.fromkeys(str(run["commit"])[:7] for run in runs))
    machines = list(dict.fromkeys(str(run.get("machine", run.get("device"))) for run in runs))
    dates = sorted({str(run["date"]) for run in runs})
    listed = f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}"
    return f"{listed}; {'; '.join(machines)}; {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}"
