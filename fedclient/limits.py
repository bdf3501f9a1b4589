"""Every bound on input from outside: name, unit, reason.

A decoder checks these before it allocates.  A bound that an owner may lower is a
setting in `config.py`; what stands here is the ceiling of the format itself.
"""

from __future__ import annotations

from typing import Final

# --- names -------------------------------------------------------------------------------------
MAX_FEDERATION_CHARS: Final = 12  # it is in every topic of every message
DEVICE_ID_CHARS: Final = 16  # 80 bits of SHA-256: no collisions among devices, short in topics
MAX_TENSOR_NAME_BYTES: Final = 128  # longest names seen in converted models are about 60
MAX_NAME_BYTES: Final = 32  # of a gate, a phase or a version of the software
MAX_HOST_BYTES: Final = 255  # of a host name (RFC 1035)
MAX_LABEL_BYTES: Final = 64  # a word, not an essay
MAX_LABELS: Final = 4096  # classes of a head; each label is in every manifest

# --- messages ----------------------------------------------------------------------------------
MAX_MANIFEST_BYTES: Final = 64 * 1024  # PROTOCOL 6; a manifest is read by the agent, without NumPy
MAX_CHUNK_BYTES: Final = 96 * 1024  # PROTOCOL 6; below the 128 KiB that hosted brokers accept
MAX_RECEIPT_BYTES: Final = 1024  # a receipt is about 150 bytes
MAX_COMMAND_BYTES: Final = 512  # a command is about 100 bytes
MAX_ENROL_BYTES: Final = 1024  # an enrolment request is 165 bytes
MAX_STATUS_BYTES: Final = 2048  # state and gate names only
MAX_GATES: Final = 32  # in one status; the scheduler has fewer
MAX_UPDATE_BYTES: Final = 4 * 1024 * 1024  # a dense int8 head of four million parameters
MAX_UPDATE_FIELDS_BYTES: Final = 64  # what precedes an update's body: five fields of 34 bytes at most
MAX_PACKET_BYTES: Final = MAX_UPDATE_BYTES + 1024  # MQTT packet a gateway takes: body, topic and header
MAX_DEVICE_PACKET_BYTES: Final = MAX_CHUNK_BYTES + 1024  # MQTT packet a device takes
MAX_INVITATION_CHARS: Final = 2048  # it is pasted by people

# --- CBOR ---------------------------------------------------------------------------------------
MAX_CBOR_DEPTH: Final = 8  # the deepest message of ours has 4 levels
MAX_CBOR_ITEMS: Final = 65_536  # items in one message: a manifest with 4096 labels has fewer than 10,000

# --- heads and models ---------------------------------------------------------------------------
MAX_TENSORS: Final = 64  # a head is a few layers
MAX_SEGMENTS: Final = 4096  # that a body may tell apart: each costs a bit or so, and time
MAX_GROUPS: Final = 64  # of these segments; an encoder makes fewer, and each takes a decoder 20 us
MAX_DELTAS: Final = 8  # in a manifest: each costs every device 13 bytes a round
DELTA_BYTES: Final = (64, MAX_UPDATE_BYTES)  # from a head to the next: below, topics and signatures are all
MAX_TENSOR_RANK: Final = 6  # a convolution kernel has 4
MAX_HEAD_PARAMETERS: Final = 4_000_000  # 16 MB of float32; matches MAX_UPDATE_BYTES
MAX_MODEL_BYTES: Final = (
    64 * 1024 * 1024
)  # what is opened here at all; an owner may lower it ([limits] max_model_mib)
MAX_PACKAGED_BYTES: Final = 1024 * 1024  # of TFLite Metadata, or of a file of labels: a few KiB are usual
MAX_BLOB_CHUNKS: Final = 3072  # the list of chunk hashes is itself one chunk: 96 KiB / 32

