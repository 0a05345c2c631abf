"""Reading YAML files strictly, and laying one over another."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mien.errors import MienError


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: the first one's settings would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{name!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        MienError: it is missing, cannot be read, or holds something else.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise MienError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise MienError(f"{path}: cannot be read ({error.strerror}); name a YAML file") from None
    except (yaml.YAMLError, ValueError) as error:  # the latter of 2024-02-30, say, and no UTF-8
        raise MienError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise MienError(f"{path}: expected a mapping of settings at the top level")
    return values


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, section by section; lists are replaced whole."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = (
            merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged
