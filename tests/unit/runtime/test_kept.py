"""One thing of each kind, for the next run of the process."""

from sdlora.runtime.kept import Kept


def test_a_thing_is_taken_once_and_the_old_one_goes_first() -> None:
    kept = Kept()
    kept.put("model", "a", 1)
    assert kept.take("model", "a", lambda: 2) == 1
    assert kept.take("model", "a", lambda: 2) == 2  # a run that fails does not bring it back
    kept.put("model", "a", 1)
    assert kept.take("model", "b", lambda: 3) == 3
    assert kept.take("model", "a", lambda: 4) == 4  # one of a kind
