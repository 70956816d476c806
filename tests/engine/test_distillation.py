"""Self-distillation against a slow and obvious version, in parts, and how it goes wrong."""

import weakref
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from owlkit.engine.collapse import CollapseWatch
from owlkit.engine.distillation import DistillationTask
from owlkit.errors import ConfigError, DatasetError, TrainingError
from owlkit.losses import DinoLoss, TeacherTargets
from owlkit.models.distillation import CropEncoder
from owlkit.structures import CropBatch
from tests.engine.test_gradient_cache import trainer_gradients
from tests.engine.toy import ToyLog, make_trainer
from tests.engine.toy_crops import (
    NEVER,
    PROTOTYPES,
    crop_batch,
    make_backbone,
    make_encoder,
    make_task,
    weights_of,
)

RATE = 0.05


class SlowDistillation:
    """DINO, iBOT and KoLeo with a loop for everything; plain gradient descent."""

    def __init__(self, task: DistillationTask, *, koleo_weight: float, ibot_weight: float) -> None:
        self.student, self.teacher = deepcopy(task.student), deepcopy(task.teacher)
        self.preprocessing = task.model.preprocessing
        self.koleo_weight, self.ibot_weight = koleo_weight, ibot_weight
        self.center, self.patch_center = torch.zeros(PROTOTYPES), torch.zeros(PROTOTYPES)

    def pixels(self, crop: Tensor) -> Tensor:
        mean, std = torch.tensor([self.preprocessing.mean, self.preprocessing.std])
        return (crop[None] / 255 - mean[:, None, None]) / std[:, None, None]

    def step(self, batch: CropBatch, *, temperature: float, momentum: float) -> dict[str, Tensor]:
        images, hidden = len(batch), batch.masks
        assert batch.local_crops is not None
        pooled: list[list[Tensor]] = [[], []]
        seen_logits, seen_patches, dino, ibot = [], [], [], []
        for i in range(images):
            crops = [self.pixels(crop) for crop in [*batch.global_crops[i], *batch.local_crops[i]]]
            probs, said = [], []
            for v, crop in enumerate(crops):
                is_hidden = hidden is not None and v < 2
                mask = hidden[i, v][None] if is_hidden else None
                features = self.student.vision(crop, mask=mask)
                said.append((self.student.head(features.pooled)[0] / 0.1).log_softmax(dim=0))
                if v >= 2:
                    continue
                pooled[v].append(features.pooled[0])
                with torch.no_grad():
                    seen = self.teacher.vision(crop)
                    logits = self.teacher.head(seen.pooled)[0]
                    seen_logits.append(logits)
                    probs.append(((logits - self.center) / temperature).softmax(dim=0))
                patches = hidden[i, v].nonzero()[:, 0].tolist() if is_hidden else []
                for p in patches:
                    with torch.no_grad():
                        logits = self.teacher.patch_head(seen.tokens[:, p])[0]
                        seen_patches.append(logits)
                        target = ((logits - self.patch_center) / temperature).softmax(dim=0)
                    guess = self.student.patch_head(features.tokens[:, p])[0] / 0.1
                    entropy = -(target * guess.log_softmax(dim=0)).sum()
                    ibot.append(entropy / len(patches) / (2 * images))
            dino += [
                -(probs[t] * said[v]).sum() for t in range(2) for v in range(len(crops)) if t != v
            ]
        terms = {"dino": torch.stack(dino).mean()}
        loss = terms["dino"]
        if ibot:
            terms["ibot"] = torch.stack(ibot).sum()
            loss = loss + self.ibot_weight * terms["ibot"]
        if self.koleo_weight:
            terms["koleo"] = self.koleo(pooled[0]) + self.koleo(pooled[1])
            loss = loss + self.koleo_weight * terms["koleo"]
        self.student.zero_grad()
        loss.backward()
        self.learn(momentum)
        self.center = 0.9 * self.center + 0.1 * torch.stack(seen_logits).mean(dim=0)
        if seen_patches:
            self.patch_center = 0.9 * self.patch_center + 0.1 * torch.stack(seen_patches).mean(0)
        return {"loss": loss, **terms}

    def koleo(self, vectors: list[Tensor]) -> Tensor:
        unit = [F.normalize(vector, dim=0) for vector in vectors]
        nearest = [torch.stack([(a - b).norm() for b in unit if b is not a]).min() for a in unit]
        return -torch.stack(nearest).log().mean()

    @torch.no_grad()
    def learn(self, momentum: float) -> None:
        pairs = zip(self.student.parameters(), self.teacher.parameters(), strict=True)
        for weight, slow in pairs:
            if weight.grad is not None:
                weight -= RATE * weight.grad
            slow.copy_(momentum * slow + (1 - momentum) * weight)


@torch.no_grad()
def descend(task: DistillationTask) -> None:
    for weight in task.parameters():
        if weight.grad is not None:
            weight -= RATE * weight.grad
            weight.grad = None


