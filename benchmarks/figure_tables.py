"""Tables of README and docs, from docs/results."""

from collections import Counter
from collections.abc import Callable, Sequence

from figure_values import (
    distances,
    margin_between,
    margin_of,
    measured,
    minutes_of,
    of_report,
    printed,
    report_table,
    score_of,
    systems_of,
    tables_of,
)

from gem3d_core.metrics.intervals import Interval, mean_interval

PAPER_TABLE_4 = {"true": "72.9%, 8.9 mm", "1x": "68.5%, 10.0 mm", "make-a-volume": "59.7%, 12.4 mm"}
"""Dice and HD95 that the paper reports on BraTS."""
ARMS = {"true": "true data", "make-a-volume": "Make-A-Volume, 1x"}
VERDICTS = ("as expected", "no clear difference", "the other way round")
MEASURES = ("fid-axial", "fid-coronal", "fid-sagittal", "ms-ssim", "lpips", "border", "agreement")
HEADINGS = {
    "fid-axial": "FID axial ↓",
    "fid-coronal": "FID coronal ↓",
    "fid-sagittal": "FID sagittal ↓",
    "ms-ssim": "MS-SSIM ↑",
    "lpips": "LPIPS ↓",
    "border": "border → 1",
    "agreement": "mask agreement ↑",
}
Lines = Sequence[Sequence[str]]


def table(words: Sequence[str]) -> str:
    """A table as Markdown. Raises KeyError for a name that means nothing."""
    name, *rest = words
    return TABLES[name](*rest)


def _markdown(headings: Sequence[str], lines: Lines, words: int = 1) -> str:
    """The first columns, `words` of them, flush left."""
    rules = ["---"] * words + ["---:"] * (len(headings) - words)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rules, *lines))


def _arms(folder: str) -> str:
    arms = [row["trained on"] for row in report_table(folder, "Downstream segmentation")]
    paper = "make-a-volume" in arms
    lines = [
        [
            ARMS.get(arm, f"GEM-3D, {arm}"),
            of_report(folder, arm, "dice"),
            of_report(folder, arm, "hd95"),
            *([PAPER_TABLE_4[arm]] if paper else []),
        ]
        for arm in dict.fromkeys(arms)
    ]
    return _markdown(["trained on", "Dice ↑", "HD95 ↓", *(["the paper, on BraTS"] if paper else [])], lines)


def _stages(folder: str) -> str:
    spent = minutes_of(folder)
    order = sorted(spent, key=lambda name: name in PARTS)
    lines = [[PARTS.get(name, f"`{name}`"), f"{spent[name]:.1f}"] for name in order]
    return _markdown(["stage", "minutes"], [*lines, ["**in all**", f"**{sum(spent.values()):.0f}**"]])


PARTS = {"fidelity": "`evaluate`: scores of the volumes", "downstream": "`evaluate`: nnU-Net"}
"""Parts of stage 11, which the report times one by one."""


def _cell(folder: str, row: str, measure: str) -> str:
    try:
        return printed(score_of(folder, row, measure), measure)
    except KeyError:
        return "not measured"


def _rows(folder: str, *rows: str) -> str:
    measures = [m for m in MEASURES if any(_cell(folder, row, m) != "not measured" for row in rows)]
    lines = [[_title(folder, row), *(_cell(folder, row, m) for m in measures)] for row in rows]
    return _markdown(["system", *(HEADINGS[m] for m in measures)], lines)


def _title(folder: str, row: str) -> str:
    plain = {
        "ours": "GEM-3D, our default",
        "ours-10": "our default, sampled with 10 steps",
        "paper": "GEM-3D, the paper's configuration",
        "codec-mask": "our default, mask through the codec",
    }
    return plain.get(row, systems_of(folder)[row].title)


