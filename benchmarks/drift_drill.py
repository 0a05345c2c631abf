"""The drift drill: the whole loop turns on drawn faces, unattended, and every step is in the UI.

A model is trained, promoted and served. Ordinary faces are sent to it, then darker, blurred,
tighter cropped and differently mixed ones. Monitoring (a Prefect deployment) reads the service's
log, finds the drift and emits its event; the event starts retraining (another deployment), which
takes in the faces that the service kept; the gate lets the challenger through; the service starts
anew with it, and on more faces of the drifted kind monitoring is quiet. At last a challenger that
is spoilt on purpose meets the gate.

    make drift-drill

Leaves everything under `runs/drill` and writes `benchmarks/results/drift_drill.json` and
`docs/images/drift-drill.png`. Prefect's UI is at http://127.0.0.1:4747 while it runs. `--small` is
the form that the tests run: it shows that the loop turns, with a network too small to tell more.
"""

import argparse
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from _drill import House, draw, send
from _results import FOLDER, machine, write_result

from mien.files import read_json, write_json

SMALL: dict[str, Any] = {
    "model": {"stem": 8, "widths": [16, 32], "blocks": [1, 1]},
    "compute": {"threads": 1, "workers": 1},
    "prepare": {
        "image_size": 24,
        "sources": [
            {"name": "synthetic", "kind": "synthetic", "seed": 0, "labelled": 140,
             "validation": 140, "test": 280, "unlabelled": 300},
        ],
    },
    "pretrain": {"epochs": 2, "steps_per_epoch": 25},
    "cluster": {"rounds": 1, "epochs": 1, "steps_per_epoch": 15, "prototypes_per_expression": 4},
    # so weak a network is sure of nothing
    "relabel": {"min_posterior": 0.0, "min_margin": 0.0, "min_purity": 0.0},
    "finetune": {"epochs": 2, "steps_per_epoch": 15},
    "package": {"reference_faces": 400},
    "promotion": {"min_accuracy": 0.16, "max_accuracy_loss": 0.5, "max_recall_loss": 1.0,
                  "significance": 1e-12, "max_ece": 0.5},
    "monitoring": {"cooldown_hours": 0.0, "retrainings_per_day": 10},
}  # fmt: skip
FULL: dict[str, Any] = {
    "compute": {"threads": 1, "workers": 1},
    "prepare": {
        "image_size": 32,
        "sources": [
            {"name": "synthetic", "kind": "synthetic", "seed": 0, "labelled": 420,
             "validation": 210, "test": 1400, "unlabelled": 3000},
        ],
    },
    "pretrain": {"epochs": 8, "steps_per_epoch": 40},
    "cluster": {"rounds": 3, "epochs": 2, "steps_per_epoch": 40},
    "finetune": {"epochs": 6, "steps_per_epoch": 50},
    "package": {"reference_faces": 900},
    # the network is weaker than the default one, and varies more from training to training
    "promotion": {"min_accuracy": 0.4, "max_accuracy_loss": 0.05, "max_recall_loss": 0.2,
                  "max_ece": 0.15},
    "monitoring": {"cooldown_hours": 0.0, "retrainings_per_day": 10},
}  # fmt: skip
SPOILT: dict[str, Any] = {
    "finetune": {"epochs": 1, "steps_per_epoch": 10, "learning_rate": 1.0, "ema_decay": 0.5},
}
"""Of the challenger that the gate must refuse."""
SEED, UNSEEN = 99, 700


