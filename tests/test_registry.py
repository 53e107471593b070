"""Registries: parts by name, found when asked for; sections whose class a tag chooses."""

import sys
from typing import Annotated

import pytest
from pydantic import ValidationError

from wound_jax.errors import UserError
from wound_jax.registry import PositiveFloat, Registry, Section, Tagged, Variant, Variants

pytestmark = pytest.mark.quick


class PumpSettings(Variant):
    kind: str = ""
    seed: int = 1


PUMPS = Variants("pump", PumpSettings, tag="kind", method="lift")


@PUMPS.declare("hand", "pumps_of_the_test")
class HandPump(PumpSettings):
    strokes: int = 3


class House(Section):
    pump: Annotated[PumpSettings, Tagged(PUMPS, default="hand")] = HandPump()


@PUMPS.register("motor")
class Motor(PumpSettings):
    power: PositiveFloat = 2.0

    def lift(self) -> float:
        return self.power


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a part in each of two modules, and the registry they register in."""
    folder = tmp_path / "parts_of_the_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("from wound_jax.registry import Registry\n")
    for name in ("b", "a"):
        (folder / f"{name}.py").write_text(
            "from test_registry import FOUND\n"
            f"@FOUND.register('{name}')\n"
            f"def {name}(): return '{name}'\n"
        )
    (tmp_path / "pumps_of_the_test.py").write_text(
        "from test_registry import PUMPS, HandPump\n"
        "@PUMPS.register('hand')\n"
        "class Hand(HandPump):\n"
        "    def lift(self): return self.strokes + self.seed\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "test_registry", sys.modules[__name__])


FOUND = Registry("part", package="parts_of_the_test")


def test_parts_are_found_in_the_modules_of_the_package_and_nearest_names_are_told(package):
    assert FOUND.names() == tuple(FOUND) == ("a", "b")
    assert [part() for _, part in FOUND.items()] == ["a", "b"]
    assert ("a" in FOUND, "c" in FOUND, len(FOUND)) == (True, False, 2)
    assert FOUND.module_of("b") == "parts_of_the_test.b"
    with pytest.raises(UserError, match=r"unknown part 'bb'. Did you mean 'b'\? Known: a, b"):
        FOUND.get("bb")


def test_a_name_is_given_once():
    registry = Registry[int]("number")
    registry.add("one", 1, "first.module")
    with pytest.raises(ValueError, match=r"'one' is registered already, by first\.module"):
        registry.add("one", 2, "other.module")
    with pytest.raises(ValueError, match="'hand' is registered already, by pumps_of_the_test"):
        PUMPS.add("hand", Motor, "elsewhere")


def test_a_part_with_settings_is_a_class_with_its_base_and_method():
    with pytest.raises(TypeError, match="expected a class that builds on PumpSettings"):
        PUMPS.register("function")(lambda: None)
    with pytest.raises(TypeError, match="the pump 'idle' has no method lift"):
        PUMPS.register("idle")(HandPump)
    assert PUMPS.names() == ("hand", "motor")


def test_the_tag_chooses_the_class_of_a_section_and_its_keys():
    assert House.model_validate({}) == House() == House(pump=HandPump(kind="hand"))
    chosen = House.model_validate({"pump": {"kind": "motor", "power": 3.0}})
    assert chosen.pump == Motor(power=3.0)
    assert chosen.model_dump() == {"pump": {"kind": "motor", "seed": 1, "power": 3.0}}
    assert House.model_validate(chosen.model_dump()) == chosen
    for wrong in ({"power": 3.0}, {"kind": "motor", "strokes": 1}, {"kind": "moter"}, 3):
        with pytest.raises(ValidationError):
            House.model_validate({"pump": wrong})


def test_built_in_parts_are_complete_once_they_are_used(package):
    settings = House.model_validate({"pump": {"strokes": 5}}).pump
    assert type(settings) is HandPump
    hand = PUMPS.build(settings)
    assert hand.lift() == 6  # type: ignore[attr-defined]
    assert hand == PUMPS.build(hand)
    assert PUMPS.module_of("hand") == "pumps_of_the_test"
    # Imported or not, what is read is of one class, so that configs compare equal.
    assert PUMPS.settings("hand") is HandPump
    assert PUMPS.build(Motor(power=4.0)).model_dump() == {"kind": "motor", "seed": 1, "power": 4.0}
