"""BentoML's monitor, writing many rows at once."""

from collections import deque
from collections.abc import Iterable
from typing import Any

import orjson
from bentoml._internal.monitoring.base import MON_DATAS_VAR
from bentoml._internal.monitoring.default import DefaultMonitor


class RowMonitor(DefaultMonitor):
    """Writes exactly the logged columns, and all rows of a record in one go.

    BentoML's own makes a log record of each row and adds the request's id to it from the context:
    of the request that is being answered, which a row that is written later no longer has.
    """

    PRESERVED_COLUMNS = ()

    def log_batch(self, data_batch: Iterable[Any], name: str, role: str, data_type: str) -> None:
        """Add a column; `log` checks its name, role and type once."""
        values = iter(data_batch)
        self.log(next(values), name, role, data_type)
        columns = MON_DATAS_VAR.get()
        assert columns is not None  # the monitor is used as a context
        columns[name].extend(values)

    def export_data(self, datas: dict[str, deque[Any]]) -> None:
        """Write the columns' rows, each as one line of JSON."""
        if self.data_logger is None:
            self._init_logger()
            assert self.data_logger is not None
        names = list(datas)
        rows = (dict(zip(names, row, strict=True)) for row in zip(*datas.values(), strict=True))
        self.data_logger.info(b"\n".join(map(orjson.dumps, rows)).decode())
