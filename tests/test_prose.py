"""Pages and docstrings that are understood at the first reading, as far as one can count."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WRITTEN_BY_SCRIPTS = {"report.md", "tables.md"} | {
    f"{name}.md" for name in ("continuation", "gpu", "growth", "io", "maisi", "memory", "sampling", "training")
}
"""Pages of docs/results whose captions are written by what measures."""
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name not in WRITTEN_BY_SCRIPTS),
]
PARTS = ("configs", "data_catalog", "flows", "gem3d_core", "tasks")
"""Whose docstrings are counted."""
LONGEST = 40
"""Words of a sentence."""

NUMBER = r"(\d+(?:\.\d+)?)(%?)"
DRAWN = re.compile(r"\b(drawn|draws|drew|drawing)\b", re.IGNORECASE)


def sentences(text: str) -> Iterator[str]:
    """The sentences of a page: without code, comments, tables, headings, directives, pictures and addresses."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^(?P<indent> *)```.*?^(?P=indent)```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`]*`", "Code", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    blocks: list[str] = [""]
    for line in text.splitlines():
        bare = line.strip()
        if not bare or bare.startswith(("|", "#", "===", ":::", "!!!", "???")):
            blocks.append("")
        elif re.match(r"([-*]|\d+\.) ", bare):
            blocks.append(re.sub(r"^([-*]|\d+\.) ", "", bare))
        else:
            blocks[-1] += f" {bare}"
    for block in blocks:
        plain = re.sub(r"[*_]", "", block).replace("et al.", "et al").replace("e.g.", "eg").strip()
        yield from (found for found in re.split(r"(?<=[.!?])[\")]?\s+(?=[^a-z])", plain) if found)


def words(sentence: str) -> int:
    return len(re.findall(r"[\w'’./-]*\w[\w'’./-]*", sentence))


def compared(sentence: str) -> str | None:
    """`0.591 to 0.463` for "0.591, where the other has 0.463": a range ascends, and is of whole numbers or amounts."""
    if found := re.search(r"\d+ / \d+ to \d+ / \d+|\d+ / \d+ / \d+ to \d+", sentence):
        return found.group(0)
    for found in re.finditer(rf"{NUMBER} to {NUMBER}", sentence):
        first, percent, second, other = found.groups()
        of_scores = "." in first and "." in second and max(float(first), float(second)) <= 1
        if float(first) > float(second) or of_scores or (percent and other):
            return found.group(0)
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_sentence_is_longer_than_one_reading(page: Path) -> None:
    long = [sentence for sentence in sentences(page.read_text()) if words(sentence) > LONGEST]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_numbers_are_compared_in_words(page: Path) -> None:
    found = [told for sentence in sentences(page.read_text()) if (told := compared(sentence))]
    assert found == [], "write: A, where B has; or A (B without it)"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_volumes_are_sampled_and_only_parameters_are_drawn(page: Path) -> None:
    found = [s for s in sentences(page.read_text()) if DRAWN.search(s) and "parameter" not in s.lower()]
    assert found == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def told(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Docstrings of modules, classes and functions, and the strings beneath fields and constants, with their lines."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            value = child.value if isinstance(child, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.lineno, value.value


@pytest.mark.parametrize("part", PARTS)
def test_docstrings_begin_with_what_they_are_about(part: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in sorted((ROOT / part).rglob("*.py"))
        for line, text in told(ast.parse(path.read_text()))
        if text.strip().startswith("Of ")
    ]
    assert found == []


def test_sentences_are_told_apart() -> None:
    page = """# A heading that is long

A first sentence with `code, which. is` and [words](of/a/link.md). A second one
goes on here: it ends.

- an item
- another (with 95% [0.1, 0.2])

| a table | that nobody reads as a sentence |

```
gem3d code
```
<!-- a comment -->
"""
    assert list(sentences(page)) == [
        "A first sentence with Code and words.",
        "A second one goes on here: it ends.",
        "an item",
        "another (with 95% [0.1, 0.2])",
    ]


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("MS-SSIM 0.591 to 0.463", "0.591 to 0.463"),
        ("FID 79 / 118 / 109 to 158 / 255 / 244", "79 / 118 / 109 to 158"),
        ("nnU-Net finds it with 81% to 53%", "81% to 53%"),
        ("borders are 1.04 to 1.30", None),
        ("Tables 1 to 3, in 65 to 75 seconds, 2.4 to 3.3 times", None),
    ],
)
def test_comparisons_are_told_from_ranges(sentence: str, told: str | None) -> None:
    assert compared(sentence) == told
