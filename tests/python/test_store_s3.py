"""The S3 store against a server that checks signatures and breaks things on purpose."""
import datetime
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
from s3_server import S3Server  # noqa: E402

TOOL = os.environ.get("PILUM_STORE_TOOL", str(ROOT / "build" / "tests" / "store_tool"))
KEY_ID, SECRET = "AKIDSTATIC", "static-secret/with+odd=chars"
MIB = 1 << 20
ROOTS = itertools.count()


@pytest.fixture(scope="module")
def server():
    with S3Server() as s3:
        s3.make_bucket("bucket")
        yield s3


class Client:
    """Runs the tool on a root of its own; what it says comes back as a dict."""

    def __init__(self, server, root, tmp_path):
        self.server, self.root, self.tmp = server, root, tmp_path
        self.uri = f"s3://bucket/{root}"
        self.options = {"aws_access_key_id": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET,
                        "Aws_Endpoint": server.url, "allow_http": "true"}
        self.env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LSAN_OPTIONS": "exitcode=99",
                    "AWS_EC2_METADATA_DISABLED": "true"}

    def words(self, args, options):
        words = [TOOL, self.uri]
        for key, value in {**self.options, **options}.items():
            if value is not None:
                words += ["-o", f"{key}={value}"]
        return words + [str(a) for a in args]

    def start(self, *args, **options):
        return subprocess.Popen(self.words(args, options), env=self.env, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def finish(self, process, timeout=60):
        out, self.stderr = process.communicate(timeout=timeout)
        assert process.returncode in (0, 1), (process.returncode, self.stderr)
        reply = json.loads(out)
        for secret in (SECRET, "session-secret", "session/token", "role-secret", "role-token"):
            assert secret not in out + self.stderr
        return reply

    def __call__(self, *args, **options):
        return self.finish(self.start(*args, **options))

    def ok(self, *args, **options):
        reply = self(*args, **options)
        assert reply["code"] == "OK", reply
        return reply

    def file(self, name, data):
        path = self.tmp / name
        path.write_bytes(data)
        return path

    def put(self, key, data):
        return self.ok("put", key, self.file("to-put", data))

    def got(self, key, **options):
        self.ok("get", key, self.tmp / "got", **options)
        return (self.tmp / "got").read_bytes()

    def requests(self, method=None, path=""):
        return [e for e in self.server.log
                if (method is None or e["method"] == method) and path in e["path"]]


@pytest.fixture
def s3(server, tmp_path):
    server.reset()
    return Client(server, f"root {next(ROOTS)}", tmp_path)


def noise(n, seed=1):
    return random.Random(seed).randbytes(n)


# ---- the plain calls -------------------------------------------------------------------


@pytest.mark.parametrize("key", ["a", "dir/a b", "plus+sign", "ümläut/日本", "p%41rcent", "q?x=1&y#z",
                                 "~tilde-._", "a'(b)*!", "=;,:@$"])
def test_any_key_is_signed_right(s3, key):
    s3.put(key, b"hello")
    assert s3.got(key) == b"hello"
    assert s3.ok("size", key)["size"] == 5
    directory, _, name = key.rpartition("/")
    assert name in [e["name"] for e in s3.ok("list", directory)["entries"]]
    s3.ok("delete", key)
    assert s3("size", key)["code"] == "NOT_FOUND"
    s3.ok("delete", key)


def test_missing_object_and_bucket_are_named(s3):
    reply = s3("get", "nothing", s3.tmp / "x")
    assert (reply["code"], reply["http_status"]) == ("NOT_FOUND", 404)
    assert f"s3://bucket/{s3.root}/nothing" in reply["message"]
    s3.uri = "s3://no-such-bucket/t"
    reply = s3("list", "")
    assert reply["code"] == "NOT_FOUND" and "NoSuchBucket" in reply["message"]


def test_rename_and_lock_are_refused(s3):
    assert s3("rename", "a", "b")["code"] == "UNSUPPORTED"


def test_listing(s3):
    for key in ("d/b.x", "d/b/1", "d/b/2", "d/a", "d/c", "other"):
        s3.put(key, key.encode())
    entries = s3.ok("list", "d")["entries"]
    assert [(e["name"], e["is_dir"], e["size"]) for e in entries] == [
        ("a", False, 3), ("b", True, 0), ("b.x", False, 5), ("c", False, 3)]
    assert abs(entries[0]["modified_ms"] / 1000 - time.time()) < 120
    assert s3.ok("list", "nowhere")["entries"] == []
    assert {e["name"] for e in s3.ok("list", "")["entries"]} == {"d", "other"}


def test_listing_of_many_pages(s3):
    s3.ok("puts", "v", 1203)
    reply = s3.ok("list", "v")
    assert [e["name"] for e in reply["entries"]] == [f"{i:05d}" for i in range(1203)]
    assert reply["n_list"] == 2
    reply = s3.ok("list", "v", 1)
    assert reply["n_list"] == 1 and reply["entries"][0]["name"] == "00000"
    assert len(reply["entries"]) < 50


def test_limited_listing_keeps_our_order(s3):
    # S3 sorts "a/" behind "a-00".."a-99"; by name "a" comes first.
    s3.ok("puts", "d/a", 1)
    for i in range(45):
        s3.put(f"d/a-{i:02d}", b"")
    assert s3.ok("list", "d", 1)["entries"][0] == {
        "is_dir": True, "modified_ms": 0, "name": "a", "size": 0}


def test_delete_tree_spares_neighbours(s3):
    for key in ("job/a", "job/deep/b", "job2/c", "job.txt"):
        s3.put(key, b"x")
    s3.ok("deletetree", "job")
    s3.ok("deletetree", "job")
    assert {e["name"] for e in s3.ok("list", "")["entries"]} == {"job2", "job.txt"}


def test_ranges_are_joined_and_split(s3):
    data = noise(20 * MIB)
    s3.put("big", data)
    wanted = [(0, 10), (2 * MIB, 17 * MIB), (100, 5), (10 * MIB, 7), (len(data) - 1, 1), (300_000, 0)]
    reply = s3.ok("read", "big", s3.tmp / "out", 0, *[f"{o}:{n}" for o, n in wanted])
    assert (s3.tmp / "out").read_bytes() == b"".join(data[o:o + n] for o, n in wanted)
    ranges = sorted(e["headers"]["range"] for e in s3.requests("GET") if "range" in e["headers"])
    assert len(ranges) == 4 and reply["n_get"] == 5  # HEAD, 0..104, two halves, the last byte
    assert reply["bytes_read"] == 105 + 17 * MIB + 1


def test_connections_are_kept(s3):
    s3.ok("puts", "k", 60)
    peers = {e["peer"] for e in s3.requests("PUT")}
    assert len(peers) <= 4  # one for each thread of the tool


def test_read_beyond_the_object(s3):
    s3.put("short", b"x" * 100)
    reply = s3("read", "short", s3.tmp / "out", 0, "90:20")
    assert reply["code"] == "CORRUPT"
    reply = s3("read", "short", s3.tmp / "out", 200, "50:100")
    assert reply["code"] == "CORRUPT" and "seen 100, expected 200" in reply["message"]
    reply = s3("read", "short", s3.tmp / "out", 200, "150:10")
    assert reply["code"] == "CORRUPT" and reply["http_status"] == 416


def test_get_has_a_ceiling(s3):
    s3.put("k", noise(10_000))
    reply = s3("get", "k", s3.tmp / "x", 9_999)
    assert reply["code"] == "LIMIT" and "10000" in reply["message"]


# ---- who we are ------------------------------------------------------------------------


def test_wrong_secret_is_denied(s3):
    reply = s3("list", "", AWS_SECRET_ACCESS_KEY="wrong")
    assert reply["code"] == "DENIED" and "SignatureDoesNotMatch" in reply["message"]
    assert reply["n_retried"] == 0


def test_session_token_and_secrets_from_files(s3):
    (s3.tmp / "secret").write_text("session-secret\n")
    options = {"aws_access_key_id": "AKIDSESSION", "AWS_SECRET_ACCESS_KEY": f"@{s3.tmp}/secret"}
    assert s3("list", "", **options)["code"] == "IO"
    s3.ok("list", "", aws_session_token="session/token+of=tests==", **options)
    reply = s3("list", "", **{**options, "AWS_SECRET_ACCESS_KEY": "@/no/such/file"})
    assert reply["code"] == "NOT_FOUND" and "/no/such/file" in reply["message"]


def no_keys(s3):
    del s3.options["aws_access_key_id"], s3.options["AWS_SECRET_ACCESS_KEY"]


def test_environment(s3):
    no_keys(s3)
    del s3.options["Aws_Endpoint"]
    s3.env |= {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET,
               "AWS_ENDPOINT_URL": s3.server.url, "AWS_REGION": "eu-test-7"}
    s3.ok("list", "")
    assert "/eu-test-7/s3/" in s3.requests("GET")[0]["headers"]["authorization"]


def test_profiles(s3):
    no_keys(s3)
    home = s3.tmp / ".aws"
    home.mkdir()
    (home / "credentials").write_text(
        f"[default]\naws_access_key_id = x\naws_secret_access_key = y\n"
        f"[dev]\n# comment\naws_access_key_id={KEY_ID}\naws_secret_access_key = {SECRET}\r\n")
    (home / "config").write_text(
        "[profile dev]\nregion = ap-test-1\ns3 =\n  region = no\n[profile sso]\nsso_session = a\n")
    assert s3("list", "")["code"] == "DENIED"
    s3.env["AWS_PROFILE"] = "dev"
    s3.ok("list", "")
    assert "/ap-test-1/s3/" in s3.requests("GET")[-1]["headers"]["authorization"]
    s3.env["AWS_PROFILE"] = "sso"
    reply = s3("list", "")
    assert reply["code"] == "UNSUPPORTED" and "sso_session" in reply["message"]


def test_container_credentials_are_renewed_when_refused(s3):
    no_keys(s3)
    (s3.tmp / "token").write_text("container-token\n")
    s3.env |= {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{s3.server.url}/_admin/container",
               "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(s3.tmp / "token")}
    s3.ok("puts", "k", 20)
    assert s3.server.state.n_issued == 1
    s3.server.add_faults({"kind": "status", "status": 400, "code": "ExpiredToken", "skip": 5})
    s3.ok("puts", "k", 20)
    assert s3.server.state.n_issued == 3  # one for the process, one more in its midst
    s3.env["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = str(s3.tmp / "to-put")
    (s3.tmp / "to-put").write_text("wrong")
    reply = s3("list", "")
    assert reply["code"] == "DENIED" and "401" in reply["message"]
    s3.env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = "http://example.com/creds"
    assert s3("list", "")["code"] == "ARG"


def test_instance_metadata_renews_before_the_end(s3):
    no_keys(s3)
    del s3.env["AWS_EC2_METADATA_DISABLED"]
    s3.env["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = f"{s3.server.url}/_admin/imds"
    s3.ok("puts", "k", 8)
    assert s3.server.state.n_issued == 1
    assert all("x-amz-security-token" in e["headers"] for e in s3.requests("PUT"))
    # Less than five minutes left: asked again for the next request, but not for every one.
    s3.server.state.settings["creds_expire_in"] = 100
    s3.ok("puts", "k", 8)
    assert s3.server.state.n_issued <= 4


def test_no_credentials_at_all(s3):
    no_keys(s3)
    reply = s3("list", "")
    assert reply["code"] == "DENIED" and "aws_skip_signature" in reply["message"]
    s3.server.state.settings["public"] = True
    s3.ok("list", "", aws_skip_signature="true")
    assert "authorization" not in s3.requests("GET")[-1]["headers"]


def test_region_is_learnt_or_named(s3):
    s3.server.state.settings["region"] = "mars-1"
    s3.ok("list", "")
    reply = s3("list", "", aws_region="venus-2")
    assert reply["code"] == "IO" and "mars-1" in reply["message"] and "venus-2" in reply["message"]


def test_clock_skew_is_corrected_once(s3):
    s3.server.state.settings["clock_offset"] = -7200
    reply = s3.ok("puts", "k", 5)
    assert reply["n_retried"] >= 1
    s3.server.add_faults({"kind": "status", "status": 403, "code": "RequestTimeTooSkewed", "count": 9})
    reply = s3("size", "k/00000")  # HEAD has no body that could name the code
    assert reply["code"] == "DENIED"
    s3.server.reset()
    s3.server.add_faults({"kind": "status", "status": 403, "code": "RequestTimeTooSkewed", "count": 9})
    reply = s3("list", "")
    assert reply["code"] == "DENIED" and "clock" in reply["message"]


@pytest.mark.parametrize("options, hint", [
    ({"allow_http": None}, "allow_http"),
    ({"Aws_Endpoint": "ftp://x"}, "endpoint"),
    ({"aws_access_key_id": None}, "go together"),
    ({"request_timeout": "soon"}, "request_timeout"),
    ({"allow_http": "maybe"}, "allow_http"),
    ({"aws_server_side_encryption": "aws:kms"}, "server_side_encryption"),
    ({"aws_region": "a/b"}, "region"),
    ({"aws_access_key_id": "A\nB"}, "aws_access_key_id"),
])
def test_wrong_options_are_named(s3, options, hint):
    reply = s3("list", "", **options)
    assert reply["code"] in ("ARG", "UNSUPPORTED") and hint in reply["message"]


@pytest.mark.parametrize("uri", ["s3://", "s3://b", "s3://user:pass@host/x", "s3://bucket/a//b",
                                 "s3://bucket/../x", "s3://bucket/a?b"])
def test_wrong_locations(s3, uri):
    s3.uri = uri
    reply = s3("list", "")
    assert reply["code"] == "ARG" and "pass" not in reply["message"]


@pytest.mark.parametrize("scheme", ["gs", "az", "abfss", "s3+ddb"])
def test_other_clouds_are_refused_by_name(s3, scheme):
    s3.uri = f"{scheme}://bucket/t"
    reply = s3("list", "")
    assert reply["code"] == "UNSUPPORTED" and f'{scheme}://' in reply["message"]


@pytest.mark.parametrize("host", ["localhost", "bucket.localhost"])  # as in Lance, both will do
def test_virtual_hosted_style(s3, host):
    # Any name below localhost is this machine.
    hosted = {"aws_virtual_hosted_style_request": "true",
              "Aws_Endpoint": f"http://{host}:{s3.server.port}"}
    s3.ok("put", "a b", s3.file("f", b"abc"), **hosted)
    entry = s3.server.log[-1]
    assert entry["headers"]["host"] == f"bucket.localhost:{s3.server.port}"
    assert entry["path"] == "/" + s3.root.replace(" ", "%20") + "/a%20b"
    assert s3.got("a b") == b"abc"
    assert [e["name"] for e in s3.ok("list", "", **hosted)["entries"]] == ["a b"]


# ---- things go wrong -------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_errors_are_retried(s3, status):
    s3.put("k", b"abc")
    s3.server.add_faults({"kind": "status", "status": status, "count": 3, "method": "GET"})
    reply = s3.ok("get", "k", s3.tmp / "got")
    assert (reply["n_get"], reply["n_retried"]) == (4, 3)
    s3.server.add_faults({"kind": "status", "status": status, "count": 2, "method": "PUT"})
    s3.put("k", b"abcd")
    assert s3.got("k") == b"abcd"


def test_patience_ends_and_says_so(s3):
    s3.server.add_faults({"kind": "status", "status": 503, "count": 1000})
    began = time.time()
    reply = s3("list", "", pilum_retry_seconds="2")
    assert time.time() - began < 10
    assert reply["code"] == "RETRY" and reply["http_status"] == 503
    assert "SlowDown" in reply["message"] and "tries" in reply["message"]


def test_nobody_listens(s3):
    reply = s3("list", "", Aws_Endpoint="http://127.0.0.1:1", pilum_retry_seconds="1")
    assert reply["code"] == "RETRY" and "tries" in reply["message"]


def test_retry_after_is_honoured(s3):
    s3.server.add_faults({"kind": "status", "status": 503, "retry_after": "2"})
    began = time.time()
    s3.ok("list", "")
    assert time.time() - began >= 2


@pytest.mark.parametrize("kind", ["truncate", "cut", "reset"])
def test_broken_transfers_carry_on(s3, kind):
    data = noise(3 * MIB)
    s3.put("k", data)
    s3.server.add_faults({"kind": kind, "after": MIB, "method": "GET", "count": 2})
    assert s3.got("k") == data
    gets = s3.requests("GET")
    assert len(gets) == 3
    if kind == "truncate":  # what came is not asked for again
        assert gets[1]["headers"]["range"] == f"bytes={MIB}-"
        assert gets[2]["headers"]["range"] == f"bytes={2 * MIB}-"
        assert gets[1]["headers"]["if-match"].startswith('"')
    s3.server.add_faults({"kind": kind, "after": 1000, "method": "GET", "count": 2})
    s3.ok("read", "k", s3.tmp / "out", len(data), "5:2000000")
    assert (s3.tmp / "out").read_bytes() == data[5:2000005]


def test_object_replaced_in_the_middle_is_noticed(s3):
    s3.put("k", noise(MIB, 1))
    s3.server.add_faults({"kind": "stall", "after": 1000, "seconds": 3, "method": "GET"})
    process = s3.start("get", "k", s3.tmp / "got", pilum_stall_seconds="1")
    time.sleep(0.7)
    s3.put("k", noise(MIB, 2))
    reply = s3.finish(process)
    assert reply["code"] == "CORRUPT" and "changed" in reply["message"]


def test_stalled_transfer_is_cut(s3):
    data = noise(MIB)
    s3.put("k", data)
    s3.server.add_faults({"kind": "stall", "after": 1000, "seconds": 20, "method": "GET"})
    began = time.time()
    assert s3.got("k", pilum_stall_seconds="1") == data
    assert time.time() - began < 8


def test_attempts_have_a_limit(s3):
    s3.put("k", noise(20_000))
    s3.server.add_faults({"kind": "drip", "after": 2000, "seconds": 0.5, "method": "GET"})
    began = time.time()
    assert s3.got("k", request_timeout="1s") == noise(20_000)
    assert time.time() - began < 4


def test_damaged_body_is_read_again(s3):
    s3.put("k", noise(5000))
    s3.server.add_faults({"kind": "corrupt", "method": "GET", "count": 2})
    assert s3.got("k") == noise(5000)
    s3.server.add_faults({"kind": "corrupt", "method": "GET", "count": 1000})
    reply = s3("get", "k", s3.tmp / "x", pilum_retry_seconds="1")
    assert reply["code"] == "CORRUPT" and "crc32" in reply["message"]


def test_ignored_ranges_are_refused(s3):
    s3.put("k", noise(5000))
    s3.server.state.settings["ignore_ranges"] = True
    reply = s3("read", "k", s3.tmp / "x", 5000, "10:10")
    assert reply["code"] == "UNSUPPORTED" and "range" in reply["message"]
    s3.ok("read", "k", s3.tmp / "x", 5000, "0:5000")  # all of it: nothing lost


def test_throttling_slows_everybody_down(s3):
    s3.server.add_faults({"kind": "status", "status": 503, "count": 8, "method": "PUT"})
    reply = s3.ok("puts", "k", 40)
    assert reply["n_retried"] == 8
    times = [e["time"] for e in s3.requests("PUT")]
    assert max(times) - min(times) > 1  # without the brake 48 requests take a tenth of that


def test_interrupt(s3):
    s3.server.add_faults({"kind": "delay", "seconds": 20, "count": 100})
    process = s3.start("list", "")
    time.sleep(0.7)
    began = time.time()
    process.send_signal(signal.SIGINT)
    assert s3.finish(process)["code"] == "CANCELLED"
    assert time.time() - began < 1.5


# ---- conditional writes ----------------------------------------------------------------


def test_put_if_absent(s3):
    s3.ok("putifabsent", "_versions/1", s3.file("a", b"first"))
    reply = s3("putifabsent", "_versions/1", s3.file("b", b"second"))
    assert (reply["code"], reply["http_status"]) == ("CONFLICT", 412)
    assert s3.got("_versions/1") == b"first"
    assert s3.ok("list", "_pilum")["entries"] == []  # the probe cleans up


def test_an_endpoint_that_ignores_conditions_is_refused(s3):
    s3.server.state.settings["ignore_conditions"] = True
    reply = s3("putifabsent", "_versions/1", s3.file("a", b"x"))
    assert reply["code"] == "UNSUPPORTED" and "If-None-Match" in reply["message"]
    assert s3.ok("list", "")["entries"] == []


def test_an_endpoint_that_does_not_know_conditions(s3):
    s3.server.add_faults({"kind": "status", "status": 501, "code": "NotImplemented", "count": 9,
                          "method": "PUT"})
    reply = s3("putifabsent", "_versions/1", s3.file("a", b"x"))
    assert reply["code"] == "UNSUPPORTED" and "If-None-Match" in reply["message"]


VERSION = {"method": "PUT", "key": "_versions"}


@pytest.mark.parametrize("fault, written", [
    ({"kind": "lost"}, True), ({"kind": "late", "status": 500}, True),
    ({"kind": "reset"}, False), ({"kind": "status", "status": 502, "code": "BadGateway"}, False)])
def test_unknown_outcome_is_left_to_the_caller(s3, fault, written):
    s3.server.add_faults({**VERSION, **fault})
    reply = s3("putifabsent", "_versions/1", s3.file("a", b"mine"))
    assert reply["code"] == "RETRY" and "unknown" in reply["message"]
    assert len(s3.requests("PUT", "_versions")) == 1
    assert (s3("size", "_versions/1")["code"] == "OK") == written


def test_refusal_after_a_throttled_try_is_unknown_too(s3):
    s3.server.add_faults({**VERSION, "kind": "late", "status": 503, "code": "SlowDown"})
    reply = s3("putifabsent", "_versions/1", s3.file("a", b"mine"))
    assert reply["code"] == "RETRY" and reply["http_status"] == 412
    assert s3.got("_versions/1") == b"mine"


def test_throttled_but_not_applied_succeeds(s3):
    s3.server.add_faults({**VERSION, "kind": "status", "status": 503}, {**VERSION, "kind": "status",
                                                                        "status": 429})
    s3.ok("putifabsent", "_versions/1", s3.file("a", b"mine"))


def test_conflict_409(s3):
    s3.server.add_faults({**VERSION, "kind": "status", "status": 409,
                          "code": "ConditionalRequestConflict"})
    assert s3("putifabsent", "_versions/1", s3.file("a", b"x"))["code"] == "CONFLICT"


def test_probe_outlives_a_lost_answer(s3):
    s3.server.add_faults({"kind": "lost", "method": "PUT", "key": "probe"},
                         {"kind": "lost", "method": "PUT", "key": "probe", "skip": 1})
    s3.ok("putifabsent", "_versions/1", s3.file("a", b"x"))
    assert s3.ok("list", "_pilum")["entries"] == []


def test_one_winner_of_many(s3):
    processes = [s3.start("putifabsent", "_versions/7", s3.file(f"w{i}", b"%d" % i)) for i in range(5)]
    codes = [s3.finish(p)["code"] for p in processes]
    assert sorted(codes) == ["CONFLICT"] * 4 + ["OK"]
    assert s3.got("_versions/7") == b"%d" % codes.index("OK")


# ---- multipart -------------------------------------------------------------------------


def test_multipart_from_threads(s3):
    data = noise(17 * MIB)
    s3.server.add_faults({"kind": "status", "status": 503, "method": "PUT", "count": 2},
                         {"kind": "lost", "method": "PUT", "skip": 1})
    s3.ok("multipart", "big", s3.file("big", data), 5 * MIB, "finish")
    assert s3.got("big") == data


def test_multipart_from_processes(s3):
    data = noise(12 * MIB)
    token = s3.ok("mp-start", "big", len(data))["token"]
    parts = [(i + 1, i * 5 * MIB) for i in range(3)]
    processes = [s3.start("mp-part", "big", len(data), token, part, at,
                          s3.file(f"p{part}", data[at:at + 5 * MIB])) for part, at in parts]
    assert [s3.finish(p)["code"] for p in processes] == ["OK"] * 3
    assert s3("size", "big")["code"] == "NOT_FOUND"
    s3.ok("mp-finish", "big", len(data), token)
    assert s3.got("big") == data


def test_multipart_with_a_part_missing(s3):
    token = s3.ok("mp-start", "big", 10 * MIB)["token"]
    s3.ok("mp-part", "big", 10 * MIB, token, 1, 0, s3.file("p", noise(5 * MIB)))
    reply = s3("mp-finish", "big", 10 * MIB, token)
    assert reply["code"] == "IO" and str(10 * MIB) in reply["message"]
    reply = s3("mp-part", "big", 10 * MIB, token, 2, 5 * MIB, s3.file("q", b"tiny"))
    assert reply["code"] == "ARG"
    s3.ok("mp-abort", "big", 10 * MIB, token)
    assert s3("mp-part", "big", 10 * MIB, token, 1, 0, s3.tmp / "p")["code"] == "NOT_FOUND"


def test_multipart_token_is_checked(s3):
    token = s3.ok("mp-start", "big", 10)["token"]
    assert s3("mp-finish", "other", 10, token)["code"] == "ARG"
    assert s3("mp-finish", "big", 10, "s3:nonsense")["code"] == "ARG"
    assert s3("mp-finish", "big", 10, token.replace("s3:", "s3:x"))["code"] == "NOT_FOUND"


def test_multipart_whose_last_answer_is_lost(s3):
    data = noise(6 * MIB)
    s3.server.add_faults({"kind": "lost", "method": "POST", "query": "uploadId"})
    s3.ok("multipart", "big", s3.file("big", data), 5 * MIB, "finish")
    assert s3.got("big") == data


def test_empty_and_aborted_multipart(s3):
    s3.ok("multipart", "empty", s3.file("none", b""), 5 * MIB, "finish")
    assert s3.ok("size", "empty")["size"] == 0
    s3.ok("multipart", "gone", s3.file("some", noise(6 * MIB)), 5 * MIB, "abort")
    assert s3("size", "gone")["code"] == "NOT_FOUND"
    assert s3.requests("DELETE")[-1]["query"].startswith("uploadId=")


def test_an_object_in_one_piece_is_one_put(s3):
    s3.server.state.log.clear()
    s3.ok("multipart", "small", s3.file("some", b"abc"), 5 * MIB, "finish")
    assert [(e["method"], e["query"]) for e in s3.server.log] == [("PUT", "")]
    assert s3.got("small") == b"abc"
    s3.ok("multipart", "gone", s3.tmp / "some", 5 * MIB, "abort")
    assert s3("size", "gone")["code"] == "NOT_FOUND"


def test_own_parts_are_not_listed(s3):
    data = noise(11 * MIB)
    s3.server.state.log.clear()
    s3.ok("multipart", "big", s3.file("big", data), 5 * MIB, "finish")
    assert sorted(e["method"] for e in s3.server.log) == ["POST", "POST", "PUT", "PUT", "PUT"]
    assert s3.got("big") == data


# ---- TLS -------------------------------------------------------------------------------


def make_certificate(folder):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pilum tests")])
    now = datetime.datetime.now(datetime.timezone.utc)
    cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name)
            .public_key(key.public_key()).serial_number(1)
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(key, hashes.SHA256()))
    (folder / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def test_tls_needs_a_known_authority(tmp_path):
    make_certificate(tmp_path)
    with S3Server(cert=tmp_path / "cert.pem", key=tmp_path / "key.pem") as server:
        server.make_bucket("bucket")
        s3 = Client(server, "tls", tmp_path)
        s3.options["allow_http"] = "false"
        began = time.time()
        reply = s3("list", "")
        assert reply["code"] == "IO" and "certificate" in reply["message"]
        assert time.time() - began < 5  # no use in trying again
        s3.env["AWS_CA_BUNDLE"] = str(tmp_path / "cert.pem")
        data = noise(12 * MIB)
        s3.put("k", data)
        assert s3.got("k") == data

