"""Reports and pictures: complete, self-contained, safe against markup, never a blank where a value is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from gem3d_core.errors import BadInput
from gem3d_core.metrics.frechet import Fid
from gem3d_core.metrics.intervals import Interval
from gem3d_core.metrics.overlap import CaseOverlap, Overlap
from gem3d_core.report.document import Column, Missing, Report, StageTime, Table, print_cell, write_report
from gem3d_core.report.pictures import (
    PictureRow,
    across_border,
    comparison,
    distance_histogram,
    loss_curve,
    shared_border,
)
from gem3d_core.report.tables import (
    continuity_table,
    downstream_table,
    fid_table,
    neighbours_table,
    paired_table,
    privacy_table,
)
from gem3d_core.spec.terms import PLANES, Plane

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Collects text, addresses and ids, and fails on tags that do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.cells: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag in {"td", "dd"}:
            self.cells.append("")
        given = dict(attrs)
        self.ids += [given["id"]] if given.get("id") else []  # type: ignore[list-item]
        self.addresses += [value for key, value in attrs if key in {"src", "href"} and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "dd"} & set(self.open):
            self.cells[-1] += data


def case(dice: float, hd95: float) -> CaseOverlap:
    return CaseOverlap({"anterior": Overlap(dice, hd95)}, Overlap(dice, hd95))


def tables() -> tuple[Table, ...]:
    fids: dict[Plane, Fid] = {plane: Fid(12.347, 100, 90) for plane in PLANES}
    no_test = Missing("one case leaves no test split")
    return (
        fid_table({"1x": fids, "2x": Missing("not asked for")}, extractor="EfficientNet-Lite0"),
        paired_table({"test": ([0.8, 0.9, 0.7], Missing("no LPIPS trunk"))}),
        continuity_table({"1x": ([1.1, None, 0.9], {"axial": [1.0, 1.2], "coronal": [0.9], "sagittal": [None]})}),
        downstream_table({"true": [case(0.8, 1.5), case(0.9, 1.2)], "1x": [case(0.7, 2.0)] * 2, "3x": no_test}),
        privacy_table([0.4, 0.5, 0.45], no_test, training=160),
    )


@pytest.fixture
def report(tmp_path: Path) -> Report:
    generator = np.random.default_rng(0)
    steps = np.arange(50)
    curve = loss_curve({"slice model": (steps, np.exp(-steps / 20))}, tmp_path / "in" / "loss curve.png")
    distances = distance_histogram(generator.random(9), generator.random(5), tmp_path / "in" / "near.png")
    return Report(
        title="Hippocampus <enhanced> | 3x",
        verdict="3x keeps 97% of the true data's Dice.",
        summary={"volumes": 480, "Dice at 3x": Interval(0.81, 0.79, 0.83, 40), "gain": Missing("one arm only")},
        dataset={"cases": 200, "spacing [mm]": "1.0 x 1.0 x 1.0", "psnr": float("nan")},
        split={"train": 160, "test": 40},
        quarantined=("case_7: imagesTr/case_7_0000.nii.gz: <truncated>",),
        not_evaluated={"LPIPS": "the AlexNet trunk was not found; put it into --weights"},
        stages=(
            StageTime("ingest", 0.4, ref="source/h@abc"),
            StageTime("encode", 0.0, ref="latents/h@d"),
        ),
        tables=tables(),
        pictures=(("losses & more", curve), ("nearest distances", distances)),
        configuration="train:\n  steps: 10 # <fast>\n",
        provenance={"model": "model/h@0123"},
    )


def test_html_is_one_file_with_every_picture_inside(report: Report, tmp_path: Path) -> None:
    _, html = write_report(report, tmp_path / "out")
    page = Page(html.read_text())
    pictures = [address for address in page.addresses if address.startswith("data:image/png;base64,")]
    links = [address for address in page.addresses if address.startswith("#")]
    assert len(pictures) == 2
    assert len(pictures) + len(links) == len(page.addresses)
    assert {link[1:] for link in links} <= set(page.ids)
    assert "prefers-color-scheme: dark" in html.read_text()
    assert "&lt;enhanced&gt;" in html.read_text()
    assert "<truncated>" not in html.read_text()


def test_markdown_tables_are_whole_and_pictures_lie_beside(report: Report, tmp_path: Path) -> None:
    markdown, _ = write_report(report, tmp_path / "out")
    text = markdown.read_text()
    for address in re.findall(r"!\[[^\n]*\]\((.*?)\)", text):
        assert (tmp_path / "out" / address.replace("%20", " ")).is_file()
    assert len(re.findall(r"!\[", text)) == 2
    blocks = re.findall(r"(?:^\|.*\|$\n?)+", text, flags=re.MULTILINE)
    assert len(blocks) == 3 + 5 + 1
    for block in blocks:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().splitlines()}
        assert len(widths) == 1
    assert "\n\n\n\n" not in text
    assert "train:\n  steps: 10 # <fast>" in text


@pytest.mark.parametrize("which", [0, 1])
def test_what_is_missing_is_said_with_its_reason(report: Report, tmp_path: Path, which: int) -> None:
    text = write_report(report, tmp_path / "out")[which].read_text()
    for reason in (
        "one arm only",
        "one case leaves no test split",
        "the real volumes do not change along this axis",
        "no LPIPS trunk",
        "the value is nan",
        "the AlexNet trunk was not found",
    ):
        assert f"not available: {reason}" in text
    if which == 1:
        assert all(cell.strip() for cell in Page(text).cells)


def test_captions_say_n_units_and_directions(report: Report, tmp_path: Path) -> None:
    for path in write_report(report, tmp_path / "out"):
        text = path.read_text().replace("\\", "")
        for heading in ("Dice [%] ↑", "HD95 [mm] ↓", "FID axial ↓", "MS-SSIM ↑", "border → 1", "mean distance [RMSE]"):
            assert heading in text
        for n in ("true: 2, 1x: 2", "test: 3", "synthetic: 3; training volumes: 160"):
            assert n in text


def test_numbers_are_those_that_were_measured() -> None:
    fid, paired, continuity, downstream, privacy = (table.printed for table in tables())
    assert fid[0] == ["1x", "12.35", "12.35", "12.35", "90 / 100, 90 / 100, 90 / 100"]
    assert fid[1][4] == "not available: not asked for"
    assert paired[0][1].startswith("0.800 [0.7")
    assert paired[0][2] == "not available: no LPIPS trunk"
    assert continuity[0][1].startswith("1.000 [0.9")
    assert continuity[0][3] == "0.900 (one case: no interval)"
    assert downstream[0][:2] == ["true", "anterior"]
    assert downstream[0][2].startswith("85.00 [80.00, 90.00]")
    assert downstream[1][1] == "mean of labels"
    assert privacy[0][2] == "0.400"


def test_cells_are_never_blank() -> None:
    assert print_cell("") == "not available: no value was recorded"
    assert print_cell(float("inf")).startswith("not available")
    assert print_cell(0) == "0"
    assert print_cell(0.0) == "0.000"
    assert print_cell(Missing("why")) == "not available: why"
    broken = downstream_table({"true": [case(float("nan"), 1.0), case(0.5, 1.0)]})
    assert "1 of 2 values are not finite" in broken.printed[0][2]


def test_an_empty_report_is_whole(tmp_path: Path) -> None:
    empty = Report("t", "v", {}, {}, {}, (), {}, (), (), (), "", {})
    markdown, html = write_report(empty, tmp_path)
    Page(html.read_text())
    for path in (markdown, html):
        for said in ("No case had a fault", "Everything that was asked for", "No pictures", "No artifacts"):
            assert said in path.read_text()


def test_the_same_report_is_written_with_the_same_bytes(report: Report, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_report(report, tmp_path / "a")]
    assert first == [path.read_bytes() for path in write_report(report, tmp_path / "b")]


def test_faulty_reports_are_refused(report: Report, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a row of 1 cells"):
        Table("t", "c", "1", (Column("a"), Column("b")), ((1,),))
    lost = Report(**{**report.__dict__, "pictures": (("gone", tmp_path / "gone.png"),)})
    with pytest.raises(BadInput, match=r"gone\.png"):
        write_report(lost, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_report_starts_without_torch() -> None:
    code = "import gem3d_core.report.document, gem3d_core.report.tables, sys; print('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "False"


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(path))[..., :3]


def row(title: str, *, mask: bool = True, depth: int = 6) -> PictureRow:
    image = np.full((depth, 20, 24), -1, np.float32)
    image[:, 4:16, 4:20] = 0.2
    labels = np.zeros(image.shape, np.uint8)
    if mask:
        labels[2:5, 6:12, 8:14] = 1
    return PictureRow(title, image, labels, (3.0, 1.0, 1.0))


def coloured(path: Path) -> int:
    picture = pixels(path)
    return int(((picture.max(-1) - picture.min(-1)) > 0.4).sum())


def test_comparison_draws_contours_of_present_labels_only(tmp_path: Path) -> None:
    with_mask = comparison([row("real"), row("synthetic", depth=9)], tmp_path / "a.png", {1: "tumour"})
    without = comparison([row("real", mask=False)], tmp_path / "b.png")
    assert coloured(with_mask) > 500
    assert coloured(without) == 0
    again = comparison([row("real"), row("synthetic", depth=9)], tmp_path / "c.png", {1: "tumour"})
    assert again.read_bytes() == with_mask.read_bytes()


def test_planes_are_drawn_in_millimetres(tmp_path: Path) -> None:
    tall = pixels(comparison([row("real", depth=20)], tmp_path / "tall.png"))
    flat = pixels(comparison([row("real", depth=4)], tmp_path / "flat.png"))
    # 20 slices of 3 mm are higher than the 12 mm shown in plane: coronal and sagittal stand upright
    assert tall.shape[0] / tall.shape[1] > 1.5 * flat.shape[0] / flat.shape[1]


def test_slices_across_a_border_stand_side_by_side(tmp_path: Path) -> None:
    bright = row("jumps", mask=False)
    bright.image[3:, 4:16, 4:20] = 1.0
    across_border([row("smooth", mask=False), bright], 2, tmp_path / "a.png")
    shown = pixels(tmp_path / "a.png")
    lower = shown[shown.shape[0] // 2 :]
    greys = [float(np.median(part)) for part in np.array_split(lower, 4, axis=1)]
    assert greys[0] == pytest.approx(0.6, abs=0.02), "0.2 of [-1, 1]"
    assert greys[3] == pytest.approx(1, abs=0.02), "the other window is white"
    with pytest.raises(BadInput, match="no slices 3 to 6"):
        across_border([bright], 4, tmp_path / "b.png")


def test_the_border_that_is_shown_is_one_of_all_and_has_slices_on_either_side() -> None:
    assert shared_border([[0, 3, 7, 13], [3, 7, 13], [0, 7, 3]], Z=16) == 7
    assert shared_border([[0, 13], [0, 13, 14]], Z=16) == 13, "13 has 14 and 15 behind it, 0 nothing before it"
    assert shared_border([[0, 14], [0, 14]], Z=16) is None
    assert shared_border([[4], [5]], Z=16) is None


def test_faulty_pictures_are_named(tmp_path: Path) -> None:
    wrong = PictureRow("odd", np.zeros((2, 3, 4), np.float32), np.zeros((2, 3, 5), np.uint8), (1, 1, 1))
    for call, message in (
        (lambda: comparison([], tmp_path / "x.png"), "no volumes"),
        (lambda: comparison([wrong], tmp_path / "x.png"), "odd"),
        (lambda: loss_curve({"m": ([], [])}, tmp_path / "x.png"), "no steps"),
        (lambda: loss_curve({"m": ([1], [-1.0])}, tmp_path / "x.png"), "above zero"),
        (lambda: distance_histogram([], [1.0], tmp_path / "x.png"), "no synthetic"),
    ):
        with pytest.raises(BadInput, match=message):
            call()
    assert not (tmp_path / "x.png").exists()


def test_kid_precision_and_recall_stand_plane_by_plane() -> None:
    score = Interval(0.25, 0.2, 0.3, 8)
    values = {f"{metric} {plane}": score for metric in ("KID", "precision", "recall") for plane in ("axial", "coronal")}
    table = neighbours_table({"synthetic": values}, extractor="a network")
    assert table.printed[0] == ["synthetic", "axial", "250.00 [200.00, 300.00]", *["0.25 [0.20, 0.30]"] * 2]
    assert all(isinstance(cell, Missing) for cell in table.rows[2][2:])
