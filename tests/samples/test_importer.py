from __future__ import annotations

import io
import random
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedclient.errors import DataError
from fedclient.samples import importer
from fedclient.samples.importer import load
from fedclient.samples.store import SampleStore


def npz(path, **arrays) -> str:
    np.savez_compressed(path / "data.npz", **arrays)
    return str(path / "data.npz")


def csv(path, text: str | bytes) -> str:
    (path / "data.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path / "data.csv")


# --- what can be read -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (np.uint8, "uint8"),
        (np.int8, "int8"),
        (np.float32, "float32"),
        (np.float64, "float32"),
        (np.int64, "float32"),
    ],
)
def test_an_npz_is_read_in_dtypes_that_the_store_keeps(tmp_path, x, dtype):
    images = np.arange(24).reshape(2, 3, 4).astype(x)
    found = load(npz(tmp_path, x=images, y=np.array([3, 1])))
    assert (found.x.dtype.name, found.x.shape, found.y) == (dtype, (2, 3, 4), (3, 1))
    assert (found.x == images).all()
    with SampleStore(tmp_path / "samples.db") as store:
        store.append_many(found.x, found.y)
        assert [sample.array.dtype for sample in store.read([1, 2])] == [dtype] * 2


@pytest.mark.parametrize(
    ("y", "labels"),
    [
        (np.array([1, 0], np.uint8), (1, 0)),
        (np.array([1.0, 0.0]), (1, 0)),
        (np.array([[1], [0]]), (1, 0)),
        (np.array(["walk", "run"]), ("walk", "run")),
        (np.array([b"walk", b"run"]), ("walk", "run")),
        (np.array(["walk", "0"]), ("walk", "0")),
        (np.array(["1", "0"]), (1, 0)),
    ],
)
def test_labels_are_whole_numbers_or_all_of_them_words(tmp_path, y, labels):
    found = load(npz(tmp_path, x=np.eye(2), y=y))
    assert found.y == labels
    assert found.label_names == (tuple(sorted(labels)) if isinstance(labels[0], str) else ())


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("header", ["", "a,b,label\n", "\ufeffa,b,label\n", "\n"])
def test_a_csv_is_read_with_or_without_a_header(tmp_path, header, newline):
    found = load(csv(tmp_path, (header + '1,2.5,walk\n\n-3e2, 4 ," run"\n').replace("\n", newline)))
    assert found.x.tolist() == [[1, 2.5], [-300, 4]]
    assert (found.x.dtype, found.y, found.label_names) == (np.float32, ("walk", "run"), ("run", "walk"))


def test_a_csv_with_numbers_for_labels(tmp_path):
    assert load(csv(tmp_path, "1,0\n2,1.0\n3,7")).y == (0, 1, 7)


