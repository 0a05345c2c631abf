"""The Bento serves one model from its own files: no checkout, no store, no network."""

import json
import os
import shutil
import subprocess
import sys

import cv2
import httpx
import numpy as np
import pytest

from mien.errors import MienError
from mien.serving.build import build
from tests.serving.conftest import free_port, listening, wait_until_ready

pytestmark = pytest.mark.slow


def test_a_bento_serves_elsewhere(package, tmp_path):
    environment = os.environ | {
        "BENTOML_HOME": str(tmp_path / "bentoml"),
        "MIEN_MODEL": str(package),
    }
    command = [sys.executable, "-m", "mien.serving.build"]
    built = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    version = json.loads((package / "metadata.json").read_text())["version"]
    assert f"built mien:{version}" in built.stdout
    again = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert "bentoml delete" in again.stderr

    bento = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "bentoml/bentos/mien" / version, bento)
    shutil.rmtree(tmp_path / "bentoml")
    assert (bento / "env/docker/Dockerfile").is_file()
    weights = [path for path in bento.rglob("*") if path.suffix in {".onnx", ".safetensors"}]
    assert {path.parent for path in weights} == {bento / "src/model"}
    for path in bento.rglob("*"):
        if path.is_file() and path.suffix in {".yaml", ".json", ".txt", ".py", ".toml"}:
            assert str(tmp_path) not in path.read_text(encoding="utf-8", errors="ignore"), path
    page = bento / "src/mien/serving/page.html"
    page.write_text(page.read_text().replace("<title>", "<title>From the Bento. "))

    # a relative path starts from the shell's folder, and not from the Bento's
    environment |= {"MIEN_LOG_DIR": "rows", "PWD": str(tmp_path), "MIEN_MODEL": "nowhere"}
    port, output = free_port(), tmp_path / "out.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "bentoml", "serve", str(bento), "--port", str(port)],
            env=environment,
            cwd=tmp_path,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, output)
        assert listening(process.pid) == {url}
        assert "From the Bento." in httpx.get(url).text  # and not from this checkout
        face = cv2.imencode(".png", np.arange(2304, dtype=np.uint8).reshape(48, 48))[1].tobytes()
        answer = httpx.post(f"{url}/predict", files={"images": face}).json()
        assert answer["model"] == version
    finally:
        process.terminate()
        process.wait(20)
    # the end of the service waits for its log
    row = json.loads(next((tmp_path / "rows").rglob("data.*.log")).read_text())
    assert row["model"] == version


def test_what_is_no_package_is_told(tmp_path):
    with pytest.raises(MienError, match="not a sound package"):
        build(tmp_path)
