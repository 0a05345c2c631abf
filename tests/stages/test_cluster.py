"""Stage `cluster`, and `finetune` after it: which network labels the faces, and who is believed."""

import numpy as np
import pandas as pd
import pytest
import torch

from mien.files import read_json
from mien.learning import joint, recognition
from mien.learning.clustering import FREE
from mien.learning.pseudo_labels import POSTERIOR
from mien.learning.recognition import RecognitionNet, save_recognition
from mien.model.accnn import ACCNN
from mien.model.weights import save_networks
from mien.stages import cluster, finetune, relabel
from tests.killing import Killed, kill
from tests.stages.conftest import (
    accuracy_on_validation,
    kept_calls,
    same,
    state,
    validate_by_happy_faces,
)

SHORT = {
    "epochs": 2, "steps_per_epoch": 2, "batch_size": 8, "unlabelled_batch_size": 8,
    "consistency_threshold": 0.0, "consistency_temperature": 1.0,
}  # fmt: skip


def settings(params, *networks, guess="own"):
    """Short trainings; every face is accepted, for networks as little trained as these agree on
    none."""
    larger = params.pretrain.larger.model_copy(update={"epochs": 1})
    clusters = {"networks": list(networks) or ["accnn"], "rounds": 1, "free_prototypes": 2}
    floors = {"min_posterior": 0.0, "min_margin": 0.0, "min_purity": 0.0, "max_sparse_share": 0.0}
    changes = {
        "pretrain": params.pretrain.model_copy(update={"larger": larger}),
        "cluster": params.cluster.model_copy(update=SHORT | clusters),
        "relabel": params.relabel.model_copy(update=floors | {"require_flip_agreement": False}),
        "finetune": params.finetune.model_copy(update=SHORT | {"consistency_guess": guess}),
    }
    return params.model_copy(update=changes)


def larger_networks(folder, params, seeds):
    networks = []
    for seed in seeds:
        torch.manual_seed(seed)
        sizes = {"stem": 8, "widths": [16, 16]}
        shape = params.model.model_copy(update=sizes)
        networks.append(ACCNN(shape, len(params.expressions)))
    names = tuple(params.expressions)
    save_networks(folder / "larger.safetensors", networks, names, 24)
    save_recognition(folder / "recognition.safetensors", None, names, 24)


def run(params, folder, name):
    cluster.main(
        params,
        manifest=folder / "manifest.parquet",
        faces=folder / "faces.npy",
        pretrained=folder / "pretrain.safetensors",
        larger=folder / "larger.safetensors",
        recognition=folder / "recognition.safetensors",
        checkpoints=folder / "checkpoints",
        weights=folder / f"{name}.safetensors",
        assignments=folder / f"{name}.parquet",
        curves=folder / f"{name}.csv",
        report=folder / name,
        metrics=folder / f"{name}-metrics.json",
    )
    found = pd.read_parquet(folder / f"{name}.parquet")
    return found[[POSTERIOR + each for each in params.expressions]].to_numpy()


def test_a_larger_network_labels_and_the_accnn_waits(measured, params):
    larger_networks(measured, params, [1])
    validate_by_happy_faces(measured)
    own = run(settings(params), measured, "own")
    theirs = run(settings(params, "larger"), measured, "theirs")
    before = state(measured / "pretrain.safetensors")
    assert not same(state(measured / "own.safetensors"), before)
    assert same(state(measured / "theirs.safetensors"), before)
    assert not np.allclose(own, theirs)
    assert (measured / "theirs/larger_1.svg").exists()
    figures = read_json(measured / "own-metrics.json")
    told = accuracy_on_validation(measured, "own", params)
    assert figures["validation_accuracy"] == pytest.approx(told)
    clusters = pd.read_parquet(measured / "own.parquet")["cluster"]
    assert figures["dustbin_share"] == pytest.approx((clusters == FREE).mean())
    said = read_json(measured / "theirs-metrics.json")
    assert said["network"] == "larger", "the accuracy beside it is not that of weights.safetensors"
    assert not list((measured / "own").glob("larger*"))
    assert not list((measured / "checkpoints").iterdir())


