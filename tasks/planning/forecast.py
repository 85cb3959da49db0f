"""What `--dry-run` tells: which stages would run, how much they hold, and about how long they take."""

from collections.abc import Sequence
from dataclasses import asdict

from pydantic import BaseModel

from tasks.frame.stage import Run
from tasks.planning.estimates import Estimate, known
from tasks.planning.workload import Load


class StageForecast(BaseModel):
    """One stage: whether the catalog has it, what it would do, and an estimate where there is a basis for one."""

    name: str
    cached: bool
    needless: str = ""
    """Why a run can do without it, and what would need it."""
    work: str = ""
    network_calls: int = 0
    seconds: float | None = None
    memory_gib: float | None = None


class Forecast(BaseModel):
    """The whole run."""

    dataset: str
    profile: str
    cases: int
    slices: int
    unreadable: list[str]
    """Faults that show in the headers: cases that are left out here, and at which `enhance` stops or skips them."""
    stages: list[StageForecast]

    def text(self) -> str:
        """A table for a person."""
        lines = [f"{self.dataset}: {self.cases} cases, about {self.slices} slices; profile {self.profile}"]
        lines += [f"faulty: {line}" for line in self.unreadable]
        if self.unreadable:
            lines.append("`gem3d check` lists all faults; enhance stops at them, or leaves them out with --skip-bad.")
        lines.append("")
        lines.append(f"{'stage':<26}{'state':>12}{'calls':>10}{'about':>10}{'memory':>10}  work")
        for s in self.stages:
            seconds = "-" if s.seconds is None else f"{s.seconds / 60:.1f} min"
            memory = "-" if s.memory_gib is None else f"{s.memory_gib:.1f} GiB"
            state = "not needed" if s.needless else "cached" if s.cached else "to do"
            lines.append(
                f"{s.name:<26}{state:>12}{s.network_calls or '-':>10}{seconds:>10}{memory:>10}  {s.needless or s.work}"
            )
        to_do = [s for s in self.stages if not s.cached and not s.needless]
        waiting = sum(s.seconds or 0.0 for s in to_do)
        if any(s.seconds is None for s in to_do):
            lines += ["", "How long networks take on a GPU can be told only where there is one."]
            return "\n".join(lines)
        lines += [
            "",
            f"About {waiting / 60:.0f} min in all: networks by operations counted over this machine's measured speed,",
            "the rest by seconds a voxel measured on two cores; right within a factor of two or three.",
        ]
        return "\n".join(lines)


def line(name: str, estimate: Estimate, *, cached: bool, needless: str = "") -> StageForecast:
    """A stage with its estimate, which one that is not needed lacks."""
    if needless:
        return StageForecast(name=name, cached=False, needless=needless)
    return StageForecast(name=name, cached=cached, **asdict(known(estimate)))


def forecast_of(run: Run, load: Load, stages: Sequence[StageForecast]) -> Forecast:
    """The whole run from its stages."""
    return Forecast(
        dataset=str(run.dataset),
        profile=run.config.profile,
        cases=len(load.depths),
        slices=load.slices,
        unreadable=list(load.unreadable),
        stages=list(stages),
    )