def _changes(folder: str, *rows: str) -> str:
    """Differences of rows to those that they change one thing of."""
    measures = ("ms-ssim", "lpips", "fid-axial", "fid-coronal", "fid-sagittal", "agreement")
    systems = systems_of(folder)
    lines = []
    for row in rows or [name for name, system in systems.items() if system.beside in systems]:
        margins = {measure: _margin(folder, row, measure) for measure in measures}
        cells = [printed(found, m, unit="") if found else "not measured" for m, found in margins.items()]
        lines.append([systems[row].titled("ours"), *cells])
    return _markdown(["change", *_differences(measures)], lines)


def _margin(folder: str, row: str, measure: str) -> Interval | None:
    try:
        return margin_of(folder, row, measure)
    except KeyError:
        return None


def _against(folder: str, better: str, *others: str) -> str:
    """By how much one row is better than each of others."""
    systems = systems_of(folder)
    measures = [m for m in MEASURES if m != "agreement" or systems[better].agreement]
    lines = []
    for other in others:
        cells = []
        for measure in measures:
            try:
                cells.append(printed(margin_between(systems[better], systems[other], measure), measure, unit=""))
            except KeyError:
                cells.append("not measured")
        lines.append([_title(folder, other), *cells])
    return _markdown(["better than", *_differences(measures)], lines)


def _differences(measures: Sequence[str]) -> list[str]:
    """Headings of differences, which are better above 0 whatever the measure."""
    points = {"agreement": ", points of Dice", "border": ", nearer to 1"}
    return [HEADINGS[measure].rstrip(" ↑↓→1") + points.get(measure, "") for measure in measures]


def _findings(folder: str) -> str:
    claims = [claim for claim in tables_of(folder)["claims"] if claim["source"] != "our aim"]
    sources = sorted({claim["source"] for claim in claims}, key=lambda s: (s.startswith("Figure"), s))
    counts = Counter((claim["source"], claim["verdict"]) for claim in claims)
    lines = [[source, *(str(counts[source, verdict]) for verdict in VERDICTS)] for source in sources]
    whole = [str(sum(counts[source, verdict] for source in sources)) for verdict in VERDICTS]
    return _markdown(["of the paper", "found again", *VERDICTS[1:]], [*lines, ["**in all**", *whole]])


def _continuity(folder: str) -> str:
    rows = report_table(folder, "Continuity")
    headings = ["volumes", "border", "smoothness axial", "smoothness coronal", "smoothness sagittal"]
    plain = [[_starting(row, name) for name in headings] for row in rows]
    return _markdown([headings[0], *(f"{name} → 1" for name in headings[1:])], plain)


def _starting(row: dict[str, str], name: str) -> str:
    """The cell of the column that begins with a name."""
    return next(cell for key, cell in row.items() if key.startswith(name))


def _distances() -> str:
    lines = []
    for volumes in ("synthetic", "held-out"):
        found = distances(volumes)
        mean = mean_interval(found)
        interval = f"{mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
        lines.append(
            [{"held-out": "held-out real"}.get(volumes, volumes), str(len(found)), interval, f"{min(found):.3f}"]
        )
    return _markdown(["volumes", "number", "mean distance", "smallest distance"], lines)


def _sampling() -> str:
    run = measured("sampling")["steps"]
    lines = []
    others = [row for row in run["others"] if row["steps"] != run["ours"]["steps"] or row["first_window"] == "at_start"]
    for row in [run["reference"], run["ours"], *others]:
        place = ", first window at the start slice" if row["first_window"] == "at_start" else ""
        eta = f", eta {row['eta']:g}" if row["solver"] == "ddim" else ""
        name = f"{row['solver']}, {row['steps']} steps{eta}, overlap {row['overlap']}{place}"
        losses = [f"{100 * row[key]['mean']:.1f}" for key in ("ms_ssim_loss", "lpips_loss")]
        lines.append(
            [name, f"{row['seconds_per_volume']:.2f}", f"{row['speedup']:.1f}", *losses, f"{row['smoothness']:.2f}"]
        )
    lines[0][0] = f"Algorithm 1: {lines[0][0]}"
    headings = [
        "sampler",
        "seconds a volume",
        "times as fast",
        "MS-SSIM, loss in %",
        "LPIPS, loss in %",
        "roughness → 1",
    ]
    return _markdown(headings, lines)


