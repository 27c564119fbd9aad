"""An experiment's runs compared: read once, printed, and written as a page where one is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.runs.comparison import gather
from eval.runs.comparison_page import write_page
from eval.runs.comparison_text import print_comparison


def compare_experiment(
    experiment: str, *, uri: str, metrics: Sequence[str] = (), target: float | None = None, out: Path | None = None
) -> None:
    """Print the runs of an experiment side by side, and write them to the HTML file `out` if one is named.

    Args:
        experiment: its name in the store.
        uri: the MLflow store.
        metrics: what to compare; none = the headline scores and losses that any run has.
        target: value that the one metric shall reach.
        out: HTML file (`page.check_page`); replaced if it is there.

    Raises:
        ValueError: unknown experiment or metric, no runs, or a target without its one metric.
        RuntimeError: the store cannot be read.
    """
    comparison = gather(experiment, uri=uri, metrics=metrics, target=target)
    print_comparison(comparison)
    if out is not None:
        write_page(comparison, out)
        print(f"page: {out} ({out.stat().st_size / 1e6:.1f} MB)")
