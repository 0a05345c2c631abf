"""The AC-CNN: shapes, cost beside its twin, and what it must not depend on."""

import functools

import pytest
import torch

from mien.errors import MienError
from mien.model.accnn import ACCNN, Standardise
from mien.model.cost import count_cost
from mien.model.weights import load_networks, load_weights, save_networks, save_weights
from mien.params import parse_params
from mien.params.learning import ModelSettings
from mien.workspace import complete_params
from mien.yaml_files import merge, read_yaml

SETTINGS = ModelSettings(
    convolution="affinity",
    stem=8,
    widths=[16, 32],
    blocks=[1, 2],
    kernel=1,
    ratio=2,
    transform="depthwise",
)


def twin(settings):
    return settings.model_copy(update={"convolution": "ordinary"})


def test_shapes():
    model = ACCNN(SETTINGS, 5)
    embeddings, logits = model.forward_both(torch.rand(3, 1, 24, 24))
    assert embeddings.shape == (3, 32)
    assert model.embedding_size == 32
    assert logits.shape == (3, 5)


def test_forward_is_embed_then_head():
    model = ACCNN(SETTINGS, 5).eval()
    faces = torch.rand(3, 1, 24, 24)
    embeddings, logits = model.forward_both(faces)
    torch.testing.assert_close(model(faces), logits)
    torch.testing.assert_close(model.embed(faces), embeddings)


def test_filters_lie_channels_last_from_the_first_and_when_read(tmp_path):
    model, path = ACCNN(twin(SETTINGS), 5), tmp_path / "model.safetensors"
    save_weights(path, model, tuple("abcde"), 24)
    for network in (model, load_weights(path).model):
        dense = [
            each for each in network.parameters() if each.ndim == 4 and min(each.shape[1:]) > 1
        ]
        assert dense
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in dense)


