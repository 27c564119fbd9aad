"""The only page of knobs: one typed tree; precedence default < YAML file < `--section.key=value`. Imports no torch.

    recipe, rest = load_recipe(["--config", "train/configs/demo.yaml", "--train.lr=3e-4"])

Every mistake (an unknown key, a wrong type, values that contradict each other) is a `ConfigError` that names the dotted
key, the value and the cure. Environment variables are never read: a stray SEED=77 must not change a run.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, CliSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from medclm.credentials import has_credentials


class ConfigError(ValueError):
    """The user's recipe or command line is wrong; the message names the key, the value and the cure."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True, validate_default=True)


class RunSection(Section):
    name: str = "demo"
    """Folder of this run under `run.output_dir`, and its name in MLflow."""
    output_dir: Path = Path("runs")
    """Where runs are kept."""
    seed: int = Field(0, ge=0)
    """Seed of every draw: order, stages, visual prompts, initial weights."""
    stop_after_min: float = Field(0.0, ge=0)
    """Minutes after its start in which a run stops, saves and exits, to be resumed; 0 = no limit. Leave room for a step and a save."""


class LoraSection(Section):
    rank: int = Field(0, ge=0)
    """Rank of the adapters in the language model; 0 trains without LoRA."""
    alpha: float = Field(32.0, gt=0)
    """Adapter output is scaled by alpha / rank."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """Dropout on the adapters' input."""
    targets: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    """Last parts of the names of language-model linear layers that get an adapter; a name that matches none is an error."""


class TinySection(Section):
    image_size: int = Field(64, ge=16)
    """Side of the tiny model's square input in pixels."""
    patch_size: int = Field(8, ge=4)
    """Side of a vision patch in pixels; divides image_size."""
    vision_width: int = Field(128, ge=16)
    """Hidden units of the vision tower."""
    vision_layers: int = Field(4, ge=2)
    """Layers of the vision tower."""
    width: int = Field(128, ge=16)
    """Hidden units of the language model."""
    layers: int = Field(4, ge=1)
    """Layers of the language model."""
    heads: int = Field(4, ge=1)
    """Attention heads of both towers; divides both widths."""
    vocab_size: int = Field(1024, ge=300)
    """Upper bound of the tokenizer made from the corpus's own training texts."""


Tiles = Literal["1", "1+4"]


class ModelSection(Section):
    family: Literal["vip_llava", "qwen3_vl"] = "vip_llava"
    """Model family behind medclm/models/protocol.py."""
    path: str = "tiny"
    """Local folder in the transformers layout, a hub id (fetched only because you name it), or `tiny`: a small model with
    random weights and its own tokenizer, made from `model.tiny`."""
    image_size: int = Field(0, ge=0)
    """Side of the model's square input in pixels, for families that take squares of any size (Qwen3-VL: a multiple of 32; a token of the
    prompt shows 32 x 32 pixels); 0 = the one that the folder was exported with, else 512. ViP-LLaVA's folders fix it: leave 0."""
    tiny: TinySection = TinySection()
    """Sizes of the model that `path: tiny` makes."""
    tiles: Tiles = "1"
    """Views of a picture: 1 = the model's square; 1+4 = a square of twice the side, seen whole and as four quarters, which shows small
    lesions twice as large for five times the image tokens. Pixels of the square (data.min_side, drawn and written boxes) are its."""
    freeze_vision_tower: bool = True
    """Leave the vision tower as loaded."""
    freeze_projector: bool = False
    """Leave the projector between vision tower and language model as loaded."""
    freeze_language_model: bool = False
    """Leave the language model as loaded; LoRA adapters, if any, still learn."""
    lora: LoraSection = LoraSection()
    """Low-rank adapters in the language model."""
    attention: Literal["auto", "flash_attention_3", "flash_attention_2", "sdpa", "eager"] = "auto"
    """Attention kernel; auto = the best installed and supported one. Asking for a missing one is an error."""


