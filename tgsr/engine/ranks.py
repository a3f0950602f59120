"""Ranks: where the processes of a run meet. What is said goes through a store, without a time-out; tensors through a
process group."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Event, Thread
from typing import Any

import torch.distributed as dist

from tgsr.utils.errors import UserError

_FAILED, _LEFT = "failed", "left"
LONGEST_PAUSE = 0.2
"""Seconds between two looks at the store of a rank that has waited for long."""
SECONDS_BETWEEN_SIGNS = 20.0
"""Of life of every rank: a killed one cannot say that it ends, and not every launcher ends the others."""


class Ranks:
    """The ranks of one world, as one of them sees them. All copies of a `Context` share it, so that their meetings are
    counted together.

    Args:
        store: of torch's rendezvous, known to all ranks.
        rank, world_size: of this process.
        group: for collectives on tensors. None: the default group.
        timeout: of collectives, for groups that are made of this one; a rank without a sign of life for so long is
            taken to be dead.
        members: ranks of these processes in the default group. None: all.
        root: store of the whole world, where a rank that fails says so. None: `store`.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        world_size: int,
        *,
        group: dist.ProcessGroup | None = None,
        timeout: timedelta | None = None,
        members: Iterable[int] | None = None,
        root: dist.Store | None = None,
    ) -> None:
        self.store, self.rank, self.world_size, self.group, self.timeout = store, rank, world_size, group, timeout
        self.members = list(range(world_size)) if members is None else list(members)
        self._has_left = Event()
        self._root, self._rounds = root or store, 0
        self._signs: dict[int, tuple[int, int]] = {}  # rank -> its newest sign, and how often it was looked for since

    def meet(self) -> None:
        """Wait until all ranks have called it as often as this one."""
        self._arrive(self._next("meet"))

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks in rank order, on all of them."""
        key = self._next("gather")
        with _lost_store():
            self.store.set(f"{key}/{self.rank}", pickle.dumps(value))
        self._arrive(key)
        with _lost_store():
            found = [pickle.loads(self.store.get(f"{key}/{k}")) for k in range(self.world_size)]  # noqa: S301 - our own
            self._forget(f"{key}/read", (f"{key}/{k}" for k in range(self.world_size)), self.world_size)
        return found

    def from_first(self, value: Any) -> Any:
        """Rank 0's value; rank 0 does not wait for those who want it."""
        key = self._next("first")
        if self.rank == 0:
            with _lost_store():
                self.store.set(key, pickle.dumps(value))
            return value
        self.wait(lambda: self.store.check([key]))
        with _lost_store():
            found = pickle.loads(self.store.get(key))  # noqa: S301 - written by our own rank 0
            self._forget(f"{key}/read", [key], self.world_size - 1)
        return found

    def wait(self, is_over: Callable[[], bool]) -> None:
        """Look until `is_over()`, ever more seldom.

        Raises:
            UserError: another rank has ended with an error or is dead, or the store is gone with the process that kept
                it.
        """
        pause, looked = 0.001, time.monotonic()
        with _lost_store():
            while not is_over():
                if self._root.check([_FAILED]):
                    failed = self._root.get(_FAILED).decode()
                    raise UserError(f"rank {failed} has ended with an error", remedy="see its message")
                if time.monotonic() - looked > SECONDS_BETWEEN_SIGNS:
                    looked = time.monotonic()
                    self._look_for_the_dead()
                time.sleep(pause)
                pause = min(pause * 1.3, LONGEST_PAUSE)

    def fresh(self) -> dist.Store:
        """A store for one use, the same on all ranks that call it as often."""
        return dist.PrefixStore(self._next("fresh"), self.store)

    def split(self, sizes: Sequence[int]) -> Ranks:
        """The share of this rank when the ranks are divided, neighbours together. Called on all ranks.

        Args:
            sizes: of the shares; they sum to world_size.
        """
        if sum(sizes) != self.world_size or min(sizes) < 1:
            raise ValueError(f"{self.world_size} ranks cannot be split into {list(sizes)}")
        key = self._next("split")
        self._arrive(key)  # making groups is a collective, with a time-out
        mine, first = self, 0
        for size in sizes:
            members = self.members[first : first + size]
            group = dist.new_group(members, timeout=self.timeout) if size > 1 else None
            if first <= self.rank < first + size:
                mine = Ranks(
                    dist.PrefixStore(f"{key}/{first}", self.store), self.rank - first, size,
                    group=group, timeout=self.timeout, members=members, root=self._root,
                )  # fmt: skip
            first += size
        return mine

    def show_life(self) -> None:
        """From now on, as long as this process lives."""

        def beat() -> None:
            with suppress(RuntimeError):  # the store is gone
                while not self._has_left.wait(SECONDS_BETWEEN_SIGNS):
                    self._root.add(f"alive/{self.rank}", 1)

        self._root.add(f"alive/{self.rank}", 1)
        Thread(target=beat, daemon=True).start()

    def _look_for_the_dead(self) -> None:
        patience = 0.0 if self.timeout is None else self.timeout.total_seconds() / SECONDS_BETWEEN_SIGNS
        for rank in self.members if patience else ():
            sign = self._root.add(f"alive/{rank}", 0)
            last, num_looks = self._signs.get(rank, (sign, 0))
            self._signs[rank] = (sign, num_looks + 1 if sign == last else 0)
            if sign and self._signs[rank][1] > patience:  # looks, not seconds: this process may have been asleep
                raise UserError(
                    f"rank {rank} has given no sign of life for {patience * SECONDS_BETWEEN_SIGNS / 60:.0f} minutes",
                    remedy="it was killed, perhaps for want of memory; with --auto_resume the run goes on",
                )

    def fail(self) -> None:
        """Let those who wait for this rank know that it ends with an error."""
        with suppress(RuntimeError):  # the store is gone, and so are those who could ask it
            self._root.set(_FAILED, str(self.members[self.rank]))

    def leave(self) -> None:
        """The last call. Rank 0 waits for the others, since the store may live in its process."""
        self._has_left.set()
        with _lost_store():
            self.store.add(_LEFT, 1)
        if self.rank == 0:
            self.wait(lambda: self.store.add(_LEFT, 0) >= self.world_size)

    def _next(self, kind: str) -> str:
        self._rounds += 1
        return f"{kind}/{self._rounds}"

    def _arrive(self, key: str) -> None:
        """Wait until all ranks are here."""
        with _lost_store():
            if self.store.add(f"{key}/arrived", 1) == self.world_size:
                self.store.set(f"{key}/open", "")
        self.wait(lambda: self.store.check([f"{key}/open"]))

    def _forget(self, counter: str, keys: Iterable[str], readers: int) -> None:
        """The last reader removes what was said."""
        if self.store.add(counter, 1) == readers:
            for key in keys:
                self.store.delete_key(key)


@contextmanager
def _lost_store():  # noqa: ANN202 - a generator context manager
    try:
        yield
    except dist.DistError as error:
        raise UserError(
            "the process that keeps the ranks' meeting point (rank 0, or torchrun) is gone",
            remedy="see its message",
        ) from error
