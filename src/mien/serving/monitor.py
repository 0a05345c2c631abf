"""BentoML's monitor, writing many rows at once."""

from collections import deque
from typing import Any

import orjson
from bentoml._internal.monitoring.default import DefaultMonitor


class RowMonitor(DefaultMonitor):
    """Writes exactly the logged columns, and all rows of a record in one go.

    BentoML's own makes a log record of each row and adds the request's id to it from the context:
    of the request that is being answered, which a row that is written later no longer has.
    """

    PRESERVED_COLUMNS = ()

    def log_rows(self, rows: list[dict[str, Any]], kinds: dict[str, tuple[str, str]]) -> None:
        """Write these rows when the context ends; their columns have these roles and data types.

        `log` checks each column once, on the first row; taking all rows apart into columns, as
        BentoML does, and putting them together again would cost as much as writing them.
        """
        for name, (role, data_type) in kinds.items():
            self.log(rows[0][name], name, role, data_type)
        self._rows = rows

    def export_data(self, datas: dict[str, deque[Any]]) -> None:
        """Write the rows, each as one line of JSON."""
        if self.data_logger is None:
            self._init_logger()
            assert self.data_logger is not None
        self.data_logger.info(b"\n".join(map(orjson.dumps, self._rows)).decode())