class BoxTextSection(Section):
    frame: Literal["padded", "original", "resized"] = "padded"
    """Frame of written coordinates: the model's padded square, the stored image, or the image as resized, before padding."""
    scale: Literal["1", "100", "1000", "px"] = "1"
    """Coordinates run from 0 to this number; px = pixels of the frame."""
    digits: int = Field(3, ge=0, le=6)
    """Decimals written; each costs four tokens a box."""


FAMILY_BOX_TEXT = {
    "vip_llava": BoxTextSection(frame="padded", scale="1", digits=3),
    "qwen3_vl": BoxTextSection(frame="padded", scale="1000", digits=0),
}
"""Family -> how its published weights write boxes: what `data.box_text` is where a recipe does not say. ViP-LLaVA: shares of the padded
square, as LLaVA-1.5 (github.com/haotian-liu/LLaVA issues 606 and 623). Qwen3-VL: whole thousandths of the picture it is given
(github.com/QwenLM/Qwen3-VL issues 1486 and 1741), which here is the padded square."""


class DataSection(Section):
    corpus: Path | None = None
    """Folder with manifest.json and Arrow shards; none and no train_json = demo phantoms made on the spot."""
    train_json: Path | None = None
    """A published-format JSON, imported once to a cache and then trained on; excludes data.corpus."""
    image_root: Path | None = None
    """Folder to which image paths of data.train_json are relative; none = the folder of the JSON."""
    phantoms: int = Field(4000, ge=8)
    """Images of the demo corpus that is made when neither data.corpus nor data.train_json is given."""
    phantom_kinds: tuple[str, ...] = ()
    """Question kinds that phantoms are asked; none named = all that the template writer knows."""
    split: str = "train"
    """Split that is trained on."""
    verify: bool = True
    """Compare every shard with its hash in the manifest before training; reads the whole corpus once."""
    fit: Literal["pad", "stretch"] = "pad"
    """How an image becomes the model's square: padded (nothing lost, shape kept) or stretched. Never cropped."""
    box_text: BoxTextSection = BoxTextSection()
    """How a box is written in prompts and targets; what a recipe leaves out is the habit of `model.family` (FAMILY_BOX_TEXT)."""
    prompt_line: float = Field(3.0, gt=0)
    """Line of the box that Easy draws, in pixels per 336 pixels of the model's square, at least one pixel."""
    prompt_opacity: int = Field(96, ge=1, le=255)
    """Least opacity of that line; each sample's is drawn between it and 255."""
    cache: Path | None = None
    """Folder on a disk of each node; shards are copied there once, verified, and read from there. None = read from where they lie."""
    on_bad_record: Literal["raise", "quarantine"] = "raise"
    """What a record that cannot be rendered does: end the run, or be replaced by the next one of its domain that offers the stage."""
    quarantine_limit: float = Field(0.01, gt=0, le=1)
    """Largest part of all samples read that may be replaced ones (10 always may); beyond, the run ends."""
    min_side: float = Field(8.0, ge=0)
    """Records whose box has a short side under this many model pixels are left out and counted by class; 0 keeps all."""
    shuffle_window: int = Field(65536, ge=1)
    """Records shuffled together within one epoch; memory grows with this, not with the corpus."""
    workers: int = Field(2, ge=0)
    """Threads that render ahead on each rank; 0 renders in the loop."""
    max_tokens: int = Field(1024, ge=16)
    """Longest sequence; a longer sample is an error that names the record: nothing is cut."""


