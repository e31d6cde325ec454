"""A worker whose clock is wrong by SKEW_SECONDS, as the one of a badly kept machine."""

import os
from datetime import UTC, datetime, timedelta

import time_machine

skew = timedelta(seconds=float(os.environ["SKEW_SECONDS"]))
time_machine.travel(datetime.now(UTC) + skew, tick=True).start()

# Only now: whatever it keeps of the clock is wrong, too.
from greenroom_workers.process import main  # noqa: E402

if __name__ == "__main__":
    main()
