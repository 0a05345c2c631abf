"""The framework's ceiling: BentoML endpoints that take the same upload and do nothing with it."""

from pathlib import Path

import bentoml


@bentoml.service(name="empty", workers=1, logging={"access": {"enabled": False}})
class Empty:
    """Answers at once."""

    @bentoml.api  # type: ignore[untyped-decorator]  # not typed
    def predict(self, images: list[Path]) -> dict[str, int]:
        """How many pictures were sent."""
        return {"faces": len(images)}
