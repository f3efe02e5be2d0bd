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
