"""`mien.params`: every wrong setting is named, and right ones arrive typed."""

import copy
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mien.errors import MienError
from mien.params import Params, load_params, parse_params
from mien.params.learning import ModelSettings
from mien.workspace import complete_params
from mien.yaml_files import merge, read_yaml


@pytest.fixture
def settings(root) -> dict:
    return read_yaml(root / "params.yaml")


def with_setting(settings: dict, name: str, value: object) -> dict:
    changed = copy.deepcopy(settings)
    *sections, key = name.split(".")
    place = changed
    for section in sections:
        place = place[int(section) if isinstance(place, list) else section]
    place[key] = value
    return changed


def test_the_projects_own_settings_are_right(root):
    params = load_params(root / "params.yaml")
    assert params.model.widths == [32, 64, 128]
    assert params.prepare.sources[0].kind == "synthetic"


def test_the_overlay_for_real_data_is_right(root):
    overlay = read_yaml(root / "configs" / "fer2013-lfw.yaml")
    params = parse_params(complete_params(overlay), "overlay")
    fer2013, lfw = params.prepare.sources
    assert (fer2013.kind, fer2013.label_share, lfw.kind) == ("fer2013", 0.1, "lfw")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("pretrain.epoch", 3, "unknown setting"),
        ("augmentation.light", 0.8, "light times strong must be under 1"),
        ("augmentation.strong", 4, "light times strong must be under 1"),
        ("augmentation.scale", 1, "scale times strong must be under 1"),
        ("package.name", "_mine", "package.name"),
        ("package.name", "m" * 64, "package.name"),
        ("sede", 3, "unknown setting"),
        ("pretrain.epochs", "many", "valid integer"),
        ("pretrain.epochs", 0, "greater than or equal to 1"),
        ("pretrain.epochs", 2.5, "valid integer"),
        ("pretrain.learning_rate", 0, "greater than 0"),
        ("pretrain.larger.learning_rate", math.inf, "finite"),
        ("cluster.prior_strength", math.inf, "finite"),  # no number came of it
        ("cluster.temperature", math.inf, "finite"),
        ("package.parity_tolerance", math.inf, "finite"),  # JSON, which holds them all, has none
        ("promotion.max_latency_ms", math.inf, "finite"),
        ("promotion.max_size_mb", math.inf, "finite"),
        ("monitoring.cooldown_hours", math.inf, "finite"),
        ("promotion.approval_hours", math.inf, "finite"),
        ("pretrain.self_supervised.epochs", -1, "greater than or equal to 0"),
        ("pretrain.self_supervised.batch_size", 1, "greater than or equal to 2"),
        ("pretrain.self_supervised.networks", [], "at least 1 item"),
        ("pretrain.self_supervised.networks", ["small"], "'accnn' or 'larger'"),
        ("pretrain.landmarks.epochs", -1, "greater than or equal to 0"),
        ("pretrain.landmarks.networks", [], "at least 1 item"),
        ("pretrain.landmarks.components", 0, "greater than or equal to 1"),
        ("pretrain.landmarks.components", 257, "less than or equal to 256"),
        ("cluster.networks", ["small"], "'accnn', 'larger' or 'recognition'"),
        ("cluster.networks", [], "at least 1 item"),
        ("cluster.temperature", 0.01, r"greater than or equal to 0\.02"),
        ("finetune.consistency_guess", "mine", "'own' or 'clusters'"),
        ("pretrain.self_supervised.strength", 0.5, "greater than or equal to 1"),
        ("pretrain.larger.weight", 1.5, "less than or equal to 1"),
        ("pretrain.larger.blocks", [1], "same length"),
        ("pretrain.refinery.networks", ["huge"], "'nano', 'small', 'base' or 'recognition'"),
        ("pretrain.first_weights", "huge", "'random', 'nano', 'small' or 'base'"),
        ("pretrain.first_weights_share", 1, "less than 1"),
        ("pretrain.first_weights_share", 0.5, "first_weights_share: random weights are not worth"),
        ("pretrain.refinery.views", 0, "greater than or equal to 1"),
        ("model.branches", 0, "greater than or equal to 1"),
        ("relabel.coverage", 1.5, "less than or equal to 1"),
        ("relabel.coverage", 0, "greater than 0"),
        ("relabel.require_flip_agreement", "perhaps", "valid boolean"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**32, "less than 2147483648"),
        ("model.convolution", "dense", "'affinity' or 'ordinary'"),
        ("model.kernel", 2, "1, 3 or 5"),
        ("model.transform_kernel", 4, "3, 5 or 7"),
        ("model.widths", [32, 64, 129], "multiple of ratio"),
        ("model.blocks", [2, 2], "same length"),
        ("prepare.image_size", 50, "multiple of 8"),
        ("prepare.sources", [], "at least 1 item"),
        ("validate.brightness", [1], "Field required|missing"),
        ("validate.brightness", [10, 900], "less than or equal to 255"),
        ("validate.min_contrast", 500, r"less than or equal to 127\.5"),
        ("expressions", ["happy", ""], r"expressions\.1: give it letters.*''"),
        ("expressions", ["happy", "sad|mad"], r"expressions\.1: .* none of \| .*'sad\|mad'"),
        ("expressions", ["happy", "</script><b>"], r"expressions\.1: .* < .*'</script><b>'"),
        ("package.name", "My Model", "match pattern"),
        ("cluster", None, "valid dictionary"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_wrong(settings, name, value, words):
    with pytest.raises(MienError, match=words) as caught:
        parse_params(with_setting(settings, name, value), "params.yaml")
    # A check that spans several settings names their section.
    section = name.split(".")[0]
    assert str(caught.value).startswith(f"params.yaml: {section}")


def test_the_first_clustering_reads_the_head_as_it_was_trained(settings):
    """Of a head that is balanced otherwise the prior would be counted twice, or not at all."""
    settings["cluster"]["class_balance"] = 0.5
    with pytest.raises(MienError, match=r"pretrain\.class_balance 1: .* make them equal"):
        parse_params(settings, "params.yaml")
    settings["pretrain"]["class_balance"] = 0.5
    assert parse_params(settings, "params.yaml").cluster.class_balance == 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"widths": [64, 129, 256]},
            "pretrain.larger.widths: each must be a multiple of model.ratio",
        ),
        ({"widths": [32] * 5, "blocks": [1] * 5}, "a multiple of 32: .* pretrain.larger.widths"),
    ],
)
def test_a_larger_network_has_to_fit_only_where_it_is_wanted(settings, changes, words):
    settings["pretrain"]["larger"] |= changes
    assert not parse_params(settings, "params.yaml").pretrain.larger.epochs
    settings["pretrain"]["larger"]["epochs"] = 1
    with pytest.raises(MienError, match=words):
        parse_params(settings, "params.yaml")


