"""Files: strict reading, atomic writing, and files that grow."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.command_line import ArgumentParser, exit_on_user_error
from data.files import (
    UserError,
    append_jsonl,
    make_folder,
    read_appended_jsonl,
    read_json,
    read_jsonl,
    sha256_file,
    sha256_json,
    suggest,
    write_json,
    write_jsonl,
    write_text,
)


def test_suggest_names_the_nearest_and_all():
    assert suggest("gsm9k", ["svamp", "gsm8k"]) == "did you mean gsm8k? valid: svamp, gsm8k"
    assert suggest("zzz", ["svamp"]) == "valid: svamp"


def test_rows_come_with_their_places(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1}\n\n{"x": 2}\n')
    assert list(read_jsonl(path)) == [(f"{path}:1", {"id": 1}), (f"{path}:3", {"x": 2})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no records in it"),
        (b"\n \n", "no records in it"),
        (b'{"id": 1}\n{', "rows.jsonl:2: not JSON"),
        (b"[1]\n[2]", "rows.jsonl:1: a JSON list, not an object"),
        (b"[1]", "rows.jsonl, row 0: a JSON int, not an object"),
        (b'[{"id": 1}, {"id": 1}]', r"rows.jsonl, row 1: id '1' is already at .*rows.jsonl, row 0"),
        (b"[]", "no records in it"),
        (b'{"id": 1}\n{"id": "1"}', r"rows.jsonl:2: id '1' is already at .*rows.jsonl:1"),
        (b"\xff\xfe", r"not UTF-8 text \(byte 0\)"),
        (b"[" * 100_000, "rows.jsonl:1: not JSON"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        list(read_jsonl(path))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"none.jsonl: no such file; check the path"):
        list(read_jsonl(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("name", ["", "x" * 300])
def test_what_cannot_be_read_is_one_line(name, tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \([^)\n]+\); name another file$"):
        list(read_jsonl(tmp_path / name))


def test_json_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "new" / "value.json"
    write_json(path, {"é": [1, None]})
    assert read_json(path) == {"é": [1, None]}

    path.write_text("{")
    with pytest.raises(UserError, match=r"value.json: not JSON"):
        read_json(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": 1}])
    with pytest.raises(TypeError):
        write_jsonl(path, [{"a": {1, 2}}])
    assert path.read_text() == '{"a": 1}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_its_target_is_written(tmp_path):
    for name in ("file", "new"):
        (tmp_path / f"to-{name}").symlink_to(name)
    (tmp_path / "file").write_text("old")

    for name in ("file", "new"):
        write_text(tmp_path / f"to-{name}", "x")
        assert (tmp_path / f"to-{name}").is_symlink()
        assert (tmp_path / name).read_text() == "x"

    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="a link to itself"):
        write_text(tmp_path / "loop", "x")
    assert (tmp_path / "loop").is_symlink()


def test_a_pipe_is_written_through(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "é\n")
    assert os.read(reader, 100) == "é\n".encode()
    assert pipe.is_fifo()
    os.close(reader)

    write_text("/dev/null", "x")
    assert Path("/dev/null").is_char_device()


WRITE = "from data.files import write_text; print('a'); write_text('/dev/stdout', 'b\\n'); print('c')"


def test_our_own_output_is_written_through_wherever_it_goes(tmp_path):
    (tmp_path / "log").write_text("before\n")
    with open(tmp_path / "log", "a") as log:
        subprocess.run([sys.executable, "-c", WRITE], stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "before\na\nb\nc\n"

    piped = subprocess.run([sys.executable, "-c", WRITE], capture_output=True, check=True)
    assert piped.stdout == b"a\nb\nc\n"


def test_what_is_written_to_another_may_be_read_from_it(tmp_path):
    reading = "from data.files import read_jsonl; print(list(read_jsonl('/dev/stdin')))"
    read = subprocess.run([sys.executable, "-c", reading], input=b'{"id": 1}\n', capture_output=True, check=True)
    assert read.stdout == b"[('/dev/stdin:1', {'id': 1})]\n"


def test_a_lone_surrogate_can_be_written(tmp_path):
    write_text(tmp_path / "x.txt", "a\ud800b")
    assert (tmp_path / "x.txt").read_text() == "a\\ud800b"


def test_what_cannot_be_written_to_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"it is a folder"):
        write_text(tmp_path, "x")

    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot be written to"):
        make_folder(tmp_path / "file" / "runs")

    # The name of the file that is written aside is longer than its own.
    for name in ("x" * 250, "x" * 300):
        with pytest.raises(UserError, match=r"cannot be written to \(File name too long\)"):
            write_text(tmp_path / name, "x")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(UserError, match=r"cannot be written to \(File name too long\)"):
        make_folder(tmp_path / ("x" * 300))


def test_a_file_that_grows_keeps_what_is_whole(tmp_path):
    path = tmp_path / "new" / "growing.jsonl"
    assert read_appended_jsonl(path) == []

    rows = [{"id": str(number), "text": "é\u2028\ud800"} for number in range(4)]
    append_jsonl(path, rows[:3])
    append_jsonl(path, rows[3:])
    assert read_appended_jsonl(path) == rows

    # The second line is damaged, and a kill has cut the last one.
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"1"', b'"7"')
    path.write_bytes(b"".join(lines)[:-5])
    assert read_appended_jsonl(path) == [rows[0], rows[2]]
    assert path.read_bytes() == lines[0] + lines[2]

    append_jsonl(path, rows[3:])
    assert read_appended_jsonl(path) == [rows[0], rows[2], rows[3]]


def test_a_line_cut_before_its_newline_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "growing.jsonl"
    append_jsonl(path, [{"id": "1"}])
    path.write_bytes(path.read_bytes()[:-1])

    assert read_appended_jsonl(path) == [{"id": "1"}]
    append_jsonl(path, [{"id": "2"}])
    assert read_appended_jsonl(path) == [{"id": "1"}, {"id": "2"}]


def test_checksums_follow_the_content(tmp_path):
    write_text(tmp_path / "a", "abc")
    assert sha256_file(tmp_path / "a").startswith("ba7816bf")
    assert sha256_json({"a": 1, "b": "\ud800"}) == sha256_json({"b": "\ud800", "a": 1})
    assert sha256_json([1]) != sha256_json([2])


# Command lines


def run_main(error):
    @exit_on_user_error
    def main(arguments):
        raise error

    return main([])


def test_a_user_error_is_one_line_and_status_2(capsys, monkeypatch):
    assert run_main(UserError("x: wrong; fix it")) == 2
    assert capsys.readouterr().err == "error: x: wrong; fix it\n"

    monkeypatch.setenv("RANK", "1")
    assert run_main(UserError("x: wrong; fix it")) == 2
    assert capsys.readouterr().err == ""


PRINT = """
import sys
from data.command_line import exit_on_user_error

