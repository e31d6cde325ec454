"""When crons are due, to the second, also where clocks change."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from greenroom.crons.schedule import MACROS, next_fire
from greenroom.errors import InvalidRequest

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"


def fires(schedule: str, timezone: str | None, after: str, count: int) -> list[str]:
    """The next moments in UTC, as `day hour:minute:second` of their month."""
    found, moment = [], datetime.fromisoformat(after).replace(tzinfo=UTC)
    for _ in range(count):
        moment = next_fire(schedule, timezone, moment)
        assert moment.tzinfo is UTC
        found.append(f"{moment:%d %H:%M:%S}")
    return found


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        ("* * * * *", "2026-05-04 10:00:00", ["04 10:01:00", "04 10:02:00"]),
        ("* * * * *", "2026-05-04 10:00:59.9", ["04 10:01:00"]),
        ("*/15 9-10 * * *", "2026-05-04 10:31", ["04 10:45:00", "05 09:00:00"]),
        ("0 12 * * MON-FRI", "2026-05-01 12:00", ["04 12:00:00"]),
        ("0 0 * * 7", "2026-05-04 10:00", ["10 00:00:00"]),
        # Both days restricted: either will do.
        ("0 0 15 * MON", "2026-05-12 10:00", ["15 00:00:00", "18 00:00:00"]),
        ("0 0 L * *", "2026-02-04 10:00", ["28 00:00:00", "31 00:00:00"]),
        ("0 0 29 2 *", "2026-02-04 10:00", ["29 00:00:00"]),
        ("* * * * * *", "2026-05-04 10:00:58.5", ["04 10:00:59", "04 10:01:00", "04 10:01:01"]),
        ("* * * * * */20", "2026-05-04 10:00:20", ["04 10:00:40", "04 10:01:00"]),
        ("0 8 * * * 5,1-2", "2026-05-04 08:00:02", ["04 08:00:05", "05 08:00:01"]),
        ("0 8 * * * 0", "2026-05-04 08:00:00", ["05 08:00:00"]),
        ("30 8 1 1 * 59", "2026-05-04 08:00:00", ["01 08:30:59"]),
    ],
)
def test_fields_mean_what_cron_means(schedule: str, after: str, expected: list[str]) -> None:
    """Five fields, and seconds as a sixth at the end; the moment itself never counts as next."""
    assert fires(schedule, None, after, len(expected)) == expected


@pytest.mark.parametrize("macro", MACROS)
def test_a_macro_is_short_for_its_fields(macro: str) -> None:
    """In any case of letters."""
    after = datetime(2026, 5, 4, 10, 20, tzinfo=UTC)
    assert next_fire(macro.upper(), BERLIN, after) == next_fire(MACROS[macro], BERLIN, after)


def test_a_schedule_is_read_in_its_time_zone() -> None:
    """And its moments are told in UTC."""
    assert fires("0 9 * * *", NEW_YORK, "2026-01-10", 1) == ["10 14:00:00"]
    assert fires("0 9 * * *", NEW_YORK, "2026-07-10", 1) == ["10 13:00:00"]
    assert fires("@daily", "Asia/Kathmandu", "2026-07-10", 1) == ["10 18:15:00"]


# Berlin 2026: on 29 March 02:00 becomes 03:00 (01:00 UTC); on 25 October 03:00 becomes 02:00 (the
# same). New York: 8 March at 07:00 UTC, 1 November at 06:00 UTC.
@pytest.mark.parametrize(
    ("timezone", "schedule", "after", "expected"),
    [
        # Skipped, minute and hour fixed: once, right after the gap.
        (BERLIN, "30 2 * * *", "2026-03-28 12:00", ["29 01:00:00", "30 00:30:00"]),
        (NEW_YORK, "30 2 * * *", "2026-03-07 12:00", ["08 07:00:00", "09 06:30:00"]),
        # Together with what stands there already: once.
        (BERLIN, "0 2,3 * * *", "2026-03-28 12:00", ["29 01:00:00", "30 00:00:00"]),
        # The same with seconds, which divide the minute that takes the place of the skipped one.
        (BERLIN, "30 2 * * * */30", "2026-03-28 12:00", ["29 01:00:00", "29 01:00:30"]),
        # Skipped, with a star: not on that day.
        (BERLIN, "*/30 2 * * *", "2026-03-28 12:00", ["30 00:00:00", "30 00:30:00"]),
        (NEW_YORK, "*/30 2 * * *", "2026-03-07 12:00", ["09 06:00:00", "09 06:30:00"]),
        # Every hour goes on every hour.
        (BERLIN, "30 * * * *", "2026-03-29 00:00", ["29 00:30:00", "29 01:30:00"]),
        # Repeated, minute and hour fixed: the first time only.
        (BERLIN, "30 2 * * *", "2026-10-24 12:00", ["25 00:30:00", "26 01:30:00"]),
        (NEW_YORK, "30 1 * * *", "2026-10-31 12:00", ["01 05:30:00", "02 06:30:00"]),
        (BERLIN, "30 2 * * * */30", "2026-10-24 12:00", ["25 00:30:00", "25 00:30:30"]),
        # Also when asked between the two, or in the second itself.
        (BERLIN, "30 2 * * *", "2026-10-25 01:15", ["26 01:30:00"]),
        (BERLIN, "30 2 * * * 10", "2026-10-25 01:30:05", ["26 01:30:10"]),
        # Repeated, with a star: both times.
        (
            BERLIN,
            "*/30 2 * * *",
            "2026-10-24 12:00",
            ["25 00:00:00", "25 00:30:00", "25 01:00:00", "25 01:30:00", "26 01:00:00"],
        ),
        (NEW_YORK, "30 * * * *", "2026-11-01 05:00", ["01 05:30:00", "01 06:30:00"]),
        # A day of 23 or 25 hours has one midnight.
        (BERLIN, "@daily", "2026-03-28 12:00", ["28 23:00:00", "29 22:00:00"]),
        (BERLIN, "@daily", "2026-10-24 12:00", ["24 22:00:00", "25 23:00:00"]),
        # Unless the clocks skip it.
        ("America/Havana", "@daily", "2026-03-07 12:00", ["08 05:00:00", "09 04:00:00"]),
    ],
)
def test_clocks_that_change(timezone: str, schedule: str, after: str, expected: list[str]) -> None:
    """Fixed times come once, whatever the clock does; times with a star follow the clock."""
    assert fires(schedule, timezone, after, len(expected)) == expected


@pytest.mark.parametrize("timezone", [BERLIN, NEW_YORK, "Australia/Lord_Howe", "America/Havana"])
@pytest.mark.parametrize(
    "schedule", ["30 1-3 * * *", "*/20 0,2 * * * 7,40", "@hourly", "5 2 * * *"]
)
def test_time_goes_forward_only(timezone: str, schedule: str) -> None:
    """From any moment around any change of the clocks the next one is later: no endless repeat."""
    year = datetime(2026, 1, 1, tzinfo=UTC)
    zone = ZoneInfo(timezone)
    hours = [year + timedelta(hours=n) for n in range(365 * 24)]
    changes = [a for a, b in pairwise(hours) if offset(a, zone) != offset(b, zone)]
    assert len(changes) == 2
    for change in changes:
        for minutes in range(-180, 180, 7):
            after = change + timedelta(minutes=minutes, seconds=31)
            first = next_fire(schedule, timezone, after)
            assert first > after
            assert next_fire(schedule, timezone, first - timedelta(seconds=1)) == first


def offset(moment: datetime, zone: ZoneInfo) -> timedelta | None:
    return moment.astimezone(zone).utcoffset()


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        ("bad", "Wrong number of fields"),
        ("", "Wrong number of fields"),
        ("* * * *", "Wrong number of fields"),
        ("* * * * * * *", "Wrong number of fields"),
        ("@reboot", "Wrong number of fields"),
        ("61 * * * *", "Bad minute"),
        ("* 24 * * *", "Bad hour"),
        ("* * 32 * *", "Bad day-of-month"),
        ("0 0 31 2 *", "Bad day-of-month"),
        ("* * * 13 *", "Bad month"),
        ("* * * * 8", "Bad day-of-week"),
        ("* * * * ²L", "Bad day-of-week"),
        ("* * * * * 60", "Bad second"),
        ("* * * * * L", "Bad second"),
        ("*/0 * * * *", "Bad minute"),
        ("9" * 200 + " * * * *", "Bad minute"),
        ("1," * 200 + "1 * * * *", "longer than 256 characters"),
    ],
)
def test_a_bad_schedule_is_named_with_the_reason(schedule: str, reason: str) -> None:
    """The sentence says which field."""
    with pytest.raises(InvalidRequest) as caught:
        next_fire(schedule, None, datetime.now(UTC))
    assert str(caught.value) == f"Invalid cron schedule: {schedule[:256]!r}. Reason: {reason}"


@pytest.mark.parametrize(
    "timezone", ["Mars/X", "", "Europe", "europe/berlin", "../etc/passwd", "/etc/passwd", "a\0b"]
)
def test_a_bad_time_zone_is_named(timezone: str) -> None:
    """Whatever the file system says of such a name."""
    with pytest.raises(InvalidRequest, match="Invalid timezone: "):
        next_fire("@daily", timezone, datetime.now(UTC))
