"""Ray workers on a table in S3: runs and the index go through multipart uploads, a killed worker is no harm."""
import hashlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request

import lance
import pytest
from ray_helpers import ROOT, At, Growth, kill_one, vectors

import pilum.ray

KEY_ID, SECRET = "AKIDSTATIC", "static-secret/with+odd=chars"


@pytest.fixture(scope="module")
def server():
    """In a process of its own: it must not compete with the driver for the interpreter."""
    process = subprocess.Popen([sys.executable, str(ROOT / "tests" / "support" / "s3_server.py")],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    url = process.stdout.readline().split()[-1]
    request = urllib.request.Request(f"{url}/_admin/bucket", json.dumps({"name": "bucket"}).encode())
    urllib.request.urlopen(request, timeout=10).read()
    yield url
    process.kill()
    process.wait()


@pytest.fixture
def options(server):
    return {"aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET, "aws_endpoint": server,
            "aws_region": "us-east-1", "allow_http": "true"}


def upload(originals, name, uri, options):
    source = lance.dataset(str(originals / name))
    rows = max(fragment.count_rows() for fragment in source.get_fragments())
    lance.write_dataset(source.to_table(), uri, storage_options=options, max_rows_per_file=rows)


def keys(server, prefix):
    """Everything below a prefix of the bucket, as pairs of key and bytes."""
    import boto3

    s3 = boto3.client("s3", endpoint_url=server, aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET,
                      region_name="us-east-1")
    found = s3.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
    return {item["Key"]: s3.get_object(Bucket="bucket", Key=item["Key"])["Body"].read() for item in found}


def remote_index_bytes(server, name, segment=""):
    files = keys(server, f"{name}/_indices/{segment}")
    assert files
    digest = hashlib.sha256()
    for key, content in sorted(files.items(), key=lambda kv: (kv[0].rsplit("/", 1)[1], kv[1])):
        digest.update(key.rsplit("/", 1)[1].encode() + content)
    return digest.hexdigest()


@pytest.mark.parametrize("index_type, source, verify", [
    ("IVF_FLAT", "large", "none"),  # runs of several parts
    pytest.param("IVF_SQ", "large", "none", marks=pytest.mark.full),
    pytest.param("IVF_PQ", "gaps", "sample", marks=pytest.mark.full),
])
def test_same_bytes_as_on_disk(cluster, originals, server, options, threads_engine, index_type, source, verify):
    name = f"t-{index_type}"
    upload(originals, source, f"s3://bucket/{name}", options)
    ds = pilum.ray.create_index(f"s3://bucket/{name}", "vec", index_type, num_workers=2, num_partitions=8,
                                storage_options=options, threads=1, progress="none", verify=verify)
    assert ds.version == 2
    assert remote_index_bytes(server, name) == threads_engine(source, index_type, "--num-partitions", 8)
    assert keys(server, f"{name}/_pilum/") == {}


def assert_as_planned(report):
    """What all processes did, beside what the plan for so many workers said. The job's files are deleted after the report."""
    planned, seen = report["plan"], report["resources"]
    for key in ("get", "put", "list"):
        assert abs(planned["requests"][key] - seen["requests"][key]) <= max(10, 0.3 * seen["requests"][key]), key
    for key in ("bytes_read", "bytes_written"):
        assert abs(planned[key] - seen[key]) <= 0.3 * seen[key] + (1 << 20), key


@pytest.mark.parametrize("index_type, more", [("IVF_FLAT", {}), ("IVF_PQ", {"num_sub_vectors": 16})])
def test_stock_readers_search_it(cluster, originals, server, options, threads_engine, index_type, more, tmp_path):
    """40,000 x 96: same bytes as on local disk, about as many requests and bytes as planned; stock pylance and LanceDB find
    with them what is there."""
    import lancedb

    uri = f"s3://bucket/wide-{index_type}.lance"  # as LanceDB names its tables
    upload(originals, "wide", uri, options)
    pilum.ray.create_index(uri, "vec", index_type, num_workers=2, num_partitions=16, storage_options=options, threads=1,
                           progress="none", report=tmp_path / "r.json", **more)
    assert_as_planned(json.loads((tmp_path / "r.json").read_text()))
    words = [word for key, value in more.items() for word in ("--" + key.replace("_", "-"), value)]
    local = threads_engine("wide", index_type, "--num-partitions", 16, *words)
    assert remote_index_bytes(server, f"wide-{index_type}.lance") == local
    ds = lance.dataset(uri, storage_options=options)
    query = vectors(40_000, 96, seed=5)[77]
    nearest = {"column": "vec", "q": query, "k": 5, "nprobes": 16, "refine_factor": 5}
    assert "ANNSubIndex" in ds.scanner(columns=["id"], nearest=nearest).explain_plan()
    assert ds.to_table(nearest=nearest, columns=["id"])["id"][0].as_py() == 77
    table = lancedb.connect("s3://bucket", storage_options=options).open_table(f"wide-{index_type}")
    assert table.search(query).nprobes(16).refine_factor(5).limit(5).select(["id"]).to_list()[0]["id"] == 77


def test_a_column_that_comes_through_pylance(cluster, originals, server, options, tmp_path, monkeypatch):
    source = lance.dataset(str(originals / "small"))
    rows = max(fragment.count_rows() for fragment in source.get_fragments())
    lance.write_dataset(source.to_table(), "s3://bucket/streamed", storage_options=options, max_rows_per_file=rows,
                        data_storage_version="2.3")
    with pytest.warns(pilum.StreamWarning, match="s3://bucket/streamed/_pilum/"):
        pilum.ray.create_index("s3://bucket/streamed", "vec", "IVF_SQ", num_workers=2, num_partitions=8, threads=1,
                               storage_options=options, progress="none")
    by_ray = remote_index_bytes(server, "streamed", "")
    assert keys(server, "streamed/_pilum/") == {}
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.warns(pilum.StreamWarning, match=str(tmp_path)):  # threads: the copy is on this machine's disk
        ds = pilum.create_index("s3://bucket/streamed", "vec", "IVF_SQ", "threads", num_partitions=8,
                                storage_options=options)
    segment = next(index for index in ds.describe_indices() if index.name == "threads").segments[0].uuid
    assert remote_index_bytes(server, "streamed", segment) == by_ray
    assert list(tmp_path.rglob("*.lance")) == []


def test_workers_stay_within_the_budget(cluster, originals, server, options, monkeypatch):
    """48 MiB of vectors, fetched ahead as far as the budget lets."""
    upload(originals, "large", "s3://bucket/budget", options)
    growth, grown = Growth(monkeypatch), []
    for budget in (40 << 20, 1 << 30):
        pilum.ray.create_index("s3://bucket/budget", "vec", "IVF_SQ", num_workers=2, num_partitions=8, threads=1,
                               storage_options=options, progress="none", verify="none", memory_budget=budget)
        grown.append(growth.worst() / 2**20)
    assert grown[0] <= 40 * 1.05 + 8 < grown[1], grown


def test_killed_worker(cluster, originals, server, options, threads_engine, tmp_path):
    upload(originals, "large", "s3://bucket/killed", options)
    at = At("encode", kill_one)
    pilum.ray.create_index("s3://bucket/killed", "vec", "IVF_FLAT", num_workers=2, num_partitions=8, threads=1,
                           storage_options=options, progress=at, report=tmp_path / "r.json", verify="none")
    assert at.did and json.load(open(tmp_path / "r.json"))["ray"]["workers_lost"] >= 1
    assert remote_index_bytes(server, "killed") == threads_engine("large", "IVF_FLAT", "--num-partitions", 8)


DRIVER = """
import json, sys, ray, pilum.ray, warnings
ray.init(address=sys.argv[2], logging_level="error", log_to_driver=False)
ds = pilum.ray.create_index(sys.argv[1], "vec", "IVF_SQ", num_workers=1, num_partitions=8, threads=1, verify="none",
                            storage_options=json.loads(sys.argv[3]), progress="none")
print("VERSION", ds.version)
"""


@pytest.mark.parametrize("apart_s", [0, 1.5, *(pytest.param(s, marks=pytest.mark.full) for s in (1, 2, 2.5, 3, 4))])
def test_two_drivers_at_once(cluster, originals, server, options, threads_engine, apart_s):
    """With one name and the same options they share one job: one commit, one index, whoever is first."""
    uri = f"s3://bucket/two-{apart_s}"
    upload(originals, "large", uri, options)
    command = [sys.executable, "-c", DRIVER, uri, cluster.address_info["address"], json.dumps(options)]
    both = []
    for pause in (apart_s, 0):
        both.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        time.sleep(pause)
    ended = [driver.communicate(timeout=100) for driver in both]
    codes = [driver.returncode for driver in both]
    assert 0 in codes, ended
    for code, (out, errors) in zip(codes, ended):
        assert code == 0 or "ConflictError: another driver was first with the same build" in errors, errors
    ds = lance.dataset(uri, storage_options=options)
    assert ds.version in (2, 3) and [len(index.segments) for index in ds.describe_indices()] == [1]
    segment = ds.describe_indices()[0].segments[0].uuid  # the second driver may have begun when the first was done
    assert remote_index_bytes(server, f"two-{apart_s}", segment) == threads_engine("large", "IVF_SQ", "--num-partitions", 8)
