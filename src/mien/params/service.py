"""How a model is measured, packaged, promoted and watched."""

from typing import Annotated, Literal

from pydantic import Field

from mien.params.section import Count, Positive, Section, Share, Weight


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
    parity_tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    reference_faces: Positive
    components: Positive
    """Principal components of the embedding kept as drift reference."""
    abstention_risk: Share
    """Share of wrong answers allowed among those given; a less sure face gets no answer."""


# --- no stage reads these, so changing them makes nothing out of date -----------------------------


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
    """No expression may lose more of its recall, unless on so few faces it may be chance."""
    significance: Annotated[float, Field(gt=0, lt=1)]
    """McNemar's test, of all faces and of an expression's: worse with a smaller p is no chance."""
    max_ece: Share
    """Expected calibration error."""
    max_latency_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Median for one face on one CPU thread of the machine that judges."""
    max_size_mb: Annotated[float, Field(gt=0, allow_inf_nan=False)]
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
    pages_kept: Positive
    """Windows whose page, picture and snapshot stay, some 6 MB each; verdicts stay for ever."""
