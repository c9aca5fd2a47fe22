"""The loader: `next(loader)` is one optimiser step's worth of packs, the same at every number of workers and ranks.

Order, packing and state live in `order.py`, `packing.py` and `lane.py`; here they are driven by a torch DataLoader that
fetches draws in worker processes, in order and ahead of need.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from sailctl.core.data.choose import CostPacker, Costs, Target
from sailctl.core.data.encode import SampleEncoder
from sailctl.core.data.fetch import Fetched, Fetcher, Line, start_worker, worker_context
from sailctl.core.data.lane import Lane
from sailctl.core.data.order import Mixture, Order, Ref
from sailctl.core.data.pack_target import PROBED, pack_target
from sailctl.core.data.packing import LossWeighting, Pack, merge
from sailctl.core.data.sources import open_source
from sailctl.core.errors import DataError, SampleError, UsageError
from sailctl.core.schema.data import DataConfig

MIN_SEEN = 50  # rejects are judged as a rate from here on
_PREFETCH_BYTES = 1 << 30  # decoded tiles that may wait, over all workers


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """This rank's part of one optimiser step; all numbers are sums over its packs."""

    packs: list[Pack]
    num_samples: int
    num_tokens: int
    loss_weight: float
    rejects: list[dict[str, Any]]
    truncated: int


@dataclass(frozen=True, slots=True)
class Size:
    """The lengths of a sample: tokens, tiles, supervised tokens."""

    num_tokens: int
    num_tiles: int
    num_targets: int
    epoch: int = 0