@pytest.mark.parametrize("patches", [False, True])
def test_three_steps_are_those_of_the_slow_version(patches: bool) -> None:
    """Terms and weights after each step: gradients, teacher and centers all have a part in them."""
    weights: dict[str, Any] = {"koleo_weight": 0.1 * patches, "ibot_weight": 0.7}
    task = make_task(patches=patches, **weights)
    slow = SlowDistillation(task, **weights)
    for step in range(3):
        batch = crop_batch(5, step=step, masks=patches)
        expected = slow.step(batch, temperature=0.04 + 0.01 * step, momentum=0.9 + 0.01 * step)
        task.begin_step(step)
        terms = task(batch)
        terms["loss"].backward()
        assert all(weight.grad is None for weight in task.teacher.parameters())
        descend(task)
        task.finish_step()
        # Sums of float32 in two orders, over a few steps.
        for name, value in expected.items():
            torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-5, msg=name)
        for module, other in ((task.student, slow.student), (task.teacher, slow.teacher)):
            for (name, found), weight in zip(
                module.named_parameters(), other.parameters(), strict=True
            ):
                torch.testing.assert_close(found, weight, rtol=1e-4, atol=2e-5, msg=name)
        torch.testing.assert_close(task.dino.center[0], slow.center, rtol=1e-4, atol=1e-5)
        if task.ibot is not None:
            found = task.ibot.center[0]
            torch.testing.assert_close(found, slow.patch_center, rtol=1e-4, atol=1e-5)
    assert ("ibot" in terms, "koleo" in terms) == (patches, patches)
    assert terms.keys() >= {"teacher_entropy", "batch_entropy", "student_kl"}
    assert terms.keys() >= {"feature_std", "feature_rank"}


def test_the_teacher_begins_as_the_student_and_is_the_model() -> None:
    task = make_task()
    assert task.model.vision is task.teacher.vision
    for found, expected in zip(
        task.teacher.state_dict().values(), task.student.state_dict().values(), strict=True
    ):
        assert torch.equal(found, expected)
        assert found.data_ptr() != expected.data_ptr()
    names = [name for name, weight in task.named_parameters() if weight.requires_grad]
    assert all(name.startswith("student.") for name in names)


@pytest.mark.parametrize("patches", [False, True])
def test_two_parts_are_the_whole_batch(tmp_path: Path, patches: bool) -> None:
    """Also their centers, of 8 images with unequal numbers of masks in the two parts."""
    batch = crop_batch(8, masks=patches)
    gradients, centers = [], []
    for parts in (1, 2):
        task = make_task(patches=patches, accumulation=parts)
        gradients.append(trainer_gradients(task, batch, tmp_path / str(parts), parts=parts))
        assert task.dino.center.abs().max() > 1e-3
        centers.append([task.dino.center] + ([task.ibot.center] if task.ibot else []))
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(centers[1], centers[0])


class _Waits(TorchDispatchMode):
    """Notes the operations for whose size or value the host waits on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name == "index" else []
        by_mask = any(index is not None and index.dtype == torch.bool for index in indices)
        if by_mask or name in ("nonzero", "masked_select", "_local_scalar_dense"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("patches", [False, True])
def test_a_step_waits_for_the_device_for_its_masks_alone(
    patches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its check of the number of patches is for the CPU only, where there is nothing to wait for.
    monkeypatch.setattr("owlkit.losses.ibot._check_shapes", lambda *tensors: None)
    task = make_task(patches=patches, koleo_weight=0.1)
    with _Waits() as waits:
        task(crop_batch(4, masks=patches))["loss"].backward()
        task.finish_step()
    assert waits.found == ["nonzero"] * patches


def test_the_teachers_logits_are_gone_when_the_student_begins() -> None:
    """They are as large as the probabilities: gigabytes at 131,072 prototypes."""
    task = make_task(patches=True)
    seen: list[Any] = []
    for head in (task.teacher.head, task.teacher.patch_head):
        head.register_forward_hook(lambda head, inputs, logits: seen.append(weakref.ref(logits)))
    left: list[int] = []
    task.student.vision.register_forward_pre_hook(
        lambda tower, inputs: left.append(sum(logits() is not None for logits in seen))
    )
    task(crop_batch(4, masks=True))
    assert (len(seen), left) == (2, [0, 0])


def endless(start: int, **options: Any) -> Any:
    while True:
        yield crop_batch(8, step=start, **options)
        start += 1


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_prototypes_are_frozen_at_first(tmp_path: Path, optimizer: str) -> None:
    """Not even weight decay moves them; the layers before them learn from the start."""
    task = make_task(frozen_steps=2)
    before = task.student.head.prototypes.weight.clone()
    first = task.student.head.mlp[0].weight.clone()
    assert task.find_unused_parameters
    states: list[Tensor] = []
    batches = partial(_note_prototypes, task, states)
    optim = {"optimizer": optimizer, "warmup_steps": 0, "weight_decay": 0.1}
    make_trainer(tmp_path, task=task, optim=optim, train={"steps": 4}, batches=batches).fit()
    assert torch.equal(states[2], before)
    assert not torch.equal(states[3], before)
    assert not torch.equal(task.student.head.mlp[0].weight, first)


def _note_prototypes(task: DistillationTask, states: list[Tensor], start: int) -> Any:
    for batch in endless(start):
        states.append(task.student.head.prototypes.weight.detach().clone())
        yield batch


def test_a_run_that_resumes_comes_to_the_same_weights(tmp_path: Path) -> None:
    """Schedules, centers and the student's dropped branches go on where they were."""

    def run(folder: str, steps: int, *, resume: bool = False) -> DistillationTask:
        task = make_task(patches=True, drop_path=0.3, frozen_steps=3, seed=steps * resume)
        settings = {"steps": steps, "save_every": 4, "eval_every": 8}
        optim = {"schedule": "constant"}
        trainer = make_trainer(
            tmp_path / folder,
            task=task,
            train=settings,
            batches=partial(endless, masks=True),
            optim=optim,
        )
        trainer.fit(resume=resume)
        return task

    whole = weights_of(run("whole", 8))
    run("parts", 4)
    found = weights_of(run("parts", 8, resume=True))
    for name, expected in whole.items():
        assert torch.equal(found[name], expected), name


