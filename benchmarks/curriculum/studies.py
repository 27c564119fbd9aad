"""What is compared with what: the arms of each study, the seeds, and what counts as success. Written before the reported runs.

Protocol
- Unit: a held-out patient of the phantoms `report-8000` (test split, at least 300 patients), asked without a box on the image.
- Equal compute: every arm takes the same number of steps of the same batch, model, schedule and data order.
- Pairing: arms share seeds (initial weights, order, draws) and patients. Seeds and patients are both random effects.
- Primary metric: `mean_iou` (one-to-one matched, misses and spurious boxes count). Secondary: `answer_accuracy`,
  `answer_and_box`; they are reported, not tested.
- Primary comparisons: `medclm` against the best fixed `mixture`, 8 seeds, two-sided exact sign-flip test over seeds at 0.05,
  target a gain of at least 0.02 mean IoU. Each was written before its own runs, and Holm adjusts the three together:
  `main`, on plain phantoms, with the method's 4 % of Easy alone;
  `faint`, on lesions that are hard to see, with 25 % of Easy alone, after tuning (study `faint-tune`);
  `confirm`, on other such phantoms and other seeds, with Easy until its box is read: what `faint` showed led to that rule, so its
  own phantoms and seeds could not judge it.
- Everything else is secondary and adjusted together (Holm); with 3 seeds no p-value can be below 0.25, so those rows describe.
- Tuning (which mixture is best, what the default recipe is) uses the phantoms `tune` and run seeds 0 and 1 alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.curriculum.runs import Job

PRIMARY = "mean_iou"
TARGET = 0.02
BASELINE = "mixture"
MIXTURE = (0.5, 0.5, 0.0)
"""Chosen on tuning phantoms; the study `tune` repeats the choice."""
MAIN_SEEDS = tuple(range(10, 18))
FEW_SEEDS = MAIN_SEEDS[:3]
CONFIRM_SEEDS = tuple(range(20, 28))
TUNING_SEEDS = (0, 1)
TUNED_MIXTURES = ((0.5, 0.5, 0.0), (0.25, 0.75, 0.0), (0.75, 0.25, 0.0))
PRIMARIES = ("main", "faint", "confirm")
"""Their first arm is compared with their baseline."""
WITH_HARD = (0.4, 0.4, 0.2)


@dataclass(frozen=True)
class Arm:
    """One row of a table."""

    name: str
    corpus: str
    flags: tuple[str, ...]
    seeds: tuple[int, ...]
    instruction: str = "reason"
    score: str = PRIMARY
    """What it is compared by: an arm that is never taught a box has no mean IoU worth comparing."""

    def jobs(self) -> list[Job]:
        """One job a seed."""
        phantoms, *_ = self.corpus.split("-")
        own = phantoms == "brats" or "-contrast" in self.corpus  # other pictures than the clean ones
        judged_on = self.corpus if own else f"{phantoms}-8000"
        flags = tuple(sorted(self.flags))
        return [Job(self.corpus, judged_on, seed, flags, instruction=self.instruction) for seed in self.seeds]


def _policy(name: str) -> tuple[str, ...]:
    return (f"--curriculum.policy={name}",)


def _mixture(shares: tuple[float, ...]) -> tuple[str, ...]:
    return (*_policy("mixture"), f"--curriculum.mixture={list(shares)}")


CLOCK_4 = _policy("medclm")
"""As published: recipe.yaml ends Easy alone at 4 % of the run."""
CLOCK_25 = (*_policy("medclm"), "--curriculum.medclm.easy_only_until=0.25", "--curriculum.medclm.hard_from=0.4")
UNTIL_READ = (*_policy("medclm"), "--curriculum.medclm.easy_at_most=0.4")
"""The default of `medclm`."""
ARM_NAMES = {CLOCK_4: "medclm, 4 % Easy", CLOCK_25: "medclm, 25 % Easy", UNTIL_READ: "medclm, Easy until read"}


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
REPORT, TUNE = "report-8000", "tune-8000"
FAINT = ("--train.steps=1200", "--data.prompt_line=14", "--data.prompt_opacity=192")
"""For lesions that are hard to find: boxes that are easy to see (two pixels wide at 48 px), and twice the steps."""
BRATS = ("--train.steps=150", "--data.min_side=2")
"""Few slices: fewer steps, and lesions down to 2 px."""


@dataclass(frozen=True)
class Study:
    """One table."""

    arms: tuple[Arm, ...]
    baseline: Arm
    """What every other arm is compared with."""
    tested: bool = True
    """Its comparisons are part of the family that Holm adjusts."""


def _paired(
    corpus: str, seeds: tuple[int, ...], *flags: str, medclm: tuple[str, ...] = UNTIL_READ, tested: bool = True
) -> Study:
    """`medclm` against the mixture, with the same flags."""
    arms = {ARM_NAMES[medclm]: medclm, BASELINE: _mixture(MIXTURE)}
    policy, baseline = (Arm(name, corpus, (*chosen, *flags), seeds) for name, chosen in arms.items())
    return Study((policy, baseline), baseline, tested)


def _weights() -> Study:
    """What the losses weigh: (answer, rationale) under the mixture, and Hard's where a fifth of the samples is Hard."""
    recipe = Arm("0.1 answer, 0.9 rationale", TUNE, _mixture(MIXTURE), TUNING_SEEDS)
    parts = [
        Arm(f"{answer} answer, {rationale} rationale", TUNE, (*_mixture(MIXTURE), *_weigh(answer, rationale)), TUNING_SEEDS)
        for answer, rationale in ((0.2, 0.8), (0.5, 0.5), (0.8, 0.2))
    ]
    hard = [
        Arm(f"20 % Hard, weight {weight}", TUNE, (*_mixture(WITH_HARD), f"--train.hard_weight={weight}"), TUNING_SEEDS)
        for weight in (0.1, 1.0)
    ]
    return Study((recipe, *parts, *hard), baseline=recipe, tested=False)


