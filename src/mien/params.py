"""The typed, validated mirror of ``params.yaml``.

Each DVC stage has a section of its own name; ``seed``, ``expressions``, ``model``,
``augmentation`` and ``compute`` are shared. Stage settings have no defaults here: what a run used
stands in ``params.yaml``, where DVC sees it.
"""

import unicodedata
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mien.errors import MienError

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Convolution = Literal["affinity", "ordinary"]


def composed(text: str) -> str:
    """Accents as one character with their letter: file names from macOS have two for them."""
    return unicodedata.normalize("NFC", text)


def _shown(name: str) -> str:
    """A name that file names, CSVs and the card's tables can hold."""
    if not name or name != name.strip() or not name.isprintable() or "|" in name:
        raise ValueError("give it letters, no | and no spaces around them")
    return name


Label = Annotated[str, AfterValidator(composed)]
Expression = Annotated[Label, AfterValidator(_shown)]


class Section(BaseModel):
    """A frozen group of settings that refuses unknown names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- faces in ---------------------------------------------------------------------------------


class SourceSettings(Section):
    """What every source has: a name (that of its test set, too) and the seed of its draws."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    seed: Count = 0


class FewLabels(Section):
    """A stratified draw of the labels that the pipeline may use.

    The other training faces become unlabelled, and their labels `true_label`, for audits only.
    """

    label_share: Annotated[float, Field(gt=0, le=1)] = 1.0


class Cropping(Section):
    """``given``: the picture is a face crop already. ``detect``: find the faces in it."""

    faces: Literal["given", "detect"] = "given"


class SyntheticSource(SourceSettings):
    """Drawn faces: labelled, validation and test parts, and a face-recognition part."""

    kind: Literal["synthetic"]
    labelled: Positive
    validation: Positive
    test: Positive
    unlabelled: Count


class PictureSource(SourceSettings, FewLabels, Cropping):
    """Pictures whose role and labels are the user's to say."""

    path: Path
    role: Literal["labelled", "unlabelled", "test"]
    label_map: dict[Label, Label] = {}
    validation_share: Share = 0.0
    test_share: Share = 0.0


class ImageFolderSource(PictureSource):
    """A folder of pictures; a sub-folder names an expression, a person, or nothing."""

    kind: Literal["image_folder"]
    folders: Literal["expression", "identity", "nothing"]


class Fer2013Source(SourceSettings, FewLabels):
    """FER2013: the Kaggle CSV, or the Kaggle folders (also zipped)."""

    kind: Literal["fer2013"]
    path: Path


class LfwSource(SourceSettings, Cropping):
    """Labeled Faces in the Wild (a folder or a zip); ``centre`` is the share of the side kept."""

    kind: Literal["lfw"]
    path: Path
    centre: Annotated[float, Field(gt=0, le=1)] = 1.0


class CsvSource(PictureSource):
    """A table with a column ``path`` and, where known, ``label``, ``identity`` and ``split``."""

    kind: Literal["csv"]


AnySource = Annotated[
    SyntheticSource | ImageFolderSource | Fer2013Source | LfwSource | CsvSource,
    Field(discriminator="kind"),
]


class PrepareSettings(Section):
    """Where faces come from. ``data`` is the folder that the sources' paths start from."""

    data: Path
    image_size: Annotated[int, Field(ge=24, le=224, multiple_of=8)]
    near_duplicate_bits: Annotated[int, Field(ge=-1, le=16)]
    """Hamming distance of 64-bit perceptual hashes up to which faces are compared; -1 is off."""
    sources: Annotated[list[AnySource], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_differ(self) -> "PrepareSettings":
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"two sources share a name: {sorted(names)}; give each its own")
        return self


class ValidateSettings(Section):
    """What the manifest must satisfy before anything is trained on it."""

    min_faces_per_expression: Positive
    max_quarantine_share: Share
    brightness: tuple[float, float]
    """Range of a face's mean grey level, 0 to 255."""
    min_contrast: Weight
    """Least standard deviation of a face's grey levels, 0 to 127.5."""
    max_out_of_range_share: Share
    """Share of faces that may break the two image statistics above."""


# --- the network and how it learns -------------------------------------------------------------


