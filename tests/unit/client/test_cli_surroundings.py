"""The command where the shell, the locale or the disk give it less than it needs."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 48), "red").save(path)
    return path


@pytest.fixture
def shell(server):
    """Runs a shell's command line in which `retinue` is the command, asking the fake."""
    program = f'{sys.executable} -c "from retinue_client.cli import main; main()"'

    def run(line, **environment):
        variables = os.environ | {"RETINUE_SERVER": server.address, "PYTHONWARNINGS": "error"} | environment
        line = line.replace("retinue ", f"{program} ", 1)
        return subprocess.run(
            ["sh", "-c", line], env=variables, capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.mark.parametrize("command", ["detect IMAGE", "models --json", "--help"])
def test_a_full_disk_behind_the_output_is_one_sentence_and_the_exit_code_2(shell, image, command):
    done = shell(f"retinue {command.replace('IMAGE', str(image))} > /dev/full")
    assert (done.returncode, done.stderr) == (
        2,
        "retinue: the output cannot be written: No space left on device.\n",
    )


def test_a_full_disk_behind_the_complaints_is_the_exit_code_2(shell):
    assert shell("retinue models --server localhost:1 2> /dev/full").returncode == 2


def test_closed_outputs_are_done_without(shell, image, tmp_path):
    assert shell(f"retinue detect {image} --draw {tmp_path}/drawn.png >&- 2>&-").returncode == 0
    assert (tmp_path / "drawn.png").is_file()


def test_a_closed_input_is_an_image_that_cannot_be_read(shell, image):
    done = shell(f"retinue classify --json - {image} <&-")
    assert (done.returncode, done.stderr) == (1, "")
    errors = [json.loads(line)["error"] for line in done.stdout.splitlines()]
    assert (errors[0]["reason"], errors[0]["message"]) == ("FILE_UNREADABLE", "Standard input is closed.")
    assert errors[1] is None


def test_an_input_that_cannot_be_read_is_said(shell, tmp_path):
    done = shell(f"retinue classify - 0> {tmp_path}/written")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("-: FILE_UNREADABLE: The file cannot be read: ")


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        ("classify", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        ("detect", {"PYTHONIOENCODING": "ascii"}),
        ("segment", {"PYTHONIOENCODING": "ascii"}),
    ],
)
def test_an_output_without_block_characters_gets_others(shell, image, command, environment):
    done = shell(f"retinue {command} {image}", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "?" in done.stdout


def test_a_picture_for_which_there_is_no_room_leaves_no_file(shell, image, tmp_path):
    done = shell(f"ulimit -f 0; retinue detect {image} --draw {tmp_path}/drawn.png")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "drawn.png' cannot be written: File too large." in done.stderr
    assert not (tmp_path / "drawn.png").exists()


def test_a_file_that_was_there_before_stays_where_its_picture_fails(shell, image, tmp_path):
    (tmp_path / "drawn.png").touch()
    shell(f"ulimit -f 0; retinue detect {image} --draw {tmp_path}/drawn.png")
    assert (tmp_path / "drawn.png").exists()
