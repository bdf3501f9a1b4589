"""The other end: collects updates, counts each exactly once, publishes the next head (DESIGN 9).

- decide, pure:      rounds.py aggregate.py admission.py
- remember:          store.py roster.py verdicts.py, one database; desk.py, what every part works with
- answer messages:   intake.py (updates, statuses), enrolment.py, as PROTOCOL 3, 4 and 7 say
- the open version:  collection.py (buffer, running sum, closing), holdout.py (how good a head is)
- publish:           releases.py (new generations), commands.py (to one device), shelf.py (retained topics)
- drive it all:      server.py, `Gateway`
"""
