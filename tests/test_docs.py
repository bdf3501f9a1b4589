"""The documents say what is so: paths exist, commands run, the API snippet works, numbers have commands."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest

from fedclient.cli import demo
from fedclient.gateway.store import Round
from fedclient.model.inspection import Inspection, Part
from fedclient.model.proof import Report as ModelReport
from fedclient.model.tap import Tap
from fedclient.samples.store import Stats as SampleStats
from fedclient.scheduler.policy import Gate
from fedclient.testing.broker import Mosquitto

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
PAGES += sorted(path for folder in ("docs", "examples") for path in (ROOT / folder).rglob("*.md"))
README = (ROOT / "README.md").read_text()
MODELS = (ROOT / "docs" / "models.md").read_text()
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page) -> None:
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_path_in_code_quotes_exists(page) -> None:
    quoted = re.findall(r"`((?:fedclient|tests|tools|docs|examples|hardware)/[\w./-]+)`", page.read_text())
    missing = [path for path in quoted if not (ROOT / path).exists()]
    assert not missing


def test_the_where_is_it_table_names_real_files() -> None:
    table = README.split("## Where is it?")[1].split("\n## ")[0]
    paths = LINK.findall(table)
    assert len(paths) >= 15
    assert all((ROOT / path).exists() for path in paths)


def test_the_demo_output_is_there_and_short() -> None:
    shown = blocks(README, "text")[0]
    assert 5 <= len(shown.splitlines()) <= 25
    assert "centralised" in shown


def test_the_commands_of_the_first_screen_exist_and_run() -> None:
    for tool in ("demo", "test", "check"):
        path = ROOT / "tools" / tool
        assert os.access(path, os.X_OK), f"tools/{tool} is not executable"
        subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.fixture
def home(tmp_path) -> dict[str, str]:
    """An environment in which ~ is a scratch folder and `fedclient` is this one's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEDCLIENT")}
    (tmp_path / "fed").mkdir()
    bin_folder = str(Path(sys.executable).parent)
    return {**environment, "HOME": str(tmp_path), "PATH": f"{bin_folder}:{environment['PATH']}"}


def test_the_commands_for_a_device_run_as_they_stand(home, mosquitto, tmp_path) -> None:
    """From `new-head` to a head that three devices made, against a real broker; only its port differs."""
    section = README.split("## On a device")[1].split("\n## ")[0]
    install, federation, device, more, dry_run = blocks(section, "sh")
    exports = [line for line in install.splitlines() if line.startswith("export")]
    with Mosquitto(mosquitto) as broker:
        busy = r"sed -i -E 's/^#(max_cpu_percent|max_pressure_percent) = .*/\1 = false/' ~/fed/config.toml"
        device = device.replace("\n", f"\n{busy}\n", 1)
        rounds = "fedclient --state ~/fed/gateway gateway rounds"
        wait = f"until {rounds} | grep '^1.2 .*updates 3'; do sleep 1; done\n"
        lines = [*exports, *(federation + device + more + wait + dry_run).splitlines()]
        script = "\n".join(["set -e", *lines, "kill $(jobs -p)", "wait"])
        script = script.replace("localhost:1883", f"localhost:{broker.port}")
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=ROOT,
            env=home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^federation +lab$", done.stdout, re.MULTILINE)
    assert "sealed" in done.stdout
    (shown,) = blocks(section, "text")[-1:]
    table = [line.split() for line in shown.splitlines()[1:]]
    found = [line.split() for line in done.stdout.splitlines()]
    assert table[0] in found
    *rows, picked = table[1:]
    *these, update = found[-len(table[1:]) :]
    assert [row[:3] for row in rows] == [row[:3] for row in these]  # sizes may differ
    assert picked[-2:] == update[-2:] == ["this", "update"]  # how many elements fit depends on the runtime
    assert (tmp_path / "fed/device/keys/device.key").exists()


def test_what_a_node_takes_is_said_as_its_own_page_says_it() -> None:
    section = README.split("## Microcontrollers")[1].split("\n## ")[0]
    memory = (ROOT / "examples" / "micropython" / "fednode" / "README.md").read_text().split("## Memory")[1]
    figures = re.findall(r"[\d,]+(?= bytes| KiB)", section)
    assert len(figures) == 2
    assert [one for one in figures if one not in memory] == []


def test_the_install_commands_install(home, tmp_path, thorough) -> None:
    if not thorough:
        pytest.skip("LEFT OUT: installs from the package index; run with --thorough")
    install, federation, *_ = blocks(README.split("## On a device")[1], "sh")
    shutil.rmtree(tmp_path / "fed")
    script = f"set -e\n{install}\nfedclient --version\n{federation.splitlines()[0]}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=home, capture_output=True, text=True, check=True
    )
    assert re.search(r"^fedclient [0-9.]+$", done.stdout, re.MULTILINE)
    assert (tmp_path / "fed/head.tflite").exists()