class MedclmSection(Section):
    """`medclm`, the default policy (docs: the curriculum's formulas)."""

    easy_only_until: float = Field(0.04, ge=0)
    """Part of the run with Easy alone, in `curriculum.unit`."""
    easy_at_most: float = Field(0.40, ge=0)
    """Part of the run after which Medium is let in even if Easy's box is not read yet, in `curriculum.unit`."""
    read_gap: float = Field(0.25, ge=0)
    """Easy's box is read once Medium's loss is above Easy's by this part of Easy's, over the same steps."""
    read_decay: float = Field(0.98, gt=0, lt=1)
    """Weight of the old value in the averages of that comparison."""
    ramp: float = Field(0.10, gt=0)
    """Part of the run over which Medium is let in after that, in `curriculum.unit`."""
    hard_from: float = Field(0.19, ge=0)
    """Part of the run before which Hard is never drawn, in `curriculum.unit`; nor is it before Medium is let in."""
    gap_centre: float = 0.5
    """Relative Easy-Medium gap at which Medium is drawn half of the time."""
    gap_width: float = Field(0.1, gt=0)
    """Softness of that switch."""
    explore: float = Field(0.05, ge=0, le=1)
    """Least share of Medium after easy_only_until."""
    decay: float = Field(0.9, gt=0, lt=1)
    """Weight of the old value in the moving averages."""
    min_observations: int = Field(5, ge=1)
    """Steps with a loss before an average counts as seen."""
    hard_max: float = Field(0.3, ge=0, le=1)
    """Largest share of Hard."""
    hard_step: float = Field(0.05, ge=0, le=1)
    """Growth of the Hard share at a plateau."""
    hard_gap: float = 0.25
    """Hard grows only while the median gap is at most this."""
    plateau: float = Field(0.01, ge=0)
    """A window whose average changed by at most this fraction counts as flat."""
    plateau_windows: int = Field(5, ge=1)
    """Flat windows in a row before Hard grows."""
    worsening: float = Field(0.05, ge=0)
    """A window that worsened by at least this fraction shrinks the Hard share."""
    shrink: float = Field(0.9, gt=0, le=1)
    """Factor of that shrinking."""


class ThresholdSection(Section):
    """`threshold`: a domain's stage by the size of its average loss."""

    easy_above: float = Field(2.0, ge=0)
    """A domain whose average loss is above this is shown at Easy."""
    medium_above: float = Field(1.5, ge=0)
    """A domain above this, and not above easy_above, is shown at Medium; else at Hard."""
    easy_only_until: float = Field(0.04, ge=0)
    """Part of the run with Easy alone, in `curriculum.unit`."""
    decay: float = Field(0.9, gt=0, lt=1)
    """Weight of the old value in the moving averages."""
    min_observations: int = Field(5, ge=1)
    """Steps with a loss before a domain leaves Easy."""

    @model_validator(mode="after")
    def _ordered(self) -> ThresholdSection:
        if self.medium_above > self.easy_above:
            raise ValueError(
                f"curriculum.threshold.medium_above={self.medium_above} is above curriculum.threshold.easy_above={self.easy_above}: "
                "lower it"
            )
        return self


class LearningProgressSection(Section):
    """`learning_progress`: a bandit on the recent movement of the loss per domain and stage."""

    fast: float = Field(0.95, gt=0, lt=1)
    """Weight of the old value in the fast average."""
    slow: float = Field(0.99, gt=0, lt=1)
    """Weight of the old value in the slow average; progress is measured between the two."""
    min_observations: int = Field(10, ge=2)
    """Steps with a loss before a stage's progress in a domain counts as known."""
    noise: float = Field(1.0, ge=0)
    """Standard errors taken off the measured progress, so that a flickering loss does not count as a moving one."""
    explore: float = Field(0.1, ge=0, le=1 / 3)
    """Least share of every stage."""

    @model_validator(mode="after")
    def _ordered(self) -> LearningProgressSection:
        if self.fast >= self.slow:
            raise ValueError(
                f"curriculum.learning_progress.fast={self.fast} is not below curriculum.learning_progress.slow={self.slow}: lower it"
            )
        return self


PHASES = {"medclm": ("easy_only_until", "easy_at_most", "ramp", "hard_from"), "threshold": ("easy_only_until",)}
"""Section of a policy -> its knobs that `curriculum.unit` counts."""


