"""The training loop: it learns, it repeats, and killed at any moment it goes on."""

import lightning_fabric
import numpy as np
import pytest
import torch
from lightning_fabric.plugins import MixedPrecision

from mien.data.augmentation import Augmentation
from mien.data.dataset import to_tensor
from mien.errors import MienError
from mien.learning.checkpoint import Checkpoint
from mien.learning.training import (
    SupervisedTask,
    class_log_prior,
    fit,
    in_words,
    make_fabric,
    one_cycle,
    renew_statistics,
    shuffled,
)
from mien.model.accnn import ACCNN
from mien.params.learning import TrainingSettings
from tests.killing import Killed, killing
from tests.learning.conftest import COMPUTE, GENTLE, MODEL, stripes

LABELS = np.arange(60) % 2
TRAINING = TrainingSettings(
    epochs=4, steps_per_epoch=6, batch_size=16, learning_rate=0.01, weight_decay=0.01,
    ema_decay=0.8, label_smoothing=0.05, class_balance=1.0,
)  # fmt: skip


def train(folder, *, kill_after=None, seed=0, fabric=None, settings=TRAINING):
    faces, labelled = stripes(LABELS)
    torch.manual_seed(3)
    task = SupervisedTask(ACCNN(MODEL, 2), faces, labelled, settings, Augmentation(GENTLE))
    return fit(
        task, settings, epochs=settings.epochs, seed=seed, fabric=fabric or make_fabric(COMPUTE),
        checkpoint=Checkpoint(folder / "run.safetensors"), title="test",
        validate=killing(kill_after, lambda net: {"validation_accuracy": 0.0}),
    )  # fmt: skip


def same_weights(first, second):
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("kill_after", [0, 1, 3])
def test_killed_and_resumed_ends_with_the_same_weights(tmp_path, kill_after):
    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "broken", kill_after=kill_after)
    resumed = train(tmp_path / "broken")
    assert same_weights(whole, resumed)
    assert whole.history == resumed.history


def test_killed_twice(tmp_path):
    whole = train(tmp_path / "whole")
    for _ in range(2):
        with pytest.raises(Killed):
            train(tmp_path / "broken", kill_after=1)
    assert same_weights(whole, train(tmp_path / "broken"))


def scaling():
    """Half precision as on a GPU, from a scale with which the first steps are skipped."""
    torch.set_num_threads(1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    plugins = MixedPrecision("16-mixed", "cpu", scaler)
    return lightning_fabric.Fabric(accelerator="cpu", devices=1, plugins=plugins)


def test_killed_in_half_precision_it_skips_no_more_steps(tmp_path):
    """Each time that it went on it looked for the losses' scale anew."""
    whole = train(tmp_path / "whole", fabric=scaling())
    with pytest.raises(Killed):
        train(tmp_path / "broken", kill_after=1, fabric=scaling())
    assert same_weights(whole, train(tmp_path / "broken", fabric=scaling()))


def test_a_run_goes_on_in_another_precision(tmp_path):
    for name, began, goes_on in (("up", scaling(), None), ("down", None, scaling())):
        folder = tmp_path / name
        with pytest.raises(Killed):
            train(folder, kill_after=1, fabric=began)
        assert len(train(folder, fabric=goes_on).history) == TRAINING.epochs


def test_a_torn_checkpoint_starts_again(tmp_path):
    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "broken", kill_after=2)
    path = tmp_path / "broken" / "run.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert same_weights(whole, train(tmp_path / "broken"))


def test_a_training_that_runs_away_is_told_at_once(tmp_path):
    """It went on to its end, which was a traceback."""
    steep = TRAINING.model_copy(update={"learning_rate": 1e20})
    with pytest.raises(MienError, match=r"test: the loss of epoch 1 is nan.* lower learning_rate"):
        train(tmp_path, settings=steep)
    assert not list(tmp_path.iterdir())


def test_another_seed_gives_other_weights(tmp_path):
    assert not same_weights(train(tmp_path / "a"), train(tmp_path / "b", seed=1))