def test_light_and_contrast_hardly_matter():
    faces = torch.rand(4, 1, 24, 24) * 0.5 + 0.2
    plain = Standardise()(faces)
    assert plain.mean(dim=(1, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(Standardise()(faces + 0.1), plain)
    assert (Standardise()(faces * 1.5) - plain).abs().max() < 0.15


def test_a_flat_picture_gives_zeros_and_not_nan():
    assert Standardise()(torch.full((1, 1, 8, 8), 0.3)).abs().max() < 1e-4


def test_cost_by_hand():
    # stem 1→8: 9·8 filters on 24²; the head 32·5 + 5; the rest from the module's formula
    settings = SETTINGS.model_copy(update={"widths": [16], "blocks": [1]})
    cost = count_cost(ACCNN(settings, 5), 24)
    stem, stem_macs = 72 + 16, 72 * 24**2
    first = (8 * 8 * 9 + 8 * 9) + 2 * 16  # 3×3 where the block halves; two norms of 8
    second = (16 * 8 + 8 * 9) + 2 * 16
    shortcut = 8 * 16 + 2 * 16
    head = 16 * 5 + 5
    assert cost.parameters == stem + first + second + shortcut + head
    per_pixel = 8 * 8 * 9 + 8 * 9 + 16 * 8 + 8 * 9 + 8 * 16
    assert cost.macs == stem_macs + per_pixel * 12**2 + 16 * 5


def test_twin_has_the_same_widths_and_costs_at_least_five_times_as_much():
    settings = ModelSettings(
        convolution="affinity", stem=16, widths=[32, 64, 128], blocks=[2, 2, 2], kernel=1,
        ratio=2, transform="depthwise",
    )  # fmt: skip
    ours, ordinary = ACCNN(settings, 7), ACCNN(twin(settings), 7)
    assert ours.embedding_size == ordinary.embedding_size
    ours_cost, ordinary_cost = count_cost(ours, 48), count_cost(ordinary, 48)
    assert ordinary_cost.parameters >= 5 * ours_cost.parameters
    assert ordinary_cost.macs >= 5 * ours_cost.macs


def test_branches_fold_into_the_network_with_one():
    branched = SETTINGS.model_copy(update={"branches": 3})
    torch.manual_seed(0)
    model = ACCNN(branched, 5).train()
    for _ in range(5):
        model(torch.rand(8, 1, 24, 24))
    faces = torch.rand(3, 1, 24, 24)
    folded = model.eval().folded()
    assert folded.settings == SETTINGS
    torch.testing.assert_close(folded(faces), model(faces), atol=1e-5, rtol=1e-4)
    assert count_cost(model, 24) == count_cost(ACCNN(SETTINGS, 5), 24)
    assert folded.folded() is folded


def test_weights_from_before_there_were_branches_and_larger_transforms_load():
    old = SETTINGS.model_dump()
    del old["branches"], old["transform_kernel"]
    assert ModelSettings.model_validate(old) == SETTINGS


def test_counting_leaves_the_mode_as_it_was():
    model = ACCNN(SETTINGS, 5).train()
    count_cost(model, 24)
    assert model.training


def test_weights_round_trip(tmp_path):
    model = ACCNN(SETTINGS, 3)
    model(torch.rand(8, 1, 24, 24))  # moves the running statistics
    path = tmp_path / "model.safetensors"
    save_weights(path, model, ("a", "b", "c"), 24)
    trained = load_weights(path)
    assert trained.expressions == ("a", "b", "c")
    assert trained.image_size == 24
    assert trained.settings == SETTINGS
    assert not trained.model.training
    faces = torch.rand(2, 1, 24, 24)
    torch.testing.assert_close(trained.model(faces), model.eval()(faces), rtol=0, atol=0)


def test_the_same_weights_are_the_same_file(tmp_path):
    path, model, files = tmp_path / "w.safetensors", ACCNN(SETTINGS, 2), set()
    for _ in range(20):  # of 24 orders that the header's four entries may have
        save_weights(path, model, ("müde", 'a "b"\n'), 24)
        files.add(path.read_bytes())
    assert len(files) == 1
    assert load_weights(path).expressions == ("müde", 'a "b"\n')


def test_bad_weights_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(MienError, match=r"model\.safetensors: no such weights"):
        load_weights(path)
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(MienError, match="not a safetensors file"):
        load_weights(path)


def test_foreign_weights_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(MienError, match="not written by Mien"):
        load_weights(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": None}, "model"),
        ({"image_size": None}, "image_size"),
        ({"expressions": '["a", "b"]'}, "size mismatch|state_dict"),
        ({"expressions": "a, b, c"}, "Expecting value"),
        ({"model": '{"widths": "many"}'}, "validation error"),
    ],
)
def test_a_header_of_another_network_is_told(tmp_path, change, told):
    """It was a traceback."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = tmp_path / "weights.safetensors"
    save_weights(path, ACCNN(SETTINGS, 3), ("a", "b", "c"), 24)
    with safe_open(path, framework="pt") as file:
        header = {**file.metadata(), **change}
    save_file(
        load_file(path), path, metadata={key: value for key, value in header.items() if value}
    )
    with pytest.raises(MienError, match=rf"weights\.safetensors: .*({told}).*make it again"):
        load_weights(path)


@pytest.mark.parametrize(
    ("size", "parameters", "macs"), [("nano", 0.11, 8), ("small", 0.5, 20), ("base", 1.5, 60)]
)
def test_the_sizes_keep_to_their_limits(root, size, parameters, macs):
    changes = read_yaml(root / "configs" / f"{size}.yaml")
    params = parse_params(merge(read_yaml(root / "params.yaml"), changes), size)
    model = params.model
    # ONNX Runtime is slow where the maps of a convolution are no multiple of 16
    assert not any(width // model.ratio % 16 for width in model.widths)
    cost = count_cost(ACCNN(model, 7), 48)
    assert cost.parameters < parameters * 1e6
    assert cost.macs < macs * 1e6


@pytest.mark.parametrize("count", [0, 1, 2])
def test_any_number_of_networks_in_one_file(tmp_path, count):
    shapes = [SETTINGS, SETTINGS.model_copy(update={"convolution": "ordinary", "stem": 8})]
    models = []
    for seed, shape in enumerate(shapes[:count]):
        torch.manual_seed(seed)
        models.append(ACCNN(shape, 3).eval())
    path = tmp_path / "larger.safetensors"
    save_networks(path, models, ("a", "b", "c"), 24)
    read = load_networks(path)
    assert [each.settings for each in read] == [each.settings for each in models]
    faces = torch.rand(2, 1, 24, 24)
    for one, other in zip(models, read, strict=True):
        assert torch.equal(one(faces), other.model(faces))
        assert (other.expressions, other.image_size) == (("a", "b", "c"), 24)
    with pytest.raises(MienError, match="not written by Mien"):
        load_weights(path)


def test_one_network_is_not_taken_for_several(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, ACCNN(SETTINGS, 3), ("a", "b", "c"), 24)
    with pytest.raises(MienError, match="not written by Mien"):
        load_networks(path)


@pytest.mark.parametrize("size", ["nano", "small", "base"])
def test_a_size_its_recipe_and_its_shipped_weights_are_one_network(root, size):
    settings = read_yaml(root / "params.yaml")
    sized = merge(settings, read_yaml(root / "configs" / f"{size}.yaml"))
    recipe = complete_params(read_yaml(root / "configs" / "fer2013-small.yaml"))
    if size != "small":
        recipe = merge(recipe, read_yaml(root / "configs" / f"fer2013-{size}.yaml"))
    shipped = load_weights(root / "src/mien/shipped" / size / "weights.safetensors")
    networks = [parse_params(each, size).model for each in (sized, recipe)]
    assert networks == [shipped.settings] * 2
    base = merge(settings, read_yaml(root / "configs" / "base.yaml"))
    twin = parse_params(base, "base").model.model_copy(update={"convolution": "ordinary"})
    assert parse_params(recipe, size).larger_model == twin


def assert_fits_its_first_weights(params, root):
    size = params.pretrain.first_weights
    shipped = load_weights(root / "src/mien/shipped" / size / "weights.safetensors")
    assert params.model == shipped.settings
    assert params.prepare.image_size == shipped.image_size


@pytest.mark.parametrize(
    ("recipes", "changes"),
    [(["small", "on"], {}), (["small", "base", "on"], {"pretrain": {"first_weights": "base"}})],
)
def test_the_weights_that_ship_can_go_on(root, recipes, changes):
    first, *others = (read_yaml(root / "configs" / f"fer2013-{name}.yaml") for name in recipes)
    params = parse_params(functools.reduce(merge, [*others, changes], complete_params(first)), "on")
    assert_fits_its_first_weights(params, root)


def test_real_faces_are_learned_by_the_network_whose_weights_a_transfer_begins_with(root):
    real = {"prepare": {"sources": [{"name": "faces", "kind": "lfw", "path": "lfw.zip"}]}}
    changes = merge(real, read_yaml(root / "configs" / "transfer.yaml"))
    params = parse_params(complete_params(changes), "transfer")
    assert_fits_its_first_weights(params, root)