class CurriculumSection(Section):
    policy: str = "medclm"
    """medclm, medclm_published, threshold, learning_progress, sequential, reverse, mixture, easy_only, medium_only or hard_only."""
    lookahead: int = Field(2, ge=0, le=64)
    """Steps between a decision and its use, so that rendering runs ahead; 0 decides synchronously."""
    timeout_s: float = Field(600.0, gt=0)
    """Longest wait for another rank's message before a clear error."""
    medclm: MedclmSection = MedclmSection()
    """Numbers of the `medclm` policy."""
    threshold: ThresholdSection = ThresholdSection()
    """Numbers of the `threshold` policy."""
    learning_progress: LearningProgressSection = LearningProgressSection()
    """Numbers of the `learning_progress` policy."""
    sequential: list[float] = [0.3, 0.5, 0.2]
    """Shares of the run that Easy, Medium and Hard have, one after the other, under `sequential` and `reverse`; they sum to 1."""
    mixture: list[float] = [0.4, 0.4, 0.2]
    """Shares of Easy, Medium and Hard under `mixture`; they sum to 1."""
    published_epochs: int = Field(100, ge=1)
    """Length in epochs that `medclm_published` divides the run into."""
    unit: Literal["fraction", "steps", "epochs"] = "fraction"
    """What easy_only_until, easy_at_most, ramp and hard_from of `medclm` and `threshold` count. Epochs are passes over the train split."""

    @model_validator(mode="after")
    def _phases(self) -> CurriculumSection:
        for policy, knobs in PHASES.items():
            for knob in knobs if self.unit == "fraction" else ():
                if (value := getattr(getattr(self, policy), knob)) > 1:
                    raise ValueError(
                        f"curriculum.{policy}.{knob}={value}: give a fraction of the run, 0 to 1, or set curriculum.unit=steps or epochs"
                    )
        self._check_given()
        return self

    def _check_given(self) -> None:
        for knob in PHASES.get(self.policy, ()) if self.unit != "fraction" else ():
            section = getattr(self, self.policy)
            if knob not in section.model_fields_set:
                raise ConfigError(
                    f"curriculum.unit={self.unit}: give curriculum.{self.policy}.{knob} in {self.unit}; its default, "
                    f"{getattr(section, knob)}, is a fraction"
                )

    @model_validator(mode="after")
    def _shares(self) -> CurriculumSection:
        for name, shares in (("mixture", self.mixture), ("sequential", self.sequential)):
            if len(shares) != 3 or not min(shares) >= 0 or not abs(sum(shares) - 1) <= 1e-6:  # so put, NaN is refused too
                raise ValueError(f"curriculum.{name}={shares}: give three shares (easy, medium, hard) that sum to 1")
        return self

    def in_fractions(self, *, total_steps: int, epoch_steps: float | None) -> CurriculumSection:
        """The same with the phases as fractions of the run, as policies read them.

        Args:
            epoch_steps: length of an epoch in steps; None where no corpus tells.

        Raises:
            ConfigError: a phase that is longer than the run, or epochs without a corpus.
        """
        if self.unit == "fraction":
            return self
        self._check_given()
        if self.unit == "epochs" and epoch_steps is None:
            raise ConfigError("curriculum.unit=epochs: only a corpus tells how long an epoch is: use fraction or steps here")
        whole = total_steps / epoch_steps if self.unit == "epochs" and epoch_steps else total_steps
        update: dict[str, Any] = {"unit": "fraction"}
        if self.policy in PHASES:
            section = getattr(self, self.policy)
            fractions = {knob: getattr(section, knob) / whole for knob in PHASES[self.policy]}
            for knob, fraction in fractions.items():
                if fraction > 1:
                    raise ConfigError(
                        f"curriculum.{self.policy}.{knob}={getattr(section, knob):g}: the run has only {whole:g} {self.unit}: "
                        "lower it, or raise train.steps"
                    )
            update[self.policy] = section.model_copy(update=fractions)
        return self.model_copy(update=update)