def test_a_start_without_labels_must_show_faces_only_where_it_is_wanted(settings):
    start = settings["pretrain"]["self_supervised"]
    start["strength"] = 4
    assert parse_params(settings, "params.yaml").pretrain.self_supervised.strength == 4
    start["epochs"] = 1
    with pytest.raises(MienError, match=r"light times pretrain\.self_supervised\.strength"):
        parse_params(settings, "params.yaml")


def test_a_range_the_wrong_way_round_is_told_before_anything_runs(settings):
    settings["validate"]["brightness"] = [200, 10]
    with pytest.raises(MienError, match=r"validate\.brightness: 200 is not below 10"):
        parse_params(settings, "params.yaml")


def test_one_kind_of_adviser_is_enough(settings):
    settings["pretrain"]["larger"]["epochs"] = 1
    settings["pretrain"]["refinery"]["networks"] = ["base"]
    with pytest.raises(
        MienError, match=r"pretrain: .*larger.epochs or refinery.networks, not both"
    ):
        parse_params(settings, "params.yaml")


@pytest.mark.parametrize("start", ["landmarks", "self_supervised"])
def test_a_network_has_one_start(settings, start):
    settings["pretrain"]["first_weights"] = "small"
    settings["pretrain"][start]["epochs"] = 1
    words = rf"{start}\.epochs: a start without labels is for random weights"
    with pytest.raises(MienError, match=words):
        parse_params(settings, "params.yaml")