def test_the_api_in_ten_lines_runs(tmp_path, capsys) -> None:
    """The snippet of the README, against a federation in one process."""
    import numpy as np  # noqa: PLC0415

    from fedclient.device.slots import Slots  # noqa: PLC0415
    from fedclient.model.head import write_head  # noqa: PLC0415
    from fedclient.values import BlobRef, HeadVersion, Manifest, Plan, TensorSpec  # noqa: PLC0415
    from fedclient.wire.blobs import split  # noqa: PLC0415

    model = write_head(features=4, classes=2)
    tensors = (TensorSpec(name="output/bias", shape=(2,)), TensorSpec(name="output/kernel", shape=(2, 4)))

    def adopt(version: int) -> None:
        head = np.full(10, version, "<f4").tobytes()
        refs: list[BlobRef] = [split(model).ref, split(head).ref]
        manifest = Manifest(
            head_version=HeadVersion(1, version), model=refs[0], head=refs[1], full=refs[1], tensors=tensors,
            labels=("walking", "running"), plan=Plan(), plan_hash=bytes(32),
        )  # fmt: skip
        Slots(tmp_path / "current").adopt(manifest, model, head)

    (tmp_path / "current").mkdir()
    adopt(1)
    (snippet,) = blocks(README, "python")
    names = {"features": np.ones(4, np.float32)}
    before = os.environ.get("FEDCLIENT_STATE")
    os.environ["FEDCLIENT_STATE"] = str(tmp_path)
    try:
        exec(snippet.replace("if model.refresh", "adopt(2)\nif model.refresh"), {**names, "adopt": adopt})  # noqa: S102
    finally:
        os.environ.pop("FEDCLIENT_STATE")
        if before is not None:
            os.environ["FEDCLIENT_STATE"] = before
    assert capsys.readouterr().out == "now predicting with 1.2\n"


def run_in(folder: Path, home: dict[str, str], script: str, deadline_s: float = 240) -> str:
    """Run commands of a document; whatever they left running ends with them."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            ["bash", "-c", f"set -e\n{script}"],
            cwd=folder,
            env=home | {"PYTHONPATH": str(ROOT)},
            stdout=out,
            stderr=errors,
            start_new_session=True,
        )
        try:
            code = process.wait(deadline_s)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        errors.seek(0)
        assert code == 0, errors.read()
        return out.read()


def test_the_worked_example_with_a_model_runs_as_it_stands(home, shared, tmp_path) -> None:
    """On the backbone and the letters that it names; what it shows is what is printed."""
    section = MODELS.split("## A worked example")[1].split("\n## ")[0]
    inspect, attach, train = blocks(section, "sh")
    (prepare,) = blocks(section, "python")
    shown_before, shown = blocks(section, "text")
    folder = tmp_path / "fed"
    backbone = shared / "models" / "mobilenet_v2_035_96_embedder_with_metadata.tflite"
    shutil.copy(backbone, folder / "backbone.tflite")
    shutil.copy(shared / "data" / "omniglot_latin" / "latin.npz", folder)
    assert run_in(folder, home, inspect).startswith(shown_before)
    run_in(folder, home, f"python - <<'END'\n{prepare}\nEND")
    measured = r"tflite_runtime|ai_edge_litert|\d\.\de[+-]\d\d"
    assert re.sub(measured, "", run_in(folder, home, attach)) == re.sub(measured, "", shown)
    trained = run_in(folder, home, train)
    (right,) = re.findall(r"epoch 10 .* on held-out data (\d\.\d+)", trained)
    assert float(right) > 0.8  # an example that learns nothing teaches nothing
    assert "trainable      yes" in trained
    assert "\nok: " in trained


def test_the_commands_for_a_head_run_as_they_stand(home, tmp_path) -> None:
    (commands,) = blocks(MODELS.split("\n## What a trainable file contains")[1].split("\n## ")[0], "sh")
    assert "\nok: " in run_in(tmp_path / "fed", home, commands)


def test_the_page_on_models_names_what_travels_with_a_file() -> None:
    from fedclient.model.origin import Origin  # noqa: PLC0415

    table = MODELS.split("\n## What travels with the file")[1]
    inner = {"tap_scale", "tap_zero_point"}
    assert [
        one.name for one in fields(Origin) if f"| `{one.name}` |" not in table and one.name not in inner
    ] == []


def test_every_verb_of_the_documents_is_a_verb() -> None:
    from fedclient.cli.main import VERBS  # noqa: PLC0415

    for page in PAGES:
        for verb in re.findall(r"`fedclient ([a-z][a-z-]+)", page.read_text()):
            assert verb in VERBS or page.parent.name == "adr", f"{named(page)}: fedclient {verb}"


def test_the_plan_of_the_documents_is_the_default_and_explains_every_key(tmp_path) -> None:
    from fedclient.cli.plan import read_plan  # noqa: PLC0415
    from fedclient.values import Codec, Plan  # noqa: PLC0415

    section = (ROOT / "docs" / "operations.md").read_text().split("\n### A plan\n")[1].split("\n### ")[0]
    (shown,) = blocks(section, "toml")
    path = tmp_path / "plan.toml"
    path.write_text(shown)
    assert read_plan(path) == Plan()
    keys = [field.name for field in fields(Plan) if field.name != "codec"]
    keys += [f"[codec] {field.name}" for field in fields(Codec)]
    assert [key for key in keys if f"\n| `{key}` |" not in section] == []
    said = {line.split(" = ")[0] for line in shown.splitlines() if " = " in line}
    assert said == {key.removeprefix("[codec] ") for key in keys}


@pytest.mark.parametrize(
    "kind", [demo.Report, demo.RoundReport, Gate, ModelReport, SampleStats, Round, Inspection, Part, Tap]
)
def test_every_field_of_a_json_object_is_documented(kind) -> None:
    section = (ROOT / "docs" / "operations.md").read_text().split("\n## JSON\n")[1]
    missing = [field.name for field in fields(kind) if f"`{field.name}`" not in section]
    assert not missing