class TrainSection(Section):
    steps: int = Field(1000, ge=1)
    """Length of the run in optimizer steps."""
    global_batch_size: int = Field(48, ge=1)
    """Samples per optimizer step over all ranks; decides which samples are seen together, at any number of ranks."""
    micro_batch_size: int = Field(24, ge=1)
    """Samples per forward on one rank; accumulation = global / (micro x ranks), an error if not whole."""
    shrink_micro_batch: bool = False
    """Use the largest micro-batch up to micro_batch_size that makes the accumulation whole, instead of refusing."""
    lr: float = Field(2e-5, gt=0)
    """Peak learning rate."""
    min_lr: float = Field(1e-6, ge=0)
    """Learning rate at the end of the cosine."""
    warmup_fraction: float = Field(0.03, ge=0, lt=1)
    """Fraction of the steps with a linearly rising learning rate."""
    weight_decay: float = Field(0.05, ge=0)
    """AdamW's decoupled decay; not applied to biases and norms."""
    betas: list[float] = [0.9, 0.98]
    """AdamW's averaging factors."""
    clip: float = Field(1.0, gt=0)
    """Largest global gradient norm."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """auto = bf16 on an accelerator that has it, float32 on the CPU."""
    answer_weight: float = Field(0.1, ge=0)
    """Weight of a sample's mean answer loss in Easy and Medium (published: 0.8). An answer has few tokens and a rationale many: 0.1 and
    0.9 count a token of either about alike (docs/curriculum.md, Loss weights)."""
    rationale_weight: float = Field(0.9, ge=0)
    """Weight of a sample's mean rationale loss in Easy and Medium (published: 0.2)."""
    hard_weight: float = Field(0.1, gt=0)
    """Weight of a sample's mean answer loss in Hard, where it is all there is (published: 1)."""
    normalization: Literal["sample", "token"] = "sample"
    """sample = mean of per-sample losses over the global batch; token = means over all target tokens of the global batch."""
    spike_sigma: float = Field(6.0, ge=0)
    """A batch whose loss is this many times the spread of recent batches above the mean of its stages is not learned from; 0 = all are."""
    max_skipped_in_row: int = Field(5, ge=1)
    """The run ends after this many batches in a row that were not finite or a spike."""
    log_every: int = Field(10, ge=1)
    """Steps between lines in metrics.jsonl and MLflow."""
    checkpoint_every: int = Field(500, ge=0)
    """Steps between checkpoints; 0 = only at the end."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints kept."""
    keep_every: int = Field(0, ge=0)
    """Also keep every checkpoint whose step is a multiple of this; 0 = none for that reason."""
    save_in_background: bool = True
    """Write checkpoints beside the training: takes host memory for a copy of what each rank saves, and a step waits for that copy alone."""
    export: bool = True
    """Write a plain transformers folder at the end."""

    @model_validator(mode="after")
    def _consistent(self) -> TrainSection:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"train.betas={self.betas}: give two numbers in [0, 1)")
        if self.min_lr > self.lr:
            raise ValueError(f"train.min_lr={self.min_lr} is above train.lr={self.lr}: lower it")
        if self.answer_weight + self.rationale_weight <= 0:
            raise ValueError("train.answer_weight and train.rationale_weight are both 0: nothing would be learned")
        return self


class ValidationSection(Section):
    """Losses on records that are not learned from, while a run goes on."""

    every: int = Field(0, ge=0)
    """Steps between validations; 0 = none."""
    split: Literal["val", "test"] = "val"
    """Split that is judged; test only where there is no val, and then its scores are no longer untouched."""
    samples: int = Field(256, ge=1)
    """Records judged, always the same ones, each at every stage it offers."""
    questions: int = Field(0, ge=0)
    """Questions answered in words each time, for validation/answer_accuracy, mean_iou and others; 0 = losses alone."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest of these answers, in tokens."""
    best: str = "validation/loss_medium"
    """Score by which the best checkpoint is kept, as metrics.jsonl names it: lowest of a loss, highest of others. Empty = none."""