class ModelSettings(Section):
    """The AC-CNN: one residual stage for each width."""

    convolution: Convolution
    """``ordinary`` is the twin: the same widths and depths with dense 3×3 convolutions."""
    stem: Positive
    widths: Annotated[list[Positive], Field(min_length=1)]
    blocks: Annotated[list[Positive], Field(min_length=1)]
    kernel: Literal[1, 3, 5]
    """Kernel of the primary convolution (where a block halves the image it is at least 3)."""
    ratio: Annotated[int, Field(ge=2, le=8)]
    """Output maps for each intrinsic map: 1/ratio of the maps come from the primary convolution."""
    transform: Literal["depthwise", "affine"]
    transform_kernel: Literal[3, 5, 7] = 3
    """Side of the depthwise transforms' filters. The default is for weights on disk that were
    trained before there was a choice."""
    branches: Annotated[int, Field(ge=1, le=8)] = 1
    """Parallel convolutions in training for each one in service. The default is for weights on
    disk that were trained before there were branches."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> "ModelSettings":
        _check_lengths(self.widths, self.blocks)
        if any(width % self.ratio for width in self.widths):
            raise ValueError(f"every width must be a multiple of ratio ({self.ratio})")
        return self


def _check_lengths(widths: list[int], blocks: list[int]) -> None:
    if len(widths) != len(blocks):
        raise ValueError("widths and blocks must have the same length: one pair for each stage")


class AugmentationSettings(Section):
    """Random changes to training faces; the *strong* view has more of them."""

    rotate: Annotated[float, Field(ge=0, le=90)]
    """Largest rotation, degrees."""
    scale: Share
    """Largest relative change of size."""
    shift: Share
    """Largest shift, as a share of the side."""
    light: Share
    """Largest relative change of contrast and of gamma."""
    blur: Share
    """Largest deviation of the Gaussian that blurs a quarter of the strong views, as a share of the
    side."""
    noise: Share
    """Largest deviation of the noise in a quarter of the strong views, as a share of the grey
    range."""
    erase: Share
    """Side of the erased square in a strong view, as a share of the face's side."""
    strong: Annotated[float, Field(ge=1, le=4)]
    """Factor on rotation, scale, shift and light in a strong view."""

    @model_validator(mode="after")
    def _views_show_the_face(self) -> "AugmentationSettings":
        self.check(self.strong, "strong")
        return self

    def check(self, factor: float, name: str) -> None:
        """Refuse a factor with which some views would be upside down, or negatives.

        Raises:
            ValueError: with the factor's ``name``.
        """
        for change in ("scale", "light"):
            if factor * getattr(self, change) >= 1:
                raise ValueError(f"{change} times {name} must be under 1")


class ComputeSettings(Section):
    """Where it runs. Changing these makes no stage out of date."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    """On CPUs without bfloat16 ``32-true`` is what all of them mean."""
    threads: Count
    """CPU threads; 0 means all cores."""
    workers: Count
    """Processes that read pictures; 0 means one for each core."""


class ScheduleSettings(Section):
    """A training run: AdamW under a one-cycle schedule, with an average (EMA) of the weights."""

    epochs: Positive
    steps_per_epoch: Positive
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    weight_decay: Weight
    ema_decay: Annotated[float, Field(ge=0, lt=1)]


class TrainingSettings(ScheduleSettings):
    """A training run that reads labels."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    class_balance: Share
    """Strength of the balanced softmax: 0 ignores class counts, 1 corrects for them fully."""


NetworkKind = Literal["accnn", "larger"]


class StartSettings(ScheduleSettings):
    """Learning from all training faces, labels unused; ``epochs: 0`` leaves it out."""

    epochs: Count
    networks: Annotated[list[NetworkKind], Field(min_length=1)]
    """Which networks have this start: the AC-CNN, the larger ones."""

    def begins(self, network: NetworkKind) -> bool:
        """Whether a network has this start."""
        return self.epochs > 0 and network in self.networks


class SelfSupervisedSettings(StartSettings):
    """A start without labels by VICReg."""

    batch_size: Annotated[int, Field(ge=2)]
    """Faces in a step, of each of which two views are compared."""
    strength: Annotated[float, Field(ge=1, le=4)]
    """Factor on the augmentation in these views, in place of ``augmentation.strong``."""
    projection: Positive
    """Dimensions in which views are compared; they are thrown away after this training."""
    invariance_weight: Weight
    variance_weight: Weight
    covariance_weight: Weight


class LandmarkSettings(StartSettings):
    """A start without labels by what shape the faces are in."""

    components: Annotated[int, Field(ge=1, le=256)]
    """Numbers that say a face's shape: principal components of where its landmarks lie."""


