"""Whole builds on S3: how many requests they make, what they survive, who wins when several meet.

The server checks signatures, logs every request and breaks what it is told to break.
"""
import collections
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lance
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "peer")]
from helpers import PILUM, Running, index_named, make_vectors, pilum, stock, table_of, uses_index  # noqa: E402
from s3_server import S3Server  # noqa: E402

from pilum import _core  # noqa: E402

KEY_ID, SECRET = "AKIDSTATIC", "static-secret/with+odd=chars"
MIB = 1 << 20
ROWS, DIM = 40_000, 96


@pytest.fixture(scope="module")
def server():
    with S3Server() as s3:
        s3.make_bucket("bucket")
        yield s3


@pytest.fixture(autouse=True)
def fresh(server):
    server.reset()


@pytest.fixture
def options(server):
    return {"aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET, "aws_endpoint": server.url,
            "aws_region": "us-east-1", "allow_http": "true"}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The small table on local disk, in one fragment and in four."""
    home = tmp_path_factory.mktemp("s3-originals")
    table = table_of(make_vectors(ROWS, DIM))
    for fragments in (1, 4):
        lance.write_dataset(table, str(home / f"{fragments}.lance"), max_rows_per_file=ROWS // fragments,
                            data_storage_version="2.2")
    return home


NAMES = iter(range(10_000))


def put_table(server, folder, suffix=""):
    """Copies a table of the local disk into the bucket as it is; its name there."""
    import boto3

    client = boto3.client("s3", endpoint_url=server.url, aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET,
                          region_name="us-east-1")
    name = f"t{next(NAMES)}{suffix}"
    for file in sorted(Path(folder).rglob("*")):
        if file.is_file():
            client.put_object(Bucket="bucket", Key=f"{name}/{file.relative_to(folder)}", Body=file.read_bytes())
    server.state.log.clear()
    return f"s3://bucket/{name}"


def objects(server, uri, below=""):
    """{key below the table: bytes}."""
    import boto3

    client = boto3.client("s3", endpoint_url=server.url, aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET,
                          region_name="us-east-1")
    root = uri.removeprefix("s3://bucket/") + "/"
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=root + below):
        for item in page.get("Contents", []):
            body = client.get_object(Bucket="bucket", Key=item["Key"])["Body"].read()
            found[item["Key"].removeprefix(root)] = body
    return found


def bucket_of(server):
    import boto3

    return boto3.resource("s3", endpoint_url=server.url, aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET,
                          region_name="us-east-1").Bucket("bucket")


def remove_objects(server, folder):
    bucket_of(server).objects.filter(Prefix=folder + "/").delete()


def put_object(server, key, content):
    bucket_of(server).put_object(Key=key, Body=content)


def remove_table(server, uri):
    remove_objects(server, uri.removeprefix("s3://bucket/"))


def uploads(server, uri):
    """Keys of the multipart uploads that were begun and neither finished nor aborted."""
    import boto3

    client = boto3.client("s3", endpoint_url=server.url, aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET,
                          region_name="us-east-1")
    found = client.list_multipart_uploads(Bucket="bucket").get("Uploads", [])
    root = uri.removeprefix("s3://bucket/") + "/"
    return [u["Key"].removeprefix(root) for u in found if u["Key"].startswith(root)]


def words(uri, options, index_type="IVF_PQ", partitions=16, name=None, *more):
    out = ["create-index", uri, "--column", "vec", "--type", index_type, "--num-partitions", partitions,
           "--json", "--progress", "none", *more]
    out += ["--num-sub-vectors", 16] if index_type == "IVF_PQ" else []
    out += ["--name", name] if name else []
    for key, value in options.items():
        out += ["--storage-option", f"{key}={value}"]
    return out


def build(uri, options, *args, timeout=300, env=None, **kwargs):
    run = pilum(*words(uri, options, *args, **kwargs), timeout=timeout, env=env)
    assert run.status == 0, run.stderr
    return run.json


def index_bytes(files):
    """Contents of index files whatever their uuid, sorted."""
    return sorted((key.rsplit("/", 1)[1], body) for key, body in files.items())


@pytest.fixture(scope="module")
def local(original, tmp_path_factory):
    """local(fragments, type) -> the index files that a build on local disk makes, built once."""
    made = {}

    def build_it(fragments, index_type):
        if (fragments, index_type) not in made:
            copy = tmp_path_factory.mktemp("local") / "t.lance"
            shutil.copytree(original / f"{fragments}.lance", copy)
            more = ["--num-sub-vectors", "16"] if index_type == "IVF_PQ" else []
            subprocess.run([PILUM, "create-index", copy, "--column", "vec", "--type", index_type, "--num-partitions", "16",
                            "--progress", "none", *more], check=True, capture_output=True)
            made[fragments, index_type] = index_bytes(
                {str(f): f.read_bytes() for f in (copy / "_indices").rglob("*.idx")})
        return made[fragments, index_type]

    return build_it


def check(server, uri, options, expected=None, n_versions=1):
    """So many versions more, one index, with these bytes; stock pylance finds with it what is there."""
    server.state.faults.clear()
    dataset = lance.dataset(uri, storage_options=options)
    assert dataset.version == 1 + n_versions
    (segment,) = index_named(dataset, "vec_idx").segments
    if expected:
        assert index_bytes(objects(server, uri, f"_indices/{segment.uuid}/")) == expected
    query = make_vectors(ROWS, DIM)[77]
    assert uses_index(dataset, "vec", query)
    found = dataset.to_table(nearest={"column": "vec", "q": query, "k": 5, "nprobes": 16, "refine_factor": 5}, columns=["id"])
    assert found["id"][0].as_py() == 77
    return dataset


# ---- economy --------------------------------------------------------------------------------


def kind_of(entry):
    """What a request is for, by its path."""
    path = re.sub(r"^/bucket/t\d+", "", entry["path"]) or "/"
    return entry["method"], path.split("/")[1] if path.count("/") > 1 else path


def stock_requests(server, original, options, index_type):
    uri = put_table(server, original)
    given = {"num_partitions": 16, **({"num_sub_vectors": 16} if index_type == "IVF_PQ" else {})}
    stock("import json; d = lance.dataset(sys.argv[1], storage_options=json.loads(sys.argv[4]));"
          "d.create_index('vec', sys.argv[2], **json.loads(sys.argv[3]))",
          uri, index_type, json.dumps(given), json.dumps(options), timeout=120)
    return len(server.log)


def wire(server):
    return collections.Counter(e["method"] for e in server.log)


@pytest.mark.parametrize("fragments", [1, pytest.param(4, marks=pytest.mark.full)])
def test_no_more_requests_than_stock_pylance(server, original, local, options, fragments):
    theirs = stock_requests(server, original / f"{fragments}.lance", options, "IVF_PQ")
    uri = put_table(server, original / f"{fragments}.lance")
    report = build(uri, options)
    log = list(server.log)
    assert len(log) <= theirs, collections.Counter(kind_of(e) for e in log)
    assert len(log) <= 10 + 3 * fragments

    # Versions and manifest, then one GET for each footer; the column once in ranges as long as can be.
    reads = [e for e in log if e["method"] == "GET" and "/data/" in e["path"]]
    data = [e for e in reads if int(re.search(r"=(\d+)-(\d+)", e["headers"]["range"])[2]) < ROWS // fragments * DIM * 4]
    assert len(reads) == 2 * fragments and len(data) == fragments
    assert sum(kind_of(e)[1] == "_versions" and e["method"] == "GET" for e in log) == 1
    assert sum("prefix=" in e["query"] and "_versions" in e["query"] for e in log) == 2

    # What the report says is what the server saw.
    requests = report["resources"]["requests"]
    seen = wire(server)
    lists = sum("list-type" in e["query"] for e in log)
    assert (requests["get"], requests["put"], requests["list"], requests["delete"], requests["retried"]) == (
        seen["GET"] + seen["HEAD"] - lists, seen["PUT"] + seen["POST"], lists, seen["DELETE"], 0)
    assert report["resources"]["bytes_written"] == sum(e["bytes"] for e in log if e["method"] in ("PUT", "POST")
                                                       and e["status"] == 200)
    check(server, uri, options, local(fragments, "IVF_PQ"))


@pytest.mark.parametrize("index_type, fragments, verify", [("IVF_PQ", 1, "sample"), ("IVF_PQ", 4, "sample"), ("IVF_FLAT", 4, "sample"),
                                                           ("IVF_SQ", 1, "sample"), ("IVF_SQ", 4, "none")])
def test_the_plan_predicts_requests_and_bytes(server, original, options, index_type, fragments, verify):
    report = build(put_table(server, original / f"{fragments}.lance"), options, index_type, 8, None, "--verify", verify)
    planned, seen = report["plan"], report["resources"]
    for key in ("get", "put", "list", "delete"):
        assert abs(planned["requests"][key] - seen["requests"][key]) <= max(10, 0.3 * seen["requests"][key]), key
    total = lambda r: sum(r["requests"][key] for key in ("get", "put", "list", "delete"))  # noqa: E731
    assert abs(total(planned) - total(seen)) <= max(10, 0.3 * total(seen))
    for key in ("bytes_read", "bytes_written"):
        assert abs(planned[key] - seen[key]) <= 0.3 * seen[key] + MIB, key


def test_a_larger_column_is_read_in_long_ranges(server, options, tmp_path):
    """48 MiB of vectors in three files with another column between: each byte once, 8 MiB and more."""
    n, dim = 49_152, 256
    table = table_of(make_vectors(n, dim))
    table = table.append_column("noise", [np.random.default_rng(1).random(n)])
    lance.write_dataset(table, str(tmp_path / "t"), max_rows_per_file=n // 3, data_storage_version="2.2")
    uri = put_table(server, tmp_path / "t")
    build(uri, options, "IVF_FLAT", 8, None, "--verify", "none", "--sample-rate", 256)
    ranges = []
    for e in server.log:
        if e["method"] == "GET" and "/data/" in e["path"]:
            first, last = map(int, re.search(r"=(\d+)-(\d+)", e["headers"]["range"]).groups())
            ranges.append(last + 1 - first)
    bulk = [r for r in ranges if r > 65_536]
    assert len(ranges) - len(bulk) <= 3 + 3  # footers, and where one is longer than was guessed
    assert sum(bulk) <= 2.2 * n * dim * 4  # sampled once, encoded once
    assert len(bulk) <= 2 * (n * dim * 4 / (8 * MIB)) + 6


# ---- the same bytes, for everybody ---------------------------------------------------------------


@pytest.mark.parametrize("index_type", ["IVF_PQ", "IVF_FLAT", pytest.param("IVF_SQ", marks=pytest.mark.full)])
def test_same_bytes_as_on_disk_and_searched_by_others(server, original, local, options, index_type):
    import lancedb

    uri = put_table(server, original / "4.lance", suffix=".lance")  # as LanceDB names its tables
    build(uri, options, index_type)
    check(server, uri, options, local(4, index_type))
    assert objects(server, uri, "_pilum/") == {}
    table = lancedb.connect("s3://bucket", storage_options=options).open_table(Path(uri).stem)
    search = table.search(make_vectors(ROWS, DIM)[77]).nprobes(16).refine_factor(5).limit(5)
    assert search.to_list()[0]["id"] == 77


BIG_ROWS, BIG_DIM = 128_116, 2_048
BIG_MORE = {"IVF_FLAT": {}, "IVF_PQ": {"num_sub_vectors": 128}}
# In a process of its own: Ray must not compete with the server for the interpreter.
RAY_DRIVER = """
import json, sys, ray, pilum.ray
ray.init(include_dashboard=False, logging_level="error", log_to_driver=False, object_store_memory=100 << 20, num_cpus=4)
pilum.ray.create_index(sys.argv[1], "vec", sys.argv[2], num_workers=2, threads=1, num_partitions=64, progress="none",
                       storage_options=json.loads(sys.argv[3]), **json.loads(sys.argv[4]))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The large table on local disk in eight fragments."""
    folder = tmp_path_factory.mktemp("large") / "big.lance"
    first = 0
    for i in range(8):
        n = BIG_ROWS // 8 + (i < BIG_ROWS % 8)
        lance.write_dataset(table_of(make_vectors(n, BIG_DIM, seed=i), first_id=first), str(folder),
                            mode="append" if i else "create", data_storage_version="2.2")
        first += n
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def large_local(large):
    """large_local(type) -> name and SHA-256 of each index file that a build on local disk makes, built once."""
    made = {}

    def build_it(index_type):
        if index_type not in made:
            copy = large.with_name("copy.lance")
            shutil.copytree(large, copy, copy_function=os.link)
            more = [f"--{key.replace('_', '-')}={value}" for key, value in BIG_MORE[index_type].items()]
            subprocess.run([PILUM, "create-index", copy, "--column", "vec", "--type", index_type, "--num-partitions", "64",
                            "--progress", "none", *more], check=True, capture_output=True)
            made[index_type] = sorted((f.name, hashlib.sha256(f.read_bytes()).hexdigest())
                                      for f in (copy / "_indices").rglob("*.idx"))
            shutil.rmtree(copy)
        return made[index_type]

    return build_it


@pytest.mark.full
@pytest.mark.parametrize("index_type", ["IVF_PQ", "IVF_FLAT"])
@pytest.mark.parametrize("engine", ["threads", "ray"])
def test_large_table(server, options, large, large_local, index_type, engine):
    import lancedb

    expected = large_local(index_type)
    uri = put_table(server, large, suffix=".lance")
    if engine == "threads":
        more = [f"--{key.replace('_', '-')}={value}" for key, value in BIG_MORE[index_type].items()]
        run = pilum("create-index", uri, "--column", "vec", "--type", index_type, "--num-partitions", 64, *more, "--json",
                    "--progress", "none", *[w for k, v in options.items() for w in ("--storage-option", f"{k}={v}")],
                    timeout=3_000)
        assert run.status == 0, run.stderr
    else:
        run = subprocess.run([sys.executable, "-c", RAY_DRIVER, uri, index_type, json.dumps(options),
                              json.dumps(BIG_MORE[index_type])], capture_output=True, text=True, timeout=3_000,
                             env={**os.environ, "RAY_AUTH_MODE": "disabled"})
        assert run.returncode == 0, run.stderr

    made = index_bytes(objects(server, uri, "_indices/"))
    assert [(name, hashlib.sha256(body).hexdigest()) for name, body in made] == expected
    assert objects(server, uri, "_pilum/") == {} and uploads(server, uri) == []
    dataset = lance.dataset(uri, storage_options=options)
    query = make_vectors(BIG_ROWS // 8 + 1, BIG_DIM, seed=0)[77]
    assert dataset.version == 9 and uses_index(dataset, "vec", query)
    found = dataset.to_table(nearest={"column": "vec", "q": query, "k": 5, "nprobes": 8, "refine_factor": 5}, columns=["id"])
    assert found["id"][0].as_py() == 77
    table = lancedb.connect("s3://bucket", storage_options=options).open_table(Path(uri).stem)
    assert table.search(query).nprobes(8).refine_factor(5).limit(5).select(["id"]).to_list()[0]["id"] == 77
    remove_table(server, uri)  # two gigabytes


# ---- an endpoint that fails -----------------------------------------------------------------------


@pytest.mark.parametrize("share", [pytest.param(0.05, marks=pytest.mark.full), 0.25, 0.6])
def test_throttled(server, original, local, options, share):
    uri = put_table(server, original / "4.lance")
    server.add_faults({"kind": "status", "status": 503, "share": share, "count": 100_000})
    began = time.time()
    report = build(uri, options)
    assert time.time() - began < 300
    check(server, uri, options, local(4, "IVF_PQ"))
    assert report["resources"]["requests"]["retried"] >= (1 if share > 0.05 else 0)
    assert uploads(server, uri) == []


def test_truncated_bodies(server, original, local, options):
    uri = put_table(server, original / "4.lance")
    server.add_faults({"kind": "truncate", "after_share": 0.4, "share": 0.2, "method": "GET", "count": 100_000})
    build(uri, options, "IVF_FLAT")
    check(server, uri, options, local(4, "IVF_FLAT"))


MANIFEST = {"method": "PUT", "key": r"_versions/\d+\.manifest"}


@pytest.mark.parametrize("fault", [{"kind": "lost"}, pytest.param({"kind": "late", "status": 500}, marks=pytest.mark.full),
                                   pytest.param({"kind": "reset"}, marks=pytest.mark.full),
                                   {"kind": "late", "status": 503}], ids=lambda f: "-".join(map(str, f.values())))
def test_lost_answer_to_the_manifest(server, original, local, options, fault):
    uri = put_table(server, original / "1.lance")
    server.add_faults({**MANIFEST, **fault})
    report = build(uri, options)
    assert report["version_committed"] == 2
    check(server, uri, options, local(1, "IVF_PQ"))


def test_stalled_connection(server, original, local, options):
    uri = put_table(server, original / "1.lance")
    server.add_faults({"kind": "stall", "after": 100_000, "seconds": 60, "method": "GET", "key": "/data/", "skip": 1},
                      {"kind": "delay", "seconds": 4, "method": "PUT", "key": "auxiliary"})
    began = time.time()
    build(uri, {**options, "pilum_stall_seconds": "2"})
    assert time.time() - began < 45
    check(server, uri, options, local(1, "IVF_PQ"))


def test_credentials_that_expire_in_the_middle(server, original, local, options):
    uri = put_table(server, original / "1.lance")
    given = {k: v for k, v in options.items() if "key" not in k}
    env = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{server.url}/_admin/container",
           "AWS_CONTAINER_AUTHORIZATION_TOKEN": "container-token", "AWS_EC2_METADATA_DISABLED": "true",
           "HOME": "/nonexistent"}
    with Running(*words(uri, given, "IVF_PQ", 16, None, "--progress", "json"), env=env) as running:
        assert running.wait_for_phase("train")
        running.stop()
        server.state.expire_keys()
        running.go_on()
        done = running.finish()
    assert done.status == 0, done.stderr
    assert server.state.n_issued == 2
    check(server, uri, options, local(1, "IVF_PQ"))


# ---- several at once ---------------------------------------------------------------------------------


def at_once(commands):
    with ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(lambda c: pilum(*c, timeout=280), commands))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "t.lance"
    lance.write_dataset(table_of(make_vectors(4_000, DIM)), str(folder), data_storage_version="2.2")
    return folder


def test_eight_names_at_once(server, tiny, options, tmp_path):
    uri = put_table(server, tiny)
    runs = at_once([words(uri, options, "IVF_FLAT", 4, f"index_{i}", "--threads", 1, "--work-dir", tmp_path / str(i))
                    for i in range(8)])
    assert [r.status for r in runs] == [0] * 8, [r.stderr for r in runs]
    dataset = lance.dataset(uri, storage_options=options)
    assert dataset.version == 9
    assert {i.name for i in dataset.describe_indices()} == {f"index_{i}" for i in range(8)}
    assert sorted(r.json["version_committed"] for r in runs) == list(range(2, 10))
    assert not any(r.json["resumed"] for r in runs)
    puts = [e for e in server.log if e["method"] == "PUT" and e["path"].endswith("auxiliary.idx")]
    assert len(puts) == 8  # nothing was built twice


def test_same_name_and_options_at_once(server, tiny, options):
    """On one machine they share the job: one builds, the others say who."""
    uri = put_table(server, tiny)
    env = {"TMPDIR": "/tmp"}
    with Running(*words(uri, options, "IVF_PQ", 4, None, "--progress", "json"), env=env) as first:
        assert first.wait_for_phase("train")
        first.stop()
        second = pilum(*words(uri, options, "IVF_PQ", 4), env=env)
        first.go_on()
        done = first.finish()
    assert done.status == 0, done.stderr
    assert second.status == 1 and str(first.process.pid) in second.stderr and second.stdout == ""
    assert lance.dataset(uri, storage_options=options).version == 2
    again = pilum(*words(uri, options, "IVF_PQ", 4), env=env)
    assert again.status == 0, again.stderr


def test_same_name_on_two_machines(server, tiny, options, tmp_path):
    """Two work directories are two machines: one wins, the other says so; its command carries on."""
    uri = put_table(server, tiny)
    commands = [words(uri, options, "IVF_FLAT", n, "same", "--work-dir", tmp_path / str(n)) for n in (4, 5)]
    with Running(*commands[0], "--progress", "json") as slow:
        assert slow.wait_for_phase("verify")
        slow.stop()
        fast = pilum(*commands[1])
        assert fast.status == 0, fast.stderr
        slow.go_on()
        lost = slow.finish()
    assert lost.status == 1 and "same" in lost.stderr and "version 2" in lost.stderr, lost.stderr
    dataset = lance.dataset(uri, storage_options=options)
    assert dataset.version == 2
    uuid = str(index_named(dataset, "same").segments[0].uuid)
    server.state.log.clear()
    again = pilum(*commands[0])
    assert again.status == 0, again.stderr
    dataset = lance.dataset(uri, storage_options=options)
    assert dataset.version == 3
    assert str(index_named(dataset, "same").segments[0].uuid) != uuid


def shared_build(uri, options, **more):
    """A build that several processes share, as a driver opens it: what it asks of storage before any work."""
    words_of = tuple(word.encode() for pair in options.items() for word in pair)
    wanted = {"column": b"vec", "type": b"IVF_SQ", "num_partitions": 4, **more}
    context = _core.Context(threads=1, memory_budget=1 << 30)
    return _core.dist_open(context, (uri.encode(), 0, None, words_of), wanted, 1)[0]


@pytest.mark.parametrize("left", [None, "no plan", "unusable plan", "restart"])
def test_drivers_that_share_a_build_follow_one_plan(server, tiny, options, left):
    """The slower one saw no plan (or one of no use), and stands still until the other one has written its own and more."""
    uri = put_table(server, tiny)
    with contextlib.closing(shared_build(uri, options)) as first:
        plan = json.loads(first.call("plan", (), ()))
    folder = f"{uri.removeprefix('s3://bucket/')}/_pilum/{plan['job']}"
    if left in (None, "no plan"):
        remove_objects(server, folder)
    if left == "unusable plan":
        put_object(server, f"{folder}/plan.json", b"{")
    if left:
        put_object(server, f"{folder}/run-7", b"of nobody")
    go_on = threading.Event()
    server.add_faults({"kind": "hold", "event": go_on, "key": "/data/"})
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(shared_build, uri, options, restart=left == "restart")
        wait_for(lambda: not server.state.faults)  # it is on its way to the table's data
        with contextlib.closing(shared_build(uri, options, restart=left == "restart")) as fast:
            plan = fast.call("plan", (), ())
            assert list(objects(server, uri, "_pilum/")) == [f"_pilum/{folder.rsplit('/', 1)[1]}/plan.json"]
            put_object(server, f"{folder}/run-0", b"of the faster one")
            go_on.set()
            with contextlib.closing(slow.result(60)) as other:
                assert other.call("plan", (), ()) == plan
    assert objects(server, uri, "_pilum/").keys() == {f"_pilum/{folder.rsplit('/', 1)[1]}/{f}" for f in ("plan.json", "run-0")}


def test_stock_append_during_the_build(server, original, options):
    uri = put_table(server, original / "1.lance")
    with Running(*words(uri, options, "IVF_PQ", 16, None, "--progress", "json")) as running:
        assert running.wait_for_phase("train")
        running.stop()
        stock("import json; d = lance.dataset(sys.argv[1], storage_options=json.loads(sys.argv[2]));"
              "lance.write_dataset(d.to_table(limit=100), sys.argv[1], mode='append', storage_options=json.loads(sys.argv[2]))",
              uri, json.dumps(options))
        running.go_on()
        done = running.finish()
    assert done.status == 0, done.stderr
    dataset = check(server, uri, options, n_versions=2)
    assert dataset.count_rows() == ROWS + 100
    assert done.json["rows"]["appended_since"] == 100


# ---- secrets ------------------------------------------------------------------------------------------


def folder_holds(folder, secret):
    return [f for f in Path(folder).rglob("*") if f.is_file() and secret.encode() in f.read_bytes()]


@pytest.mark.parametrize("given_by", ["options", "environment"])
def test_secrets_are_nowhere(server, original, options, tmp_path, given_by):
    """Not in the process list, in a job's files, in reports and progress, in messages, in the table."""
    secret, token = "session-secret", "session/token+of=tests=="
    keys = {"aws_access_key_id": "AKIDSESSION", "aws_secret_access_key": secret, "aws_session_token": token}
    rest = {k: v for k, v in options.items() if k not in keys}
    env = {"TMPDIR": str(tmp_path)}
    if given_by == "environment":
        env.update({k.upper(): v for k, v in keys.items()})
        keys = {}
    uri = put_table(server, original / "1.lance")
    command = words(uri, {**rest, **keys}, "IVF_PQ", 16, None, "--progress", "json", "--report", tmp_path / "r.json")
    with Running(*command, env=env) as running:
        assert running.wait_for_phase("encode")
        running.stop()
        listed = Path(f"/proc/{running.process.pid}/cmdline").read_bytes()
        assert b"create-index" in listed and secret.encode() not in listed and token.encode() not in listed
        if given_by == "options":
            assert b"AKIDSESSION" not in listed
        assert any(tmp_path.rglob("plan.json"))
        for text in (secret, token):
            assert folder_holds(tmp_path, text) == []
        running.go_on()
        done = running.finish()
    assert done.status == 0, done.stderr
    for text in (secret, token):
        assert text not in done.stdout + done.stderr
        assert folder_holds(tmp_path, text) == []
        assert not any(text.encode() in body for body in objects(server, uri).values())

    keys = {"aws_access_key_id": "AKIDSESSION", "aws_secret_access_key": "not-the-" + secret, "aws_session_token": token}
    wrong = pilum("inspect", uri, *[w for k, v in {**rest, **keys}.items() for w in ("--storage-option", f"{k}={v}")], env=env)
    assert wrong.status == 1 and secret not in wrong.stderr and token not in wrong.stderr


