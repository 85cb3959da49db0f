"""Tables of measurements as Markdown, which is also read well on a terminal."""

from gem3d_core.report.document import Table


def markdown(table: Table) -> str:
    """Title, caption, number of cases and the table itself."""
    headings = [column.heading for column in table.columns]
    rules = ["---" if textual else "---:" for textual in table.textual]
    lines = [f"| {' | '.join(cells)} |" for cells in (headings, rules, *table.printed)]
    return "\n".join([f"## {table.title}", "", table.caption, "", f"n: {table.n}", "", *lines])
