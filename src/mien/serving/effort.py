"""What the service does for one request: within bounds, and while somebody waits for it."""

import threading

from starlette.exceptions import HTTPException

from mien.data.faces import MAX_PIXELS, PictureError

MOST_PIXELS = 2 * MAX_PIXELS
"""Of all pictures of a request together: 64 face crops of 1,250 × 1,250 pixels."""


class Effort:
    """Goes with a request into the thread that works on it."""

    def __init__(self) -> None:
        self._pixels = MOST_PIXELS
        self._ended = threading.Event()

    def end(self) -> None:
        """Nobody waits for the answer any more."""
        self._ended.set()

    def go_on(self) -> None:
        """Asked between the steps of the work, for nothing can stop a thread from outside.

        Raises:
            HTTPException: nobody waits; nobody will see it.
        """
        if self._ended.is_set():
            raise HTTPException(499, "nobody waits for the answer")

    def spend(self, pixels: int) -> None:
        """Count a picture's pixels before they are decoded.

        Raises:
            PictureError: with those before it there are more than `MOST_PIXELS`.
        """
        self._pixels -= pixels
        if self._pixels < 0:
            raise PictureError(
                f"with those before it over the {MOST_PIXELS:,} pixels that all pictures of a "
                "request may have; send them in several"
            )
