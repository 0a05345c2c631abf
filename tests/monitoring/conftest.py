"""A small reference, and logs in the service's form."""

from pathlib import Path

import pytest

from mien.monitoring.reference import Reference, read_reference
from mien.params import load_params
from mien.params.service import MonitoringSettings
from tests.monitoring.rows import Log, make_package


@pytest.fixture(scope="session")
def settings(root) -> MonitoringSettings:
    return load_params(root / "params.yaml").monitoring


@pytest.fixture(scope="session")
def package(tmp_path_factory) -> Path:
    return make_package(tmp_path_factory.mktemp("packaged") / "package")


@pytest.fixture(scope="session")
def reference(package) -> Reference:
    return read_reference(package)


@pytest.fixture
def log(tmp_path) -> Log:
    return Log(tmp_path / "logs")