class EngineSection(Section):
    shm_op: bool = False
    """Let DeepSpeed compile its shared-memory op for CPU ranks (needs a compiler and ninja, about a minute, no effect on results)."""
    timeout_s: float = Field(1800.0, gt=0)
    """Longest wait inside a collective of the model before the process group gives up."""
    recompute: Literal["none", "all"] | int = "none"
    """Whose activations are computed again in the backward pass instead of kept: none, the first N decoder layers, or all layers of
    every tower. The same gradient to the bit; all costs about a third more compute."""
    memory: Literal["fixed", "auto"] = "fixed"
    """fixed = micro-batch and recomputation as given; auto = chosen before the run, never beyond train.micro_batch_size, so that the
    predicted and then the measured peak of the longest sample (data.max_tokens) fits. The global batch and its gradient stay."""
    memory_limit_gib: float = Field(0.0, ge=0)
    """What one rank may hold at most under memory=auto, in GiB; 0 = what its device has (on the CPU: its share of the machine's or the
    container's memory)."""

    @field_validator("recompute")
    @classmethod
    def _layers(cls, recompute: str | int) -> str | int:
        if isinstance(recompute, int) and recompute < 1:
            raise ValueError(f"engine.recompute={recompute}: give a number of decoder layers from 1, none or all")
        return recompute


class TrackingSection(Section):
    model_config = ConfigDict(hide_input_in_errors=True)

    uri: str = ""
    """MLflow tracking URI, without password; empty = SQLite file mlflow.db under run.output_dir; `off` = metrics.jsonl only."""
    experiment: str = "medclm"
    """MLflow experiment of this run."""
    log_images: bool = False
    """Send pictures to a tracking store that is not local."""

    @field_validator("uri")
    @classmethod
    def _no_credentials(cls, uri: str) -> str:
        if has_credentials(uri):
            raise ValueError(
                "tracking.uri: holds a password or token, which would be stored with the run: leave it out of the URI and set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN; for a database, its own password "
                "file, such as ~/.pgpass"
            )
        return uri


class Recipe(BaseSettings):
    """What one run is. Keys are given as --section.key=value."""

    model_config = SettingsConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        frozen=True,
        validate_default=True,
        cli_avoid_json=True,
        hide_input_in_errors=True,  # a traceback must not print what may hold a password
    )

    run: RunSection = RunSection()
    """Name, place and seed of the run."""
    model: ModelSection = ModelSection()
    """What is trained."""
    data: DataSection = DataSection()
    """What it is trained on."""
    curriculum: CurriculumSection = CurriculumSection()
    """Who decides the stages."""
    train: TrainSection = TrainSection()
    """Optimisation, precision, logging, checkpoints."""
    validation: ValidationSection = ValidationSection()
    """Losses on records that are not learned from, and the best checkpoint."""
    engine: EngineSection = EngineSection()
    """What is not learned and not in the DeepSpeed JSON."""
    tracking: TrackingSection = TrackingSection()
    """Where numbers go."""

    @model_validator(mode="after")
    def _contradictions(self) -> Recipe:
        if self.data.corpus is not None and self.data.train_json is not None:
            raise ValueError("data.corpus and data.train_json are both set: give one of them")
        if self.model.lora.rank and not self.model.freeze_language_model:
            raise ValueError("model.lora.rank > 0 needs model.freeze_language_model=true: adapters replace the full update")
        frozen = (self.model.freeze_vision_tower, self.model.freeze_projector, self.model.freeze_language_model)
        if all(frozen) and not self.model.lora.rank:
            raise ValueError("model.freeze_* freezes everything and model.lora.rank is 0: nothing would be learned")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The command line comes from `load_recipe`, the YAML file as init values; the environment is left out on purpose."""
        return (init_settings,)


def dotted_keys(section: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every leaf key of the tree, as `train.lr`."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from dotted_keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


RENAMED: dict[str, tuple[str, dict[Any, Any]]] = {
    "engine.activation_checkpointing": ("engine.recompute", {True: "all", False: "none"}),
}
"""Key of an earlier version -> the key that took its place, and old values as new ones."""


def _unknown(key: str, where: str) -> ConfigError:
    if key in RENAMED:
        name, values = RENAMED[key]
        now = ", ".join(f"{json.dumps(old)} is {new} now" for old, new in values.items())
        return ConfigError(f"{where}: unknown key {key}: give {name} instead ({now})")
    keys = list(dotted_keys())
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    if not close:  # the right leaf in the wrong section
        close = [other for other in keys if other.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:1]
    hint = f"did you mean {close[0]}?" if close else "see --help for all keys"
    return ConfigError(f"{where}: unknown key {key}: {hint}")


def _flatten(tree: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            yield from _flatten(value, f"{prefix}{name}.")
    else:
        yield prefix.rstrip(".")


def _in_new_words(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with renamed keys under their new names: every checkpoint holds the recipe of its day and must stay usable."""
    for old, (new, values) in RENAMED.items():
        section, leaf = old.split(".")
        given = tree.get(section)
        if isinstance(given, dict) and leaf in given and given[leaf] in values:
            rest = {name: value for name, value in given.items() if name != leaf}
            tree = {**tree, section: {new.split(".")[1]: values[given[leaf]], **rest}}
    return tree


