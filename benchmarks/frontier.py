r"""Which AC-CNNs give most for their cost: a grid of them, their twins, and what others would pick.

    python benchmarks/frontier.py
    python benchmarks/frontier.py --params configs/fer2013-lfw.yaml --train-steps 2000 \
      --train nano small base --data runs/fer2013-small/data/prepared

For every network: parameters, multiply-adds, and ONNX Runtime's latency for one face at one thread.
The networks take turns, so that whatever else the machine does falls on all, and latencies are
given as multiples of mini-Xception's (Arriaga et al. 2017, written out below). With
``--train-steps`` each (or each that ``--train`` names) is trained as ``pretrain`` would, all with
the same settings for as many steps, and its accuracy on the validation split is kept in
``runs/benchmarks/frontier/``; what has been trained is not trained again, and what was stopped
goes on.

ResNet-18, MobileNetV3-small, ShuffleNetV2, GhostNet and EfficientNet-B0 come from pytorchcv, which
needs no torchvision (``pip install pytorchcv``); where it is missing they are left out. They are as
published but for one input channel, so their strides leave little of a small face.

Writes ``benchmarks/results/frontier.json`` and ``frontier.svg``.
"""

import argparse
import functools
import importlib
import itertools
import statistics
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import torch
from _results import FOLDER, machine, write_result
from torch import Tensor, nn

from mien.data.augmentation import Augmentation
from mien.data.dataset import labelled_rows, open_faces, training_rows
from mien.data.manifest import read_manifest
from mien.files import read_json, replacing_file, write_json
from mien.learning.checkpoint import Checkpoint, training_code
from mien.learning.embedding import accuracy_on
from mien.learning.training import SupervisedTask, fit, make_fabric
from mien.model.accnn import ACCNN, Standardise, channels_last
from mien.model.cost import count_cost
from mien.model.export import Deployable, export_onnx
from mien.model.runtime import measure_latency, open_session
from mien.params import Params, parse_params
from mien.workspace import complete_params
from mien.yaml_files import read_yaml

ROUNDS = 15
ROOT = FOLDER.parents[1]
RUNS = ROOT / "runs" / "benchmarks" / "frontier"
SIZES = ("nano", "small", "base")
BASELINE = "mini-Xception"
PEERS = {
    "ResNet-18": ("resnet", "resnet18"),
    "MobileNetV3-small": ("mobilenetv3", "mobilenetv3_small_w1"),
    "ShuffleNetV2": ("shufflenetv2", "shufflenetv2_w1"),
    "GhostNet": ("ghostnet", "ghostnet"),
    "EfficientNet-B0": ("efficientnet", "efficientnet_b0"),
}
# (stem, widths, blocks): widths are multiples of 32, so that intrinsic maps are multiples of 16
GRID = [
    (16, [32, 64], [1, 1]),
    (16, [32, 128], [1, 1]),
    (16, [32, 64, 128], [1, 1, 1]),
    (16, [32, 64, 192], [1, 1, 1]),
    (16, [32, 64, 256], [1, 1, 1]),
    (16, [32, 64, 128], [1, 1, 2]),
    (16, [32, 128, 256], [1, 1, 1]),
    (16, [32, 64, 128, 256], [1, 1, 1, 1]),
    (16, [32, 128, 256], [1, 1, 2]),
    (16, [32, 128, 256], [1, 2, 2]),
    (16, [32, 128, 256], [1, 2, 3]),
    (16, [32, 96, 320], [1, 1, 2]),
    (16, [64, 128, 256], [1, 1, 2]),
    (16, [64, 128, 256], [1, 1, 3]),
    (32, [64, 128, 256], [1, 2, 3]),
    (32, [64, 192, 384], [1, 2, 3]),
    (32, [64, 128, 512], [1, 2, 3]),
    (32, [64, 256, 512], [1, 1, 2]),
    (32, [64, 192, 384], [2, 3, 4]),
]


class Separable(nn.Sequential):
    """Depthwise 3×3, pointwise, batch norm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )


class XceptionModule(nn.Module):
    """Two separable convolutions and a pooling beside a strided 1×1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            Separable(inputs, outputs),
            nn.ReLU(),
            Separable(outputs, outputs),
            nn.MaxPool2d(3, 2, 1),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.shortcut(x)