COLLAPSES: dict[str, dict[str, Any]] = {
    # No centering: the center stays where it began.
    "one-hot": {"center_momentum": 1.0, "temperature": lambda step: 0.02},
    # No sharpening: the teacher is no more certain than the student.
    "uniform": {"center_momentum": 0.5, "temperature": lambda step: 0.2},
}


@pytest.mark.parametrize("way", COLLAPSES)
def test_half_of_the_recipe_collapses_and_ends_the_run(tmp_path: Path, way: str) -> None:
    """Centering without sharpening, and sharpening without centering: DINO, section 5.3."""
    with pytest.raises(TrainingError, match=f"collapsed, .* {way}"):
        train_toy(tmp_path, **COLLAPSES[way])


def test_the_whole_recipe_does_not_collapse(tmp_path: Path) -> None:
    lines = train_toy(tmp_path, center_momentum=0.9, temperature=lambda step: 0.04)
    assert max(lines) == STEPS
    last = lines[STEPS]
    assert last["batch_entropy"] - last["teacher_entropy"] > 0.5


STEPS = 120


def train_toy(folder: Path, **options: Any) -> dict[int, dict[str, float]]:
    task = make_task(
        momentum=lambda step: 0.9, collapse=CollapseWatch(PROTOTYPES, after=60), **options
    )
    log = ToyLog()
    train = {"steps": STEPS, "log_every": 20, "eval_every": STEPS, "save_every": STEPS}
    optim = {"lr": 0.005, "warmup_steps": 10, "weight_decay": 0.0}
    make_trainer(folder, task=task, optim=optim, train=train, batches=endless, log=log).fit()
    return log.of("train")


def with_parts(student: CropEncoder, **options: Any) -> DistillationTask:
    teacher = deepcopy(student)
    settings: dict[str, Any] = {
        "temperature": lambda step: 0.04,
        "momentum": lambda step: 0.9,
        "dino": DinoLoss(PROTOTYPES),
        "collapse": CollapseWatch(PROTOTYPES, NEVER),
    }
    model = make_backbone(teacher.vision)
    return DistillationTask(model, student, teacher, **{**settings, **options})


def test_parts_that_do_not_fit_are_refused() -> None:
    targets, plain, patched = (
        TeacherTargets(PROTOTYPES),
        make_encoder(),
        make_encoder(patches=True),
    )
    balanced = {"centering": "sinkhorn_knopp"}
    blind = CropEncoder(plain.vision, plain.head, plain.head)
    for student, options, message in (
        (plain, {"ibot": targets}, "patch_head: expected one"),
        (patched, {}, "patch_head: expected none"),
        (blind, {"ibot": targets}, "mask_token=True"),
        (plain, {"koleo_weight": 0.1, "accumulation": 2}, "KoLeo compares .* found 2"),
        (plain, {"dino": DinoLoss(PROTOTYPES, **balanced), "accumulation": 2}, "Sinkhorn-Knopp"),
    ):
        with pytest.raises(ConfigError, match=message):
            with_parts(student, **options)
    with pytest.raises(ConfigError, match="around the teacher's tower"):
        DistillationTask(
            make_backbone(plain.vision),
            plain,
            deepcopy(plain),
            dino=DinoLoss(PROTOTYPES),
            temperature=float,
            momentum=float,
            collapse=CollapseWatch(PROTOTYPES, NEVER),
        )


def test_batches_that_do_not_fit_are_refused() -> None:
    batch = crop_batch(4)
    single = CropBatch(batch.global_crops[:, :1], batch.sources)
    with pytest.raises(DatasetError, match="expected 2 global crops of each image, found 1"):
        make_task()(single)
    with pytest.raises(DatasetError, match="iBOT: expected a batch with masks"):
        make_task(patches=True)(crop_batch(4))
    with pytest.raises(ConfigError, match="expected 2 or more, found 1"):
        make_task(koleo_weight=0.1)(crop_batch(1))