@exit_on_user_error
def main(arguments=None):
    for _ in range(int(sys.argv[1])):
        print("a line")
    return 0

sys.exit(main())
"""


# More than a pipe holds, and what is written at the end alone.
@pytest.mark.parametrize("lines", [100_000, 2])
def test_a_reader_that_has_gone_ends_a_command_in_silence(lines):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", PRINT, str(lines)], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_is_one_line_and_status_2(capsys):
    assert run_main(OSError(errno.ENOSPC, "No space left on device", "runs/adapter")) == 2
    assert capsys.readouterr().err == "error: runs/adapter: no space left on the disk; free some and rerun\n"

    cause = RuntimeError("while saving")
    cause.__cause__ = OSError(errno.EDQUOT, "quota")
    assert run_main(cause) == 2


def test_ctrl_c_is_one_line_and_the_status_of_a_shell(capsys):
    assert run_main(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize(
    ("message", "is_full"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", True),  # safetensors 0.8
        ("[enforce fail at inline_container.cc:672] . unexpected pos 498176 vs 498064", True),  # torch 2.13
        ("unexpected position of the moon", False),
    ],
)
def test_a_full_disk_is_known_by_what_the_libraries_say_of_it(message, is_full):
    if is_full:
        assert run_main(RuntimeError(message)) == 2
    else:
        with pytest.raises(RuntimeError):
            run_main(RuntimeError(message))


def test_a_wrong_option_is_a_user_error():
    parser = ArgumentParser(prog="ladder")
    with pytest.raises(UserError, match=r"unrecognized arguments: --x; see ladder --help"):
        parser.parse_args(["--x"])


def test_json_lines_are_plain_json(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"a": "é"}, {"b": [1]}])
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"a": "é"}, {"b": [1]}]
