"""The life of runs as a model: claim, lease, fence, slot, sweep, cancel, finish, announce, relay.

Each step is one statement of queue/queries.sql, one message, or one decision of a process between
two of them. A pause of a process needs no step of its own: any of them may stand still for as long
as the others like. A crash forgets what the process knew; it begins again with nothing.

`Rules` names the guards, so that a test can take each away and see what goes wrong without it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from interleavings import Step

# Where a run stands. ABSENT: nobody has asked for it yet. GONE: rolled back.
ABSENT, QUEUED, READY, RUNNING, SUCCESS, ERROR, INTERRUPTED, GONE = range(8)
TERMINAL = frozenset({SUCCESS, ERROR, INTERRUPTED, GONE})
NO_WISH, INTERRUPT, ROLLBACK = range(3)
WISHES = {INTERRUPT: "interrupt", ROLLBACK: "rollback"}
# What a worker is at. CHECKED: between looking at the fence and writing, where the two are apart.
IDLE, LOOKING, WORKING, CHECKED, CLOSED, ANNOUNCING = range(6)
EVENT, END = range(2)

MAX_ATTEMPTS = 2
MOST_BELLS = 2

ONE_OWNER = "at most one worker's writes into a thread are accepted at a time"
CURRENT_TOKEN = "every accepted write came from the holder of the current token"
ENDS_ONCE = "a run that has ended never changes again"
CANCEL_WINS = "a run whose cancel was accepted never ends as success or error"
NOTHING_LEFT = "a run that was rolled back leaves no checkpoint"
TERMINAL_FIRST = "whoever sees the end of a stream finds the run ended"
NEWEST_OWNER = "no reader is shown an event of an older attempt after one of a newer"
NOT_STUCK = "from every state each run can end and each reader learn it, without another fault"
PROPERTIES = (
    *(ONE_OWNER, CURRENT_TOKEN, ENDS_ONCE, CANCEL_WINS, NOTHING_LEFT),
    *(TERMINAL_FIRST, NEWEST_OWNER, NOT_STUCK),
)


@dataclass(frozen=True)
class Rules:
    """The guards. Each names the code that keeps it."""

    has_fence: bool = True
    """`lease_token = :lease_token` in every write of a worker."""
    has_fence_lock: bool = True
    """FOR SHARE in WRITE_GROUP and KEEP: the fence holds until the write is committed."""
    has_slot: bool = True
    """The index run_slot: a thread's second run is queued."""
    has_sweep: bool = True
    """requeue_expired, find_exhausted and look_around."""
    has_terminal_first: bool = True
    """Ends.conclude writes the end before it announces it."""
    has_cancel_guard: bool = True
    """`cancel_action IS NOT DISTINCT FROM :cancel_action` in finish_run_if_owned."""
    has_status_guard: bool = True
    """`status = 'running'` in finish_run_if_owned."""
    has_second_look: bool = True
    """`lease_expires_at < now() AND cancel_action IS NULL` in fail_exhausted_run."""
    has_late_rollback: bool = True
    """`started_at IS NULL` in delete_pending."""
    has_watchdog: bool = True
    """Relay._watch."""
    has_reader_token: bool = True
    """RunStream.accept drops batches with a lower token."""


class Row(NamedTuple):
    """A run in Postgres."""

    status: int = ABSENT
    token: int = 0
    attempt: int = 0
    is_expired: bool = False
    wish: int = NO_WISH
    has_written: bool = False
    """Checkpoints of it exist."""


class Worker(NamedTuple):
    """What a worker knows. One that holds nothing has the defaults."""

    at: int = IDLE
    run: int = 0
    token: int = 0
    wish: int = NO_WISH
    """As far as it has heard."""


class State(NamedTuple):
    """Everything there is."""

    rows: tuple[Row, ...]
    workers: tuple[Worker, ...]
    bells: int = 0
    messages: tuple[tuple[int, int], ...] = ()
    """On their way to the reader: kind and token."""
    is_reading: bool = True
    """One reader waits for the end of the first run."""
    shown: int = 0
    """The highest token of which the reader was shown an event."""
    found: tuple[int, int] | None = None
    """Run and token that a sweep found exhausted, and has yet to end."""