# --- training ------------------------------------------------------------------------------------
MAX_EPOCHS: Final = 100  # a plan asking for more is a mistake or an attack on the battery
MAX_BATCH: Final = 4096  # more rows than a head needs at once
MAX_EXAMPLES: Final = 1_000_000  # of one job: their features are in memory
MAX_SAMPLE_BYTES: Final = 16 * 1024 * 1024  # one sample: a large camera frame
MAX_DATASET_BYTES: Final = 512 * 1024 * 1024  # what --data may unpack to; it is held in memory
MAX_BUCKET: Final = 62  # samples as a power of two: 2^62 fits SQLite's integers
MAX_STALENESS: Final = 1000  # versions an update may be behind; what is older has nothing to say
LEARNING_RATES: Final = (1e-9, 1e3)  # least and greatest; beyond them a plan is a mistake
DENSITIES: Final = (1e-6, 1.0)  # share of elements sent
VALUE_BITS: Final = (2, 8)  # of an element's value, with its sign; one bit is the mode of signs
UPDATE_BYTES: Final = (256, MAX_UPDATE_BYTES)  # of an update's message, of which about 165 are not its body
DAY_BYTES: Final = (256, 1 << 40)  # of one device's updates in a day
UPDATE_OVERHEAD_BYTES: Final = 208  # of an update beyond its body, at most: all numbers at their largest
NORM_BOUNDS: Final = (1e-9, 1e9)  # L2, of a whole delta
MOMENTA: Final = (0.0, 0.9999)  # beyond them a step never ends
PENALTIES: Final = (0.0, 1e3)  # of l2 and mu; beyond them nothing is learnt
MAX_FEATURE: Final = 2.0**27  # of a mean in feature statistics: raw readings of a 24-bit converter fit
MAX_BUDGET_S: Final = 24 * 3600.0  # of one job's training
COUNTER_MAX: Final = 2**63 - 1  # SQLite's integers

# --- durations -----------------------------------------------------------------------------------
MAX_RETRY_WINDOW_S: Final = 7 * 24 * 3600  # a gateway may ask a device to wait, not to vanish
MAX_PAUSE_S: Final = 30 * 24 * 3600  # of one with an end; who means longer says "until resumed"

# --- the owner's line to the agent ------------------------------------------------------------------
MAX_CONSOLE_REQUEST_BYTES: Final = 1024  # a request is about 40 bytes
MAX_CONSOLE_ANSWER_BYTES: Final = 1024 * 1024  # a decision with its reasons is about 10 KiB

# --- gateway -------------------------------------------------------------------------------------
MAX_INBOX_MESSAGES: Final = 20_000  # received and not yet handled; devices offer again what is dropped
MAX_INBOX_BYTES: Final = 64 * 1024 * 1024  # ditto, in memory
MAX_INBOX_SHARE_BYTES: Final = 2 * MAX_PACKET_BYTES  # of one device in that inbox; an honest one sends once
MAX_FLOOR_JUMP: Final = 1_000_000  # heads a backup may be behind: a larger claim is a lie, to end counting

# --- nodes ----------------------------------------------------------------------------------------
MAX_NODE_CHARS: Final = 16  # it is in every topic of a node
MAX_NODE_SAMPLE_BYTES: Final = 16 * 1024  # a message: 4,000 values of float32; an owner may set less
MAX_NODE_LABEL_BYTES: Final = 256  # a message: a label of 64 bytes, two counters, nonce and tag take 110
MAX_NODE_ACK_BYTES: Final = 1536  # a message: 64 ranges and 64 counters take about 1,400
MAX_NODE_HEAD_BYTES: Final = 64 * 1024  # a message: more than a microcontroller's memory has room for
MAX_NODE_COUNTER: Final = 1 << 53  # whole numbers up to here are exact everywhere
MAX_NODE_GENERATION: Final = 0xFFFF_FFFF  # four bytes in the derivation of a key
NODE_WINDOW: Final = 1024  # counters above the floor that may come in any order
MAX_ACK_RANGES: Final = 64  # in one acknowledgement; further ones follow when these are closed
MAX_ACK_GONE: Final = 64  # ditto; a counter that is not named is settled all the same
MAX_NODE_LAYERS: Final = 8  # of a head: a microcontroller has time for two or three
MAX_NODE_ROWS: Final = 4096  # outputs of a layer; as MAX_LABELS
MAX_NODE_PACKET_BYTES: Final = 128 * 1024  # MQTT packet from nodes: what is too large is counted, up to here
