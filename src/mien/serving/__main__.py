"""``python -m mien.serving``: start the service where it may be reached, with telemetry off."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from mien.errors import MienError
from mien.ports import require_free


def main(arguments: list[str] | None = None) -> None:
    """Become ``bentoml serve`` for the model that `find_package` finds in this folder."""
    from mien.serving.detector import make_detector
    from mien.serving.guard import read_key
    from mien.serving.log import read_settings
    from mien.serving.package import find_package, load_package

    parser = argparse.ArgumentParser(prog="python -m mien.serving", description=__doc__)
    parser.add_argument("--port", type=int, default=3000)
    options = parser.parse_args(arguments)
    host = "0.0.0.0" if read_key() else "127.0.0.1"
    try:
        # BentoML would start a worker that fails on these again and again.
        folder = find_package(Path.cwd())
        load_package(folder)
        make_detector()
        read_settings()
        require_free(host, options.port, "name another one: --port 3001")
    except MienError as error:
        sys.exit(f"mien.serving: error: {error}")
    figures = Path.cwd() / ".mien" / f"figures-{options.port}"  # those of the last one are void
    shutil.rmtree(figures, ignore_errors=True)
    try:
        figures.mkdir(parents=True)
    except OSError as error:
        sys.exit(f"mien.serving: error: {figures}: {error.strerror}; start where you may write")
    print(f"serving {folder} on http://127.0.0.1:{options.port}", flush=True)
    os.environ |= {
        "BENTOML_DO_NOT_TRACK": "True",
        "DO_NOT_TRACK": "1",
        "MIEN_MODEL": str(folder.resolve()),
        "PWD": str(Path.cwd()),  # where the workers' relative paths start
        "MIEN_FIGURES": str(figures),
        # a large picture's memory goes back to the system; glibc would keep most of it
        "MALLOC_MMAP_THRESHOLD_": os.environ.get("MALLOC_MMAP_THRESHOLD_", "1000000"),
    }
    command = [sys.executable, "-m", "bentoml", "serve", "mien.serving.service:MienService"]
    command += ["--host", host, "--port", str(options.port)]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