class LargerSettings(Section):
    """Larger networks that learn the labels first, for the AC-CNN to learn from both.

    They differ from the AC-CNN in ``convolution``, ``stem``, ``widths`` and ``blocks``, from each
    other in their first weights and batches, and are trained as that is but for ``epochs``,
    ``batch_size`` and ``learning_rate``; ``epochs: 0`` leaves them out.
    """

    epochs: Count
    networks: Positive
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    convolution: Convolution
    stem: Positive
    widths: Annotated[list[Positive], Field(min_length=1)]
    blocks: Annotated[list[Positive], Field(min_length=1)]
    weight: Share
    """Of what they say in the loss; the labels have the rest."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> "LargerSettings":
        _check_lengths(self.widths, self.blocks)
        return self


class RecognitionSettings(TrainingSettings):
    """A face-recognition network learns the labels; ``epochs: 0`` leaves it out.

    It refines labels where ``pretrain.refinery.networks`` names it, and labels the unlabelled faces
    where ``cluster.networks`` does.
    """

    epochs: Count


class RefinerySettings(Section):
    """Other networks refine the labels; no ``networks`` leaves it out."""

    networks: list[Literal["nano", "small", "base", "recognition"]]
    """Of those that ship, and the face-recognition network."""
    views: Positive
    """Strong views of each labelled face that they are shown, once, before the training."""
    weight: Share
    """Of what they say on average in the loss; the labels have the rest."""

    @property
    def shipped(self) -> list[str]:
        """The sizes among ``networks``."""
        return [name for name in self.networks if name != "recognition"]


class PretrainSettings(TrainingSettings):
    """Supervised training on the labelled faces, after a start without labels and with the help of
    other networks where asked for."""

    first_weights: Literal["random", "nano", "small", "base"]
    """Those of a network that ships, its head fitted to the labelled faces where that does better;
    or random ones."""
    first_weights_share: Annotated[float, Field(ge=0, lt=1)]
    """Of those that ship in the mean with what has been learned from them; 0 keeps the latter."""
    landmarks: LandmarkSettings
    self_supervised: SelfSupervisedSettings
    recognition: RecognitionSettings
    larger: LargerSettings
    refinery: RefinerySettings

    @model_validator(mode="after")
    def _one_adviser_and_start(self) -> "PretrainSettings":
        if self.larger.epochs and self.refinery.networks:
            raise ValueError("give larger.epochs or refinery.networks, not both")
        if "recognition" in self.refinery.networks and not self.recognition.epochs:
            raise ValueError("refinery.networks: recognition.epochs is 0, so there is no such one")
        if self.first_weights_share and self.first_weights == "random":
            raise ValueError(
                "first_weights_share: random weights are not worth keeping: set it to 0, or "
                "first_weights to those of a network that ships"
            )
        for name in ("landmarks", "self_supervised"):
            start: StartSettings = getattr(self, name)
            if self.first_weights != "random" and start.begins("accnn"):
                raise ValueError(
                    f"{name}.epochs: a start without labels is for random weights: set it to 0, or "
                    "first_weights to random"
                )
            if start.begins("larger") and not self.larger.epochs:
                raise ValueError(f"{name}.networks: larger.epochs is 0, so there is no larger")
        return self


class JointSettings(TrainingSettings):
    """Training on labelled and unlabelled faces together, with the combined loss.

    A weight of 0 switches its term off.
    """

    unlabelled_batch_size: Positive
    labelled_view: Literal["weak", "strong"]
    """How much the labelled faces are changed. Strong views keep few of them from being learnt by
    heart where training is long."""
    pseudo_weight: Weight
    consistency_weight: Weight
    consistency_threshold: Share
    """Least confidence of the averaged network for a face to count in the consistency term."""
    consistency_temperature: Share
    """Of the averaged network's guess: 0 makes it one expression alone (FixMatch), 1 leaves it as
    it is, so that all doubt is handed on; with a threshold of 0 every face counts."""
    center_weight: Weight
    island_weight: Weight


class ClusterSettings(JointSettings):
    """``rounds`` of embedding, guided clustering and training (``epochs`` each) on what it says."""

    networks: Annotated[list[Literal["accnn", "larger", "recognition"]], Field(min_length=1)]
    """Which networks label the faces together: the AC-CNN itself and those of ``pretrain.larger``,
    which learn here, that of ``pretrain.recognition``, which no longer does. Without the AC-CNN it
    waits and learns from the others in ``finetune``."""
    rounds: Positive
    prototypes_per_expression: Positive
    free_prototypes: Count
    free_share: Annotated[float, Field(ge=0, lt=1)]
    """Share of the faces meant for the free prototypes: those of no known expression."""
    iterations: Positive
    """Alternations between assignment and prototype update within one clustering."""
    temperature: Annotated[float, Field(ge=0.02)]
    """Of the cosine similarity in the assignment. Under 0.012 its exponential is too large for 32
    bits."""
    prior_steps: Count
    """EM steps from the labelled faces' shares to the estimated prior; 0 keeps those shares. More
    of them follow an unlabelled set whose mix differs much, and an ill-calibrated head further."""
    prior_strength: Weight
    """KL relaxation of the marginals: 0 ignores the estimated prior, large values enforce it."""
    dustbin_similarity: Annotated[float, Field(ge=-1, le=1)]
    """Cosine similarity under which a face goes to the dustbin rather than to any prototype."""
    neighbours: Positive
    chunk: Positive
    """Faces handled at once; bounds memory, changes nothing else."""

    @property
    def leader(self) -> NetworkKind:
        """Whose clusters and figures stand for the stage; of larger ones those of the first."""
        return "accnn" if "accnn" in self.networks else "larger"


class FinetuneSettings(JointSettings):
    """Training on the updated training set, with the combined loss."""

    consistency_guess: Literal["own", "clusters"]
    """Whose guess of an unlabelled face the consistency term asks for: that of the network's own
    average, or what the stage ``cluster`` has said of the face."""


class RelabelSettings(Section):
    """Which pseudo-labels are kept. Thresholds hold for each expression on its own."""

    coverage: Annotated[float, Field(gt=0, le=1)]
    """Largest share of the faces of each (pseudo-)expression to accept, best first."""
    min_posterior: Share
    min_margin: Share
    min_purity: Share
    max_sparse_share: Share
    """Share of the faces in the sparsest regions of feature space that are rejected."""
    require_flip_agreement: bool


class EvaluateSettings(Section):
    """How each test set is measured."""

    bootstrap: Positive
    calibration_bins: Positive
    coverages: list[Annotated[float, Field(gt=0, le=1)]]
    mistakes: Count
    """Most confident mistakes shown in the report."""


class PackageSettings(Section):
    """The deployable and the checks it must pass."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$")
    """As BentoML wants it."""
    parity_faces: Positive
    parity_tolerance: Annotated[float, Field(gt=0)]
    reference_faces: Positive
    components: Positive
    """Principal components of the embedding kept as drift reference."""
    abstention_risk: Share
    """Share of wrong answers allowed among those given; a less sure face gets no answer."""


