"""When a cron is due: five fields or a macro, and perhaps a sixth field of seconds at the end.

Where the clocks change, the rules are those of Debian's cron, as cronsim implements them. A
schedule whose minute and hour are both fixed comes once on such a day: at a time that the clocks
skip it comes right after the gap, at a time that they repeat it comes the first time only. One
whose minute or hour begins with a star follows the clock: what is skipped does not come, what is
repeated comes twice. Seconds change nothing in this: they divide the minutes that the other fields
name.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from greenroom.errors import InvalidRequest

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MAX_LENGTH = 256
"""Characters of a schedule. Longer ones say nothing that a shorter one does not."""
WITH_SECONDS = 6
MINUTE = timedelta(minutes=1)


def next_fire(schedule: str, timezone: str | None, after: datetime) -> datetime:
    """Find the first moment of a schedule that comes after `after`.

    Args:
        timezone: an IANA name, in which the schedule is read; None is UTC.
        after: any time zone's moment.
    Returns:
        A whole second in UTC.
    Raises:
        InvalidRequest: the schedule or the time zone is not one, or no such moment comes within
            fifty years.
    """
    zone = find_zone(timezone)
    fields, seconds = read_schedule(schedule)
    after = after.astimezone(UTC)
    # The minute in which `after` lies may have seconds to come.
    before = after.replace(second=0, microsecond=0) - MINUTE
    try:
        for minute in _minutes(fields, before.astimezone(zone)):
            for second in seconds:
                moment = minute + timedelta(seconds=second)
                # cronsim may begin with the first of two equal times when it is past already.
                if moment > after:
                    return moment
    except (CronSimError, ValueError, OverflowError) as error:
        raise _invalid(schedule, str(error)) from error
    raise _invalid(schedule, "it never comes")


def read_schedule(schedule: str) -> tuple[str, list[int]]:
    """Split a schedule into its five fields and the seconds of each minute, in order.

    Raises:
        InvalidRequest: not five or six fields, or the sixth holds no seconds. The others are not
            looked at.
    """
    if len(schedule) > MAX_LENGTH:
        raise _invalid(schedule[:MAX_LENGTH], f"longer than {MAX_LENGTH} characters")
    fields = MACROS.get(schedule.strip().lower(), schedule).split()
    if len(fields) != WITH_SECONDS:
        return " ".join(fields), [0]
    seconds = fields.pop()
    try:
        # Seconds have the range and the grammar of minutes.
        found = CronSim(f"{seconds} * * * *", datetime.now(UTC)).minutes
    except (CronSimError, ValueError) as error:
        raise _invalid(schedule, "Bad second") from error
    return " ".join(fields), sorted(found)


def find_zone(timezone: str | None) -> tzinfo:
    """Find a time zone by its IANA name; None is UTC.

    Raises:
        InvalidRequest: there is none of that name.
    """
    if timezone is None:
        return UTC
    try:
        return ZoneInfo(timezone)
    # A folder of zones, a path that leads out, a name that no file can have.
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidRequest(
            f"Invalid timezone: {timezone[:MAX_LENGTH]!r}. "
            "Expected the IANA name of one, such as 'Europe/Berlin'."
        ) from error


def _minutes(fields: str, start: datetime) -> Iterator[datetime]:
    """The minutes that five fields name, in UTC, from the one after `start`."""
    for minute in CronSim(fields, start):
        yield minute.astimezone(UTC)


def _invalid(schedule: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid cron schedule: {schedule!r}. Reason: {reason}")
