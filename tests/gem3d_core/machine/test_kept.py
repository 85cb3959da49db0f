"""What is kept in memory between two readings."""

from gem3d_core.machine.reading import Kept


def test_a_value_is_given_back_once() -> None:
    kept = Kept[str](len)
    kept.put("a", "value")
    assert kept.take("a") == "value"
    assert kept.take("a") is None


def test_what_has_no_room_is_not_kept_and_room_comes_back() -> None:
    kept = Kept[str](len, room=5)
    kept.put("a", "1234")
    kept.put("b", "56")
    assert kept.take("b") is None
    assert kept.take("a") == "1234"
    kept.put("b", "56789")
    assert kept.take("b") == "56789"
