"""Pictures for the report and the catalog, drawn off screen by matplotlib; the same input gives the same bytes.

Anatomy is shown on black, left is the patient's left, front and head are up (sagittal: front to the right).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gem3d_core.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Numbers = Sequence[float] | NDArray[np.floating] | NDArray[np.integer]
PLANES = ("axial", "coronal", "sagittal")
LABEL_COLOURS = ("#ffd34e", "#4cc9f0", "#ff6b6b", "#80ed99", "#c77dff", "#ff9f1c", "#f4f1de", "#f72585")
LINE_COLOURS = ("#2f6fb0", "#d1495b", "#2a9d5c", "#8e5bb5", "#c77f1a", "#4b5563")
REAL, SYNTHETIC = LINE_COLOURS[0], LINE_COLOURS[1]
DPI = 130
PANEL_INCHES = 1.9


@dataclass(frozen=True)
class PictureRow:
    """One volume of a comparison: image (Z, H, W) in [-1, 1], mask (Z, H, W) integer, spacing (z, y, x) in mm."""

    title: str
    image: NDArray[np.float32]
    mask: NDArray[np.integer]
    spacing: tuple[float, float, float]


@dataclass(frozen=True)
class _Panel:
    image: NDArray[np.float32]
    mask: NDArray[np.integer]
    pixel: tuple[float, float]

    @property
    def millimetres(self) -> tuple[float, float]:
        """Height and width."""
        return self.image.shape[0] * self.pixel[0], self.image.shape[1] * self.pixel[1]


def comparison(rows: Sequence[PictureRow], path: Path, labels: Mapping[int, str] | None = None) -> Path:
    """A row a volume, three planes through its mask's centroid, each without and with the mask's contours.

    `labels` names the label ids for the legend. Returns `path` (PNG). Raises BadInput for no rows or an image
    that is not of its mask's shape.
    """
    if not rows:
        raise BadInput("comparison picture: no volumes given")
    panels = [_panels(row) for row in rows]
    widths = [max(row[column].millimetres[1] for row in panels) for column in range(3) for _ in range(2)]
    heights = [max(panel.millimetres[0] for panel in row) for row in panels]
    inches = PANEL_INCHES / max(*widths, *heights)
    size = (sum(widths) * inches + 1.2, sum(heights) * inches + 0.75)
    figure = _figure(size, face="black")
    grid = figure.subplots(len(rows), 6, squeeze=False, gridspec_kw={"width_ratios": widths, "height_ratios": heights})
    for row, line, axes in zip(rows, panels, grid, strict=True):
        for column, (panel, with_mask) in enumerate((panel, mask) for panel in line for mask in (False, True)):
            _draw_panel(axes[column], panel, with_mask=with_mask)
        axes[0].set_ylabel(row.title, color="white", fontsize=8)
    for column, plane in enumerate(PLANES):
        grid[0][2 * column].set_title(plane, color="white", fontsize=9)
        grid[0][2 * column + 1].set_title("with mask", color="#b8b8b8", fontsize=8)
    _label_legend(figure, rows, labels or {})
    return _save(figure, path)


def across_border(rows: Sequence[PictureRow], border: int, path: Path) -> Path:
    """A row a volume, four consecutive axial slices, the middle two by different windows (after Figure 5).

    border: the second of the four. Returns `path` (PNG). Raises BadInput for no rows, or where there are no such four.
    """
    shown = range(border - 1, border + 3)
    for row in rows:
        if shown.start < 0 or shown.stop > len(row.image):
            raise BadInput(f"picture of slices, {row.title}: no slices {shown.start} to {shown.stop - 1}")
    if not rows:
        raise BadInput("picture of slices: no volumes given")
    box = _content(rows[0])[1:]
    panels = [[_Panel(row.image[z][box], row.mask[z][box], row.spacing[1:]) for z in shown] for row in rows]
    height, width = (panels[0][0].image.shape[k] * rows[0].spacing[1 + k] for k in (0, 1))
    inches = PANEL_INCHES / max(height, width)
    figure = _figure((4 * width * inches + 1.2, len(rows) * height * inches + 0.4), face="black")
    grid = figure.subplots(len(rows), 4, squeeze=False)
    for row, line, axes in zip(rows, panels, grid, strict=True):
        for panel, one in zip(line, axes, strict=True):
            _draw_panel(one, panel, with_mask=False)
        axes[0].set_ylabel(row.title, color="white", fontsize=8)
    for z, one in zip(shown, grid[0], strict=True):
        one.set_title(f"slice {z + 1}, {'one' if z <= border else 'another'} window", color="white", fontsize=8)
    return _save(figure, path)


def shared_border(borders: Sequence[Collection[int]], Z: int) -> int | None:
    """The border nearest to the middle that several volumes of Z slices all have, for `across_border`."""
    shared = set(range(1, Z - 2)).intersection(*borders)
    return min(shared, key=lambda k: (abs(k - Z / 2), k), default=None)


def loss_curve(frames: Mapping[str, tuple[Numbers, Numbers]], path: Path) -> Path:
    """Training losses by name as (steps, losses): raw faint, smoothed bold, on a logarithmic axis.

    Returns `path` (PNG). Raises BadInput where there is nothing to draw or a loss is not above zero.
    """
    if not any(len(steps) for steps, _ in frames.values()):
        raise BadInput(f"loss curve of {sorted(frames)}: no steps recorded")
    figure = _figure((7.2, 3.6))
    axes = figure.subplots()
    for (name, (steps, losses)), colour in zip(frames.items(), _cycle(LINE_COLOURS), strict=False):
        values = np.asarray(losses, dtype=np.float64)
        if not (values > 0).all():
            raise BadInput(f"loss curve of {name}: losses must be above zero, found {values.min()}")
        axes.plot(steps, values, color=colour, alpha=0.22, linewidth=0.7)
        axes.plot(steps, _smoothed(values), color=colour, linewidth=1.8, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss (log scale)")
    axes.legend(frameon=False, fontsize=9)
    _plain(axes)
    return _save(figure, path)


def distance_histogram(synthetic: Numbers, held_out: Numbers, path: Path) -> Path:
    """Distances to the nearest training volume, synthetic beside held-out real ones, with their medians.

    Returns `path` (PNG). Raises BadInput where either set is empty.
    """
    sets = {"synthetic": np.asarray(synthetic, float), "held-out real": np.asarray(held_out, float)}
    for name, values in sets.items():
        if not values.size:
            raise BadInput(f"histogram of nearest distances: no {name} volumes")
    everything = np.concatenate(list(sets.values()))
    upper = max(float(everything.max()) * 1.05, 1e-6)
    bins = np.linspace(0, upper, min(30, max(10, int(2 * np.sqrt(everything.size)))) + 1)
    figure = _figure((7.2, 3.2))
    axes = figure.subplots()
    for (name, values), colour in zip(sets.items(), (SYNTHETIC, REAL), strict=True):
        share = np.full(values.size, 1 / values.size)
        label = f"{name} (n = {values.size})"
        axes.hist(values, bins=bins.tolist(), weights=share, color=colour, alpha=0.45, label=label)
        axes.axvline(float(np.median(values)), color=colour, linestyle="--", linewidth=1.4)
    axes.set_xlabel("RMSE to the nearest training volume (images in [-1, 1]); dashed: median")
    axes.set_ylabel("share of volumes")
    axes.legend(frameon=False, fontsize=9)
    _plain(axes)
    return _save(figure, path)


def _panels(row: PictureRow) -> list[_Panel]:
    if row.image.shape != row.mask.shape or row.image.ndim != 3:
        shapes = f"image of shape {row.image.shape}, mask of shape {row.mask.shape}"
        raise BadInput(f"comparison picture, {row.title}: {shapes}; expected one shape (Z, H, W)")
    box = _content(row)
    image, mask = row.image[box], row.mask[box]
    inside = np.argwhere(mask > 0)
    centre = inside.mean(axis=0) if len(inside) else (np.array(mask.shape) - 1) / 2
    z, y, x = (round(index) for index in centre)
    dz, dy, dx = row.spacing
    return [
        _Panel(image[z], mask[z], (dy, dx)),
        _Panel(image[:, y], mask[:, y], (dz, dx)),
        _Panel(image[:, :, x], mask[:, :, x], (dz, dy)),
    ]


def _content(row: PictureRow) -> tuple[slice, ...]:
    """The box of what is not background, so that padding does not shrink the anatomy."""
    shown = (row.image > -0.95) | (row.mask > 0)
    lines = [np.flatnonzero(shown.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not lines[0].size:
        return (slice(None),) * 3
    return tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines)


def _draw_panel(axes: Axes, panel: _Panel, *, with_mask: bool) -> None:
    axes.set_facecolor("black")
    axes.imshow(panel.image, cmap="gray", vmin=-1, vmax=1, origin="lower", interpolation="bilinear")
    axes.set_aspect(panel.pixel[0] / panel.pixel[1], anchor="N")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    present = np.unique(panel.mask[panel.mask > 0]).tolist() if with_mask else []
    for label in present:
        shape = np.pad((panel.mask == label).astype(float), 1)
        ys, xs = np.arange(shape.shape[0]) - 1, np.arange(shape.shape[1]) - 1
        axes.contour(xs, ys, shape, levels=[0.5], colors=[_label_colour(label)], linewidths=1.1)
    axes.set_xlim(-0.5, panel.image.shape[1] - 0.5)
    axes.set_ylim(-0.5, panel.image.shape[0] - 0.5)


def _label_legend(figure: Figure, rows: Sequence[PictureRow], labels: Mapping[int, str]) -> None:
    from matplotlib.lines import Line2D

    present = sorted({int(label) for row in rows for label in np.unique(row.mask) if label > 0})
    lines = [Line2D([], [], color=_label_colour(label), linewidth=2) for label in present]
    names = [labels.get(label, f"label {label}") for label in present]
    if present:
        figure.legend(
            lines, names, loc="outside lower center", ncols=min(len(names), 8), frameon=False, fontsize=8,
            labelcolor="white",
        )  # fmt: skip


def _label_colour(label: int) -> str:
    return LABEL_COLOURS[(label - 1) % len(LABEL_COLOURS)]


def _cycle(colours: Sequence[str]) -> Iterator[str]:
    while True:
        yield from colours


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A centred running mean over a twenty-fifth of the curve, shorter at its ends so that they are not bent."""
    half = max(1, len(values) // 50)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(np.minimum(index, len(values) - 1 - index), half)
    smoothed: NDArray[np.float64] = (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)
    return smoothed


def _figure(size: tuple[float, float], face: str = "white") -> Figure:
    """A figure with no window system behind it: safe in worker processes and threads."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, facecolor=face, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e5e7eb", linewidth=0.7)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # without the library's version in the file, its bytes depend on the content alone
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.06, metadata={"Software": None})
    return path
