"""One build: which calls the driver and the workers make, in which order.

The driver's own calls plan, add up and commit; everything whose size grows with the table is a task
for the pool. See ``build/dist.h`` for what each call does.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from pilum import _core
from pilum.ray._errors import WorkersLost
from pilum.ray._pool import LOSSES, AnswerLost, Pool, Task
from pilum.ray._progress import View

PHASES = ("plan", "train", "encode", "merge", "verify")
FAN_IN = 8  #: partials that one task adds up, at most: fewer where they are large beside the memory budget
CHECKPOINT_EVERY_S = 5.0
STATE_HEAD = struct.Struct("<8s3Q64s")  #: of a state of training: magic, is done, steps done, steps in all, what
SUB_VECTORS_OF_TASK = 2  #: part of the names of pieces: a constant, so that a resumed build finds them


Part = tuple[int, int, Any]  #: a shard of the sample: its number, its first row, the message that reads it


def _u64(message: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(message) // 8}Q", message)


@dataclasses.dataclass
class Driver:
    """The driver's handle of the build."""

    dist: _core.Dist

    def __call__(self, name: str, *numbers: int, messages: tuple[bytes, ...] = ()) -> bytes:
        return self.dist.call(name, numbers, messages)

    def number(self, name: str, *numbers: int) -> int:
        return _u64(self(name, *numbers))[0]

    def json(self, name: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self(name))
        return answer