def test_it_learns(tmp_path):
    faces, labelled = stripes(LABELS)
    settings = TRAINING.model_copy(update={"epochs": 6, "steps_per_epoch": 12})
    torch.manual_seed(0)
    task = SupervisedTask(ACCNN(MODEL, 2), faces, labelled, settings, Augmentation(GENTLE))
    from mien.learning.embedding import accuracy_on

    fitted = fit(
        task, settings, epochs=6, seed=0, fabric=make_fabric(COMPUTE),
        checkpoint=Checkpoint(tmp_path / "run.safetensors"),
        validate=lambda net: accuracy_on(net, faces, labelled), title="test",
    )  # fmt: skip
    assert fitted.history[-1]["validation_accuracy"] > 0.95
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]
    assert not fitted.model.training


def test_what_comes_out_lies_channels_last(tmp_path):
    model = train(tmp_path).model
    dense = [each for each in model.parameters() if each.ndim == 4 and min(each.shape[1:]) > 1]
    assert dense
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in dense)


def test_mixed_precision_runs_and_stays_close(tmp_path, monkeypatch):
    # torch imitates it where the CPU has none
    monkeypatch.setattr("mien.learning.training.cpu_has_bfloat16", lambda: True)
    mixed = make_fabric(COMPUTE.model_copy(update={"precision": "bf16-mixed"}))
    half = train(tmp_path / "half", fabric=mixed)
    full = train(tmp_path / "full")
    assert half.history[-1]["loss"] == pytest.approx(full.history[-1]["loss"], rel=0.2)


@pytest.mark.parametrize(
    ("capability", "mixed"), [("avx512_bf16", True), ("bf16", True), ("avx512_f", False)]
)
def test_bfloat16_is_used_where_the_cpu_has_it(monkeypatch, capsys, capability, mixed):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {capability: True, "amx_bf16": False})
    fabric = make_fabric(COMPUTE.model_copy(update={"precision": "bf16-mixed"}))
    with fabric.autocast():
        assert torch.is_autocast_enabled("cpu") == mixed
    assert ("32-true" in capsys.readouterr().out) != mixed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(MienError, match=r"compute\.accelerator: cuda .* use auto or cpu"):
        make_fabric(COMPUTE.model_copy(update={"accelerator": "cuda"}))


def test_checkpoint_key_follows_settings_and_inputs(tmp_path):
    data = tmp_path / "data"
    data.write_text("faces")
    first = Checkpoint.of(tmp_path, {"seed": 0}, [data])
    assert first == Checkpoint.of(tmp_path, {"seed": 0}, [data])
    assert first != Checkpoint.of(tmp_path, {"seed": 1}, [data])
    data.write_text("other faces")
    assert first != Checkpoint.of(tmp_path, {"seed": 0}, [data])


def test_parts_of_a_run_are_kept_apart(tmp_path):
    run = Checkpoint(tmp_path / "run.safetensors")
    parts = [run, run.part("start"), run.part("larger-1")]
    for number, each in enumerate(parts):
        each.once("made", lambda number=number: {"number": torch.tensor(number)})
    parts[1].clear()
    again = [each.once("made", lambda: {"number": torch.tensor(-1)}) for each in parts]
    assert [int(each["number"]) for each in again] == [0, -1, 2]
    result = tmp_path / "run.json"  # which a benchmark keeps beside them; it went with them
    result.touch()
    run.clear()
    assert list(tmp_path.iterdir()) == [result]


def test_runs_that_were_given_up_are_forgotten_when_one_has_ended(tmp_path):
    for name in ("given-up", "ended"):
        run = Checkpoint(tmp_path / "stage" / f"{name}.safetensors")
        for each in (run, run.part("larger-1")):
            each.once("made", lambda: {"number": torch.tensor(1)})
    run.clear_all()
    assert not list((tmp_path / "stage").iterdir())
    run.clear_all()  # nor where there was nothing to keep


