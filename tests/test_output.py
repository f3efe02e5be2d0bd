import pytest

from slimnet.errors import InputError
from slimnet.output import check_writable, make_folder, replacing


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    target = tmp_path / "out.pt"
    target.write_text("old")
    with pytest.raises(KeyError), replacing(target) as temporary:
        temporary.write_text("half")
        raise KeyError("stopped")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_success_replaces_the_old_file(tmp_path):
    target = tmp_path / "out.pt"
    target.write_text("old")
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_of_the_writer_is_a_refusal(tmp_path):
    with pytest.raises(InputError, match="cannot be written: no space"), replacing(tmp_path / "x"):
        raise RuntimeError("no space\nand a stack")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_known_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="there is no folder"):
        check_writable(tmp_path / "file" / "x.pt")
    with pytest.raises(InputError, match="is a folder: name a file"):
        check_writable(tmp_path)
    with pytest.raises(InputError, match="cannot be made"):
        make_folder(tmp_path / "file" / "folder")
    check_writable(tmp_path / "x.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
