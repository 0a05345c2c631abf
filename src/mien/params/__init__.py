"""The typed, validated mirror of ``params.yaml``.

Each DVC stage has a section of its own name; ``seed``, ``expressions``, ``model``,
``augmentation`` and ``compute`` are shared. Stage settings have no defaults here: what a run used
stands in ``params.yaml``, where DVC sees it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from mien.errors import MienError
from mien.params.faces import PrepareSettings, ValidateSettings
from mien.params.learning import (
    AugmentationSettings,
    ClusterSettings,
    ComputeSettings,
    FinetuneSettings,
    ModelSettings,
    PretrainSettings,
    RelabelSettings,
)
from mien.params.section import Expression, Section
from mien.params.service import (
    EvaluateSettings,
    MonitoringSettings,
    PackageSettings,
    PromotionSettings,
)
from mien.yaml_files import read_yaml


class Params(Section):
    """All of ``params.yaml``."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """scikit-learn takes 32 bits, and each of several larger networks has the next one."""
    expressions: Annotated[list[Expression], Field(min_length=2)]
    model: ModelSettings
    augmentation: AugmentationSettings
    compute: ComputeSettings
    prepare: PrepareSettings
    validate_: ValidateSettings = Field(alias="validate")
    pretrain: PretrainSettings
    cluster: ClusterSettings
    relabel: RelabelSettings
    finetune: FinetuneSettings
    evaluate: EvaluateSettings
    package: PackageSettings
    promotion: PromotionSettings
    monitoring: MonitoringSettings

    @model_validator(mode="after")
    def _views_show_the_face(self) -> "Params":
        start = self.pretrain.self_supervised
        if start.epochs:
            self.augmentation.check(start.strength, "pretrain.self_supervised.strength")
        return self

    @model_validator(mode="after")
    def _heads_are_read_as_trained(self) -> "Params":
        learned, taken = self.pretrain.class_balance, self.cluster.class_balance
        if learned != taken:
            raise ValueError(
                f"cluster.class_balance is {taken:g} and pretrain.class_balance {learned:g}: the "
                "first clustering takes the head for one that was trained with its own; make them "
                "equal"
            )
        return self

    @model_validator(mode="after")
    def _labels_make_sense(self) -> "Params":
        if len(set(self.expressions)) < len(self.expressions):
            raise ValueError("expressions: a name stands twice")
        if OTHER in self.expressions:
            raise ValueError(f"expressions: '{OTHER}' is reserved for faces of none of them")
        low, high = self.validate_.brightness
        if not low < high:
            raise ValueError(f"validate.brightness: {low:g} is not below {high:g}; turn them round")
        # here and not in `ModelSettings`, by which weights on disk are read, too
        if self.model.transform == "affine" and self.model.transform_kernel != 3:
            raise ValueError(
                "model.transform_kernel: model.transform is affine, which has no filters; "
                "leave it at 3"
            )
        widths = {"model": self.model.widths}
        if self.pretrain.larger.epochs:
            widths["pretrain.larger"] = self.pretrain.larger.widths
            if any(width % self.model.ratio for width in self.pretrain.larger.widths):
                ratio = self.model.ratio
                raise ValueError(
                    f"pretrain.larger.widths: each must be a multiple of model.ratio ({ratio})"
                )
        asked: set[str] = set(self.cluster.networks)
        for name in ("larger", "recognition"):
            if name in asked and not getattr(self.pretrain, name).epochs:
                raise ValueError(
                    f"cluster.networks: pretrain.{name}.epochs is 0, so there is no {name}"
                )
        if not asked - {"recognition"}:
            raise ValueError("cluster.networks: recognition has no clusters; name another with it")
        asked.update(self.pretrain.refinery.networks)
        if self.pretrain.recognition.epochs and "recognition" not in asked:
            raise ValueError(
                "pretrain.recognition.epochs: nobody asks that network; name it in "
                "cluster.networks or pretrain.refinery.networks, or set this to 0"
            )
        for name, stages in widths.items():
            if self.prepare.image_size % 2 ** len(stages):
                raise ValueError(
                    f"prepare.image_size must be a multiple of {2 ** len(stages)}: "
                    f"each of the {len(stages)} {name}.widths halves the image"
                )
        return self

    @property
    def larger_model(self) -> ModelSettings:
        """The shape of the larger networks that the AC-CNN may learn from."""
        sizes = self.pretrain.larger.model_dump(include={"convolution", "stem", "widths", "blocks"})
        return self.model.model_copy(update=sizes)


OTHER = "other"
"""`true_label` of a face known to show none of the expressions."""


def load_params(path: Path) -> Params:
    """Read and check a settings file.

    Raises:
        MienError: the file is missing, is not YAML, or a setting is unknown, missing, of the wrong
            type or out of range; the message names each such setting.
    """
    if not path.exists():
        raise MienError(f"{path}: no such file; run in a folder that holds {path.name}")
    return parse_params(read_yaml(path), str(path))


_OLDER = (
    "is it of an earlier version of Mien? In a checkout Git has the new one; in a folder that "
    "`mien run` made, `mien run --out` on it adds what is missing"
)


def parse_params(values: Mapping[str, Any], origin: str) -> Params:
    """Check settings that came from ``origin`` (named in the errors)."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        faults = error.errors()
        lines = [f"{origin}: {_where(fault['loc'])}: {_what(fault)}" for fault in faults]
        if any(each["type"] == "missing" and "sources" not in each["loc"] for each in faults):
            lines.append(f"{origin}: {_OLDER}")
        raise MienError("\n".join(lines)) from None


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "settings"


def _what(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return "unknown setting; remove it or correct its spelling"
    if fault["type"] == "missing":
        return "this setting is missing"
    given = repr(fault.get("input"))
    message = fault["msg"].removeprefix("Value error, ")
    return f"{message} (got {given})" if len(given) < 60 else str(message)
