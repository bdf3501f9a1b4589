"""Where a device stands, in words: what it does, what it waits for, and the decision behind it.

The agent answers the owner with a `report` (`console.py`); where no agent runs, the command line
makes the same one.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedclient.scheduler.policy import Decision
from fedclient.session import State
from fedclient.values import Phase


def report(state: State, decision: Decision, notes: Sequence[str] = ()) -> dict[str, object]:
    """Return where a device stands, as JSON; `notes` are sentences about what else is wrong."""
    return {
        "phase": state.phase.value,
        "sentence": sentence(state),
        "notes": list(notes),
        "decision": decision.as_dict(),
        "history": decision.history.as_record(),
    }


def sentence(state: State) -> str:
    """Say what this device does, or what has to happen before it can train."""
    if state.judging is not None and not state.running:
        return f"judging head {state.judging} on its own samples, before apps get it"
    match state.phase:
        case Phase.UNENROLLED:
            return "in no federation: run `fedclient enroll INVITATION`"
        case Phase.ENROLLING:
            return "nothing to train: waiting for the gateway to answer the enrolment"
        case Phase.REFUSED:
            return f"nothing to train: the gateway refused this device ({state.refusal.words})"
        case Phase.TRAINING:
            return f"training on head {state.job}"
        case Phase.SENDING:
            return f"nothing to train: update {state.unsettled} waits for the gateway's receipt"
        case Phase.FETCHING:
            return f"nothing to train: head {state.wanted} is being fetched"
        case Phase.WAITING:
            again = " again, after a trainer that failed" if state.failures else ""
            verb = "go on with its job" if state.job else "train"
            return f"waiting for a good moment to {verb} on head {state.job or state.current}{again}"
    return _idle(state)


def _idle(state: State) -> str:
    if state.current is None:
        return "nothing to train: waiting for the first head"
    if state.current == state.unfit:
        return f"nothing to train: head {state.current} cannot be trained here; waiting for a new head"
    return f"nothing to train: waiting for a new head after {state.current}"