def test_no_core_is_left(server, original, options, tmp_path):
    """A command on remote storage that dies of a signal dumps no core; one on a local table may."""
    def dumped(uri, given):
        command = [str(w) for w in words(uri, given, "IVF_PQ", 16, None, "--progress", "json")]
        process = subprocess.Popen(["sh", "-c", "ulimit -c unlimited; exec \"$0\" \"$@\"", str(PILUM), *command], cwd=tmp_path,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if '"train"' in line:
                break
        process.send_signal(signal.SIGSEGV)
        _, status = os.waitpid(process.pid, 0)
        process.stderr.close()
        assert os.WTERMSIG(status) == signal.SIGSEGV
        return os.WCOREDUMP(status)

    assert not dumped(put_table(server, original / "1.lance"), options)
    assert not list(tmp_path.glob("core*"))


# ---- permissions -----------------------------------------------------------------------------------------


def policy_allows(entry, table):
    """Whether the policy in docs/object-stores.md lets a request pass; the action for a message."""
    text = (ROOT / "docs" / "object-stores.md").read_text()
    policy = json.loads(re.search(r"```json\n(.*?)```", text, re.S)[1].replace("tables/t.lance", table))
    method, key, query = entry["method"], entry["path"].removeprefix("/bucket").lstrip("/"), entry["query"]
    if "uploads" in query and method == "GET":
        action = "s3:ListBucketMultipartUploads"
    elif not key:
        action = "s3:ListBucket"
    elif method in ("GET", "HEAD"):
        action = "s3:ListMultipartUploadParts" if "uploadId" in query else "s3:GetObject"
    elif method == "DELETE":
        action = "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject"
    else:
        action = "s3:PutObject"
    for statement in policy["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        for resource in resources:
            pattern = re.escape(resource.removeprefix("arn:aws:s3:::")).replace(r"\*", ".*")
            if action in actions and re.fullmatch(pattern, f"bucket/{key}" if key else "bucket"):
                return True, action
    return False, action


def test_the_policy_in_the_docs_suffices(server, tiny, options, tmp_path):
    """Build, resumed build, verify, search, inspect, gc: every request is allowed by the documented policy."""
    uri = put_table(server, tiny)
    build(uri, options, "IVF_PQ", 4)
    flags = [w for k, v in options.items() for w in ("--storage-option", f"{k}={v}")]
    for command in (["verify", uri, "--index", "vec_idx", "--json"], ["inspect", uri, "--json"],
                    ["search", uri, "--column", "vec", "--row", "7", "--json"], ["gc", uri, "--yes", "--json"]):
        run = pilum(*command, *flags)
        assert run.status == 0, run.stderr
    seen = set()
    for entry in server.log:
        allowed, action = policy_allows(entry, uri.removeprefix("s3://bucket/"))
        assert allowed, (action, entry["method"], entry["path"], entry["query"])
        seen.add(action)
    assert {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:ListBucketMultipartUploads"} <= seen


# ---- killed ------------------------------------------------------------------------------------------


def test_killed_in_the_middle_of_an_upload(server, original, local, options, tmp_path):
    uri = put_table(server, original / "4.lance")
    command = words(uri, options, "IVF_FLAT")
    server.add_faults({"kind": "delay", "seconds": 30, "method": "PUT", "query": "partNumber=2"})
    with Running(*command, env={"TMPDIR": str(tmp_path)}) as running:
        wait_for(lambda: any("partNumber=1" in e["query"] for e in server.log))
        running.signal(signal.SIGKILL)
        running.finish()
    assert len(uploads(server, uri)) == 1
    server.state.faults.clear()
    run = pilum(*command, env={"TMPDIR": str(tmp_path)})
    assert run.status == 0 and run.json["resumed"], run.stderr
    assert uploads(server, uri) == []
    check(server, uri, options, local(4, "IVF_FLAT"))


def wait_for(what, seconds=60):
    end = time.time() + seconds
    while not what():
        assert time.time() < end, "it never happened"
        time.sleep(0.02)


def gc(uri, options, *more):
    run = pilum("gc", uri, "--json", *more, *[w for k, v in options.items() for w in ("--storage-option", f"{k}={v}")])
    assert run.status == 0, run.stderr
    return run.json


def test_gc_takes_dead_uploads_and_no_others(server, tiny, options):
    import boto3

    uri = put_table(server, tiny)
    build(uri, options, "IVF_FLAT", 4)
    (segment,) = index_named(lance.dataset(uri, storage_options=options), "vec_idx").segments
    client = boto3.client("s3", endpoint_url=server.url, aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET,
                          region_name="us-east-1")
    name = uri.removeprefix("s3://bucket/")
    young, other = "11111111-2222-4333-8444-555555555555", "99999999-2222-4333-8444-555555555555"
    dead = [f"_indices/{segment.uuid}/auxiliary.idx", "_pilum/0123456789abcdef0123456789abcdef/run-1"]
    alive = [f"_indices/{young}/auxiliary.idx", "data/somebody.lance"]
    for key in dead + alive:
        client.create_multipart_upload(Bucket="bucket", Key=f"{name}/{key}")
    client.create_multipart_upload(Bucket="bucket", Key=f"{name}x/_indices/{other}/auxiliary.idx")

    listed = gc(uri, options)
    assert sorted(u["path"] for u in listed["uploads"]) == sorted(dead)
    assert not any(u["removed"] for u in listed["uploads"])
    assert sorted(uploads(server, uri)) == sorted(dead + alive)
    removed = gc(uri, options, "--yes")
    assert sorted(u["path"] for u in removed["uploads"]) == sorted(dead)
    assert sorted(uploads(server, uri)) == sorted(alive)
    assert gc(uri, options)["uploads"] == []
    server.state.settings["uploads_age"] = 86_500  # a day later nobody can be at it any more
    assert [u["path"] for u in gc(uri, options, "--yes")["uploads"]] == alive[:1]
    assert uploads(server, uri) == alive[1:]


def test_gc_leaves_a_job_on_s3_alone_that_was_written_to_just_now(server, tiny, options):
    import boto3

    uri = put_table(server, tiny)
    client = boto3.client("s3", endpoint_url=server.url, aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET,
                          region_name="us-east-1")
    key = uri.removeprefix("s3://bucket/") + "/_pilum/0123456789abcdef0123456789abcdef/plan.json"
    client.put_object(Bucket="bucket", Key=key, Body=b"{}")
    found = gc(uri, options, "--yes")
    assert found["jobs"] == [] and found["at_work"] == ["0123456789abcdef0123456789abcdef"]
    assert len(objects(server, uri, "_pilum/")) == 1


def test_gc_takes_temporary_files_of_dead_writers(tiny, tmp_path):
    folder = tmp_path / "t.lance"
    shutil.copytree(tiny, folder)
    dead = subprocess.Popen(["true"])
    dead.wait()
    old = time.time() - 3_600
    names = {f"_versions/5.manifest#{dead.pid}-0123456789ab": True, f"_versions/5.manifest#{os.getpid()}-0123456789ab": False,
             f"_transactions/a.txn#{dead.pid}-ffffffffffff": True, f"_transactions/a.txn#{dead.pid}-short": False}
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (old, old))
    young = folder / f"_versions/6.manifest#{dead.pid}-0123456789ab"
    young.write_bytes(b"x")
    found = gc(folder, {}, "--yes")["files"]
    assert sorted(f["path"] for f in found) == sorted(name for name, stale in names.items() if stale)
    assert [(folder / name).exists() for name in names] == [not stale for stale in names.values()]
    assert young.exists()
