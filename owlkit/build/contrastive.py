"""From a configuration to contrastive pretraining."""

from torch.utils.data import DataLoader

from owlkit.build.models import build_dual_encoder
from owlkit.build.paths import expanded
from owlkit.build.runs import input_side, run_folder, run_output, suit_attention
from owlkit.config import ContrastiveConfig
from owlkit.data.augmentation import Augmentation
from owlkit.data.loader import BatchPlan, build_loader
from owlkit.data.pairs import CaptionExamples, Pair, collate_pairs, read_captioned_images
from owlkit.engine import ContrastiveTask, Trainer, create_accelerator, share_of_batch
from owlkit.errors import ConfigError
from owlkit.geometry import Preprocessing


def build_contrastive_training(config: ContrastiveConfig) -> Trainer:
    """Makes everything that contrastive pretraining needs.

    A pair is told apart from the other pairs of its process at a step, so that several processes
    learn from fewer negatives than one would with the same batch.

    Args:
        config: Of a run with a name.

    Returns:
        The trainer; ``trainer.fit(resume=config.resume)`` runs it.

    Raises:
        ConfigError: If sections do not fit together, or the run exists already.
        DatasetError: If the captions or images cannot be used.
        CheckpointError: If weights to start from are missing or do not fit.
    """
    folder = run_folder(config)
    accelerator = create_accelerator(config.train)
    _check_batches(config, share_of_batch(config.train, accelerator))
    model = build_dual_encoder(config.model, seed=config.seed)
    examples = _build_examples(config, model.preprocessing)

    def make_batches(start_step: int) -> DataLoader[Pair]:
        plan = BatchPlan(
            batch_size=config.train.batch_size,
            total_steps=config.train.steps,
            start_step=start_step,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        return build_loader(
            examples,
            plan,
            workers=config.data.workers,
            pin_memory=accelerator.device.type == "cuda",
            collate=collate_pairs,
        )

    suit_attention(model.vision, accelerator, config.train)
    return Trainer(
        ContrastiveTask(model),
        optim=config.optim,
        train=config.train,
        make_batches=make_batches,
        output=run_output(config, folder, accelerator),
        seed=config.seed,
        accelerator=accelerator,
    )


def _check_batches(config: ContrastiveConfig, share: int) -> None:
    """Refuses what would leave a pair without the negatives that it was meant to have.

    Args:
        config: Of the run.
        share: Pairs of each process at each step.
    """
    if config.optim.clip == "per_example":
        raise ConfigError(
            "optim.clip per_example: expected global or none for contrastive pretraining, where "
            "the loss of a pair alone is 0"
        )
    if config.train.accumulation > 1:
        raise ConfigError(
            "train.accumulation: expected 1 for contrastive pretraining, whose negatives are the "
            f"other pairs that pass together, found {config.train.accumulation}"
        )
    if share % config.data.group_size:
        raise ConfigError(
            "train.batch_size: expected a multiple of processes x data.group_size "
            f"({config.data.group_size}), so that no group of look-alikes is torn apart; found "
            f"{config.train.batch_size}, which gives each process {share}"
        )


def _build_examples(config: ContrastiveConfig, preprocessing: Preprocessing) -> CaptionExamples:
    data = config.data
    images = read_captioned_images(
        expanded(data.captions, key="data.captions", expected="a file of JSON lines"),
        expanded(data.images, key="data.images", expected="the folder of the images"),
    )
    return CaptionExamples(
        images,
        Augmentation(
            flip=data.flip,
            crop=False,
            fit=preprocessing.fit,
            pad_value=preprocessing.pad_value,
        ),
        size=input_side(preprocessing),
        group_size=data.group_size,
        seed=config.seed,
    )
