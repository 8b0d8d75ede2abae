"""Sets of pictures, divided by the pictures' own bytes."""

from sdlora.data.pictures.picture import Picture
from sdlora.data.selection.picture_set import automatic_fraction, split_numbers
from sdlora.data.sources.picture_source import CLASS_PICTURES


def listed(*places: float, prefix: str = "p") -> list[Picture]:
    """Pictures whose bytes' hash lies at these places of all hashes, from 0 to 1."""
    return [
        Picture(
            name=f"{prefix}{number}.png", text="", size=(8, 8), content=f"{hash_at:013x}" + "0" * 51
        )
        for number, place in enumerate(places)
        for hash_at in [int(place * 16**13)]
    ]


def test_the_split_by_hand() -> None:
    pictures = listed(0.0, 0.9, 0.24, 0.25, 0.1, 0.9)
    assert split_numbers(pictures, 0.25) == ([1, 3, 5], [0, 2, 4])
    assert split_numbers(pictures, 0.0) == ([0, 1, 2, 3, 4, 5], [])
    assert split_numbers(pictures[::-1], 0.25) == ([0, 2, 4], [1, 3, 5])  # each stays on its side
    of_class = listed(0.0, 0.1, prefix=CLASS_PICTURES)
    assert split_numbers([*pictures, *of_class], 0.25) == ([1, 3, 5, 6, 7], [0, 2, 4])


def test_a_tenth_is_held_out_of_twenty_pictures_wherever_their_hashes_lie() -> None:
    apart = listed(*(0.5 + number / 50 for number in range(20)))  # 0.1 of all hashes has none
    assert split_numbers(apart, 0.1)[1] == []
    assert split_numbers(apart, automatic_fraction(apart))[1] == [0, 1]
    many = listed(*(number / 50 for number in range(45)))
    assert split_numbers(many, automatic_fraction(many))[1] == [0, 1, 2, 3]  # round(4.5)
    assert automatic_fraction(apart[:19]) == 0.0
    of_class = listed(*[0.0] * 9, prefix=CLASS_PICTURES)
    assert automatic_fraction([*apart[:19], *of_class]) == 0.0
    assert split_numbers([*of_class, *apart], automatic_fraction([*of_class, *apart]))[1] == [9, 10]


def test_copies_stay_together_where_a_tenth_is_held_out() -> None:
    copies = listed(*[0.1] * 5, *(0.2 + number / 50 for number in range(15)))
    assert split_numbers(copies, automatic_fraction(copies))[1] == [0, 1, 2, 3, 4]
    assert automatic_fraction(listed(*[0.1] * 20)) == 0.0