@dataclass
class Story:
    """What happened when."""

    started: float = field(default_factory=time.perf_counter)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def tell(self, step: str, **figures: Any) -> None:
        """Add a step, and print it."""
        second = round(time.perf_counter() - self.started)
        self.steps.append({"second": second, "step": step, **figures})
        print(f"{second:5d} s  {step}  {figures or ''}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path("runs/drill"), metavar="DIR")
    parser.add_argument("--port", type=int, default=4747, help="of Prefect; the next: the service")
    parser.add_argument("--small", action="store_true", help="publishes nothing")
    parser.add_argument("--serve-flows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_flows:
        serve_flows(options.serve_flows)
        return
    root = options.root.resolve()
    if root.exists():
        if not (root / ".mien" / "prefect").is_dir():
            raise SystemExit(f"{root}: not the folder of an earlier drill; name another --root")
        shutil.rmtree(root)
    settings = SMALL if options.small else FULL
    prepare_workspace(root, settings)
    house, story = House(root, options.port), Story()
    with house.prefect():
        figures = drill(house, story, settings["prepare"]["image_size"], options.small)
    result = {
        "steps": story.steps,
        "accuracy": figures,
        "settings": settings,
        "spoilt": SPOILT,
        "machine": machine(),
    }
    write_json(root / "drill.json", result)
    if not options.small:
        write_result("drift_drill", result)
        plot(figures, FOLDER.parents[1] / "docs" / "images" / "drift-drill.png")


def serve_flows(root: Path) -> None:
    """Both flows as deployments; the event of one starts the other, as in `prefect.yaml`."""
    from prefect import serve
    from prefect.events import DeploymentEventTrigger

    from flows.monitoring import EVENT, monitoring
    from flows.retraining import retraining

    handed_on = ("workspace", "logs", "reason", "since")
    payload = {name: f"{{{{ event.payload.{name} }}}}" for name in handed_on}
    trigger = DeploymentEventTrigger(expect={EVENT}, parameters=payload)
    workspace = {"workspace": str(root)}
    deployments: list[Any] = [  # Prefect's types leave open whether they must be waited for
        monitoring.to_deployment("drill", parameters=workspace),
        retraining.to_deployment(
            "drill", parameters=workspace, triggers=[trigger], concurrency_limit=1
        ),
    ]
    serve(*deployments)


def prepare_workspace(root: Path, settings: dict[str, Any]) -> None:
    """A workspace of the drill's own, as `mien run` makes one."""
    from mien.workspace import default_params, make_workspace
    from mien.yaml_files import merge

    make_workspace(root, merge(default_params(), settings))


def drill(house: House, story: Story, size: int, small: bool) -> dict[str, Any]:
    """Turn the loop; returns the accuracy of both champions on faces that were never sent."""
    from flows.training import training
    from mien.promotion import commands, releases

    root = house.root
    ordinary, drifted = (150, 600) if small else (300, 1500)
    story.tell("Prefect and its deployments are up")
    assert training(workspace=root, return_state=True).is_completed()
    commands.promote(root, root)
    first = releases.read_champion(root)
    assert first is not None
    story.tell("the first champion is trained and promoted", tag=first["tag"])

    with house.served() as client:
        story.tell("it is served", version=client.info().version)
        answered = send(client, *draw(ordinary, False, SEED, size))
        story.tell(f"{ordinary} ordinary faces", answers=answered, **look())
        answered = send(client, *draw(drifted, True, SEED + 1, size))
        story.tell(f"{drifted} drifted faces", answers=answered, **look())
        house.wait(lambda: renewed() and releases.read_champion(root) != first, 7200)
    second = releases.read_champion(root)
    assert second is not None
    record = read_json(root / "releases" / second["release"])
    story.tell("the gate promotes the challenger", tag=second["tag"], reason=record["reason"])

    with house.served() as client:
        assert f"mien:{client.info().version}" == second["tag"]
        answered = send(client, *draw(drifted, True, SEED + 2, size))
        story.tell(f"it answers; {drifted} more drifted faces", answers=answered, **look())

    figures = compare(first["tag"], second["tag"], size)
    story.tell("accuracy on faces never sent", **figures)

    refused = spoil(root)
    assert releases.read_champion(root) == second, "a spoilt challenger was promoted"
    story.tell("a challenger spoilt on purpose", **refused)
    return figures


def look() -> dict[str, str]:
    """Run the monitoring deployment, as its schedule would; the verdict and why."""
    from prefect.deployments import run_deployment

    return _said(run_deployment("monitoring/drill", timeout=None, as_subflow=False))


def renewed() -> bool:
    """Whether the retraining that the event has started came to its end.

    Raises:
        SystemExit: it ended without a new champion.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    with get_client(sync_client=True) as client:
        flow = FlowFilter(name=FlowFilterName(any_=["retraining"]))
        states = [run.state for run in client.read_flow_runs(flow_filter=flow)]
    for state in states:
        if state and state.is_final() and state.name != "Promoted":
            raise SystemExit(f"retraining ended as {state.name}: {state.message}")
    return any(state and state.is_final() for state in states)


def spoil(root: Path) -> dict[str, str]:
    """Run the retraining deployment with settings that ruin the network; what the gate says."""
    from prefect.deployments import run_deployment

    from mien.workspace import override

    override(root, SPOILT)
    parameters = {"logs": str(root / ".mien" / "no-logs"), "reason": "spoilt on purpose"}
    said = _said(
        run_deployment("retraining/drill", parameters=parameters, timeout=None, as_subflow=False)
    )
    assert said["verdict"] == "Refused", said
    return said


def _said(run: Any) -> dict[str, str]:
    """How a run ended, and why."""
    return {"verdict": str(run.state.name), "reason": run.state.message or ""}


def compare(before: str, after: str, size: int) -> dict[str, Any]:
    """Accuracy of two models on the same unseen faces, and how much of the loss was regained."""
    from mien.packaging import find_model
    from mien.promotion.gate import predict

    figures: dict[str, Any] = {}
    for kind in ("ordinary", "drifted"):
        faces, labels = draw(UNSEEN, kind == "drifted", SEED + 3, size)
        figures[kind] = {}
        for name, tag in (("before", before), ("after", after)):
            package = find_model(tag)
            expressions = read_json(package / "labels.json")
            predicted = predict(package, faces).argmax(axis=1)
            right = [expressions[p] == label for p, label in zip(predicted, labels, strict=True)]
            figures[kind][name] = float(np.mean(right))
    lost = figures["ordinary"]["before"] - figures["drifted"]["before"]
    regained = figures["drifted"]["after"] - figures["drifted"]["before"]
    return figures | {"lost": lost, "regained": regained, "regained_share": regained / lost}


def plot(figures: dict[str, Any], path: Path) -> None:
    """Accuracy of both champions on both kinds of faces."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    for place, name in enumerate(("before", "after")):
        values = [100 * figures[kind][name] for kind in ("ordinary", "drifted")]
        bars = axes.bar(
            np.arange(2) + 0.38 * place, values, 0.36, label=f"champion {name} the renewal"
        )
        axes.bar_label(bars, fmt="%.1f")
    axes.set_xticks(np.arange(2) + 0.19, ["ordinary faces", "drifted faces"])
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 110)
    axes.legend(loc="upper right", fontsize="small", ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
