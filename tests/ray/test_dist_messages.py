"""The calls behind the Ray engine, in one process: same bytes, and messages that were damaged on the way."""
import json
import random
import struct
from pathlib import Path

import pytest
from ray_helpers import index_bytes

from pilum import _core

WORKERS = 3


def u64(message):
    return struct.unpack(f"<{len(message) // 8}Q", message)


class Handles:
    """A driver and three workers. `seen` keeps one example of each call that takes a message."""

    def __init__(self, path, index_type, tmp_path, **options):
        self.seen = {}
        self.options = {"column": b"vec", "type": index_type.encode(), "num_partitions": 8, **options}
        self.contexts = [_core.Context(threads=1, memory_budget=1 << 30) for _ in range(WORKERS + 1)]
        reference = (path.encode(), 0, None, ())
        self.dist, self.committed = _core.dist_open(self.contexts[0], reference, self.options, WORKERS)
        self.workers = []
        for i in range(WORKERS):
            folder = tmp_path / f"spill-{i}"
            folder.mkdir(exist_ok=True)
            self.workers.append(_core.dist_join(self.contexts[i + 1], reference, self.options, WORKERS,
                                                self.drive("plan"), str(folder).encode()))
        self.facts = json.loads(self.drive("facts"))

    def drive(self, name, *numbers, messages=()):
        return self._call(self.dist, name, numbers, messages)

    def work(self, i, name, *numbers, messages=()):
        return self._call(self.workers[i % WORKERS], name, numbers, messages)

    def _call(self, handle, name, numbers, messages):
        if messages:
            self.seen.setdefault((name, handle is self.dist), (handle, numbers, messages))
        return handle.call(name, numbers, messages)

    def train(self):
        self.drive("sample_begin", WORKERS)
        while n := u64(self.drive("sample_round"))[0]:
            for i in range(n):
                held = self.work(i, "shard", i, messages=(self.drive("sample_message", i),))
                self.drive("sample_answer", i, messages=(held,))
        rows = u64(self.drive("shards"))
        shards = list(zip(rows[::2], rows[1::2]))
        state, step = self.drive("train_begin"), 0
        while state and not u64(state[8:16])[0]:
            parts = [self.work(i, "step", i, first, messages=(state,)) for i, (first, _) in enumerate(shards)]
            if step % 2:
                parts = [self.work(step, "reduce", messages=tuple(parts[:2])), *parts[2:]]
            state = self.work(step, "train_next", step % 3 == 0, messages=(state, *parts))
            step += 1
        centroids = self.drive("train_end", messages=(state,))
        if not u64(self.drive("pq_given"))[0]:
            n_sample = sum(rows[1::2])
            sizes = [u64(self.work(i, "pq_columns", i, first, n_sample, messages=(centroids,)))[0]
                     for i, (first, _) in enumerate(shards)]
            for j in range(self.facts["sub_vectors"]):
                words = self.work(j, "pq_train", j, 1, messages=(struct.pack(f"<{len(sizes)}Q", *sizes),))
                self.drive("pq_absorb", j, 1, messages=(words,))
            self.drive("pq_end")
        for i in range(len(shards)):
            self.drive("probes_answer", messages=(
                self.work(i, "shard_rows", i, messages=(self.drive("probes_message", i),)),))
        self.drive("model_save")

    def build(self):
        self.train()
        self.encode()
        opened = self.work(1, "merge_open", 0)
        for block in reversed(range(u64(opened[8:16])[0])):
            self.work(block, "merge_blocks", 0, block, block + 1, messages=(opened,))
            self.work(block + 1, "merge_blocks", 0, block, block + 1, messages=(opened,))  # a twin
        self.finish_merge(opened)

    def encode(self):
        self.drive("encode_begin")
        for task in reversed(range(len(self.facts["tasks"]))):
            self.drive("encoded", messages=(self.work(task, "encode", task),))
        self.drive("encode_end")

    def finish_merge(self, opened):
        self.work(2, "merge_finish", 0, messages=(opened,))
        self.drive("merged", 0, messages=(opened,))
        for i in range(u64(self.drive("verify_begin", 1))[0]):
            found = self.work(i, "verify", messages=(self.drive("verify_message", i),))
            self.drive("verify_answer", messages=(found,))
            self.drive("verify_answer", messages=(found,))  # counted once
        self.drive("verify_end")

    def close(self):
        for handle in [*self.workers, self.dist]:
            handle.close()