def test_the_sheet_shows_of_a_cluster_what_it_holds(measured, params, monkeypatch):
    """A cluster of one face was shown with 16, fifteen of them of others."""
    larger_networks(measured, params, [1])
    sheets = []
    monkeypatch.setattr(
        cluster, "write_contact_sheet", lambda path, rows, columns: sheets.append(rows)
    )
    run(settings(params), measured, "own")
    (rows,) = sheets
    held = pd.read_parquet(measured / "own.parquet")["cluster"].value_counts()
    for index, (caption, faces) in enumerate(rows):
        count = int(held.get(index, 0))
        assert caption.endswith(f"#{index}\n{count} face{'' if count == 1 else 's'}")
        assert len(faces) == min(count, 16)


def test_the_last_rounds_clusters_are_compared_with_the_learned_networks(
    measured, params, monkeypatch
):
    larger_networks(measured, params, [1])
    in_rounds = kept_calls(monkeypatch, joint, "cluster_faces")
    after = kept_calls(monkeypatch, cluster, "cluster_faces")
    run(settings(params), measured, "own")
    last, found = (each[-1].clustering.cluster for each in (in_rounds, after))
    expected = joint.agreement(last, found)
    assert read_json(measured / "own-metrics.json")["nmi"] == pytest.approx(expected)
    assert expected < 0.99


def test_several_networks_label_by_their_mean(measured, params):
    alone = []
    for seed in (1, 2):
        larger_networks(measured, params, [seed])
        moved = settings(params, "larger").model_copy(update={"seed": params.seed + seed - 1})
        alone.append(run(moved, measured, f"alone-{seed}"))
    larger_networks(measured, params, [1, 2])
    both = run(settings(params, "larger"), measured, "both")
    np.testing.assert_allclose(both, np.mean(alone, axis=0), atol=1e-6)
    first, found = (pd.read_parquet(measured / f"{name}.parquet") for name in ("alone-1", "both"))
    pd.testing.assert_series_equal(found["cluster"], first["cluster"])
    best = both.argmax(axis=1)
    assert found["expression"].tolist() == [params.expressions[each] for each in best]


def test_the_accnn_learns_beside_a_larger_network(measured, params):
    larger_networks(measured, params, [1])
    own, theirs, both = (
        run(settings(params, *networks), measured, "-".join(["by", *networks]))
        for networks in (["accnn"], ["larger"], ["larger", "accnn"])
    )
    np.testing.assert_allclose(both, (own + theirs) / 2, atol=1e-6)
    beside = state(measured / "by-larger-accnn.safetensors")
    assert same(beside, state(measured / "by-accnn.safetensors"))
    said = read_json(measured / "by-larger-accnn-metrics.json")
    assert said["network"] == "accnn", "whose weights are saved"
    assert (measured / "by-larger-accnn/larger_1.svg").exists()
    first, found = (
        pd.read_parquet(measured / f"{n}.parquet") for n in ("by-accnn", "by-larger-accnn")
    )
    pd.testing.assert_series_equal(found["cluster"], first["cluster"])


def test_killed_between_the_larger_networks_it_goes_on(measured, params, monkeypatch):
    larger_networks(measured, params, [1, 2])
    whole = run(settings(params, "larger"), measured, "whole")
    calls = []

    def end_with_the_second(*arguments):
        calls.append(arguments)
        return cluster_faces(*arguments) if len(calls) == 1 else kill()

    cluster_faces = cluster.cluster_faces
    with monkeypatch.context() as broken, pytest.raises(Killed):
        broken.setattr(cluster, "cluster_faces", end_with_the_second)
        run(settings(params, "larger"), measured, "killed")
    assert len(list((measured / "checkpoints").iterdir())) == 2
    np.testing.assert_array_equal(run(settings(params, "larger"), measured, "killed"), whole)


