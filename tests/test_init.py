import subprocess
import sys

import pytest

import fedclient


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*sorted(sys.modules))"
    return set(
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_every_public_name_loads() -> None:
    for name in fedclient.__all__:
        assert getattr(fedclient, name) is not None
    assert set(fedclient.__all__) <= set(dir(fedclient))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        fedclient.load_modle  # noqa: B018


def test_recording_samples_loads_neither_numpy_nor_nacl() -> None:
    loaded = modules_after("import fedclient; fedclient.SampleStore")
    assert "fedclient.samples.store" in loaded
    assert not loaded & {"numpy", "nacl", "paho", "psutil", "cbor2", "tflite_runtime"}


def test_importing_the_package_loads_nothing_of_it() -> None:
    assert {name for name in modules_after("import fedclient") if name.startswith("fedclient.")} == set()


def test_the_agent_loads_neither_numpy_nor_a_runtime() -> None:
    loaded = modules_after("import fedclient.cli.run, fedclient.transport.mqtt")
    assert "fedclient.client.agent" in loaded
    assert not loaded & {"numpy", "tflite_runtime", "ai_edge_litert"}