@dataclass(frozen=True)
class RunModel:
    """So many workers, and so many runs on one thread."""

    workers: int
    runs: int
    has_bells: bool = True
    """Without them a worker looks whenever it likes."""
    has_reader: bool = True
    most_messages: int = 1
    """On their way at once."""
    rules: Rules = Rules()

    def initial(self) -> State:
        """Nothing asked for, nobody at work, one reader."""
        rows, workers = (Row(),) * self.runs, (Worker(),) * self.workers
        return State(rows, workers, is_reading=self.has_reader)

    def is_over(self, state: State) -> bool:
        """All runs that were asked for have ended, and the reader knows."""
        is_unread = state.is_reading and state.rows[0].status != ABSENT
        return not is_unread and all(row.status in {ABSENT, *TERMINAL} for row in state.rows)

    def broken(self, state: State) -> str | None:
        """The first property that a state breaks."""
        owners = sum(
            worker.at in {WORKING, CLOSED} and self._accepts(state.rows[worker.run], worker)
            for worker in state.workers
        )
        if owners > 1:
            return ONE_OWNER
        for row in state.rows:
            if row.wish and row.status in {SUCCESS, ERROR}:
                return CANCEL_WINS
            if row.status == GONE and row.has_written:
                return NOTHING_LEFT
        return None

    def steps(self, state: State) -> Iterator[Step]:
        """All that may happen next."""
        for step in self._marked(state):
            yield step._replace(state=self._canonical(step.state))

    def tell(self, path: Sequence[State], broken: str | None) -> Iterator[str]:
        """What happened, with each worker and each token under its own name from first to last."""
        state = path[0]
        for target in path[1:]:
            step = next(
                step
                for step in self._marked(state)
                if step.broken is None and self._canonical(step.state) == target
            )
            state = step.state
            yield step.label
        if broken is not None:
            yield next(step.label for step in self._marked(state) if step.broken == broken)

    def _marked(self, state: State) -> Iterator[Step]:
        """The steps, those that change an ended run marked as broken."""
        for step in self._raw_steps(state):
            for before, after in zip(state.rows, step.state.rows, strict=True):
                if before.status in TERMINAL and after != before:
                    yield step._replace(broken=ENDS_ONCE)
                    break
            else:
                yield step

    def _canonical(self, state: State) -> State:
        """Make states equal that differ in names alone, or in what nobody will look at again.

        Workers and messages have no order. Of tokens only the order counts, and without a reader
        only whether they are current: renumbered, hand-backs and losses without end still make
        finitely many states.
        """
        if self.rules.has_status_guard:
            state = state._replace(rows=tuple(forget(row) for row in state.rows))
        for run in range(len(state.rows)):
            rank = rank_all if state.is_reading and run == 0 else rank_current
            state = rank(state, run)
        workers = state.workers
        if self.rules.has_fence and self.rules.has_fence_lock:
            # One that has lost its lease will be refused, whatever it has heard.
            workers = tuple(
                worker._replace(wish=NO_WISH)
                if worker.at in {WORKING, CLOSED} and worker.token != state.rows[worker.run].token
                else worker
                for worker in workers
            )
        return state._replace(
            workers=tuple(sorted(workers)), messages=tuple(sorted(state.messages))
        )

    def _raw_steps(self, state: State) -> Iterator[Step]:
        yield from self._requests(state)
        yield from self._time_and_sweep(state)
        yield from self._redis_and_reader(state)
        seen = set()
        for number, worker in enumerate(state.workers):
            # Workers are alike: what one may do, its twin need not do as well.
            if worker not in seen:
                seen.add(worker)
                yield from self._work(state, number, worker)

    # What people ask for.

    def _requests(self, state: State) -> Iterator[Step]:
        for number, row in enumerate(state.rows):
            if row.status == ABSENT:
                if all(earlier.status != ABSENT for earlier in state.rows[:number]):
                    yield self._admit(state, number, row)
            elif row.status not in TERMINAL:
                for wish in WISHES:
                    yield self._cancel(state, number, row, wish)

    def _admit(self, state: State, number: int, row: Row) -> Step:
        is_taken = any(other.status in {READY, RUNNING} for other in state.rows)
        status = QUEUED if is_taken and self.rules.has_slot else READY
        new = with_row(state, number, row._replace(status=status))
        return Step(f"run {number} is let in", self._ring(new) if status == READY else new, False)

    def _cancel(self, state: State, number: int, row: Row, wish: int) -> Step:
        label = f"{WISHES[wish]} of run {number} is accepted"
        strongest = max(row.wish, wish)
        has_begun = row.token > 0 and self.rules.has_late_rollback
        if row.status == RUNNING or (strongest == ROLLBACK and has_begun):
            # Rollback outranks interrupt. A run that has begun is left to a worker.
            return Step(label, with_row(state, number, row._replace(wish=strongest)), False)
        status = GONE if wish == ROLLBACK else INTERRUPTED
        ended = row._replace(status=status, wish=wish, is_expired=False)
        return Step(label, self._promote(with_row(state, number, ended)), False)

    # Time, and the sweep of whichever worker is alive.

    def _time_and_sweep(self, state: State) -> Iterator[Step]:
        for number, row in enumerate(state.rows):
            if row.status == RUNNING and not row.is_expired:
                expired = row._replace(is_expired=True)
                yield Step(f"the lease of run {number} runs out", with_row(state, number, expired))
        if not self.rules.has_sweep:
            return
        for number, row in enumerate(state.rows):
            if row.status == RUNNING and row.is_expired:
                if row.attempt < MAX_ATTEMPTS or row.wish:
                    back = row._replace(status=READY, is_expired=False)
                    yield Step(f"the sweep requeues run {number}", with_row(state, number, back))
                elif state.found is None:
                    found = state._replace(found=(number, row.token))
                    yield Step(f"the sweep finds run {number} exhausted", found)
        if state.found is not None:
            yield self._give_up(state, *state.found)
        if any(row.status == READY for row in state.rows) and self._is_silent(state):
            yield Step("the sweep rings", self._ring(state))

    def _give_up(self, state: State, number: int, token: int) -> Step:
        state = state._replace(found=None)
        row = state.rows[number]
        may_end = row.status == RUNNING and row.token == token
        if self.rules.has_second_look:
            may_end = may_end and row.is_expired and not row.wish
        if not may_end:
            return Step(f"the sweep leaves run {number} alone", state)
        ended = row._replace(status=ERROR, is_expired=False)
        state = self._promote(with_row(state, number, ended))
        return Step(f"the sweep ends run {number}", self._publish(state, number, END, token))

    # What Redis loses or repeats, and the reader.

    def _redis_and_reader(self, state: State) -> Iterator[Step]:
        if state.bells:
            yield Step("all bells are lost", state._replace(bells=0), False)
            if state.bells < MOST_BELLS:
                yield Step("a bell is doubled", self._ring(state), False)
        for message in state.messages:
            rest = tuple(other for other in state.messages if other is not message)
            yield Step("a message is lost", state._replace(messages=rest), False)
            yield self._deliver(state._replace(messages=rest), *message)
        has_ended = state.rows[0].status in TERMINAL
        if state.is_reading and has_ended and self.rules.has_watchdog:
            yield Step("the watchdog ends the stream", closed(state))

    def _deliver(self, state: State, kind: int, token: int) -> Step:
        if not state.is_reading or (token < state.shown and self.rules.has_reader_token):
            return Step("a late message is dropped", state)
        if kind == END:
            has_ended = state.rows[0].status in TERMINAL
            broken = None if has_ended else TERMINAL_FIRST
            return Step("the reader sees the end", closed(state), broken=broken)
        broken = NEWEST_OWNER if token < state.shown else None
        return Step("the reader sees an event", state._replace(shown=token), broken=broken)

    # What workers do.

    def _work(self, state: State, number: int, worker: Worker) -> Iterator[Step]:
        name = f"worker {number}"
        if worker.at == IDLE:
            if state.bells or not self.has_bells:
                looking = with_worker(state, number, Worker(LOOKING))
                left = max(0, state.bells - 1)
                yield Step(f"{name} looks for work", looking._replace(bells=left))
            return
        yield Step(f"{name} crashes", with_worker(state, number, Worker()), False)
        if worker.at == LOOKING:
            yield from self._claim(state, number, name)
        elif worker.at == ANNOUNCING:
            announced = self._publish(state, worker.run, END, worker.token)
            yield Step(f"{name} announces the end", with_worker(announced, number, Worker(LOOKING)))
        elif worker.at == CHECKED:
            yield self._write(state, number, worker, name)
        else:
            yield from self._hold(state, number, worker, name)

    def _claim(self, state: State, number: int, name: str) -> Iterator[Step]:
        ready = [run for run, row in enumerate(state.rows) if row.status == READY]
        if not ready:
            yield Step(f"{name} finds nothing", with_worker(state, number, Worker()))
        for run in ready:
            row = state.rows[run]
            # A run that is to be cancelled is claimed beyond its attempts, to be ended.
            attempt = min(row.attempt + 1, MAX_ATTEMPTS)
            claimed = row._replace(status=RUNNING, token=row.token + 1, attempt=attempt)
            working = Worker(WORKING, run, claimed.token, claimed.wish)
            claim = with_worker(with_row(state, run, claimed), number, working)
            yield Step(f"{name} claims run {run} (token {claimed.token})", claim)

    def _hold(self, state: State, number: int, worker: Worker, name: str) -> Iterator[Step]:
        """What a worker may do that believes to hold a run."""
        row = state.rows[worker.run]
        is_current = row.status == RUNNING and row.token == worker.token
        if worker.at == WORKING:
            if is_current:
                renewed = with_row(state, worker.run, row._replace(is_expired=False))
                heard = worker._replace(wish=row.wish)
                yield Step(f"{name} renews", with_worker(renewed, number, heard))
                back = row._replace(status=READY, is_expired=False, attempt=max(0, row.attempt - 1))
                handed = with_worker(with_row(state, worker.run, back), number, Worker())
                yield Step(f"{name} hands run {worker.run} back", self._ring(handed), False)
            else:
                yield Step(f"{name} finds its lease lost", with_worker(state, number, Worker()))
            if worker.run == 0:
                yield Step(f"{name} publishes", self._publish(state, 0, EVENT, worker.token))
            if self.rules.has_fence_lock:
                yield self._write(state, number, worker, name)
            elif self._accepts(row, worker):
                checked = with_worker(state, number, worker._replace(at=CHECKED))
                yield Step(f"{name} looks at the fence", checked)
            if not self.rules.has_terminal_first:
                shown = self._publish(state, worker.run, END, worker.token)
                first = with_worker(shown, number, worker._replace(at=CLOSED))
                yield Step(f"{name} announces the end", first)
                return
        yield self._finish(state, number, worker, name)

    def _accepts(self, row: Row, worker: Worker) -> bool:
        """The guard of every write."""
        return row.status == RUNNING and (row.token == worker.token or not self.rules.has_fence)

    def _write(self, state: State, number: int, worker: Worker, name: str) -> Step:
        """Write a checkpoint, under the fence or, without its lock, after having looked at it."""
        row = state.rows[worker.run]
        may_write = worker.at == CHECKED or self._accepts(row, worker)
        if not may_write:
            return Step(f"{name} is refused a checkpoint", with_worker(state, number, Worker()))
        is_current = row.status == RUNNING and row.token == worker.token
        written = state
        if row.status not in TERMINAL:
            written = with_row(state, worker.run, row._replace(has_written=True))
        return Step(
            f"{name} writes a checkpoint",
            with_worker(written, number, worker._replace(at=WORKING)),
            broken=None if is_current else CURRENT_TOKEN,
        )

    def _finish(self, state: State, number: int, worker: Worker, name: str) -> Step:
        """End the run as its wish says; a wish that came later refuses the end."""
        row = state.rows[worker.run]
        is_over = row.status in TERMINAL and row.token == worker.token
        if not self._accepts(row, worker) and (self.rules.has_status_guard or not is_over):
            return Step(f"{name} may not finish", with_worker(state, number, Worker(LOOKING)))
        is_late = worker.wish not in {row.wish, ROLLBACK}
        if is_late and self.rules.has_cancel_guard:
            heard = with_worker(state, number, worker._replace(wish=row.wish))
            return Step(f"{name} may not finish and looks again", heard)
        status = {NO_WISH: SUCCESS, INTERRUPT: INTERRUPTED, ROLLBACK: GONE}[worker.wish]
        ended = row._replace(status=status, is_expired=False)
        if status == GONE:
            ended = ended._replace(has_written=False)
        next_at = ANNOUNCING if worker.at == WORKING else LOOKING
        after = Worker(LOOKING)
        if next_at == ANNOUNCING:
            after = Worker(ANNOUNCING, worker.run, worker.token)
        finished = with_worker(self._promote(with_row(state, worker.run, ended)), number, after)
        broken = None if row.token == worker.token else CURRENT_TOKEN
        return Step(f"{name} finishes run {worker.run}", finished, broken=broken)

    def _is_silent(self, state: State) -> bool:
        return self.has_bells and not state.bells

    def _ring(self, state: State) -> State:
        """One bell more, up to a limit."""
        return state._replace(bells=min(state.bells + 1, MOST_BELLS)) if self.has_bells else state

    def _promote(self, state: State) -> State:
        """Give a free slot to the first that waits, and ring for it."""
        if any(row.status in {READY, RUNNING} for row in state.rows):
            return state
        for number, row in enumerate(state.rows):
            if row.status == QUEUED:
                return self._ring(with_row(state, number, row._replace(status=READY)))
        return state

    def _publish(self, state: State, run: int, kind: int, token: int) -> State:
        """Send to the reader, of the first run alone; what finds no room counts as lost."""
        message = (kind, token)
        is_lost = len(state.messages) >= self.most_messages or message in state.messages
        if run or not state.is_reading or is_lost:
            return state
        return state._replace(messages=(*state.messages, message))