def test_finetune_learns_from_what_clusters_say_where_asked_for(measured, params, monkeypatch):
    larger_networks(measured, params, [1])
    validate_by_happy_faces(measured)
    params = settings(params, "larger")
    posteriors = run(params, measured, "theirs")
    shares = []
    set_targets = finetune.JointTask.set_targets

    def listen(task, targets, weights, prior):
        shares.append(prior)
        set_targets(task, targets, weights, prior)

    monkeypatch.setattr(finetune.JointTask, "set_targets", listen)

    def tune(guess, assignments="theirs"):
        changed = settings(params, "larger", guess=guess)
        files = {"manifest": measured / "manifest.parquet", "faces": measured / "faces.npy"}
        files["assignments"] = measured / f"{assignments}.parquet"
        training_set = measured / "training_set.parquet"
        relabel.main(
            changed, **files, training_set=training_set, report=measured / "relabelled",
            metrics=measured / "relabel-metrics.json",
        )  # fmt: skip
        finetune.main(
            changed, **files, training_set=training_set, start=measured / "theirs.safetensors",
            checkpoints=measured / "checkpoints", weights=measured / "tuned.safetensors",
            curves=measured / "tuned.csv", report=measured / "tuned",
            metrics=measured / "tuned.json",
        )  # fmt: skip
        return state(measured / "tuned.safetensors"), read_json(measured / "tuned.json")

    own, figures = tune("own")
    told = accuracy_on_validation(measured, "tuned", params)
    assert figures["validation_accuracy"] == pytest.approx(told)
    np.testing.assert_allclose(shares[0], posteriors.mean(axis=0), rtol=1e-5)
    told, figures = tune("clusters")
    assert not same(own, told)
    assert figures["consistency"] > 0
    shuffled = pd.read_parquet(measured / "theirs.parquet").sample(frac=1, random_state=0)
    shuffled.to_parquet(measured / "shuffled.parquet")
    again, _ = tune("clusters", "shuffled")
    for name, tensor in told.items():  # the order of the table decides nothing
        torch.testing.assert_close(again[name], tensor, atol=1e-5, rtol=1e-4)


def test_all_but_the_posterior_stays_the_first_networks(measured, params, monkeypatch):
    larger_networks(measured, params, [1])
    clustered = kept_calls(monkeypatch, cluster, "cluster_faces")
    run(settings(params), measured, "own")
    (first,) = clustered
    sure = np.zeros_like(first.clustering.posterior)
    sure[:, 0] = 1
    found = cluster.with_posterior(first, sure)
    assert found.clustering.posterior is sure
    assert found.clustering.cluster is first.clustering.cluster
    assert found.flip_agrees is first.flip_agrees


@pytest.mark.parametrize("killed", [False, True])
def test_a_recognition_network_has_a_say(measured, params, monkeypatch, killed):
    monkeypatch.setattr(recognition, "_SIDE", 64)
    larger_networks(measured, params, [1])
    torch.manual_seed(0)
    network = RecognitionNet(len(params.expressions))
    save_recognition(measured / "recognition.safetensors", network, tuple(params.expressions), 24)
    clustered = kept_calls(monkeypatch, cluster, "cluster_faces")
    said = kept_calls(monkeypatch, cluster, "say")
    if killed:
        with monkeypatch.context() as broken, pytest.raises(Killed):
            broken.setattr(recognition, "_embedded", kill)
            run(settings(params, "accnn", "recognition"), measured, "both")
        assert sorted((measured / "checkpoints").iterdir())
    found = run(settings(params, "accnn", "recognition"), measured, "both")
    own, theirs = clustered[-1].clustering.posterior, said[-1]
    np.testing.assert_allclose(found, (own + theirs) / 2, rtol=1e-5)
    assert not np.allclose(own, theirs, atol=0.05)
    assert read_json(measured / "both-metrics.json")["network"] == "accnn"
    assert not list((measured / "checkpoints").glob("*.safetensors"))
    own_alone = run(settings(params, "accnn"), measured, "own")
    np.testing.assert_allclose(own_alone, own, rtol=1e-5)
