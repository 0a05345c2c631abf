"""What a killed stage goes on from is known by all that DVC says the stage depends on."""

import inspect
import shlex
import shutil

import pytest
import yaml

from mien.stages import cluster, finetune, pretrain
from tests.killing import Killed, kill

DECIDES = ("learning/", "model/", "shipped/", "stages/", "data/augmentation.py", "data/dataset.py")
"""Code that how a network learns depends on; the rest reads the faces and draws what came of it."""


def everything(params):
    """All networks take part whose weights ship or are handed on."""
    begins = params.pretrain
    landmarks = begins.landmarks.model_copy(update={"epochs": 1})
    taught = begins.recognition.model_copy(update={"epochs": 1})
    refinery = begins.refinery.model_copy(update={"networks": ["nano", "small", "base"]})
    asked = {"landmarks": landmarks, "recognition": taught, "refinery": refinery}
    labellers = {"networks": ["accnn", "larger", "recognition"]}
    return params.model_copy(
        update={
            "pretrain": begins.model_copy(update=asked),
            "cluster": params.cluster.model_copy(update=labellers),
        }
    )


@pytest.mark.parametrize("stage", [pretrain, cluster, finetune])
def test_a_killed_run_is_known_by_all_that_its_stage_depends_on(
    stage, measured, params, monkeypatch, root
):
    """Or a run would be one half of one set of faces, weights or settings and half of another."""
    name = stage.__name__.rpartition(".")[2]
    described = yaml.safe_load((root / "dvc.yaml").read_text())["stages"][name]
    kept = []

    def listen(folder, settings, inputs):
        kept.append((settings, inputs))
        kill()

    monkeypatch.setattr(stage.Checkpoint, "of", listen)
    places = inspect.signature(stage.main).parameters.keys() - {"params"}
    files = {place: measured / place for place in places}
    files |= {place: measured / f"{place}.parquet" for place in places & {"manifest"}}
    files |= {place: measured / f"{place}.npy" for place in places & {"faces"}}
    for place in places & {"pretrained", "start"}:
        files[place] = measured / "pretrain.safetensors"
    for place in places & {"training_set"}:
        shutil.copy(files["manifest"], files[place])
    with pytest.raises(Killed):
        stage.main(everything(params), **files)

    ((settings, inputs),) = kept
    assert set(settings) == set(described["params"])
    words = shlex.split(described["cmd"])
    arguments = {place: words[words.index("--" + place.replace("_", "-")) + 1] for place in places}
    verdict = {"metrics/validate.json"}  # it stops the stage, and decides nothing that it learns
    for place, path in arguments.items():
        assert (files[place] in inputs) == (path in set(described["deps"]) - verdict), place
    code = [
        path
        for path in described["deps"]
        if path.startswith(tuple(f"src/mien/{each}" for each in DECIDES))
    ]
    assert len(code) > 10
    assert {root / path for path in code} <= {path.resolve() for path in inputs}
