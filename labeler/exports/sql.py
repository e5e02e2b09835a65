"""`where`: an SQL condition on the columns of a run's rows, evaluated by DuckDB unit by unit."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from labeler.errors import Refused
from labeler.labels.chosen_score import DETECTORS, ChosenScore
from labeler.labels.records import schema

_ROW = "__row"


class Where:
    """Owns a DuckDB connection that can see the rows it is given, and nothing else: no files, no network.

    Args:
        condition: e.g. `width >= 640 and len(detections) > 2`; thresholds are not applied yet.
        keep: the columns that the user kept, beside those of every run.
        columns: the optional ones of the run; in the rows of every unit that it is given.

    Raises:
        Refused: DuckDB cannot read the condition; its own words say why.
    """

    def __init__(
        self,
        condition: str,
        keep: Sequence[str] = (),
        columns: Sequence[str] = (),
        score: ChosenScore = DETECTORS,
    ) -> None:
        self._condition, self._score = condition, score
        self._connection = duckdb.connect(config={"enable_external_access": False, "threads": 1})
        self._query = f'select "{_ROW}" from rows where (\n{condition}\n)'
        try:
            if len(duckdb.extract_statements(self._query)) != 1:
                raise Refused(f"--where takes one condition, got several statements: {condition}")
            duckdb.extract_statements(f"select\n{condition}\n")  # "1=1) union all (..." is one in brackets alone
        except duckdb.Error as error:
            raise self._refusal(error) from None
        self.rows(schema(keep, columns).empty_table())

    def rows(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """(rows,) where the condition is true; null counts as false.

        Raises:
            Refused: it makes no sense for some row, such as a name that is to be a number.
        """
        table = self._score.beside(table)
        numbered = table.append_column(_ROW, pa.array(np.arange(len(table)), pa.int64()))
        self._connection.register("rows", numbered)
        try:
            found = self._connection.execute(self._query).fetchnumpy()[_ROW]
        except duckdb.Error as error:
            raise self._refusal(error) from None
        finally:
            self._connection.unregister("rows")
        true = np.zeros(len(table), np.bool_)
        true[np.asarray(found, np.int64)] = True
        return true

    def _refusal(self, error: duckdb.Error) -> Refused:
        said = " ".join(str(error).partition("LINE")[0].split())
        return Refused(f"--where {self._condition!r} cannot be evaluated: {said}")