def read_yaml(path: Path) -> dict[str, Any]:
    """A recipe file as a tree, its keys checked; keys that were renamed since are read as what they are now.

    Raises:
        ConfigError: missing, not YAML, not a mapping, or an unknown key.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"--config {path}: {error.strerror or error}: give an existing recipe (train/configs/*.yaml)"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: not YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"--config {path}: expected sections (train:, data:, ...), found {type(tree).__name__}")
    tree = _in_new_words(tree)
    known = set(dotted_keys())
    sections = {key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)}
    for key in _flatten(tree):
        if key not in known and key not in sections:
            raise _unknown(key, f"--config {path}")
    return tree


def _check_flags(arguments: Sequence[str]) -> None:
    known, seen = set(dotted_keys()), set()
    for argument in arguments:
        if not argument.startswith("--"):
            raise ConfigError(f"argument {argument}: expected --section.key=value (with the equals sign)")
        key, equals, _ = argument[2:].partition("=")
        if key not in known:
            raise _unknown(key, "command line")
        if not equals:
            raise ConfigError(f"--{key}: give its value as --{key}=value")
        if key in seen:
            raise ConfigError(f"--{key} is given twice: give it once")
        seen.add(key)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def _readable(error: ValidationError) -> ConfigError:
    lines = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        lines.append(f"{key}={fault['input']!r}: {message}" if key and fault["type"] != "value_error" else message)
    return ConfigError("; ".join(lines))


def load_recipe(arguments: Sequence[str] = (), config: Path | None = None, defaults: dict[str, Any] | None = None) -> Recipe:
    """The resolved recipe.

    Args:
        arguments: `--section.key=value` flags only (entry points take their own flags out first).
        config: recipe file, or none.
        defaults: tree under the recipe file, for entry points that know better defaults than this page.

    Raises:
        ConfigError: naming the dotted key, the value and the cure.
    """
    _check_flags(arguments)
    tree = _merge(defaults or {}, read_yaml(config) if config else {})
    try:
        flags = CliSettingsSource(Recipe, cli_parse_args=list(arguments), cli_exit_on_error=False)()
        return Recipe(**_with_habits(_merge(tree, flags)))
    except ValidationError as error:
        raise _readable(error) from error
    except Exception as error:  # argparse-level faults of pydantic-settings, in its own error class
        if type(error).__name__ == "SettingsError":
            raise ConfigError(f"command line: {error}") from error
        raise


def _with_habits(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree over what its model family does by habit."""
    model = tree.get("model")
    named = model.get("family") if isinstance(model, dict) else None
    habit = FAMILY_BOX_TEXT.get(named if isinstance(named, str) else ModelSection().family)
    return _merge({"data": {"box_text": habit.model_dump()}}, tree) if habit else tree  # another name is refused as a value


def recipe_help() -> str:
    """Every key with its type, default and meaning, one block a section, for `--help`."""
    lines = []
    for key in dotted_keys():
        section: type[BaseModel] = Recipe
        *parents, leaf = key.split(".")
        for parent in parents:
            section = section.model_fields[parent].annotation  # type: ignore[assignment]
        field = section.model_fields[leaf]
        meaning = " ".join((field.description or "").split())
        lines.append(f"  --{key}={field.get_default()}\n        {meaning}")
    return "\n".join(lines)


def recipe_yaml(recipe: Recipe) -> str:
    """The resolved tree as YAML; loading it gives an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
