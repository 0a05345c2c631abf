"""``python -m mien.serving.build``: a Bento of the service and one model.

The Bento holds Mien's source and the package's files themselves, so that it serves with no
checkout, no model store and no network, and always that one version.
"""

import argparse
import importlib.metadata
import os
import shutil
import sys
import tempfile
from pathlib import Path

import mien
from mien.errors import MienError
from mien.serving.package import find_package, load_package

REQUIREMENTS = (
    *("bentoml", "fastapi", "httptools", "httpx", "multipart", "numpy", "onnxruntime"),
    *("opencv-python-headless", "orjson", "pandas", "pillow", "pyarrow", "pydantic", "pyyaml"),
    *("safetensors", "tqdm", "uvicorn"),
)
"""What the service imports; the versions are the ones that run here."""
_SERVICE = '''\
"""Serves the model that lies beside this file."""

import os
from pathlib import Path

os.environ["MIEN_MODEL"] = str(Path(__file__).with_name("model"))

from mien.serving.service import MienService

__all__ = ["MienService"]
'''


def build(package: Path) -> str:
    """Build a Bento of a package folder; returns its tag, ``mien:<the model's version>``.

    Raises:
        MienError: the package is not sound, or there is such a Bento already.
    """
    version = load_package(package).version
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    os.environ["MIEN_MODEL"] = str(package.resolve())
    import bentoml
    from bentoml.exceptions import BentoMLException

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # a service does not learn, and `shipped` holds other models than its own: 19 MB of weights
        ignored = shutil.ignore_patterns("__pycache__", "learning", "shipped")
        shutil.copytree(Path(mien.__file__).parent, folder / "mien", ignore=ignored)
        shutil.copytree(package, folder / "model")
        (folder / "service.py").write_text(_SERVICE, encoding="utf-8")
        try:
            bento = bentoml.bentos.build(
                "service:MienService",
                name="mien",
                version=version,
                labels={"model": f"mien:{version}"},
                build_ctx=name,
                python={
                    "packages": [
                        f"{each}=={importlib.metadata.version(each).partition('+')[0]}"
                        for each in REQUIREMENTS
                    ],
                    "lock_packages": False,  # it would ask the network
                },
            )
        except BentoMLException as error:
            raise MienError(
                f"mien:{version}: not built ({error}); if it is there already, "
                f"`bentoml delete mien:{version}` removes it"
            ) from None
    return str(bento.tag)


def main() -> None:
    """Build one of the model that would be served here."""
    argparse.ArgumentParser(
        prog="python -m mien.serving.build", description=main.__doc__
    ).parse_args()
    try:
        tag = build(find_package(Path.cwd()))
    except MienError as error:
        sys.exit(f"mien.serving.build: error: {error}")
    print(f"built {tag}; serve it with: bentoml serve {tag}")


if __name__ == "__main__":
    main()