# --- operations: no stage reads these, so changing them makes nothing out of date ----------------


class PromotionSettings(Section):
    """What a challenger must show before it takes the champion's place."""

    approval: Literal["automatic", "manual"]
    """``manual``: the retraining flow waits in Prefect's UI until a person agrees."""
    approval_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """How long it waits; then the challenger is refused."""
    min_accuracy: Share
    """On every test set, whatever the champion reaches."""
    max_accuracy_loss: Share
    """The 95% interval of (challenger - champion) must lie above minus this (non-inferiority)."""
    max_recall_loss: Share
    """No expression may lose more of its recall."""
    significance: Annotated[float, Field(gt=0, lt=1)]
    """McNemar's test: a challenger that is worse with a smaller p is refused."""
    max_ece: Share
    """Expected calibration error."""
    max_latency_ms: Annotated[float, Field(gt=0)]
    """Median for one face on one CPU thread of the machine that judges."""
    max_size_mb: Annotated[float, Field(gt=0)]
    """Of the ONNX file."""
    git_tag: bool
    """Commit each release and give it GTO's tags, where the workspace is a Git checkout."""


class MonitoringSettings(Section):
    """When the prediction log says that the world has changed, and what may follow from it."""

    min_faces: Annotated[int, Field(ge=30)]
    """A window waits for more rows until it holds so many faces."""
    significance: Annotated[float, Field(gt=0, lt=1)]
    """Chance of any finding in a window without drift (Holm's correction over all statistics)."""
    min_effect: Share
    """A difference counts from this size on, however significant it is (0: none, 1: apart)."""
    severe_effect: Share
    """A difference of this size is drift at once; a smaller one must be found again."""
    bad_windows: Positive
    """Windows in a row with findings that make drift of them."""
    max_no_face_share: Share
    """Share of photos without a face that is normal in this use."""
    cooldown_hours: Weight
    """Least time between two retrainings."""
    retrainings_per_day: Positive


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


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: the first one's settings would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{name!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        MienError: it is missing, cannot be read, or holds something else.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise MienError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise MienError(f"{path}: cannot be read ({error.strerror}); name a YAML file") from None
    except (yaml.YAMLError, ValueError) as error:  # the latter of 2024-02-30, say, and no UTF-8
        raise MienError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise MienError(f"{path}: expected a mapping of settings at the top level")
    return values


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, section by section; lists are replaced whole."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = (
            merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged


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
