"""How scores and lengths are written."""

from recipes.reports.scores import length_name


def test_lengths_are_written_as_the_field_does() -> None:
    assert [length_name(length) for length in (256, 4096, 131072, 5000)] == [
        "256",
        "4K",
        "128K",
        "5,000",
    ]