def _weigh(answer: float, rationale: float) -> tuple[str, ...]:
    return (f"--train.answer_weight={answer}", f"--train.rationale_weight={rationale}")


def _tuning(corpus: str, *flags: str) -> Study:
    """Which mixture is the one to beat, and how long Easy comes alone."""
    chosen = {f"mixture {shares}": _mixture(shares) for shares in TUNED_MIXTURES}
    chosen |= {name: flags for flags, name in ARM_NAMES.items()}
    chosen |= {"Easy 40 %, then Medium": (*_policy("sequential"), "--curriculum.sequential=[0.4,0.6,0.0]")}
    chosen |= {"medium_only": _policy("medium_only")}
    arms = tuple(Arm(name, corpus, (*policy, *flags), TUNING_SEEDS) for name, policy in chosen.items())
    return Study(arms, baseline=arms[0], tested=False)


MAIN = _paired(REPORT, MAIN_SEEDS, medclm=CLOCK_4, tested=False)
STUDIES: dict[str, Study] = {
    "weights": _weights(),
    "tune": _tuning(TUNE),
    "faint-tune": _tuning(f"{TUNE}-contrast40", *FAINT),
    "main": MAIN,
    "faint": _paired(f"{REPORT}-contrast40", MAIN_SEEDS, *FAINT, medclm=CLOCK_25, tested=False),
    "confirm": _paired("confirm-8000-contrast40", CONFIRM_SEEDS, *FAINT, tested=False),
    "plain": _paired(REPORT, MAIN_SEEDS),
    "policies": Study(tuple(Arm(name, REPORT, _policy(name), FEW_SEEDS) for name in OTHERS), MAIN.baseline),
    "ablations": Study(
        (
            Arm(
                "answer only",
                f"{REPORT}-answer_only",
                _policy("hard_only"),
                FEW_SEEDS,
                instruction="direct",
                score="answer_accuracy",
            ),
            *(
                Arm(f"{name.replace('_', ' ')} rationale", f"{REPORT}-{name}", _mixture(MIXTURE), FEW_SEEDS)
                for name in ("shuffled", "box_only", "no_organ")
            ),
        ),
        MAIN.baseline,
    ),
    "noise": _paired(f"{REPORT}-noise", FEW_SEEDS),
    "tail": _paired(f"{REPORT}-tail", FEW_SEEDS),
    "few": _paired("report-800", FEW_SEEDS),
    **{f"brats-{fold}": _paired(f"brats-{fold}", FEW_SEEDS, *BRATS, tested=False) for fold in (1, 2, 3, 4)},
}
"""The ablations are of the mixture, so that the policy does not change with them. The primary comparisons are tested on their own."""
