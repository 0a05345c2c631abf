"""For a machine that is busy with other things: MIEN_TEST_PATIENCE=5 waits five times longer."""

import os

PATIENCE = float(os.environ.get("MIEN_TEST_PATIENCE", "1"))
