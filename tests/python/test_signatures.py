"""One set of arguments, whatever the engine, named and ordered as users of Lance and lance_ray know them."""
import inspect
import re
import subprocess
import sys

import lance
import lance_ray
import pytest

import pilum
import pilum.ray

CREATE = inspect.signature(pilum.create_index)
RAY = inspect.signature(pilum.ray.create_index)
FUNCTIONS = [pilum.create_index, pilum.plan_index, pilum.ray.create_index, pilum.verify_index, pilum.search,
             pilum.inspect, pilum.gc, pilum.optimize_indices]


def test_a_plan_takes_what_a_build_takes():
    plan = inspect.signature(pilum.plan_index)
    assert plan.replace(return_annotation="") == CREATE.replace(return_annotation="")
    assert (plan.return_annotation, CREATE.return_annotation) == ("Report", "lance.LanceDataset")
    with pytest.raises(TypeError, match=r"plan_index\(\) missing a required argument: 'index_type'"):
        pilum.plan_index("t.lance", "vec")
    with pytest.raises(TypeError, match=r"plan_index\(\) got an unexpected keyword argument 'nmae'"):
        pilum.plan_index("t.lance", "vec", "IVF_PQ", nmae="x")


def test_ray_has_lance_rays_arguments_in_their_order_and_then_ours():
    theirs = list(inspect.signature(lance_ray.create_index).parameters.values())
    ours = list(RAY.parameters.values())
    assert theirs[-1].kind is ours[-1].kind is inspect.Parameter.VAR_KEYWORD
    facts = [[(p.name, p.kind, p.default) for p in side[:-1]] for side in (theirs, ours)]
    assert facts[1][: len(facts[0])] == facts[0]
    assert {p.name for p in ours[len(theirs) - 1 : -1]} < set(CREATE.parameters), "its own are those of pilum"


def test_both_engines_agree():
    """Same name: same kind, default and type. The ones that lance_ray makes optional aside."""
    assert set(CREATE.parameters) < set(RAY.parameters)
    for name, mine in CREATE.parameters.items():
        other = RAY.parameters[name]
        assert mine.kind == other.kind, name
        if name not in ("uri", "column", "index_type"):
            assert mine.default == other.default, name
        if name not in ("uri", "progress"):
            assert mine.annotation == other.annotation, name


def test_stock_lances_names_mean_the_same():
    """``LanceDataset.create_index`` without ``self``; what differs is said in docs/python.md."""
    theirs = inspect.signature(lance.LanceDataset.create_index).parameters
    shared = {n: (str(theirs[n].default).lower(), str(p.default).lower()) for n, p in CREATE.parameters.items()
              if n in theirs}
    assert set(shared) == {"column", "index_type", "name", "metric", "replace", "num_partitions", "num_sub_vectors",
                           "ivf_centroids", "pq_codebook", "storage_options"}
    assert {n for n, (a, b) in shared.items() if a != b} == {"replace"}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_help_explains_every_argument(function):
    text = inspect.getdoc(function)
    explained = set(re.findall(r"^    (\w+):", text, re.M))
    named = set(inspect.signature(function).parameters) - {"options"}
    if function is pilum.plan_index:
        assert "same arguments" in text
    else:
        assert named <= explained, f"help() says nothing of {sorted(named - explained)}"
    raised = {name for name in explained if name.endswith("Error") or name == "KeyboardInterrupt"}
    assert named >= explained - raised


def test_help_in_a_terminal():
    done = subprocess.run([sys.executable, "-c", "import pilum; help(pilum.plan_index)"], capture_output=True, text=True)
    assert "plan_index(uri: " in done.stdout and "-> 'Report'" in done.stdout, done.stdout + done.stderr