def _gpu() -> str:
    lines = [
        [row["what"], row["unit"], f"{row['seconds']:.3g}", f"{row['peak_gib']:.1f}"]
        for row in measured("gpu")["results"]
    ]
    return _markdown(["what", "of", "seconds", "peak GiB"], lines, 2)


def _memory() -> str:
    lines = []
    for row in measured("memory")["rows"]:
        peaks = [row["sampling_peak"], row["slices_peak"], row["volume_peak"]]
        cells = [f"{p / 2**30:.1f}{' (too much)' if p > row['budget'] * 2**30 else ''}" for p in peaks]
        lines.append([row["profile"], str(row["budget"]), str(row["windows"]), *cells])
    headings = [
        "profile",
        "budget [GiB]",
        "windows at once",
        "sampling [GiB]",
        "train-slices [GiB]",
        "tune-volume [GiB]",
    ]
    return _markdown(headings, lines)


def _smoke(*names: str) -> str:
    lines = []
    for name in names:
        run = measured(name)
        spent = sum(stage["seconds"] for stage in run["stages"]) / 60
        lines.append([name, f"{spent:.1f}", f"{run['peak_memory_gib']:.1f}"])
    return _markdown(["run", "minutes", "peak GiB"], lines)


def _maisi() -> str:
    lines = [
        [
            row["system"],
            str(row["side"]),
            f"{row['parameters'] / 1e6:.0f} M",
            str(row["steps"]),
            f"{row['microseconds_per_voxel']:.0f}",
        ]
        for row in measured("maisi")["rows"]
    ]
    return _markdown(["system", "side [voxels]", "parameters", "steps", "microseconds a voxel"], lines)


def _files() -> str:
    lines = []
    for name, found in measured("io")["files"].items():
        by_method = {method["method"]: method for method in found["deflate"]}
        old, new = by_method["gzip 3"], by_method["igzip 2 (in use)"]
        lines.append(
            [
                name,
                f"{100 * new['bytes'] / old['bytes']:.0f}%",
                f"{100 * new['write']['seconds'] / old['write']['seconds']:.0f}%",
                f"{100 * new['read_igzip']['seconds'] / old['read_gzip']['seconds']:.0f}%",
            ]
        )
    return _markdown(["volumes", "size", "time to write", "time to read"], lines)


def _catalog() -> str:
    found = measured("io")["catalog"]
    commands = {"help": "gem3d --help", "ls": "gem3d catalog ls", "show": "gem3d catalog show"}
    commands |= {"lineage": "gem3d catalog lineage"}
    lines = [[f"`{command}`", f"{found[f'{key}_seconds']:.2f}"] for key, command in commands.items()]
    return _markdown(["with 10,000 volumes in the catalog", "seconds"], lines)


def _continuation() -> str:
    told = {
        "across the pin, cosine, ddim-200-eta0-x1": "RePaint, one pass, DDIM with 200 steps",
        "across the pin, overlap 2, 10 steps": "RePaint, one pass, overlap 2, 10 steps: the default",
        "across the pin, cosine, ddim-20-eta1-x10": "RePaint, ten passes a step, DDIM with 20 steps",
        "across a known slot, cosine, 10 steps": "known slices, 10 steps",
        "across key frames, smallest": "known slices and key frames, the smallest",
    }
    found = measured("continuation")["correlation"]
    return _markdown(
        ["way of going on", "correlation (0.9 is right)"], [[text, found[key]] for key, text in told.items()]
    )


TABLES: dict[str, Callable[..., str]] = {
    "arms": _arms,
    "stages": _stages,
    "rows": _rows,
    "changes": _changes,
    "against": _against,
    "findings": _findings,
    "continuity": _continuity,
    "distances": _distances,
    "sampling": _sampling,
    "gpu": _gpu,
    "memory": _memory,
    "smoke": _smoke,
    "maisi": _maisi,
    "files": _files,
    "catalog": _catalog,
    "continuation": _continuation,
}
"""What prints a table, by its name; it gets the words that follow."""
