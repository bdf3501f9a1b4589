"""`fedclient nodes`: names, secrets and figures, for people and for programs."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest

from fedclient.cli.main import main
from fedclient.nodes.headfile import POOLED, HeadFile
from fedclient.nodes.keys import TAG_BYTES
from fedclient.nodes.messages import NodeHead, NodeHeadVersion, NodeLayer, encode_head
from fedclient.nodes.registry import Registry
from fedclient.samples.array import as_array
from fedclient.samples.nodes import NodeRow
from fedclient.samples.store import SampleStore
from tests.cli.running import Answers, running

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def nodes(folder, tmp_path: Path, capsys):
    """Run a verb of `fedclient nodes`; return its exit code, output and errors."""
    config = tmp_path / "config.toml"

    def run(*words: str, settings: str = "enabled = true"):
        config.write_text(f"[nodes]\n{settings}\n")
        code = main(["--config", str(config), "--state", str(folder.path), "nodes", *words])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_add_export_renew_revoke(folder, nodes) -> None:
    assert nodes("add", "shed")[:2] == (
        0,
        "added node shed; `fedclient nodes export-secrets shed` prints what it needs\n",
    )
    code, out, err = nodes("export-secrets", "shed")
    secret = Registry(folder.nodes).get("shed").secret
    assert secret is not None
    assert json.loads(out) == {
        "format": 1, "federation": "local", "node": "shed", "generation": 1, "secret": secret.hex(),
        "host": "127.0.0.1", "port": 1883, "tls": False,
    }  # fmt: skip
    assert (code, "a board needs --host HOST" in err) == (0, True)
    assert nodes("renew", "shed")[1].startswith("node shed has a new secret, of generation 2")
    assert json.loads(nodes("export-secrets", "shed")[1])["generation"] == 2
    assert nodes("revoke", "shed")[1].startswith("node shed is revoked; its samples stay")
    code, out, err = nodes("export-secrets", "shed")
    assert (code, out) == (2, "")
    assert err == "fedclient: node shed is revoked: `fedclient nodes renew shed` ends that\n"


def test_samples_cross_a_network_without_encryption_only_by_leave(nodes) -> None:
    nodes("add", "shed")
    code, out, err = nodes("export-secrets", "shed", "--host", "192.0.2.7")
    assert (code, out) == (1, "")
    assert err == (
        "fedclient: samples would go to 192.0.2.7 without encryption: "
        "in [nodes] set tls = true, or allow_plaintext = true\n"
    )
    for leave in ("allow_plaintext = true", "tls = true"):
        code, out, err = nodes("export-secrets", "shed", "--host", "192.0.2.7", settings=leave)
        assert (code, err, json.loads(out)["host"]) == (0, "", "192.0.2.7")
    assert json.loads(out)["port"] == 8883


def test_the_password_at_the_broker_goes_into_the_same_file(nodes, tmp_path) -> None:
    nodes("add", "shed")
    path = tmp_path / "shed.password"
    path.write_text("open sesame\n")
    path.chmod(0o600)
    told = json.loads(nodes("export-secrets", "shed", "--password-file", str(path))[1])
    assert (told["username"], told["password"]) == ("shed", "open sesame")
    path.chmod(0o644)
    code, out, err = nodes("export-secrets", "shed", "--password-file", str(path))
    assert (code, out) == (1, "")
    assert err.endswith("others may read this password (mode 0644): chmod 0600 it\n")
    path.unlink()
    code, out, err = nodes("export-secrets", "shed", "--password-file", str(path))
    assert (code, out) == (1, "")
    assert err.endswith("--password-file cannot be read: No such file or directory\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("add", "Shed"), "node name 'Shed' is not allowed"),
        (("add", "shed"), "node shed is there already"),
        (("renew", "barn"), "there is no node barn, there are: shed"),
        (("export-secrets", "barn"), "there is no node barn"),
    ],
)
def test_mistakes_are_one_line(nodes, words, sentence) -> None:
    nodes("add", "shed")
    code, out, err = nodes(*words)
    assert (code in {1, 2}, out) == (True, "")
    assert sentence in err
    assert err.count("\n") == 1


def fill(folder) -> None:
    with SampleStore(folder.samples) as store, store.node_rows() as rows:
        rows.add(
            [
                NodeRow(
                    node="shed", generation=1, counter=at, label_counter=at, array=as_array([at]), label=label
                )
                for at, label in ((1, 4), (2, None))
            ],
            int(time.time()) - 190,
        )
        rows.count({("shed", "stored"): 2, ("shed", "wrong tag"): 3, ("", "unknown node"): 5})


def test_list_and_status_say_what_was_refused_and_why(folder, nodes, tmp_path, capsys) -> None:
    nodes("add", "shed")
    nodes("add", "barn")
    nodes("revoke", "barn")
    fill(folder)
    assert nodes("list")[1].splitlines() == [
        "barn (revoked)                    0 samples, 0 labelled",
        "shed (generation 1)               2 samples, 1 labelled, the last 3 min ago",
        "  stored: 2",
        "  wrong tag: 3",
        "(strangers)                       0 samples, 0 labelled",
        "  unknown node: 5",
        "nobody listens to them now: the agent does not run",
    ]
    told = json.loads(nodes("list", "--json")[1])
    assert told["enabled"] is True
    assert time.time() - told["nodes"][1].pop("newest_unix_s") < 600
    assert told["nodes"][1] == {
        "node": "shed", "generation": 1, "revoked": False, "samples": 2, "labelled": 1,
        "counts": {"stored": 2, "wrong tag": 3},
                    "head": None, "head_bytes": None, "head_note": None, "unsuited": {},
    }  # fmt: skip
    config = ["--config", str(tmp_path / "config.toml"), "--state", str(folder.path)]
    assert main([*config, "status", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["nodes"] == {
        "nodes": 1,
        "samples": 2,
        "refused": {"unknown node": 5, "wrong tag": 3},
        "sent_again": 0,
    }
    assert main([*config, "status"]) == 0
    assert (
        "nodes             1, 2 samples of theirs; refused: 3 wrong tag, 5 unknown node"
        in capsys.readouterr().out
    )


def test_list_says_which_head_each_node_gets(folder, nodes) -> None:
    for name in ("shed", "barn", "loft"):
        nodes("add", name)
    nodes("revoke", "loft")

    def save(name: str, revision: int, why: str = "") -> int:
        layer = NodeLayer(relu=False, weights=bytes(6), scales=b"\0\0\x80?" * 2, bias=bytes(8))
        head = NodeHead(version=NodeHeadVersion(1, 3, revision), layers=(layer,), labels=())
        body = b"" if why.startswith("the model") else encode_head(head)
        HeadFile(adopted_sha256="", revision=revision, why=why, body=body).save(folder.node_heads, name)
        return len(body) + TAG_BYTES

    def heads(settings: str = "enabled = true") -> list[str]:
        lines = nodes("list", settings=settings)[1].splitlines()
        return [f"{before.split()[0]}{line}" for before, line in pairwise(lines) if "head: " in line]

    assert heads() == []
    size = save(POOLED, 0)
    assert heads() == [f"barn  head: 1.3, {size} bytes", f"shed  head: 1.3, {size} bytes"]
    assert heads("enabled = true\npersonal = true") == []
    save("shed", 4, "tuned: right on 9 of 10")
    save("loft", 4)
    assert heads("enabled = true\npersonal = true") == [
        f"shed  head: 1.3, {size} bytes; tuned: right on 9 of 10"
    ]
    save(POOLED, 5, "the model has a backbone")
    assert heads()[0] == "barn  head: none; the model has a backbone"


def test_list_says_which_samples_the_head_cannot_be_trained_with(folder, nodes) -> None:
    """Somebody who sends one value too few, or names classes otherwise, sees nothing else of it."""
    nodes("add", "shed")
    nodes("add", "barn")
    layer = NodeLayer(relu=False, weights=bytes(6), scales=b"\0\0\x80?" * 2, bias=bytes(8))
    head = NodeHead(version=NodeHeadVersion(1, 3), layers=(layer,), labels=("dry", "wet"))
    sent = [((1, 2, 3), "dry"), ((1, 2, 3), None), ((1, 2), "wet"), ((3, 4), "Wet"), ((1, 2, 3), "Wet"),
            ((1, 2, 3), 1), ((1, 2, 3), 2)]  # fmt: skip
    with SampleStore(folder.samples) as store, store.node_rows() as rows:
        rows.add([NodeRow(node="shed", generation=1, counter=number, label_counter=number,
                          array=as_array([*map(float, values)]), label=label)
                  for number, (values, label) in enumerate(sent, start=1)], 0)  # fmt: skip
    assert "not trained on" not in nodes("list")[1], "there is no head to compare with"
    HeadFile(adopted_sha256="", revision=0, why="", body=encode_head(head)).save(folder.node_heads, POOLED)
    told = nodes("list")[1].splitlines()
    assert told[0].startswith("barn")
    assert [line for line in told if "not trained on" in line] == [
        "  not trained on: 2 of 2 values, the head takes 3",
        "  not trained on: 1 labelled 2, which is none of the head's classes",
        "  not trained on: 1 labelled Wet, which is none of the head's classes",
    ]
    barn, shed = json.loads(nodes("list", "--json")[1])["nodes"]
    assert barn["unsuited"] == {}
    assert shed["unsuited"]["of 2 values, the head takes 3"] == 2
    assert "decoded" not in shed


def test_where_nobody_listens_it_says_so(nodes) -> None:
    assert "set [nodes] enabled = true" in nodes("add", "shed", settings="")[2]
    assert "set [nodes] enabled = true" in nodes("list", settings="")[1]


def test_a_running_agent_is_asked_to_look(folder, nodes) -> None:
    answers = Answers()
    with running(folder, answers):
        for verb in ("add", "renew", "revoke"):
            assert nodes(verb, "shed")[0] == 0
    assert answers.asked == [{"ask": "status"}] * 3


def test_list_says_what_keeps_the_agent_from_hearing_them(folder, nodes) -> None:
    answers = Answers()
    answers.notes = ["no connection: of the federation", "nodes: nothing listens at 127.0.0.1:1883"]
    with running(folder, answers):
        assert nodes("list")[1].splitlines() == [
            "no nodes: `fedclient nodes add NODE` adds one",
            "nodes: nothing listens at 127.0.0.1:1883",
        ]
        assert json.loads(nodes("list", "--json")[1])["notes"] == answers.notes[1:]
        assert answers.asked
