"""The configuration as typed dataclasses: every key with its type and its default (``configs/reference.yaml``).

Paths are relative to the root of the repository. Unknown keys, wrong types and values out of range are errors.
"""

from __future__ import annotations

import dataclasses
import reprlib
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import UserError

Amp = bool | Literal["bf16", "fp16"]
"""``runtime.amp``; see :func:`src.method.precision.number_format`."""

SHOWN = 80  # characters of a value in a message

COCO_EVALUATION_IMAGES = 10_000  # the paper evaluates COCO on the first 10,000 lines of its list


@dataclass(frozen=True)
class DatasetConfig:
    """Normalisation of images and numbering of labels; the last four keys are those of ``src.data.labels.Labelling``.

    By default, ``num_classes`` of a configuration file is the length of its class file.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    num_classes: int = 21
    ignore_label: int = 255
    background: bool = True
    first_label: int = 1


@dataclass(frozen=True)
class ModelConfig:
    """The image-text-matching model (BLIP or ALBEF), the image size, and the text layers whose attention is used.

    ``tokenizer`` and ``heads`` [vision encoder, text encoder] are for ALBEF checkpoints, which contain neither.
    """

    name: str = "Salesforce/blip-itm-large-coco"
    revision: str | None = None
    image_size: int = 512
    layers: tuple[int, ...] | Literal["auto"] = (0, 3)
    top_k: int = 2
    tokenizer: str | None = None
    heads: tuple[int, int] | None = None


@dataclass(frozen=True)
class DataloaderConfig:
    """How images are read.

    ``automatic`` are the keys that are ``auto`` or missing: CPU values, until :func:`src.task.for_device` sets them.
    """

    batch_size: int = 1
    num_workers: int = 0
    automatic: tuple[str, ...] = field(default=(), compare=False, metadata={"yaml": False})


@dataclass(frozen=True)
class CrfConfig:
    """ConvCRF refinement; 0 iterations turn it off."""

    iters: int = 20


@dataclass(frozen=True)
class EvalConfig:
    """Whether to compare labels in the letterbox frame or at the original size, and whether to compute Boundary IoU."""

    resolution: Literal["letterbox", "original"] = "letterbox"
    boundary: bool = False


@dataclass(frozen=True)
class CacheConfig:
    """Where to keep encoded images that one-shot tuning needs several times."""

    image_embeddings: Literal["auto", "none", "device", "memory", "disk"] = "auto"
    dir: str = "results/cache"


@dataclass(frozen=True)
class RuntimeConfig:
    """Seed, number format and attention kernels."""

    seed: int = 0
    amp: Amp = True
    attention: Literal["fused", "exact"] = "fused"


@dataclass(frozen=True)
class OutputConfig:
    """Paths of result files."""

    csv: str = "results/training_free.csv"
    infoscore_csv: str | None = None
    classwise_csv: str = "results/one_shot_classwise.csv"
    summary_csv: str = "results/one_shot_summary.csv"


@dataclass(frozen=True)
class OneShotConfig:
    """The one-shot protocol: choice of supports and queries, and tuning."""

    train_list: str | None = None
    test_list: str | None = None
    shot: int = 1
    split: int | str | None = None
    support_only_one_novel: bool = True
    min_support_area: int = 16 * 32 * 32
    use_training_images_for_supports: bool = False
    num_iterations: int = 5
    lr: float = 2e-4
    weight_decay: float = 0.05
    total_runs: int = 5
    batch_gradient_accumulation: int = 2


@dataclass(frozen=True)
class Config:
    """All settings of a command. ``source`` is the configuration file, for messages."""

    data_set: str
    data_root: str
    class_name_dir: str
    val_list: str | None = None
    mask_dir: str | None = None
    max_images: int | None = None
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    dataloader: DataloaderConfig = field(default_factory=DataloaderConfig)
    crf: CrfConfig = field(default_factory=CrfConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    oneshot: OneShotConfig | None = None
    source: str = field(default="configuration", metadata={"yaml": False})

    def to_dict(self) -> dict[str, Any]:
        """The complete configuration as plain values, for result files."""
        values = dataclasses.asdict(self)
        del values["source"], values["dataloader"]["automatic"]
        return values

    def refusal(self, key: str, value: object, expected: str) -> UserError:
        """An error about one key of this configuration."""
        return refusal(self.source, key, value, expected)


def refusal(source: str, key: str, value: object, expected: str) -> UserError:
    """An error about one key of a configuration."""
    return UserError(f"{source}: {key}: {shown(value)} is not valid; expected {expected}")


class _Short(reprlib.Repr):
    """A ``repr`` that is short and fast for numbers, lists and mappings of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxdict = 3, 8, 8
        self.maxstring = self.maxother = SHOWN

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if abs(x) < 10**SHOWN else f"a number of more than {SHOWN} digits"


def shown(value: object) -> str:
    """``value`` as text for a message, truncated to :data:`SHOWN` characters."""
    text = _Short().repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]} ..."