def test_a_larger_network_that_is_asked_for_is_there(settings):
    settings["cluster"]["networks"] = ["accnn", "larger"]
    with pytest.raises(MienError, match=r"cluster.networks: pretrain.larger.epochs is 0"):
        parse_params(settings, "params.yaml")
    for start in ("landmarks", "self_supervised"):
        settings["pretrain"][start] |= {"epochs": 1, "networks": ["larger"]}
        with pytest.raises(MienError, match=rf"{start}\.networks: larger\.epochs is 0"):
            parse_params(settings, "params.yaml")
        settings["pretrain"][start]["epochs"] = int(start == "self_supervised")
    settings["pretrain"]["larger"]["epochs"] = 1
    settings["pretrain"]["first_weights"] = "small"  # the start without labels is another network's
    assert parse_params(settings, "params.yaml").cluster.networks == ["accnn", "larger"]


def test_a_recognition_network_is_there_where_it_is_asked(settings):
    pretrain, cluster = settings["pretrain"], settings["cluster"]
    pretrain["refinery"]["networks"] = ["recognition"]
    with pytest.raises(MienError, match=r"pretrain: .*refinery.networks: recognition.epochs is 0"):
        parse_params(settings, "params.yaml")
    pretrain["recognition"]["epochs"] = 1
    assert parse_params(settings, "params.yaml").pretrain.recognition.epochs == 1
    pretrain["refinery"]["networks"] = []
    with pytest.raises(MienError, match=r"pretrain.recognition.epochs: nobody asks that network"):
        parse_params(settings, "params.yaml")
    cluster["networks"] = ["recognition"]
    with pytest.raises(MienError, match=r"cluster.networks: recognition has no clusters"):
        parse_params(settings, "params.yaml")
    cluster["networks"] = ["accnn", "recognition"]
    assert parse_params(settings, "params.yaml").cluster.leader == "accnn"
    pretrain["recognition"]["epochs"] = 0
    with pytest.raises(MienError, match=r"cluster.networks: pretrain.recognition.epochs is 0"):
        parse_params(settings, "params.yaml")


@pytest.mark.parametrize(
    ("name", "networks"), [("larger", ["larger"]), ("several", ["accnn", "larger"])]
)
def test_the_overlays_with_larger_networks_are_right(root, name, networks):
    real = {"prepare": {"sources": [{"name": "faces", "kind": "lfw", "path": "lfw.zip"}]}}
    changes = merge(real, read_yaml(root / "configs" / f"{name}.yaml"))
    params = parse_params(complete_params(changes), name)
    assert params.larger_model.convolution == "ordinary"
    assert params.cluster.networks == networks
    assert params.finetune.consistency_guess == "clusters"
    starts = [params.pretrain.landmarks, params.pretrain.self_supervised]
    assert [start.begins("larger") for start in starts] == [name == "several", name == "larger"]


def test_all_wrong_settings_are_named_at_once(settings):
    settings["pretrain"]["epochs"] = 0
    del settings["cluster"]["rounds"]
    with pytest.raises(MienError) as caught:
        parse_params(settings, "params.yaml")
    assert str(caught.value).splitlines() == [
        "params.yaml: pretrain.epochs: Input should be greater than or equal to 1 (got 0)",
        "params.yaml: cluster.rounds: this setting is missing",
        "params.yaml: is it of an earlier version of Mien? In a checkout Git has the new one; in a "
        "folder that `mien run` made, `mien run --out` on it adds what is missing",
    ]


