"""Walking the parents of artifacts, upward to the source and downward to what was made from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from data_catalog.refs import Artifact, Ref


def upward(start: str, known: Mapping[str, Artifact]) -> list[tuple[int, Artifact | Ref]]:
    """The version `start` at depth 0 and all it descends from, a parent after its child and one deeper.

    Each ancestor stands once, where the walk (parents in their recorded order) meets it first; a parent that the
    catalog does not hold stands as its bare reference.
    """
    found: list[tuple[int, Artifact | Ref]] = []
    waiting = [(0, known[start].ref.full)]
    seen: set[str] = set()
    while waiting:
        depth, text = waiting.pop()
        if text in seen:
            continue
        seen.add(text)
        artifact = known.get(text.rpartition("@")[2])
        found.append((depth, artifact or Ref.parse(text)))
        if artifact is not None:
            waiting.extend((depth + 1, parent) for parent in reversed(artifact.parents))
    return found


def downward(parent: str, known: Iterable[Artifact]) -> list[Artifact]:
    """The artifacts that name the version `parent` among their parents, in the order given."""
    return [each for each in known if any(text.endswith(f"@{parent}") for text in each.parents)]
