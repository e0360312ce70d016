"""Addresses of servers, and how long they ask to wait."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, strategies

from recipes.common.errors import UserError
from recipes.common.servers import check_url, seconds_to_wait

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120),
        ("-3", 0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0),
        ("Sat, 28 Nov 2026 12:01:00", 60),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("", None),
    ],
)
def test_retry_after(header, seconds) -> None:
    assert seconds_to_wait(header, NOW) == seconds


@given(strategies.text())
def test_any_retry_after_is_a_number_or_none(header) -> None:
    seconds = seconds_to_wait(header, NOW)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://host/v1/completions", "expected the address of completions"),
        ("http://host/v1/chat", "expected the address of completions"),
        ("http://[::1/v1/completions", "is no address"),
        ("http://me:secret@host/v1/completions", "leave the password out"),
    ],
)
def test_addresses_that_are_refused(url, sentence) -> None:
    with pytest.raises(UserError, match=sentence) as found:
        check_url("--url", url, "/completions")
    assert "secret" not in str(found.value)
