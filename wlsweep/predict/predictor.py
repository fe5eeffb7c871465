"""A Ray Data actor that predicts the test set with one condition's model after another, or with many adapters together, in
one engine."""

from __future__ import annotations

import math
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wlsweep.data.load import load_mix, load_test
from wlsweep.errors import WlsweepError
from wlsweep.predict.adapter_engine import AdapterEngine
from wlsweep.predict.orphans import end_children_with_this_process
from wlsweep.predict.vllm_engine import Engine, Probe, Scored, SwapFailed
from wlsweep.run.adapter import weights_fingerprint
from wlsweep.run.columns import PREDICTION
from wlsweep.run.layout import RunDir, atomic_folder
from wlsweep.run.lease import hold
from wlsweep.run.logs import log_process_to
from wlsweep.run.nvml import gpu_energy
from wlsweep.run.records import TrainedRecord
from wlsweep.run.status import RunStatus
from wlsweep.run.usage_meter import UsageMeter
from wlsweep.spec.condition import parse_name
from wlsweep.spec.config import Sweep

MOST_ROWS = 20_000
"""Rows of adapters in one queue: those of nine adapters and 2,024 papers. A killed engine loses what is in its queue."""


class Predictor:
    """A Ray Data actor: one engine; one whole model at a time, or all finished adapters together."""

    def __init__(
        self,
        sweep: Sweep,
        root: str,
        owner: str,
        wait_for: Callable[[str], None],
        names: Sequence[str] = (),
        tell_rows: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """`wait_for` returns once a condition's model is there, or will not come; `names` is all that is to be predicted."""
        self.sweep, self.run, self.owner, self.wait_for = sweep, RunDir(Path(root)), owner, wait_for
        self.names, self.tell_rows = tuple(names), tell_rows
        self.own_log = self.run.logs / f"predict_{os.getpid()}.log"
        log_process_to(self.own_log)
        end_children_with_this_process()
        config = sweep.predict
        self.meter = UsageMeter(self.run.usage, "engine", "predict", config.gpus_per_engine, config.cpus_per_engine)
        if config.gpus_per_engine:
            self.meter.measure_energy(gpu_energy())
        self.test = load_test(self.run)
        self.engine: Engine | None = None
        self.meter.wait()

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, list[Any]]:
        """Predict the conditions of a batch; one result row each: condition, rows, accept rate, cause of failure."""
        results: dict[str, list[Any]] = {"condition": [], "rows": [], "accepted": [], "cause": []}
        for name in batch["condition"].tolist():
            rows, accepted, cause = 0, 0, ""
            try:
                self.wait_for(name)
                with hold(self.run.lease(name), f"prediction by {self.owner}") as mine:
                    states = RunStatus(self.run)
                    if mine and states.trained(name) and not states.predicted(name):
                        log_process_to(self.run.logs / "conditions" / f"{name}_predict.log")
                        with self.meter.during("work", [name]):
                            table = (self._predict_together if parse_name(name).lora else self._predict)(name)
                        rows, accepted = table.num_rows, int(np.sum(table["p_accept"].to_numpy() > 0.5))
            except Exception as e:  # noqa: BLE001 - kept as this condition's cause; the others go on
                traceback.print_exc()
                self._end()
                cause = f"{type(e).__name__}: {e}" if not isinstance(e, SwapFailed) else str(e)
                if isinstance(e.__context__, SwapFailed):
                    cause += f" (in a fresh engine, after: {e.__context__})"
            log_process_to(self.own_log)
            for key, value in zip(results, (name, rows, accepted, cause), strict=True):
                results[key].append(value)
        return results

    def _ready(self, model: Path, probe: Sequence[Probe]) -> Engine:
        """The engine with this model's weights; a swap that fails its proof gets a fresh engine, once."""
        if self.engine is not None and not isinstance(self.engine, AdapterEngine):
            try:
                self.engine.use(model, probe)
                return self.engine
            except SwapFailed:
                traceback.print_exc()
                return self._fresh(model, probe)
        return self._fresh(model, probe)

    def _fresh(self, model: Path, probe: Sequence[Probe]) -> Engine:
        self._end()
        with self.meter.during("start"):
            self.engine = Engine(model, self.sweep.predict, self.sweep.data.cutoff, self.test.answer)
        self.engine.use(model, probe)
        return self.engine

    def _end(self) -> None:
        """End the engine, if there is one; whatever it says to that, it is not used again."""
        engine, self.engine = self.engine, None
        if engine is not None:
            try:
                engine.close()
            except Exception:  # noqa: BLE001 - an engine that fails may fail to end, too
                traceback.print_exc()

    def _predict(self, name: str) -> pa.Table:
        record = TrainedRecord.read(self.run.trained(name))
        model = self.run.model(name)
        if (found := weights_fingerprint(model)) != record.model.fingerprint:
            raise WlsweepError(
                f"{model}: its weights are {found}, and training left {record.model.fingerprint}; nothing was predicted "
                f"with them. Put the trained model back, or delete {self.run.trained(name)} to train it again"
            )
        engine = self._ready(model, self._probe(name, record))
        return self._write(name, record, engine.score(self._prompts(), on_rows=self._on_rows(name)))

    def _predict_together(self, name: str) -> pa.Table:
        """Predict a LoRA condition with all others that are trained and nobody predicts, and return its own table.

        They share the engine's queue. Another one whose adapter is refused is left to its own turn, which says why.
        """
        with ExitStack() as held:
            group = [name, *self._others(name, held)]
            records = {n: TrainedRecord.read(self.run.trained(n)) for n in group}
            engine = self._proved(name, records[name])
            proved = [name]
            for other in group[1:]:
                try:
                    self._prove(engine, other, records[other])
                    proved.append(other)
                except WlsweepError:
                    traceback.print_exc()
                except Exception:  # noqa: BLE001 - the engine may be dead now, or keep what it was asked for
                    traceback.print_exc()
                    self._end()
                    engine, proved = self._proved(name, records[name]), [name]
                    break
            self.meter.shared_by(proved)
            found = engine.score_all([self.run.model(n) for n in proved], self._prompts(), self._on_rows(name))
            tables = {n: self._write(n, records[n], found[self.run.model(n)]) for n in proved}
        return tables[name]

    def _others(self, name: str, held: ExitStack) -> Iterator[str]:
        """Further LoRA conditions that can be predicted now, their leases held; as many as one queue may hold."""
        states, room = RunStatus(self.run), MOST_ROWS // len(self.test.row_ids) - 1
        for other in self.names:
            if room <= 0 or other == name or not parse_name(other).lora:
                continue
            if not states.trained(other) or states.predicted(other) or not self.run.model(other).is_dir():
                continue
            if held.enter_context(hold(self.run.lease(other), f"prediction by {self.owner}")):
                room -= 1
                yield other

    def _proved(self, name: str, record: TrainedRecord) -> AdapterEngine:
        """The engine with adapters, with this one proved; a proof that fails gets a fresh engine, once."""
        if isinstance(self.engine, AdapterEngine):
            try:
                self._prove(self.engine, name, record)
                return self.engine
            except SwapFailed:
                traceback.print_exc()
        self._end()
        ranks = [c.lora for c in self.sweep.conditions if c.lora] or [parse_name(name).lora]
        base = RunStatus(self.run).record.base
        with self.meter.during("start"):
            self.engine = AdapterEngine(base, self.sweep.predict, self.sweep.data.cutoff, self.test.answer, ranks)
        self._prove(self.engine, name, record)
        return self.engine

    def _prove(self, engine: AdapterEngine, name: str, record: TrainedRecord) -> None:
        engine.prove(self.run.model(name), record.model.fingerprint, self._probe(name, record))

    def _probe(self, name: str, record: TrainedRecord) -> list[Probe]:
        mix = load_mix(self.run, parse_name(name).k)
        return [Probe(mix.prompt(p.row).tolist(), p.logprob_accept, p.logprob_reject) for p in record.probe]

    def _on_rows(self, name: str) -> Callable[[int, int], None] | None:
        return self.tell_rows and partial(self.tell_rows, name)

    def _prompts(self) -> list[list[int]]:
        return [self.test.prompt(i).tolist() for i in range(len(self.test.row_ids))]

    def _write(self, name: str, record: TrainedRecord, scored: Sequence[Scored]) -> pa.Table:
        """Write a condition's predictions, whole or not at all."""
        test = self.test
        n = len(test.row_ids)
        accept = np.array([s.logprob_accept for s in scored])
        reject = np.array([s.logprob_reject for s in scored])
        table = pa.table(
            {
                "row_id": list(test.row_ids),
                "row_hash": list(test.row_hashes),
                "year": list(test.years),
                "label": list(test.labels),
                "text": [s.text for s in scored],
                "parsed": [self.sweep.task.parse(s.text) for s in scored],
                "logprob_accept": accept,
                "logprob_reject": reject,
                "p_accept": 1 / (1 + np.exp(reject - accept)),
                "p_other": np.clip(1 - np.exp(np.logaddexp(accept, reject)), 0, 1),
                "prompt_tokens": test.lengths,
                "truncated": list(test.truncated),
                "model_fingerprint": [record.model.fingerprint] * n,
            },
            schema=PREDICTION,
        )
        if not all(math.isfinite(x) for x in (*accept, *reject)):
            raise ValueError("label log-probabilities are not finite")
        folder = self.run.prediction(name)
        if folder.exists():
            shutil.rmtree(folder)  # one that cannot be deleted is this condition's cause of failure
        with atomic_folder(folder) as temporary:
            pq.write_table(table, temporary / "part-0.parquet", compression="zstd")
        return table