def test_what_is_made_once_is_kept_until_the_run_has_ended(tmp_path):
    run, other = Checkpoint(tmp_path / "run.safetensors"), Checkpoint(tmp_path / "run2.safetensors")

    def once(which, name, number):
        made = which.once(name, lambda: {"one": torch.eye(3) + number, "two": torch.ones(2)})
        assert torch.equal(made["two"], torch.ones(2))
        return float(made["one"][0, 1])

    assert once(run, "labels", 0) == 0
    assert once(run, "labels", 1) == 0
    assert once(run, "others", 2) == 2
    assert once(other, "labels", 3) == 3
    (kept,) = tmp_path.glob("run.labels.*")
    kept.write_bytes(b"torn")
    assert once(run, "labels", 4) == 4
    run.clear()
    assert once(other, "labels", 5) == 3
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_counted_is_no_measure_in_the_progress_line():
    """It said ``round 1.000``."""
    assert in_words({"epoch": 3, "round": 1, "nmi": 0.51234}) == "round 1, nmi 0.512"


def test_one_cycle_rises_then_falls():
    rates = [one_cycle(step / 100) for step in range(100)]
    peak = int(np.argmax(rates))
    assert peak == 10
    assert rates[peak] == pytest.approx(1)
    assert all(np.diff(rates[: peak + 1]) > 0)
    assert all(np.diff(rates[peak:]) < 0)
    assert rates[-1] < 0.001


def test_class_log_prior_by_hand():
    prior = class_log_prior(np.array([0, 0, 0, 1]), 2, 1.0)
    np.testing.assert_allclose(prior, np.log([0.75, 0.25]), rtol=1e-6)
    np.testing.assert_allclose(
        class_log_prior(np.array([0, 0, 0, 1]), 2, 0.5), prior / 2, rtol=1e-6
    )
    assert class_log_prior(np.array([0, 0, 0, 1]), 2, 0.0).abs().max() == 0
    assert torch.isfinite(class_log_prior(np.array([0]), 3, 1.0)).all()


def test_shuffled_uses_every_face_before_it_repeats_one():
    drawn = shuffled(7, 17, torch.Generator().manual_seed(0))
    assert len(drawn) == 17
    assert sorted(drawn[:7].tolist()) == list(range(7)) == sorted(drawn[7:14].tolist())


def test_only_matrices_and_filters_decay_at_the_rate_of_the_schedule(tmp_path, monkeypatch):
    seen = []

    class Watched(torch.optim.AdamW):
        def step(self, closure=None):
            seen.append([(group["lr"], group["weight_decay"]) for group in self.param_groups])
            for group, decays in zip(self.param_groups, (True, False), strict=True):
                assert all((parameter.ndim > 1) == decays for parameter in group["params"])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    train(tmp_path)
    rates = [0.01 * one_cycle(step / 24) for step in range(24)]
    assert seen == [[(rate, 0.01), (rate, 0.0)] for rate in rates]


def test_what_comes_out_has_the_statistics_of_plain_faces(tmp_path):
    net = train(tmp_path).model
    found = {name: value.clone() for name, value in net.named_buffers() if "running" in name}
    renew_statistics(net, *stripes(LABELS))
    for name, value in net.named_buffers():
        if "running" in name:
            torch.testing.assert_close(found[name], value)


def test_statistics_are_those_of_the_plain_labelled_faces():
    faces, labelled = stripes(LABELS)
    torch.manual_seed(0)
    net = ACCNN(MODEL, 2).eval()
    renew_statistics(net, faces, labelled)
    assert not net.training
    with torch.no_grad():
        maps = net.stem[0](net.standardise(to_tensor(faces)))
    torch.testing.assert_close(net.stem[1].running_mean, maps.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(net.stem[1].running_var, maps.var(dim=(0, 2, 3)))


def test_statistics_come_from_faces_spread_over_all_of_them_where_they_are_many(monkeypatch):
    monkeypatch.setattr("mien.learning.training._STATISTICS_FACES", 7)
    faces, labelled = stripes(LABELS)
    torch.manual_seed(0)
    net = ACCNN(MODEL, 2).eval()
    renew_statistics(net, faces, labelled)
    every = -(-len(labelled) // 7)
    assert every > 1
    with torch.no_grad():
        maps = net.stem[0](net.standardise(to_tensor(faces[labelled.rows[::every]])))
    torch.testing.assert_close(net.stem[1].running_mean, maps.mean(dim=(0, 2, 3)))
