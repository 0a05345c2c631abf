"""What the service answers, as types that the service, its OpenAPI and its client share."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FaceAnswer(_Answer):
    """What one face shows."""

    expression: str = Field(description="the likeliest expression, also where the model abstains")
    confidence: float = Field(ge=0, le=1, description="its calibrated probability")
    probabilities: dict[str, float] = Field(description="calibrated; they add up to 1")
    abstains: bool = Field(description="whether the expression should not be relied on")
    reason: Literal["unsure", "unfamiliar"] | None = Field(
        description="why it abstains: too little confidence, or unlike all that it was trained on"
    )


class Box(_Answer):
    """Where a face is, in pixels of the upright picture."""

    x: int
    y: int
    width: int
    height: int


class FoundFace(FaceAnswer):
    """A face that was found in a photo."""

    box: Box


class Prediction(_Answer):
    """The answer of ``/predict``: one entry for each picture, in their order."""

    model: str = Field(description="the model's version")
    request_id: str
    faces: list[FaceAnswer]


class Analysis(_Answer):
    """The answer of ``/analyze``: the faces, the largest first; none is an answer, too."""

    model: str = Field(description="the model's version")
    request_id: str
    width: int = Field(description="of the upright picture, pixels")
    height: int
    message: str | None = Field(description="says so where no face was found")
    faces: list[FoundFace]


class Info(_Answer):
    """The answer of ``/info``."""

    name: str
    version: str
    expressions: list[str]
    image_size: int
    abstention_threshold: float
    metrics: dict[str, float] = Field(description="accuracy on each test set")
    card: dict[str, Any] = Field(description="the model card")


class Problem(_Answer):
    """The body of every answer that is no success."""

    error: str