@pytest.mark.parametrize("index_type", ["IVF_FLAT", "IVF_SQ", "IVF_PQ"])
def test_same_bytes(table, threads_engine, tmp_path, index_type):
    path = table()
    handles = Handles(path, index_type, tmp_path)
    handles.build()
    report = json.loads(handles.drive("finish"))
    handles.close()
    assert index_bytes(path) == threads_engine("small", index_type, "--num-partitions", 8)
    assert report["quality"]["checked_rows"] == 39_999 and report["quality"]["misfiled"] == 0


@pytest.mark.parametrize("loss", ["nothing", "bytes", "file", "token"])
def test_killed_driver_leaves_merged_blocks(table, threads_engine, tmp_path, loss):
    """The next driver writes only what is missing, and looks whether the rest is what it was."""
    path = table()
    first = Handles(path, "IVF_FLAT", tmp_path)
    first.train()
    first.encode()
    opened = first.work(1, "merge_open", 0)
    blocks = u64(opened[8:16])[0]
    first.work(1, "merge_blocks", 0, 0, blocks, messages=(opened,))
    first.close()
    (file,) = Path(path).glob("_pilum/*/*/auxiliary.idx")
    if loss == "bytes":
        with file.open("r+b") as f:
            f.seek(5_000)
            f.write(b"lost")
    elif loss == "file":
        file.unlink()
    elif loss == "token":
        (token,) = Path(path).glob("_pilum/*/merging-0")
        token.unlink()
    second = Handles(path, "IVF_FLAT", tmp_path)
    second.encode()
    opened = second.work(2, "merge_open", 0)
    before = u64(second.work(0, "usage"))[1]
    second.work(0, "merge_blocks", 0, 0, blocks, messages=(opened,))
    written = u64(second.work(0, "usage"))[1] - before
    assert (written == 0) == (loss == "nothing"), written
    second.finish_merge(opened)
    second.drive("finish")
    second.close()
    assert index_bytes(path) == threads_engine("small", "IVF_FLAT", "--num-partitions", 8)


def damaged(message, rng):
    """Cut short, made longer, or with a few bytes changed."""
    kind = rng.randrange(3)
    if kind == 0:
        return message[: rng.randrange(len(message))]
    if kind == 1:
        return message + rng.randbytes(rng.randrange(1, 40))
    changed = bytearray(message)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(min(len(changed), 160))] = rng.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_messages_are_refused_or_harmless(table, tmp_path, seed):
    """No damaged message may end the process; most are refused, with a code and a reason."""
    handles = Handles(table(), "IVF_PQ", tmp_path)
    handles.build()
    rng = random.Random(seed)
    refused = 0
    for (name, _), (handle, numbers, messages) in handles.seen.items():
        for _ in range(25):
            at = rng.randrange(len(messages))
            broken = (*messages[:at], damaged(messages[at], rng), *messages[at + 1:])
            try:
                handle.call(name, numbers, broken)
            except Exception as error:
                refused += 1
                assert str(error)
    handles.close()
    assert refused > 150


def test_calls_out_of_place_are_refused(table, tmp_path):
    handles = Handles(table(), "IVF_PQ", tmp_path)
    for name, numbers in [("no_such_call", ()), ("facts", (1,)), ("sample_round", ()), ("sample_begin", (0,)),
                          ("train_begin", ()), ("train_end", ()), ("pq_end", ()), ("encode_end", ()),
                          ("verify_begin", (0,)), ("verify_message", (0,)), ("probes_message", (0,)),
                          ("seconds", (9, 0))]:
        with pytest.raises(Exception) as caught:
            handles.drive(name, *numbers)
        assert str(caught.value)
    for name, numbers, messages in [("encode", (10**6,), ()), ("merge_open", (5,), ()), ("step", (), (b"x",)),
                                    ("step", (7, 0), (b"x",)), ("pq_train", (0, 99), (b"12345678",)),
                                    ("merge_blocks", (0, 5, 4), (b"",)), ("shard", (0,), (b"PLMSLIC1",))]:
        with pytest.raises(Exception) as caught:
            handles.work(0, name, *numbers, messages=messages)
        assert str(caught.value)
    handles.close()
