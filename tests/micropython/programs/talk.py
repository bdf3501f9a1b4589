"""Do what standard input says with an MQTT client, a JSON array a line; print a line for each."""

import json
import sys
import time

from fednode.mqtt import MQTTClient, MQTTException

with open(sys.argv[1]) as file:
    asked = json.load(file)
client = MQTTClient(*asked["client"], **asked.get("options", {}))
client.limit = asked.get("limit", client.limit)
client.patience = asked.get("patience", client.patience)
came = []
client.set_callback(lambda topic, message: came.append([topic.decode(), len(message), message[:20].decode()]))
if "will" in asked:
    client.set_last_will(*asked["will"])
for line in sys.stdin:
    name, arguments = json.loads(line)
    try:
        if name == "listen":  # until so many messages have come
            end = time.ticks_add(time.ticks_ms(), 10000)
            while len(came) + client.skipped < arguments[0] and time.ticks_diff(end, time.ticks_ms()) > 0:
                client.check_msg()
            said = [came, client.skipped]
        else:
            said = getattr(client, name)(*arguments)
    except (OSError, MQTTException) as error:
        said = repr(error)
    print(json.dumps(said))