@pytest.mark.parametrize(
    ("expressions", "words"),
    [
        (["happy", "happy"], "stands twice"),
        (["happy", "other"], "reserved"),
        (["happy"], "2 items"),
    ],
)
def test_labels_must_make_sense(settings, expressions, words):
    with pytest.raises(MienError, match=words):
        parse_params(settings | {"expressions": expressions}, "params.yaml")


def test_the_image_must_survive_the_networks_halvings(settings):
    settings["prepare"]["image_size"] = 56
    settings["model"] |= {"widths": [16, 16, 16, 16], "blocks": [1, 1, 1, 1]}
    with pytest.raises(MienError, match="multiple of 16"):
        parse_params(settings, "params.yaml")


def test_filters_that_the_network_does_not_have_are_not_set(settings):
    settings["model"] |= {"transform": "affine", "transform_kernel": 3}
    assert parse_params(settings, "params.yaml").model.transform == "affine"
    settings["model"]["transform_kernel"] = 5
    with pytest.raises(MienError, match=r"model\.transform_kernel: .* affine, .* leave it at 3"):
        parse_params(settings, "params.yaml")
    model = ModelSettings.model_validate(settings["model"])  # as weights on disk may have it
    assert model.transform_kernel == 5


def test_source_names_differ(settings):
    settings["prepare"]["sources"] *= 2
    with pytest.raises(MienError, match="share a name"):
        parse_params(settings, "params.yaml")


def test_an_unknown_kind_of_source_is_named(settings):
    settings["prepare"]["sources"][0]["kind"] = "webcam"
    with pytest.raises(MienError, match=r"prepare\.sources\.0.*'webcam'"):
        parse_params(settings, "params.yaml")


def test_what_a_source_lacks_is_no_sign_of_an_earlier_version(settings):
    settings["prepare"]["sources"] = [{"kind": "lfw", "name": "lfw"}]
    with pytest.raises(MienError, match=r"^params\.yaml: \S*\.path: this setting is missing$"):
        parse_params(settings, "params.yaml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"seed: [", "not valid YAML"),
        (b"- a\n- b\n", "expected a mapping"),
        (b"", "expected a mapping"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"prepare: {data: 2024-02-30}", "not valid YAML: day is out of range"),
        (b"prepare: {data: a}\nseed: 1\nprepare: {}", r"'prepare' stands twice[^\n]*\n.* line 3"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, words):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(MienError, match=words) as caught:
        load_params(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(MienError, match=r"no such file; run in a folder that holds params\.yaml"):
        load_params(tmp_path / "params.yaml")


def test_a_file_of_changes_that_is_none_is_named(tmp_path):
    with pytest.raises(MienError, match=r"changes\.yaml: no such file; check the path"):
        read_yaml(tmp_path / "changes.yaml")
    with pytest.raises(MienError, match=r"cannot be read \(Is a directory\); name a YAML file"):
        read_yaml(tmp_path)


def test_written_out_and_read_again_the_settings_are_the_same(root):
    params = load_params(root / "params.yaml")
    text = yaml.safe_dump(params.model_dump(mode="json", by_alias=True))
    assert Params.model_validate(yaml.safe_load(text)) == params


KEYS = st.sampled_from("abc")
TREES = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda children: st.dictionaries(KEYS, children, max_size=3),
    max_leaves=8,
)
SETTINGS = st.dictionaries(KEYS, TREES, max_size=3)


@given(SETTINGS, SETTINGS)
def test_merge_lets_changes_win_and_keeps_the_rest(base, changes):
    before = copy.deepcopy(base)
    merged = merge(base, changes)
    assert base == before
    assert merge(merged, changes) == merged
    assert set(merged) == set(base) | set(changes)
    for key in set(base) - set(changes):
        assert merged[key] == base[key]
    for key, value in changes.items():
        if not isinstance(value, dict):
            assert merged[key] == value
