"""The project's own pipeline, as DVC reads it."""

import networkx as nx
import pytest
from dvc.repo import Repo

from mien.pipeline import Pipeline


@pytest.fixture(scope="module")
def graph(root) -> nx.DiGraph:
    """Edges run from a stage to those that it depends on."""
    with Repo(str(root)) as repo:
        return nx.relabel_nodes(repo.index.graph, {s: s.name for s in repo.index.graph})


def test_the_stages_stand_in_the_papers_order(root):
    assert Pipeline(root, lock=-1).stages() == [
        "prepare",
        "validate",
        "pretrain",
        "cluster",
        "relabel",
        "finetune",
        "evaluate",
        "package",
    ]


def test_nothing_is_trained_before_the_data_is_valid(graph):
    for stage in set(graph) - {"prepare", "validate"}:
        assert "validate" in nx.descendants(graph, stage)


def test_new_pseudo_labels_touch_no_earlier_stage(graph):
    assert nx.ancestors(graph, "relabel") == {"finetune", "evaluate", "package"}


def test_every_stage_leads_to_the_package(graph):
    assert nx.descendants(graph, "package") == set(graph) - {"package"}


def test_every_stage_has_metrics_of_its_name(root):
    with Repo(str(root)) as repo:
        for stage in repo.index.stages:
            assert f"metrics/{stage.name}.json" in [out.def_path for out in stage.outs]


def test_a_folder_of_any_name_reaches_no_shell(root, tmp_path):
    """A setting is no command: `$(…)` in a folder's name was run."""
    for name in ("dvc.yaml", "params.yaml"):
        text = (root / name).read_text().replace("data: data/raw ", 'data: "my $(faces)" ')
        (tmp_path / name).write_text(text)
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        stages = {stage.name: stage for stage in repo.index.stages}
    assert not [name for name, stage in stages.items() if "faces)" in stage.cmd]
    assert "my $(faces)" in [dep.def_path for dep in stages["prepare"].deps]