def with_row(state: State, number: int, row: Row) -> State:
    """Put a row in its place."""
    return state._replace(rows=(*state.rows[:number], row, *state.rows[number + 1 :]))


def with_worker(state: State, number: int, worker: Worker) -> State:
    """Put a worker in its place."""
    workers = (*state.workers[:number], worker, *state.workers[number + 1 :])
    return state._replace(workers=workers)


def closed(state: State) -> State:
    """The reader is gone, and with it what was on its way."""
    return state._replace(is_reading=False, messages=(), shown=0)


def forget(row: Row) -> Row:
    """A run without what decides nothing any more."""
    if row.status in {INTERRUPTED, GONE}:
        return Row(row.status, has_written=row.status == GONE and row.has_written)
    if row.status in {SUCCESS, ERROR}:
        return Row(row.status, wish=row.wish)
    # A run that is to be cancelled goes back to the queue whatever its attempts.
    return row._replace(attempt=0) if row.wish and row.attempt else row


def rank_current(state: State, run: int) -> State:
    """The current token of a run becomes 1, any other 0."""
    current = state.rows[run].token
    if current == 0:
        return replace_tokens(state, run, {})
    return replace_tokens(state, run, {current: 1})


def rank_all(state: State, run: int) -> State:
    """The tokens of the first run that anybody remembers become 1, 2, 3... in their order."""
    used = {state.rows[run].token, *(one.token for one in state.workers if holds(one, run))}
    used |= {state.shown, *(token for _, token in state.messages)}
    if state.found is not None and state.found[0] == run:
        used.add(state.found[1])
    used.discard(0)
    names = {token: number for number, token in enumerate(sorted(used), 1)}
    return replace_tokens(state, run, names)


def replace_tokens(state: State, run: int, names: Mapping[int, int]) -> State:
    """Rename the tokens of one run everywhere; those without a name become 0."""
    row = state.rows[run]
    new = with_row(state, run, row._replace(token=names.get(row.token, 0)))
    workers = tuple(
        worker._replace(token=names.get(worker.token, 0)) if holds(worker, run) else worker
        for worker in state.workers
    )
    shown, messages, found = state.shown, state.messages, state.found
    if run == 0:
        shown = names.get(shown, 0)
        messages = tuple((kind, names.get(token, 0)) for kind, token in messages)
    if found is not None and found[0] == run:
        found = (run, names.get(found[1], 0))
    return new._replace(workers=workers, shown=shown, messages=messages, found=found)


def holds(worker: Worker, run: int) -> bool:
    """Whether a worker knows a token of this run."""
    return worker.token > 0 and worker.run == run
