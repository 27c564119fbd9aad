"""What is compared with what: the arms of each study, the seeds, and what counts as success. Written before the reported runs.

Protocol
- Unit: a held-out patient of the phantoms `report-8000` (test split, at least 300 patients), asked without a box on the image.
- Equal compute: every arm takes the same number of steps of the same batch, model, schedule and data order.
- Pairing: arms share seeds (initial weights, order, draws) and patients. Seeds and patients are both random effects.
- Primary metric: `mean_iou` (one-to-one matched, misses and spurious boxes count). Secondary: `answer_accuracy`,
  `answer_and_box`; they are reported, not tested.
- Primary comparison: `medclm` against the best fixed `mixture`, 8 seeds, two-sided exact sign-flip test over seeds at 0.05.
  Target: a gain of at least 0.02 mean IoU. Everything else is secondary and adjusted together (Holm); with 3 seeds no
  p-value can be below 0.25, so those rows describe.
- Tuning (which mixture is best, what the default recipe is) uses the phantoms `tune-8000` and seeds 0 to 2 alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.curriculum.runs import Job

PRIMARY = "mean_iou"
TARGET = 0.02
BASELINE = "mixture"
MIXTURE = (0.5, 0.5, 0.0)
"""Best of the tuning study."""
MAIN_SEEDS = tuple(range(10, 18))
FEW_SEEDS = MAIN_SEEDS[:3]
TUNING_SEEDS = (0, 1)
TUNED_MIXTURES = ((0.5, 0.5, 0.0), (0.25, 0.75, 0.0), (0.75, 0.25, 0.0), (0.4, 0.4, 0.2))


@dataclass(frozen=True)
class Arm:
    """One row of a table."""

    name: str
    corpus: str
    flags: tuple[str, ...]
    seeds: tuple[int, ...]
    instruction: str = "reason"

    def jobs(self) -> list[Job]:
        """One job a seed."""
        judged_on = self.corpus if self.corpus.startswith("brats") else f"{self.corpus.split('-')[0]}-8000"
        flags = tuple(sorted(self.flags))
        return [Job(self.corpus, judged_on, seed, flags, instruction=self.instruction) for seed in self.seeds]


def _policy(name: str) -> tuple[str, ...]:
    return (f"--curriculum.policy={name}",)


def _mixture(shares: tuple[float, ...]) -> tuple[str, ...]:
    return (*_policy("mixture"), f"--curriculum.mixture={list(shares)}")


def _pair(corpus: str, seeds: tuple[int, ...], *flags: str) -> list[Arm]:
    arms = {"medclm": _policy("medclm"), BASELINE: _mixture(MIXTURE)}
    return [Arm(name, corpus, (*policy, *flags), seeds) for name, policy in arms.items()]


OTHERS = (
    "medclm_published",
    "threshold",
    "easy_only",
    "medium_only",
    "hard_only",
    "sequential",
    "reverse",
    "learning_progress",
)
REPORT = "report-8000"

STUDIES: dict[str, list[Arm]] = {
    "tune": [
        *(Arm(f"mixture {shares}", "tune-8000", _mixture(shares), TUNING_SEEDS) for shares in TUNED_MIXTURES),
        *(Arm(name, "tune-8000", _policy(name), TUNING_SEEDS) for name in ("medclm", "medium_only")),
    ],
    "main": _pair(REPORT, MAIN_SEEDS),
    "policies": [Arm(name, REPORT, _policy(name), FEW_SEEDS) for name in OTHERS],
    "ablations": [
        Arm("answer only", f"{REPORT}-answer_only", _policy("hard_only"), FEW_SEEDS, instruction="direct"),
        *(
            Arm(f"{name.replace('_', ' ')} rationale", f"{REPORT}-{name}", _mixture(MIXTURE), FEW_SEEDS)
            for name in ("shuffled", "box_only", "no_organ")
        ),
    ],
    "noise": _pair(f"{REPORT}-noise", FEW_SEEDS),
    "tail": _pair(f"{REPORT}-tail", FEW_SEEDS),
    "few": _pair("report-800", FEW_SEEDS),
    "brats": [
        arm for fold in (1, 2, 3, 4) for arm in _pair(f"brats-{fold}", FEW_SEEDS, "--train.steps=150", "--data.min_side=2")
    ],
}
"""Study -> arms. The ablations are of the mixture, so that the policy does not change with them."""