def test_a_function_yields_samples_or_batches(tmp_path, monkeypatch):
    (tmp_path / "my_data.py").write_text(
        "import numpy as np\n"
        "def one():\n    yield [1.0, 2.0], 3\n    yield np.array([4.0, 5.0]), 6\n"
        "def batches():\n    yield np.eye(2), [0, 1]\n    yield np.zeros((1, 2)), ['x']\n"
        "def bad():\n    yield [1.0], 0\n    raise OSError('no\\ncamera')\n"
        "def ragged():\n    yield [1.0], 0\n    yield [1.0, 2.0], 0\n"
        "def alone():\n    yield 3\n"
        "def nothing():\n    return []\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load("my_data:one").x.tolist() == [[1, 2], [4, 5]]
    assert load("my_data:one").y == (3, 6)
    assert load("my_data:batches").y == ("0", "1", "x")
    assert load("my_data:batches").x.shape == (3, 2)
    for name, sentence in {
        "bad": "row 1: OSError: no camera",
        "ragged": "row 2: ValueError",
        "alone": "row 0: TypeError",
        "nothing": "there are no samples",
        "absent": "cannot import it: AttributeError",
    }.items():
        with pytest.raises(DataError, match=f"my_data:{name}: {sentence}"):
            load(f"my_data:{name}")
    with pytest.raises(DataError, match="cannot import it: ModuleNotFoundError"):
        load("no_such_module:data")
    assert str(tmp_path) not in sys.path


def test_real_data_is_read(shared):
    files = sorted((shared / "data").rglob("*.npz"))
    for file in files:
        if {"x", "y"} <= set(np.load(file).files):
            found = load(str(file))
            assert len(found.x) == len(found.y) > 0
    print(f"{len(files)} files")


# --- what cannot, in one sentence with its place --------------------------------------------------


X = np.ones((3, 2))
NAN = np.array([[1, 2], [3, np.nan], [5, 6]])


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": X}, "there is no array y in it"),
        ({"y": np.arange(3)}, "there is no array x in it"),
        ({"x": X, "y": np.arange(2)}, "x has 3 rows but y has 2"),
        ({"x": X[:0], "y": np.arange(0)}, "there are no samples in it"),
        ({"x": NAN, "y": np.arange(3)}, "row 1: it holds NaN"),
        ({"x": X * 1e300, "y": np.arange(3)}, "row 0: it holds NaN, an infinity or a value beyond float32"),
        ({"x": X[:, :0], "y": np.arange(3)}, "give numbers, one row for each sample"),
        ({"x": X[:, 0], "y": np.arange(3)}, "give numbers, one row for each sample"),
        ({"x": np.float64(1), "y": np.arange(3)}, "give numbers, one row for each sample"),
        ({"x": X.astype(str), "y": np.arange(3)}, "give numbers, one row for each sample"),
        ({"x": X.astype(complex), "y": np.arange(3)}, "neither numbers nor text"),
        ({"x": X.astype(object), "y": np.arange(3)}, "nothing pickled is loaded"),
        ({"x": X, "y": np.array([0, "a", None])}, "nothing pickled is loaded"),
        ({"x": X, "y": X}, "give one whole number or word for each sample"),
        (
            {"x": X, "y": np.array([0, 0.5, 1])},
            r"y\[1\]: the label is 0.5, neither a whole number nor a word",
        ),
        ({"x": X, "y": np.array([0, np.nan, 1])}, r"y\[1\]: the label is nan"),
        ({"x": X, "y": np.array(["a", "", "b"])}, r"y\[1\]: the label is missing"),
        ({"x": X, "y": np.array([0, 2**64 - 1, 1], np.uint64)}, "row 1: the label is 18446744073709551615"),
        ({"x": np.ones((1,) * 9), "y": np.arange(1)}, "give numbers"),
    ],
)
def test_an_npz_that_cannot_be_imported(tmp_path, arrays, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        load(npz(tmp_path, **arrays))
    assert str(caught.value).startswith(f"{tmp_path}/data.npz: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "there are no samples"),
        ("a,b,label\n", "there are no samples"),
        ("1,2,x\n1,2,3,x\n", "line 2: 4 columns in place of 3"),
        ("1,2,x\n1,x\n", "line 2: 2 columns in place of 3"),
        ("1,2,x\n1,a,x\n", "line 2: a column before the last is not a finite number"),
        ("a,b,c\nd,e,f\n", "line 2: a column before the last"),
        ("1,2,x\n1,nan,x\n", "line 2: a column before the last is not a finite number"),
        ("1,2,x\n1,1e39,x\n", "line 2: a column before the last is not a finite number"),
        ("1,2,x\n1,,x\n", "line 2: a column before the last"),
        ("1,2,x\n1,2,\n", "line 2: the label is missing"),
        ("1,2,x\n1,2,0.5\n", "line 2: the label is 0.5, neither"),
        ("1\n2\n", "line 1: 1 columns in place of 2"),
        ("1,2," + "x" * 65, "line 1: the label is 'xxx"),
        (b"1,2,\xff\n", "it cannot be read as a CSV file in UTF-8"),
        (b'1,2,"x\n', "it cannot be read as a CSV file"),
    ],
)
def test_a_csv_that_cannot_be_imported(tmp_path, text, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        load(csv(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path}/data.csv: ")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for data, sentence in {
        "data.txt": "unknown kind of data; give FILE.npz, FILE.csv or package.module:function",
        f"{tmp_path}/absent.npz": "No such file",
        f"{tmp_path}/folder.csv": "this is not a file",
        csv(tmp_path, "x").replace("csv", "npz"): "No such file",
    }.items():
        with pytest.raises(DataError, match=sentence):
            load(data)


# --- hostile files --------------------------------------------------------------------------------


def archive(path, **members: bytes) -> str:
    with zipfile.ZipFile(path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in members.items():
            target.writestr(f"{name}.npy", data)
    return str(path / "bomb.npz")


def npy(shape: tuple[int, ...], dtype: str, body: bytes) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": dtype})
    return file.getvalue() + body


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(importer, "MAX_DATASET_BYTES", 1 << 20)
    bomb = archive(tmp_path, x=npy((1 << 22,), "|u1", bytes(1 << 22)), y=npy((1,), "|u1", b"0"))
    with pytest.raises(DataError, match="x: more than 1 MiB"):
        load(bomb)


@pytest.mark.parametrize(
    "member",
    [
        npy((1 << 60,), "|u1", b"0"),
        npy((1 << 62, 1 << 62), "<f8", b"0"),
        npy((4,), "<f8", b"0" * 31),
        npy((-4,), "<f8", b"0" * 32),
        npy((2, 2), "<f8", b"0" * 33),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, member):
    with pytest.raises(DataError, match=r"bomb\.npz: "):
        load(archive(tmp_path, x=member, y=npy((1,), "|u1", b"0")))


def test_a_large_csv_or_function_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(importer, "MAX_DATASET_BYTES", 100)
    with pytest.raises(DataError, match="more than 0 MiB; split it"):
        load(csv(tmp_path, "1,2,3\n" * 100))
    (tmp_path / "endless_data.py").write_text("def data():\n    while True:\n        yield [1.0], 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="more than 0 MiB; split it"):
        load("endless_data:data")


def test_damaged_archives_raise_nothing_but_data_errors(tmp_path, thorough):
    chance = random.Random(5)
    whole = (tmp_path / "x").with_suffix(".npz")
    np.savez(whole, x=np.arange(12.0).reshape(4, 3), y=np.arange(4))
    data = whole.read_bytes()
    read = 0
    for attempt in range(20_000 if thorough else 1500):
        damaged = bytearray(data[: chance.randrange(len(data))] if attempt % 4 == 0 else data)
        for _ in range(chance.choice((1, 1, 2, 8))):
            if damaged:
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        whole.write_bytes(damaged)
        try:
            read += len(load(str(whole)).x) == 4
        except DataError as error:
            assert str(error).startswith(f"{whole}: ")  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
    print(f"{read} could be read")


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: text.encode(errors="replace")))
)
def test_any_bytes_as_csv_raise_nothing_but_data_errors(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("csv")
    try:
        load(csv(path, data))
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017
