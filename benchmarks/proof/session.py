"""A run being trained: the real objective and step, fed from clips in memory."""

import time
from dataclasses import asdict
from pathlib import Path

import torch
from benchmarks.proof.arms import build_arm
from benchmarks.proof.feeder import Examples, Feeder
from benchmarks.proof.measure import measure
from benchmarks.proof.recipe import PATCH, SIZES, TEACHER_WIDTH, Recipe
from benchmarks.proof.snapshot import (
    VOCABULARY_FILE,
    load_optimizer,
    load_weights,
    read_state,
    save_snapshot,
)

from reelscan.models.clip_vit import ClipVision, ClipVisionConfig
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.videomamba import VideoMamba
from reelscan.pretrain.clip_training import (
    ClipTrainingConfig,
    load_teacher,
    save_teacher,
    train_clip,
)
from reelscan.pretrain.distributed import Processes
from reelscan.pretrain.loss_guard import highest_loss, remember
from reelscan.pretrain.loss_options import LossOptions
from reelscan.pretrain.objective import Objective
from reelscan.pretrain.pretrain_config import (
    DataConfig,
    LossWeights,
    MaskConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
)
from reelscan.pretrain.step_options import GuardConfig
from reelscan.pretrain.train_step import StepOutcome, TrainStep, uses_bf16


class Session:
    """Weights, optimizer and place of a run; `take_step` until `is_done`."""

    def __init__(
        self,
        recipe: Recipe,
        examples: Examples,
        *,
        teacher: Path | None,
        smaller: Path | None = None,
        cuda_graphs: bool = True,
    ) -> None:
        """`teacher`: of `teacher_for`. `smaller`: snapshot of a run to distil from."""
        self.recipe = recipe
        self.examples = examples
        self.device = examples.clips_uint8.device
        self.step = 0
        self._cuda_graphs = cuda_graphs
        self._teacher_path = teacher
        config = recipe.model(
            vocab_size=examples.tokenizer.vocab_size,
            frames=examples.preprocessing.frames,
            max_text_tokens=examples.preprocessing.max_text_tokens,
        )
        self.model = build_arm(recipe, config)
        self.objective = Objective(
            self.model,
            teacher=self._teacher(teacher),
            tokenizer=examples.tokenizer,
            losses=recipe.losses_at(0),
            mask=recipe.mask_at(0),
            options=LossOptions(each_frame=recipe.each_frame),
            smaller_encoder=None if smaller is None else load_smaller(smaller, examples),
        ).to(self.device)
        settings = PretrainConfig(
            model=config,
            data=DataConfig(batch_size=recipe.batch),
            losses=LossWeights(alignment=0.0, matching=0.0, masked_language=0.0),
            mask=MaskConfig(kind="none", ratio=0.0),
            optimizer=OptimizerConfig(
                learning_rate=recipe.learning_rate, betas=(0.9, 0.98), warmup_fraction=0.05
            ),
            run=RunConfig(device=self.device.type, seed=recipe.seed),  # type: ignore[arg-type]
            steps=recipe.steps,
        )
        self.uses_bf16 = uses_bf16(settings.run.precision, self.device)
        self._take_step = TrainStep(
            self.objective,
            config=settings,
            processes=Processes(rank=0, count=1, device=self.device),
            total_steps=recipe.steps,
        )
        self._guard = GuardConfig()
        self._recent: tuple[float, ...] = ()
        self.skipped = 0
        feeder = Feeder(examples, batch=recipe.batch, seed=recipe.seed, twins=recipe.twins)
        self._batch = feeder.batch
        self._is_masked: bool | None = None

    @property
    def is_done(self) -> bool:
        return self.step >= self.recipe.steps

    def take_step(self) -> StepOutcome:
        """The next step; a spike or what is not finite changes no weight."""
        if self._is_masked is not (self.step < self.recipe.masked_steps):
            self._enter_stage()
        outcome = self._take_step(
            [self._batch(self.step)],
            self.step,
            stop_requested=False,
            highest_loss=highest_loss(
                self._recent,
                deviations=self._guard.spike_deviations,
                memory_steps=self._guard.memory_steps,
            ),
        )
        if outcome.applied:
            self._recent = remember(
                self._recent, outcome.losses["total"], memory_steps=self._guard.memory_steps
            )
        self.skipped += not outcome.applied
        self.step += 1
        return outcome

    def measure(self) -> dict[str, float]:
        """See `measure.measure`."""
        return measure(self.model, self.examples, bf16=self.uses_bf16)

    def save(self, folder: Path, *, name: str = "") -> None:
        """A snapshot for `resume`, under the name of the run."""
        save_snapshot(
            folder,
            self.model,
            self._take_step.optimizer,
            state={
                "name": name,
                "step": self.step,
                "skipped": self.skipped,
                "recipe": asdict(self.recipe),
            },
            tokenizer=self.examples.tokenizer,
            teacher=self._teacher_path if self.step < self.recipe.masked_steps else None,
        )

    def resume(self, folder: Path) -> None:
        """Goes on from a snapshot. Raises ValueError if it is of another recipe or vocabulary."""
        state, recipe = read_state(folder), asdict(self.recipe)
        if state["recipe"] != recipe:
            raise ValueError(f"{folder} has the recipe {state['recipe']}, but this is {recipe}")
        self._check_vocabulary(folder)
        assert isinstance(state["step"], int) and isinstance(state["skipped"], int)
        roots = load_weights(folder, self.model)
        load_optimizer(self._take_step.optimizer, self.model, roots, step=state["step"])
        self.step, self.skipped = state["step"], state["skipped"]

    def start_from(self, folder: Path) -> None:
        """Takes the weights of a snapshot, for a run of its own. Raises ValueError."""
        self._check_vocabulary(folder)
        load_weights(folder, self.model)

    def _check_vocabulary(self, folder: Path) -> None:
        learned = Tokenizer.from_file(folder / VOCABULARY_FILE).vocabulary
        if learned != self.examples.tokenizer.vocabulary:
            raise ValueError(f"{folder} has another vocabulary; render as many clips as it had")

    def enter_unmasked_stage(self) -> None:
        """Skips what is left of the masked steps; for timing."""
        self.step = max(self.step, self.recipe.masked_steps)

    def _enter_stage(self) -> None:
        self._is_masked = self.step < self.recipe.masked_steps
        self.objective.losses = self.recipe.losses_at(self.step)
        self.objective.mask = self.recipe.mask_at(self.step)
        asks = self.objective.losses.alignment > 0 or self.objective.mask.kind == "attention"
        if asks and self.objective.teacher is None:
            raise ValueError("this recipe aligns or masks with a teacher; give one")
        self._recent = ()
        # New graphs, so that those of other lengths do not keep their memory.
        self.model.vision_encoder.use_cuda_graphs(self._cuda_graphs and self.device.type == "cuda")
        self.model.train()

    def _teacher(self, path: Path | None) -> ClipVision | None:
        if path is None or not self.recipe.needs_teacher:
            return None
        teacher = with_layers(load_teacher(path), self.recipe.alignment_layers)
        return teacher.to(torch.bfloat16 if self.device.type == "cuda" else torch.float32)


