"""Values: frozen, compared by class and fields."""

import pickle

import pytest

from mesh_iptables.model import Network, PortRange, Redirect, SetMark, Verdict


def test_values_of_different_classes_are_never_equal() -> None:
    assert Redirect(PortRange(1, 1)) != SetMark(1)
    assert PortRange(1, 2) == PortRange(1, 2)


def test_a_spelling_plays_no_part_in_comparison() -> None:
    assert PortRange(80, 80, "http") == PortRange(80, 80, "0x50")
    assert hash(PortRange(80, 80, "http")) == hash(PortRange(80, 80))


def test_a_value_cannot_be_changed() -> None:
    port = PortRange(80, 80)
    with pytest.raises(AttributeError, match="frozen"):
        port.low = 81  # type: ignore[misc]  # what the type checker forbids
    with pytest.raises(AttributeError, match="frozen"):
        del port.low


def test_fields_are_given_by_place_or_by_name_each_once() -> None:
    assert PortRange(low=1, high=2) == PortRange(1, high=2)
    for wrong in ((1, 2, "", 4), (1,), ()):
        with pytest.raises(TypeError):
            PortRange(*wrong)
    with pytest.raises(TypeError):
        PortRange(1, 2, low=1)  # type: ignore[misc]  # what the type checker forbids
    with pytest.raises(TypeError):
        PortRange(1, 2, height=1)  # type: ignore[call-arg]  # what the type checker forbids


def test_replace_changes_some_fields_only() -> None:
    network = Network(4, 0, 0, "0/0")
    assert network.replace(version=6).as_dict() == {**network.as_dict(), "version": 6}


def test_values_survive_pickling_and_show_their_fields() -> None:
    assert pickle.loads(pickle.dumps(Verdict("DROP"))) == Verdict("DROP")
    assert repr(PortRange(1, 2)) == "PortRange(low=1, high=2, spelled='')"
