"""`fedclient nodes`: names, secrets and figures, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedclient.cli.main import main
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
    assert (code, "another one needs --host" in err) == (0, True)
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
        "set [nodes] tls, or allow_plaintext there\n"
    )
    for leave in ("allow_plaintext = true", "tls = true"):
        code, out, err = nodes("export-secrets", "shed", "--host", "192.0.2.7", settings=leave)
        assert (code, err, json.loads(out)["host"]) == (0, "", "192.0.2.7")
    assert json.loads(out)["port"] == 8883


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
            0,
        )
        rows.count({("shed", "stored"): 2, ("shed", "wrong tag"): 3, ("", "unknown node"): 5})


def test_list_and_status_say_what_was_refused_and_why(folder, nodes, tmp_path, capsys) -> None:
    nodes("add", "shed")
    nodes("add", "barn")
    nodes("revoke", "barn")
    fill(folder)
    assert nodes("list")[1].splitlines() == [
        "barn (revoked)                    0 samples, 0 labelled",
        "shed (generation 1)               2 samples, 1 labelled",
        "  stored: 2",
        "  wrong tag: 3",
        "(strangers)                       0 samples, 0 labelled",
        "  unknown node: 5",
    ]
    told = json.loads(nodes("list", "--json")[1])
    assert told["enabled"] is True
    assert told["nodes"][1] == {
        "node": "shed", "generation": 1, "revoked": False, "samples": 2, "labelled": 1,
        "counts": {"stored": 2, "wrong tag": 3}, "head": None,
    }  # fmt: skip
    config = ["--config", str(tmp_path / "config.toml"), "--state", str(folder.path)]
    assert main([*config, "status", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["nodes"] == {"nodes": 1, "samples": 2, "refused": {"unknown node": 5, "wrong tag": 3}}
    assert main([*config, "status"]) == 0
    assert (
        "nodes             1, 2 samples of theirs; refused: 3 wrong tag, 5 unknown node"
        in capsys.readouterr().out
    )


def test_where_nobody_listens_it_says_so(nodes) -> None:
    assert "set [nodes] enabled = true" in nodes("add", "shed", settings="")[2]
    assert "set [nodes] enabled = true" in nodes("list", settings="")[1]


def test_a_running_agent_is_asked_to_look(folder, nodes) -> None:
    answers = Answers()
    with running(folder, answers):
        for verb in ("add", "renew", "revoke"):
            assert nodes(verb, "shed")[0] == 0
    assert answers.asked == [{"ask": "status"}] * 3