def mini_xception(classes: int) -> nn.Module:
    """mini-Xception (Arriaga, Valdenegro-Toro & Plöger 2017): 57 k parameters for 7 classes."""
    layers: list[nn.Module] = []
    for inputs in (1, 8):
        layers += [nn.Conv2d(inputs, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    widths = [8, 16, 32, 64, 128]
    layers += [XceptionModule(a, b) for a, b in itertools.pairwise(widths)]
    layers += [nn.Conv2d(128, classes, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)


class Peer(nn.Module):
    """Another network where the AC-CNN stands: the same first layer, logits for an embedding."""

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.standardise, self.network = Standardise(), network
        self.head = nn.Identity()
        self.embedding_size = classes
        self.head.out_features = classes  # type: ignore[assignment]  # as a linear head has it

    def forward(self, faces: Tensor) -> Tensor:
        """Logits ``[B, classes]``."""
        return self.network(self.standardise(faces))

    def forward_both(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, twice."""
        logits = self(faces)
        return logits, logits * 1

    def folded(self) -> "Peer":
        """There is nothing to fold."""
        return self


def published(module: str, name: str, classes: int) -> Peer:
    """A network of pytorchcv for ``[B, 1, S, S]`` of any size."""
    # by their modules: the package's own list of models also imports those that need torchvision
    make = getattr(importlib.import_module(f"pytorchcv.models.{module}"), name)
    network = make(num_classes=classes, in_channels=1)
    network.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return Peer(network, classes)


def networks(params: Params) -> dict[str, nn.Module]:
    """Every network by its name, untrained, with norms that have seen something."""
    classes, size = len(params.expressions), params.prepare.image_size
    makers: dict[str, Any] = {BASELINE: lambda: Peer(mini_xception(classes), classes)}
    try:
        import pytorchcv  # noqa: F401
    except ImportError:
        print("pytorchcv is not installed: the published networks are left out")
    else:
        for name, source in PEERS.items():
            makers[name] = functools.partial(published, *source, classes)
    models = {}
    for stem, widths, blocks in GRID:
        name = f"{stem} {'-'.join(map(str, widths))} ×{'-'.join(map(str, blocks))}"
        models[name] = {"stem": stem, "widths": widths, "blocks": blocks}
    for name in SIZES:
        path = ROOT / "configs" / f"{name}.yaml"
        if path.is_file():
            models[name] = read_yaml(path)["model"]
    for name, changes in models.items():
        for kind, label in (("affinity", name), ("ordinary", f"{name} (twin)")):
            settings = params.model.model_copy(update={**changes, "convolution": kind})
            makers[label] = functools.partial(ACCNN, settings, classes)
    made = {}
    for name, make in makers.items():
        torch.manual_seed(0)
        made[name] = make().train()
        made[name](torch.rand(16, 1, size, size))
        made[name].eval()
    return made


def measure_all(made: dict[str, nn.Module], params: Params) -> dict[str, dict[str, Any]]:
    """Cost and latency of each; latency also as a multiple of the baseline's."""
    size = params.prepare.image_size
    sessions, rows = {}, dict[str, dict[str, Any]]()
    for name, network in made.items():
        print(f"exporting {name}", flush=True)
        cost = count_cost(network, size)
        rows[name] = {"parameters": cost.parameters, "macs": cost.macs}
        sessions[name] = to_session(network, params)
    face = np.random.default_rng(0).random((1, 1, size, size), np.float32)
    turns: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            turns[name].append(measure_latency(session, face, runs=40))
    for name, times in turns.items():
        ratios = [a / b for a, b in zip(times, turns[BASELINE], strict=True)]
        rows[name] |= {
            "latency_ms": statistics.median(times),
            "latency_ratio": statistics.median(ratios),
            "latency_ms_rounds": times,
        }
    return rows


def to_session(network: nn.Module, params: Params) -> onnxruntime.InferenceSession:
    """The network in ONNX Runtime, at one thread."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model = Deployable(cast(ACCNN, network), 1.0)
        export_onnx(path, model, params.prepare.image_size, params.expressions)
        return open_session(path)


def train(
    name: str, network: nn.Module, params: Params, data: Path, steps: int, seed: int
) -> dict[str, Any]:
    """Validation accuracy after ``steps`` steps of supervised training, or what it was before."""
    inputs = [data / "manifest.parquet", data / "faces.npy"]
    epochs = -(-steps // params.pretrain.steps_per_epoch)
    relevant = params.model_dump(include={"expressions", "augmentation", "pretrain"})
    key = {"network": repr(network), "epochs": epochs, "seed": seed, **relevant}
    checkpoint = Checkpoint.of(RUNS, key, [*inputs, *training_code()])
    result = checkpoint.path.with_suffix(".json")
    if result.is_file():
        return dict(read_json(result))
    table, store = read_manifest(inputs[0]), open_faces(inputs[1])
    validation = labelled_rows(table, params.expressions, "validation")
    torch.manual_seed(seed)
    for module in network.modules():
        if reset := getattr(module, "reset_parameters", None):
            reset()
    channels_last(network)
    fitted = fit(
        SupervisedTask(
            cast(ACCNN, network),
            store,
            training_rows(table, params.expressions),
            params.pretrain,
            Augmentation(params.augmentation),
        ),
        params.pretrain,
        epochs=epochs,
        seed=seed,
        fabric=make_fabric(params.compute),
        checkpoint=checkpoint,
        validate=lambda model: accuracy_on(model, store, validation),
        title=name,
    )
    figures: dict[str, Any] = {"steps": epochs * params.pretrain.steps_per_epoch, "seed": seed}
    figures["validation_accuracy"] = fitted.history[-1]["validation_accuracy"]
    write_json(result, figures)
    checkpoint.clear()
    return figures


def draw(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Accuracy (parameters, where nothing was trained) against latency."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    trained = any("validation_accuracy" in row for row in rows.values())
    measure = "validation_accuracy" if trained else "parameters"
    labels = ("AC-CNN", "ordinary twin", "others", "our sizes")
    groups: dict[str, list[str]] = {label: [] for label in labels}
    for name in (each for each, row in rows.items() if measure in row):
        others = name == BASELINE or name in PEERS
        twin = "ordinary twin" if name.endswith("(twin)") else "AC-CNN"
        own = "our sizes" if name in SIZES else twin
        groups["others" if others else own].append(name)
    for label, names in groups.items():
        x = [rows[name]["latency_ratio"] for name in names]
        axes.scatter(x, [rows[name][measure] for name in names], label=label, s=24)
        if label in ("others", "our sizes") or (trained and label == "ordinary twin"):
            offset, side = ((-4, -10), "right") if label == "others" else ((4, 4), "left")
            for name, place in zip(names, x, strict=True):
                axes.annotate(name, (place, rows[name][measure]), fontsize=8, xytext=offset,
                              textcoords="offset points", ha=side)  # fmt: skip
    axes.set(xscale="log", xlabel="latency, multiples of mini-Xception's")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}×")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.15)  # names stand to the right of their points
    axes.set_ylabel("accuracy (validation)" if trained else "parameters")
    if not trained:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format="svg")


def main() -> None:
    """Measure, train where asked to, and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="these and the baseline; their figures are printed, not written",
    )
    parser.add_argument("--train-steps", type=int, default=0, metavar="N")
    parser.add_argument(
        "--train", nargs="+", default=[], metavar="NAME", help="train these, measure all"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data", type=Path, help="folder of manifest.parquet and faces.npy")
    parser.add_argument("--params", type=Path, help="YAML laid over params.yaml")
    options = parser.parse_args()
    if options.train_steps and not options.data:
        parser.error("--train-steps needs --data")
    if options.train and not options.train_steps:
        parser.error("--train needs --train-steps")
    changes = read_yaml(options.params) if options.params else {}
    params = parse_params(complete_params(changes), "params.yaml")
    made = networks(params)
    named = {*options.only, *options.train}
    if unknown := named - set(made):
        parser.error(f"no such networks: {', '.join(sorted(unknown))}; there are {', '.join(made)}")
    if options.only:
        made = {name: made[name] for name in made if name in {BASELINE, *named}}
    rows = measure_all(made, params)
    for name in (options.train or made) if options.train_steps else ():
        runs = [
            train(name, made[name], params, options.data, options.train_steps, seed)
            for seed in options.seeds
        ]
        mean = statistics.fmean(run["validation_accuracy"] for run in runs)
        rows[name] |= {"validation_accuracy": mean, "runs": runs}
    for name, row in sorted(rows.items(), key=lambda each: each[1]["latency_ratio"]):
        accuracy = f" {row['validation_accuracy']:.1%}" if "validation_accuracy" in row else ""
        print(
            f"{name:38} {row['parameters'] / 1e3:8.1f} k {row['macs'] / 1e6:7.1f} M "
            f"{row['latency_ms']:7.3f} ms {row['latency_ratio']:6.2f}×{accuracy}"
        )
    if not options.only:
        write_result("frontier", {"machine": machine(), "baseline": BASELINE, "networks": rows})
        draw(FOLDER / "frontier.svg", rows)


if __name__ == "__main__":
    main()
