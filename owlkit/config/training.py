"""The sections about learning: `loss`, `optim`, `train` and `eval`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from owlkit.config.base import Section


class LossSection(Section):
    """Matching and losses of the detector; OWL-ViT's values."""

    class_weight: float = Field(default=1.0, ge=0.0)
    """Of the focal class loss, in the matching cost and in the loss."""

    l1_weight: float = Field(default=1.0, ge=0.0)
    """Of the L1 distance between boxes, in the matching cost and in the loss."""

    giou_weight: float = Field(default=1.0, ge=0.0)
    """Of the generalised IoU, in the matching cost and in the loss."""

    focal_alpha: float = Field(default=0.3, ge=0.0, le=1.0)
    """Weight of positives; 1 - alpha that of negatives."""

    focal_gamma: float = Field(default=2.0, ge=0.0)
    """How much pairs that are already right count less."""

    normalization: Literal["global", "per_example"] = "global"
    """Sums are divided by the number of instances in the whole batch over all processes, or by each
    image's own and then averaged, as published, which needs `optim.clip: per_example`."""

    objectness_weight: float = Field(default=1.0, ge=0.0)
    """Of the objectness loss of OWLv2; only for models with that head."""

    objectness_top_k: int | None = Field(default=None, ge=1)
    """Classes and boxes are learned only for so many patches of highest objectness (OWLv2: 256 for
    B/16, 512 for L/14); null for all."""

    drop_patches: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of patches, those of least variance, that never enter the image tower in training
    (OWLv2: 0.5)."""


class OptimSection(Section):
    """Optimiser, parameter groups, schedule and clipping."""

    optimizer: Literal["adamw", "adam", "adamw8bit", "sgd"] = "adamw"
    """AdamW; Adam, whose weight decay is part of the gradient; AdamW with moments of 8 bits, which
    take a quarter of the memory (bitsandbytes; slow on CPUs); or SGD with momentum, whose weight
    decay is part of the gradient."""

    lr: float = Field(default=5e-5, gt=0.0)
    """Learning rate of the image tower, and of everything that has no rate of its own."""

    text_lr: float | None = Field(default=None, gt=0.0)
    """Learning rate of the text tower (OWL-ViT: 2e-6); null takes `lr`."""

    heads_lr: float | None = Field(default=None, gt=0.0)
    """Learning rate of the heads; null takes `lr`."""

    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    """Each block of a tower learns this much slower than the block above it; 1 for all alike."""

    embed_lr_factor: float = Field(default=1.0, gt=0.0)
    """Factor of the rate of a vision transformer's patch embedding, beside that of its layer
    (DINOv2: 0.2)."""

    weight_decay: float = Field(default=0.0, ge=0.0)
    """On matrices and kernels only: not on biases, norms, positions, class tokens, temperatures."""

    weight_decay_end: float | None = Field(default=None, ge=0.0)
    """Where weight decay goes over the run, along a cosine (DINO: from 0.04 to 0.4); null keeps it
    constant."""

    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.999)
    """Decay rates of the moment estimates; the first is the momentum of `sgd`."""

    eps: float = Field(default=1e-8, gt=0.0)
    """Added to the root of the second moment; `sgd` has none."""

    freeze: Annotated[tuple[Literal["image", "text", "heads"], ...], Field(strict=False)] = ()
    """Parts that keep their weights."""

    schedule: Literal["cosine", "inverse_sqrt", "constant"] = "cosine"
    """How the rates fall after the warm-up: to `final_lr` along a cosine, with the root of the
    step, or not at all."""

    final_lr: float = Field(default=0.0, ge=0.0)
    """Where `cosine` ends, at most `lr`; parts and layers with other rates end at the same share of
    their own (DINO: 1e-6)."""

    warmup_steps: int = Field(default=1000, ge=0)
    """Steps over which the rates rise linearly from 0."""

    cooldown_steps: int = Field(default=0, ge=0)
    """Last steps over which the rates fall linearly to 0, for `inverse_sqrt` and `constant`."""

    timescale: int = Field(default=10_000, ge=1)
    """Steps after which `inverse_sqrt` begins to fall visibly."""

    clip: Literal["global", "per_parameter", "per_example", "none"] = "global"
    """Gradient clipping: of the whole batch's gradient as one, of each weight tensor's by its own
    norm (as DINO was trained), of each example's own before they are averaged (as OWL-ViT was
    trained; examples pass one at a time; needs `loss.normalization: per_example`), or none."""

    clip_norm: float = Field(default=1.0, gt=0.0)
    """Largest norm of a gradient."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas expects two numbers in [0, 1), found {list(self.betas)}")
        if self.schedule == "cosine" and self.cooldown_steps:
            raise ValueError(
                "cooldown_steps belongs to inverse_sqrt and constant; cosine ends at final_lr"
            )
        if self.schedule != "cosine" and self.final_lr:
            raise ValueError(
                f"final_lr belongs to cosine; {self.schedule} has cooldown_steps, which end at 0"
            )
        if self.final_lr > self.lr:
            raise ValueError(f"final_lr expects at most lr ({self.lr}), found {self.final_lr}")
        return self


class TrainSection(Section):
    """The loop: how long, how large, how precise, and when to look."""

    steps: int = Field(default=140_000, ge=1)
    """Optimiser steps."""

    batch_size: int = Field(default=256, ge=1)
    """Examples per optimiser step, over all processes and accumulation parts."""

    accumulation: int = Field(default=1, ge=1)
    """Parts in which each process passes its share of a batch, one after another, to save memory;
    processes times parts must divide `batch_size`. Gradients are those of the whole batch: a
    contrastive loss, which couples its examples, takes every part twice for that. Only batch norms
    see a part at a time. Under `optim.clip: per_example` examples pass one at a time whatever this
    says."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of activations; weights and losses stay in float32."""

    compile: bool = False
    """Whether all image and text towers are compiled by torch.compile, a teacher's included."""

    ema_decay: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Of a moving average of the weights, which is then evaluated and kept as best; 0 for none."""

    log_every: int = Field(default=50, ge=1)
    """Steps between lines of metrics.jsonl."""

    eval_every: int = Field(default=2000, ge=1)
    """Steps between evaluations; there is always one at the end."""

    save_every: int = Field(default=2000, ge=1)
    """Steps between checkpoints; there is always one at the end and when the run is interrupted."""

    early_stopping: int | None = Field(default=None, ge=1)
    """Stop after so many evaluations without a better AP, which needs `data.val`; null never stops
    early."""

    tensorboard: bool = False
    """Whether to write TensorBoard events beside metrics.jsonl."""


class EvalSection(Section):
    """How the model is measured, during training and at its end."""

    templates: str = Field(default="ensemble7", min_length=1)
    """Prompt templates, whose logits are averaged; see `owlkit.prompts.TEMPLATES`."""

    top_k: int = Field(default=300, ge=1)
    """Boxes per picture, the best (box, class) pairs."""

    nms_iou: float | None = Field(default=None, gt=0.0, le=1.0)
    """Suppress boxes of one class that overlap more; null, as published, suppresses none."""

    batch_size: int = Field(default=8, ge=1)
    """Pictures per pass."""

    split: str | None = Field(default=None, min_length=1)
    """JSON with `base` and `novel` classes of `data.val`, which are then measured apart."""

    sample_images: int = Field(default=8, ge=0)
    """Pictures drawn with predictions beside the truth at each evaluation."""
