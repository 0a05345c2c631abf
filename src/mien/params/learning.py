"""The network, how it learns, and what it labels."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mien.params.section import Count, Positive, Section, Share, Weight

Convolution = Literal["affinity", "ordinary"]
NetworkKind = Literal["accnn", "larger"]


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
    """Those of a network that ships, its head fitted to the labelled faces unless it knows their
    expressions as well; or random ones."""
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
    temperature: Annotated[float, Field(ge=0.02, allow_inf_nan=False)]
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
    class_balance: Share
    """0 takes posteriors as they are, 1 as if all expressions were equally frequent."""
    min_posterior: Share
    min_margin: Share
    min_purity: Share
    max_sparse_share: Share
    """Share of the faces in the sparsest regions of feature space that are rejected."""
    require_flip_agreement: bool
