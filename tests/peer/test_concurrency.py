"""Other writers commit while our build runs, and builds are killed.

The build is stopped (SIGSTOP) once it has pinned its version and is training or encoding;
then stock pylance commits; then the build goes on.
"""
import signal

import lance
import pytest

from helpers import (Running, index_files, index_named, make_vectors, mean_recall, pilum, pilum_ok,
                     stock_create_index, table_of, usable_rows, write)

DIM = 64
ROWS = 20_000
PARTITIONS = 128


def words(path, *more):
    return ["create-index", path, "--column", "vec", "--type", "IVF_PQ", "--name", "ours", "--num-partitions", PARTITIONS,
            "--num-sub-vectors", 16, "--seed", 3, "--threads", 1, "--progress", "json", "--json", *more]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.lance"
    write(path, make_vectors(ROWS, DIM), max_rows_per_file=5_000)
    return path


def build_while(path, change, phase="train"):
    """Run the build; `change` happens in the middle of it. Returns how the build ended."""
    before = lance.dataset(str(path)).version
    with Running(*words(path)) as running:
        assert running.wait_for_phase(phase), f"the build never said it was in {phase}: {''.join(running.lines)}"
        running.stop()
        assert lance.dataset(str(path)).version == before, "the build was over before it could be stopped"
        change(lance.dataset(str(path)))
        running.go_on()
        return running.finish()


def check_built(path, n_changes):
    """Committed after the changes, used and right for every live row."""
    dataset = lance.dataset(str(path))
    assert dataset.version == 1 + n_changes + 1
    assert index_named(dataset, "ours").index_type == "IVF_PQ"
    rows = usable_rows(dataset)
    assert mean_recall(dataset, "vec", rows, "l2", nprobes=PARTITIONS, refine_factor=20, n_queries=16) >= 0.9
    return dataset, rows


@pytest.mark.parametrize("phase", ["train", "encode"])
def test_append(table, phase):
    run = build_while(table, lambda d: d.insert(table_of(make_vectors(500, DIM, 9), first_id=ROWS)), phase)
    assert run.status == 0, run.stderr
    dataset, rows = check_built(table, 1)
    assert len(rows.ids) == ROWS + 500
    assert run.json["rows"]["indexed"] == ROWS
    (segment,) = index_named(dataset, "ours").segments
    assert set(segment.fragment_ids) == {0, 1, 2, 3}


@pytest.mark.parametrize("phase", ["train", "encode"])
def test_delete(table, phase):
    run = build_while(table, lambda d: d.delete("id % 3 = 0"), phase)
    assert run.status == 0, run.stderr
    _, rows = check_built(table, 1)
    assert len(rows.ids) == ROWS - len(range(0, ROWS, 3))


def test_other_index_and_config(table):
    def change(dataset):
        dataset.create_scalar_index("id", "BTREE")
        dataset.update_config({"a": "b"})

    run = build_while(table, change)
    assert run.status == 0, run.stderr
    dataset, _ = check_built(table, 2)
    assert {index.name for index in dataset.describe_indices()} == {"id_idx", "ours"}
    assert dataset.config()["a"] == "b"


def test_column_added(table):
    run = build_while(table, lambda d: d.add_columns({"double": "id * 2"}))
    assert run.status == 0, run.stderr
    dataset, _ = check_built(table, 1)
    assert "double" in dataset.schema.names


def compact(dataset):
    dataset.optimize.compact_files(target_rows_per_fragment=50_000)


def overwrite(dataset):
    lance.write_dataset(table_of(make_vectors(3_000, DIM, 8)), dataset.uri, mode="overwrite")


def drop_column(dataset):
    dataset.drop_columns(["vec"])


def same_name(dataset):
    stock_create_index(dataset.uri, "vec", "IVF_FLAT", name="ours", num_partitions=4)


def restore(dataset):
    dataset.update_config({"a": "b"})
    lance.dataset(dataset.uri, version=1).restore()


@pytest.mark.parametrize("change", [compact, overwrite, drop_column, same_name, restore], ids=lambda f: f.__name__)
def test_conflict(table, change):
    """What we cannot rebase over is said, and the table stays as the other writer left it."""
    run = build_while(table, change)
    assert run.status == 1, run.stderr
    assert run.stdout == ""
    dataset = lance.dataset(str(table))
    ours = index_named(dataset, "ours")
    assert ours is None or ours.index_type == "IVF_FLAT"
    assert leftovers(table) == [], "nothing of it can ever be used"
    if change is drop_column:
        return
    run = pilum_ok(*words(table))  # the same command starts anew over the changed table
    assert "warning" not in run.stderr
    again = run.json
    assert again["rows"]["indexed"] == dataset.count_rows()
    assert index_named(lance.dataset(str(table)), "ours").index_type == "IVF_PQ"


def test_two_of_us(table):
    """A second process on the same local job says who holds it."""
    with Running(*words(table)) as first:
        assert first.wait_for_phase("train")
        first.stop()
        second = pilum(*words(table))
        first.go_on()
        done = first.finish()
    assert (second.status, second.stdout) == (1, "")
    assert str(first.process.pid) in second.stderr
    assert done.status == 0, done.stderr
    check_built(table, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupt", "kill"])
@pytest.mark.parametrize("phase", ["train", "encode", "merge", "verify"])
def test_stopped_then_resumed(table, tmp_path, phase, number):
    """Killed anywhere, the same command carries on to the same bytes."""
    other = tmp_path / "straight.lance"
    write(other, make_vectors(ROWS, DIM), max_rows_per_file=5_000)
    pilum_ok(*words(other))

    with Running(*words(table)) as running:
        assert running.wait_for_phase(phase), "".join(running.lines)
        running.signal(number)
        stopped = running.finish()
    assert stopped.status == (130 if number == signal.SIGINT else -signal.SIGKILL), stopped.stderr
    assert stopped.stdout == ""
    assert lance.dataset(str(table)).version == 1

    report = pilum_ok(*words(table)).json
    assert report["resumed"] is True
    assert report["rows"]["indexed"] == ROWS
    check_built(table, 0)
    assert index_files(table, "ours") == index_files(other, "ours")
    assert leftovers(table) == []


def leftovers(path):
    """Files that a finished job leaves behind; there should be none."""
    return [str(file) for file in (path / "_pilum").rglob("*") if file.is_file()]


def test_restart_throws_the_job_away(table):
    with Running(*words(table)) as running:
        assert running.wait_for_phase("encode"), "".join(running.lines)
        running.signal(signal.SIGKILL)
        running.finish()
    report = pilum_ok(*words(table, "--restart")).json
    assert report["resumed"] is False
    check_built(table, 0)


def test_killed_job_resumes_over_an_append(table):
    """The table moved on in the meantime; the pinned version is still there."""
    with Running(*words(table)) as running:
        assert running.wait_for_phase("encode"), "".join(running.lines)
        running.signal(signal.SIGKILL)
        running.finish()
    lance.dataset(str(table)).insert(table_of(make_vectors(100, DIM, 9), first_id=ROWS))
    report = pilum_ok(*words(table)).json
    assert report["resumed"] is True
    assert report["rows"]["indexed"] == ROWS
    _, rows = check_built(table, 1)
    assert len(rows.ids) == ROWS + 100


def test_gc_removes_a_dead_job(table):
    with Running(*words(table)) as running:
        assert running.wait_for_phase("encode"), "".join(running.lines)
        running.signal(signal.SIGKILL)
        running.finish()
    assert leftovers(table)
    pilum_ok("gc", table, "--yes", "--json")
    assert leftovers(table) == []
    assert pilum_ok(*words(table)).json["resumed"] is False