def with_layers(teacher: ClipVision, layers: int) -> ClipVision:
    """The same teacher handing out so many of its last layers."""
    plain = {**asdict(teacher.config), "return_layers": layers}
    other = ClipVision(ClipVisionConfig(**plain))
    other.load_state_dict(teacher.state_dict())
    return other.eval()


def teacher_path(size: str, folder: Path) -> Path:
    """Where a teacher of frames of this size is kept."""
    return folder / f"teacher-{SIZES[size].image_size}.safetensors"


def teacher_for(size: str, examples: Examples, *, folder: Path, steps: int) -> Path:
    """A CLIP trained on single frames of the training clips, or the one in the folder."""
    image_size = SIZES[size].image_size
    path = teacher_path(size, folder)
    if path.is_file():
        return path
    frames = torch.tensor([frame for frame, _ in examples.stills])
    rows = torch.arange(len(frames))
    device = examples.clips_uint8.device
    started = time.perf_counter()
    report = train_clip(
        examples.clips_uint8[rows.to(device), frames.to(device)],
        [told for _, told in examples.stills],
        config=ClipTrainingConfig(
            vision=ClipVisionConfig(
                image_size=image_size,
                patch_size=PATCH,
                width=TEACHER_WIDTH,
                layers=4,
                heads=4,
                output_dim=TEACHER_WIDTH,
            ),
            text_width=128,
            steps=steps,
            batch_size=min(256, len(frames)),
            learning_rate=1e-3,
            device=str(device),
        ),
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_teacher(report.teacher, path)
    print(
        f"teacher: {steps} steps in {time.perf_counter() - started:.0f} s, recall@1 of held-out "
        f"frames {report.recall_at_1:.3f} (chance {report.chance_recall_at_1:.4f})",
        flush=True,
    )
    return path


def load_smaller(folder: Path, examples: Examples) -> VideoMamba:
    """The video encoder of a finished run."""
    plain = read_state(folder)["recipe"]
    assert isinstance(plain, dict)
    recipe = Recipe(**plain)
    model = build_arm(
        recipe,
        recipe.model(
            vocab_size=examples.tokenizer.vocab_size,
            frames=examples.preprocessing.frames,
            max_text_tokens=examples.preprocessing.max_text_tokens,
        ),
    )
    load_weights(folder, model)
    return model.vision_encoder
