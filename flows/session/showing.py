"""What Prefect's interface shows of a run: the stages, the datasets and the metrics as artifacts."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

Rows = list[dict[str, object]]


def show_summary(summary: Mapping[str, object]) -> None:
    """Tables of stages, datasets and metrics, the report as Markdown, a link to it and its first picture."""
    stages, datasets = cast("Rows", summary["stages"]), cast("Rows", summary["datasets"])
    create_table_artifact(table=stages, key="stages", description="Seconds of each stage; cached: nothing to do")
    if datasets:
        create_table_artifact(table=datasets, key="datasets", description="nnU-Net raw folders")
    metrics = cast("dict[str, float | None]", summary["metrics"])
    if metrics:
        rows = [{"metric": name, "value": "not available" if v is None else f"{v:.4f}"} for name, v in metrics.items()]
        create_table_artifact(table=rows, key="metrics", description="Headline numbers; the report has all of them")
    if summary["report"]:
        _show_report(Path(str(summary["report"])))


def show_tables(page: Path) -> None:
    """The tables as Markdown, and a link to them."""
    create_markdown_artifact(markdown=page.read_text(), key="tables", description="The paper's tables")
    create_link_artifact(link=page.as_uri(), link_text=page.name, key="tables-page", description="With pictures")


def _show_report(folder: Path) -> None:
    create_markdown_artifact(markdown=(folder / "report.md").read_text(), key="report", description="The report")
    link = (folder / "report.html").as_uri()
    create_link_artifact(link=link, link_text="report.html", key="report-page", description="The report with pictures")
    for picture in sorted(folder.rglob("*.png"), key=lambda path: path.stat().st_size)[:1]:
        # inlined, because a page that came by http may not show a file of this machine
        inlined = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
        create_image_artifact(image_url=inlined, key="report-picture", description=picture.stem)
