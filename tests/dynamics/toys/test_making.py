"""Every shipped toy still does what its script checks; and the command that makes one."""

from importlib import import_module

import pytest

import inscape as ins
from inscape.core.errors import ModelError
from inscape.dynamics.toys.__main__ import main
from inscape.dynamics.toys.making import Check, toy_named
from inscape.models.toy import TOYS
from inscape.models.toy.toy import SHIPPED, story


@pytest.mark.parametrize("toy", [toy for toy in TOYS if toy.shipped], ids=lambda toy: toy.name)
def test_a_shipped_toy_passes_the_checks_of_its_script_with_the_numbers_of_its_story(toy):
    found = import_module(f"inscape.dynamics.toys.{toy.key}").check(ins.open(toy.name))
    told = story(SHIPPED / toy.key)["checks"]
    assert found.keys() == told.keys()
    for name, check in found.items():
        assert check.holds, name
        assert check.value == pytest.approx(told[name]["value"], abs=0.01), name
        assert check.at_least is not None or check.at_most is not None


def test_a_check_keeps_both_bounds():
    assert Check(0.5, at_least=0.5, at_most=0.5).holds
    assert not Check(0.5, at_least=0.6).holds
    assert not Check(0.5, at_most=0.4).holds
    assert not Check(float("nan"), at_least=0.1).holds


def test_the_command_trains_and_refuses_what_is_not_learned(tmp_path, capsys):
    assert main("induction", steps=2, to=tmp_path / "toy") == 1
    assert "has not learned its task: accuracy is" in capsys.readouterr().err
    assert not (tmp_path / "toy").exists()
    assert main("nothing") == 1
    assert "there is no toy 'nothing'; there are toy-induction" in capsys.readouterr().err


def test_a_toy_is_found_by_any_of_its_names():
    assert toy_named("toy-induction", TOYS) is toy_named("induction", TOYS)
    with pytest.raises(ModelError, match="there is no toy"):
        toy_named("x", TOYS)