class Build:
    def __init__(self, driver: Driver, pool: Pool, view: View) -> None:
        self.driver = driver
        self.pool = pool
        self.view = view
        self.threads = pool.size.threads
        self.facts = driver.json("facts")
        partial = self.facts["partitions"] * (8 * self.facts["dimension"] + 16)
        self.fan_in = max(2, min(FAN_IN, pool.size.memory_budget // 8 // partial))

    def run(self, verify: str, end: str = "finish") -> dict[str, Any]:
        """Everything from training to the commit; the report. ``end="publish"``: but the commit, and what it takes."""
        if not self.facts["trained"]:
            with self._phase("train"):
                self._train()
        with self._phase("encode"):
            self._encode()
        with self._phase("merge"):
            self._merge()
        if verify != "none":
            with self._phase("verify"):
                self._verify(verify == "full")
        self._account()
        self.view.begin("commit", 1, "versions")
        return self.driver.json(end)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.driver("seconds", PHASES.index(name), int((time.monotonic() - began) * 1e6))
        self.view.end()

    def _account(self) -> None:
        """What the workers read and wrote, into the driver's report."""
        for usage in self.pool.usages():
            self.driver("account", *_u64(usage)[:7])

    # ---- training -------------------------------------------------------------------------

    def _train(self) -> None:
        self.view.begin("train", 0, "steps", "sampling")
        shards = self._sample()
        firsts = _u64(self.driver("shards"))
        parts = [(i, firsts[2 * i], shards[i]) for i in range(len(firsts) // 2) if firsts[2 * i + 1] > 0]
        n_sample = sum(firsts[1::2])
        centroids = self._train_centroids(parts)
        if not self.driver.number("pq_given"):
            self._train_codebook(parts, len(shards), n_sample, centroids)
        self.pool.run(
            [
                Task("shard_rows", (i,), (self.driver("probes_message", i),), ((i, ref),))
                for i, _, ref in parts
            ],
            lambda _, rows: self.driver("probes_answer", messages=(rows,)),
        )
        self.driver("model_save")

    def _sample(self) -> list[Any]:
        """Chooses the sample, round by round; the messages by which any worker reads each shard."""
        self.driver("sample_begin", self.pool.n)
        messages: list[Any] = []
        while n := self.driver.number("sample_round"):
            texts = [self.driver("sample_message", i) for i in range(n)]
            messages = [ray.put(text) for text in texts]
            self.pool.run(
                [Task("shard", (i,), (texts[i],)) for i in range(n)],
                lambda task, held: self.driver("sample_answer", task.numbers[0], messages=(held,)),
            )
        return messages

    def _train_centroids(self, parts: list[Part]) -> bytes:
        """The trainer's state goes from worker to worker; only the last one comes here."""
        states: list[Any] = []  # the newest last: an older one has copies where it was worked on
        for _ in range(LOSSES):
            try:
                if not states:
                    first = self.driver("train_begin")
                    if not first:
                        return self.driver("train_end", messages=(b"",))
                    states.append(ray.put(first))
                self._train_on(states, parts)
                return self.driver("train_end", messages=(ray.get(states[-1]),))
            except (AnswerLost, ray.exceptions.ObjectLostError):
                states.pop()  # what it made of that one went, too: the step before, or the last checkpoint
        raise WorkersLost(f"the state of training was lost {LOSSES} times")

    def _train_on(self, states: list[Any], parts: list[Part]) -> None:
        """From the newest of the states to the end."""
        saved_at, is_done = time.monotonic(), 0
        while not is_done:
            save = time.monotonic() - saved_at > CHECKPOINT_EVERY_S
            answers = self._answers(states[-1], parts)
            task = Task("train_next", (int(save),), (states[-1], *answers), keep=True)
            self.pool.run([task], lambda _, state: states.append(state))
            del states[:-2]
            saved_at = time.monotonic() if save else saved_at
            _, is_done, done, total, what = STATE_HEAD.unpack(task.head)
            self.view.begin("train", total + self.facts["sub_vectors"], "steps", what.rstrip(b"\0").decode())
            self.view.set(done)

    def _answers(self, state: Any, parts: list[Part]) -> list[Any]:
        """Partials of all shards for one step, few enough for one worker to add up."""
        answers: list[Any] = []
        self.pool.run(
            [Task("step", (i, first), (state,), ((i, ref),), keep=True) for i, first, ref in parts],
            lambda _, answer: answers.append(answer),
        )
        while len(answers) > self.fan_in:
            answers = self._reduce(answers)
        return answers

    def _reduce(self, answers: list[Any]) -> list[Any]:
        sums: list[Any] = []
        groups = [answers[i : i + self.fan_in] for i in range(0, len(answers), self.fan_in)]
        self.pool.run(
            [Task("reduce", (), tuple(group), keep=True) for group in groups if len(group) > 1],
            lambda _, answer: sums.append(answer),
        )
        return sums + [group[0] for group in groups if len(group) == 1]

    def _train_codebook(self, parts: list[Part], n_shards: int, n_sample: int,
                        centroids: bytes) -> None:
        m = self.facts["sub_vectors"]
        groups = [(first, min(SUB_VECTORS_OF_TASK, m - first)) for first in range(0, m, SUB_VECTORS_OF_TASK)]
        groups = [g for g in groups if not self.driver("pq_find", *g)]  # an earlier driver's are there
        self.view.begin("train", m, "sub-vectors", "codebook")
        self.view.set(m - sum(n for _, n in groups))
        if groups:
            reference, rows = ray.put(centroids), [0] * n_shards
            self.pool.run(
                [Task("pq_columns", (i, first, n_sample), (reference,), ((i, ref),)) for i, first, ref in parts],
                lambda task, answer: rows.__setitem__(task.numbers[0], _u64(answer)[0]),
            )
            message = struct.pack(f"<{n_shards}Q", *rows)
            self.pool.run([Task("pq_train", g, (message,)) for g in groups], self._take_codewords)
        self.driver("pq_end")

    def _take_codewords(self, task: Task, words: bytes) -> None:
        self.driver("pq_absorb", *task.numbers, messages=(words,))
        self.view.add(task.numbers[1])

    # ---- encoding --------------------------------------------------------------------------

    def _encode(self) -> None:
        rows = self.facts["tasks"]
        self.driver("encode_begin")
        self.view.begin("encode", sum(rows), "rows")
        batches = [range(i, min(i + self.threads, len(rows))) for i in range(0, len(rows), self.threads)]
        self.pool.run(
            [Task("encode", tuple(batch), rows=sum(rows[i] for i in batch)) for batch in batches], self._take_encoded
        )
        self.driver("encode_end")

    def _take_encoded(self, task: Task, statistics: bytes) -> None:
        self.driver("encoded", messages=(statistics,))
        self.view.add(task.rows)

    # ---- merging ------------------------------------------------------------------------------

    def _merge(self) -> None:
        self.view.begin("merge", 0, "blocks")
        left = list(range(len(self.facts["segments"])))
        for attempt in range(3):
            left = self._merge_segments(left, last=attempt == 2)
            if not left:
                return

    def _merge_segments(self, segments: list[int], last: bool) -> list[int]:
        """Merges; what is to be done again because its end was lost with a worker."""
        opened: dict[int, bytes] = {}
        self.pool.run(
            [Task("merge_open", (s,)) for s in segments],
            lambda task, answer: opened.__setitem__(task.numbers[0], answer),
        )
        blocks = {s: _u64(answer[8:16])[0] for s, answer in opened.items()}
        self.view.begin("merge", sum(blocks.values()), "blocks")
        step = max(self.threads, -(-sum(blocks.values()) // (4 * self.pool.n)))
        self.pool.run(
            [
                Task("merge_blocks", (s, at, min(at + step, blocks[s])), (opened[s],))
                for s in segments
                for at in range(0, blocks[s], step)
            ],
            lambda task, _: self.view.add(task.numbers[2] - task.numbers[1]),
        )
        again: list[int] = []
        for s in segments:
            try:
                if blocks[s] > 0 or _is_empty(opened[s]):
                    self.pool.run([Task("merge_finish", (s,), (opened[s],))], lambda *_: None)
                self.driver("merged", s, messages=(opened[s],))
            except Exception as error:
                if last or type(error).__name__ != "NotFoundError":
                    raise
                again.append(s)  # an upload that a lost worker had completed: its parts are gone
        return again

    # ---- verifying -------------------------------------------------------------------------------

    def _verify(self, full: bool) -> None:
        n = self.driver.number("verify_begin", int(full))
        self.view.begin("verify", n, "checks")
        self.pool.run(
            [Task("verify", (), (self.driver("verify_message", i),)) for i in range(n)], self._take_checked
        )
        self.driver("verify_end")

    def _take_checked(self, task: Task, found: bytes) -> None:
        self.driver("verify_answer", messages=(found,))
        self.view.add(1)


def _is_empty(opened: bytes) -> bool:
    """A segment without a block that has a token is not merged yet: it has no rows."""
    k = _u64(opened[24:32])[0]
    return _u64(opened[32 + 4 * k : 40 + 4 * k])[0] > 0
