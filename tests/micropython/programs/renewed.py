"""Boot with the next generation of the secret; print where counting stands."""

import json

from fednode.counters import Counters

counters = Counters(generation=2)
print(json.dumps({"base": counters.base, "floor": counters.floor}))