class Loader:
    """An endless iterator of Steps over the mixture of `data.sources`; epochs follow one another without a gap.

    `encoder` needs `encode(sample)` and `measure(sample)` and must be picklable when `data.workers` > 0. Packs are
    balanced by `costs`; without it, by tokens. Raises UsageError for missing or empty sources and lanes that ranks do
    not divide, DataError when shards are lost or more than `data.max_reject_rate` of at least 50 samples are broken.
    """

    def __init__(
        self,
        data: DataConfig,
        encoder: SampleEncoder,
        *,
        seed: int,
        global_batch_samples: int,
        loss_weighting: LossWeighting = "token",
        costs: Costs | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not data.sources:
            raise UsageError("no data: data.sources is empty; give --data PATH or list sources in the recipe")
        check_lanes(data.lanes, world, global_batch_samples)
        self.data = data
        self.encoder = encoder
        self.seed = seed
        self.global_batch_samples = global_batch_samples
        self.loss_weighting = loss_weighting
        self.costs = costs or Costs()
        if data.workers:  # imports begin while sources are indexed and the model is loaded
            tokenizer = getattr(encoder, "tokenizer", None)
            self._context = worker_context([type(thing).__module__ for thing in (encoder, tokenizer) if thing])
        self.sources = [open_source(source) for source in data.sources]
        mixture = Mixture.of([len(source) for source in self.sources], data.sources)
        self.order = Order(mixture, seed, data.lanes, data.shuffle)
        per_rank = data.lanes // world
        self.lanes = [Lane(self.order, lane) for lane in range(rank * per_rank, (rank + 1) * per_rank)]
        self._by_number = {lane.lane: lane for lane in self.lanes}
        self.packs_per_lane = 0  # with the target: chosen before the first step, kept in the state
        self.target: Target | None = None
        self._prefetched: Iterator[Fetched] | None = None
        self._line: Line | None = None  # to the worker processes
        self.unreported: list[dict[str, Any]] = []  # rejects of a step that did not come about

    @property
    def samples_per_epoch(self) -> int:
        """Samples in all the sources together, each as often as it is repeated, broken ones included."""
        return self.order.mixture.epoch

    def fingerprints(self) -> dict[str, str]:
        """Source names and content fingerprints, for a run's lineage."""
        return {source.name: source.fingerprint() for source in self.sources}

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> Step:
        if self._prefetched is None:
            self._start()
        rejects: list[dict[str, Any]] = []
        self.unreported = rejects

        def on_reject(row: dict[str, Any]) -> None:
            rejects.append(row)
            self._judge_rejects(row)

        groups = [lane.next_group(self._pump, on_reject) for lane in self.lanes for _ in range(self.packs_per_lane)]
        packs = [merge(group, self.loss_weighting) for group in groups]
        self.unreported = []
        return Step(
            packs=packs,
            num_samples=sum(pack.num_samples for pack in packs),
            num_tokens=sum(pack.num_tokens for pack in packs),
            loss_weight=math.fsum(pack.loss_weight for pack in packs),
            rejects=rejects,
            truncated=sum(item.truncated for group in groups for item in group),
        )

    def _judge_rejects(self, last: dict[str, Any]) -> None:
        seen = sum(lane.seen for lane in self.lanes)
        reasons = sum((lane.rejected for lane in self.lanes), Counter())
        rejected = reasons.total()
        if seen < MIN_SEEN or (rejected <= self.data.max_reject_rate * seen and rejected < seen):
            return
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        raise DataError(
            f"{rejected} of {seen} samples rejected > data.max_reject_rate {self.data.max_reject_rate} ({counts}); "
            f"last: {last['source']} {last['key']}: {last['detail']}; all are listed in the run's rejects.jsonl"
        )

    # --- sizes ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self.target is None:
            self.packs_per_lane, self.target = pack_target(
                self._probe(),
                self.costs,
                tokens=self.data.pack_tokens,
                tiles=self.data.pack_tiles,
                samples=self.global_batch_samples / self.data.lanes,
                exact=self.data.lanes == 1,
                balance=self.data.balance,
            )
        for lane in self.lanes:
            data = self.data
            lane.start(CostPacker(data.pack_tokens, data.pack_tiles, data.pack_window, self.costs, self.target))
        try:
            self._prefetched = iter(self._data_loader())
        except (OSError, EOFError) as error:
            raise DataError(
                f"data worker processes cannot start ({error or type(error).__name__}); "
                f"lower data.workers {self.data.workers}, or set it to 0 to read in this process"
            ) from error

    def _probe(self) -> list[Size]:
        """Sizes of the first draws of all lanes, the same on every rank; broken ones are left out."""
        sizes = []
        for number in range(min(PROBED, self.samples_per_epoch)):
            ref = self.order.ref(number % self.data.lanes, number // self.data.lanes)
            try:
                sizes.append(Size(*self.encoder.measure(self.sources[ref.source].read(ref.ordinal))))
            except SampleError:
                continue  # met again, and counted, when its turn comes
        return sizes or [Size(self.data.pack_tokens, 1, 1)]

    def _data_loader(self) -> DataLoader:
        workers = self.data.workers
        options: dict[str, Any] = {}
        if workers:
            # a whole step ahead, so that workers are busy while the step computes, as far as memory allows
            step_samples = self.global_batch_samples * len(self.lanes) / self.data.lanes
            step_bytes = len(self.lanes) * self.packs_per_lane * self.data.pack_tiles * 3 * self.encoder.tile_size**2
            ahead = max(2 * workers, int(step_samples * min(2.0, _PREFETCH_BYTES / step_bytes)))
            self._line = Line()
            options = {
                "multiprocessing_context": self._context,
                "worker_init_fn": partial(start_worker, line=self._line.theirs),
                "prefetch_factor": math.ceil(ahead / workers),
            }
        return DataLoader(
            Fetcher(self.sources, self.encoder),  # type: ignore[arg-type]
            sampler=_Draws(self.lanes),
            batch_size=None,
            collate_fn=_as_it_is,  # the default would turn arrays into tensors and send them through /dev/shm
            num_workers=workers,
            generator=torch.Generator(),  # else it would draw its seed from the global one, and training change with it
            **options,
        )

    def _pump(self) -> None:
        """Let one more fetched draw arrive at its lane."""
        assert self._prefetched is not None
        try:
            fetched = next(self._prefetched)
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error) and "killed by signal" not in str(error):
                raise
            raise DataError(
                f"a data worker process died ({str(error).splitlines()[0]}); "
                f"if memory ran out, lower data.workers {self.data.workers}"
            ) from error
        self._by_number[fetched.ref.lane].arrive(fetched)

    # --- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the data stand after the step last returned, as JSON; of the lanes, this rank's."""
        return {
            "seed": self.seed,
            "num_lanes": self.data.lanes,
            "global_batch_samples": self.global_batch_samples,
            "packs_per_lane": self.packs_per_lane,
            "balance": self.data.balance,
            "target": None if self.target is None else asdict(self.target),
            "costs": asdict(self.costs),
            "shares": self.order.mixture.shares,
            "sources": self.fingerprints(),
            "lanes": {str(lane.lane): lane.state_dict() for lane in self.lanes},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where a saved state stood; must come before the first step.

        Raises UsageError naming what differs when the data, their mixture or the lanes are not those of the state.
        """
        if self._prefetched is not None:
            raise RuntimeError("load_state_dict after the first step")
        mine = self.state_dict()
        for key, what in (
            ("seed", "train.seed"),
            ("num_lanes", "data.lanes"),
            ("sources", "the content of data.sources"),
            ("shares", "data.sources[].weight or .repeats"),
        ):
            if state[key] != mine[key]:
                raise UsageError(
                    f"cannot resume: {what} has changed from {state[key]} to {mine[key]}; "
                    "restore it, or begin a new run in another --out"
                )
        # older states have it in the target alone
        state = {"balance": (state["target"] or {}).get("balance"), **state}
        if state["target"] and all(state[key] == mine[key] for key in ("global_batch_samples", "costs", "balance")):
            self.packs_per_lane, self.target = state["packs_per_lane"], Target(**state["target"])
        for lane in self.lanes:
            if str(lane.lane) not in state["lanes"]:
                raise UsageError(f"cannot resume: the state holds lanes {', '.join(state['lanes'])}, not {lane.lane}")
            lane.load_state_dict(state["lanes"][str(lane.lane)])

    def close(self) -> None:
        """Stop the workers and close the shards; the loader cannot go on afterwards."""
        self._dismiss_workers()
        shut_down = getattr(self._prefetched, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()
        for source in self.sources:
            source.close()

    def _dismiss_workers(self) -> None:
        if self._line is not None:
            self._line.shut()
            self._line = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def check_lanes(lanes: int, ranks: int, global_batch_samples: int) -> None:
    """Raise UsageError where ranks cannot share the lanes evenly, or a step has fewer samples than lanes."""
    if lanes % ranks:
        fitting = ranks * -(-lanes // ranks)
        raise UsageError(
            f"data.lanes {lanes} is not divisible by {ranks} ranks; set a multiple of {ranks}, such as --set "
            f"data.lanes={fitting}, or start a number of ranks that divides {lanes}"
        )
    if global_batch_samples < lanes:
        raise UsageError(
            f"train.global_batch_samples {global_batch_samples} < data.lanes {lanes}; every lane gives a "
            "sample a step: lower data.lanes"
        )


class _Draws:
    """The draws to fetch next, for ever: always of the lane that has the fewest under way.

    Which lanes take turns does not change what any of them gets, only how evenly they are served.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes = lanes

    def __iter__(self) -> Iterator[Ref]:
        while True:
            yield min(self.lanes, key=lambda lane: lane.pending).issue()


def _as_it_is(fetched: Any) -> Any:
    return fetched
