import sys

import pytest

from slimnet.errors import InputError
from slimnet.networks.userfile import call_in_file


def write(folder, text, name="mine.py"):
    (folder / name).write_text(text)
    return f"{folder / name}:make"


def test_calls_the_function_with_the_options(tmp_path):
    spec = write(tmp_path, "def make(a, b=1):\n    return a + b\n")
    assert call_in_file(spec, {"a": 2}) == 3


def test_classes_keep_their_identity_between_calls(tmp_path):
    spec = write(tmp_path, "class A: pass\ndef make():\n    return A()\n")
    assert type(call_in_file(spec, {})) is type(call_in_file(spec, {}))


def test_imports_from_its_own_folder(tmp_path):
    write(tmp_path, "VALUE = 5\n", "beside_mine.py")
    spec = write(tmp_path, "def make():\n    import beside_mine\n    return beside_mine.VALUE\n")
    assert call_in_file(spec, {}) == 5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def other():\n    pass\n", "defines no function 'make'; it defines other"),
        ("make = 3", "defines no function 'make'; it defines none"),
        ("def make(:\n", "failed: SyntaxError"),
        ("import no_such_module_here\n", "failed: ModuleNotFoundError"),
        ("def make():\n    return 1 / 0\n", "failed: ZeroDivisionError"),
        ("def make(x):\n    return x\n", "failed: TypeError.*missing"),
        ("raise SystemExit(3)", "failed: SystemExit: 3"),
    ],
)
def test_each_failure_says_what_failed(tmp_path, text, reason):
    with pytest.raises(InputError, match=rf"mine\.py:make.*{reason}"):
        call_in_file(write(tmp_path, text), {})


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        call_in_file(f"{tmp_path / 'none.py'}:make", {})


def package(folder, name="pkg"):
    """pkg/__init__.py, pkg/parts/layers.py, pkg/nets/__init__.py, pkg/nets/net.py."""
    root = folder / name
    for inner in ("parts", "nets"):
        (root / inner).mkdir(parents=True)
    (root / "__init__.py").write_text("WIDTH = 5\n")
    (root / "parts" / "layers.py").write_text("from .. import WIDTH\nclass Layer: width = WIDTH\n")
    (root / "nets" / "__init__.py").write_text("")
    (root / "nets" / "head.py").write_text("HEAD = 3\n")
    write(
        root / "nets",
        "from ..parts.layers import Layer\nfrom .head import HEAD\n"
        "def make(n=1):\n    from .. import WIDTH\n    return Layer, HEAD, WIDTH, n\n",
        "net.py",
    )
    return root


def test_a_file_imports_relatively_from_its_package(tmp_path):
    spec = f"{package(tmp_path) / 'nets' / 'net.py'}:make"
    layer, head, width, n = call_in_file(spec, {"n": 2})
    assert (layer.width, head, width, n) == (5, 3, 5, 2)
    assert call_in_file(spec, {})[0] is layer
    assert "pkg" not in sys.modules


def test_two_packages_of_one_name_do_not_mix(tmp_path):
    for folder, width in (("a", 5), ("b", 7)):
        root = package(tmp_path / folder)
        (root / "__init__.py").write_text(f"WIDTH = {width}\n")
        assert call_in_file(f"{root / 'nets' / 'net.py'}:make", {})[2] == width


def test_a_relative_import_needs_no_package(tmp_path):
    write(tmp_path, "VALUE = 5\n", "beside.py")
    spec = write(tmp_path, "from .beside import VALUE\ndef make():\n    return VALUE\n")
    assert call_in_file(spec, {}) == 5


def test_a_package_that_fails_leaves_nothing_behind(tmp_path):
    root = package(tmp_path)
    (root / "parts" / "layers.py").write_text("1 / 0\n")
    before = set(sys.modules)
    with pytest.raises(InputError, match=r"net\.py:make failed: ZeroDivisionError"):
        call_in_file(f"{root / 'nets' / 'net.py'}:make", {})
    assert set(sys.modules) <= before | {"ast"}


def test_a_function_of_a_module_is_called(tmp_path, monkeypatch):
    package(tmp_path, "pkg_of_a_test")
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "def make(a, *, b):\n    return a, b\n", "module_of_a_test.py")
    assert call_in_file("pkg_of_a_test.nets.net:make", {"n": 2})[1:] == (3, 5, 2)
    assert call_in_file("module_of_a_test:make", {"b": 2}, (1,)) == (1, 2)
    with pytest.raises(InputError, match=r"pkg_of_a_test.nets.none:make failed: ModuleNotFound"):
        call_in_file("pkg_of_a_test.nets.none:make", {})
    with pytest.raises(InputError, match="defines no function 'no'; it defines make"):
        call_in_file("module_of_a_test:no", {})


@pytest.mark.parametrize("spec", ["none_of_a_test:make", "none.of.a.test:make", "json:loads"])
def test_what_is_no_module_is_no_file_either(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="there is no file"):
        call_in_file(spec, {})
