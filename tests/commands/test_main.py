"""`python -m mebm`: it lists its commands, knows a misspelt one, and ends the project's own errors in a line."""

import os
import subprocess
import sys
from subprocess import PIPE

import pytest
from smoke import ROOT

from mebm.__main__ import main
from mebm.commands import COMMANDS


def test_the_help_lists_every_command_with_a_line_of_its_own(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    modules = {path.stem for path in (ROOT / "mebm" / "commands").glob("*.py")} - {"__init__"}
    assert set(COMMANDS) == modules
    for name, module in COMMANDS.items():
        first = module.__doc__.splitlines()[0]
        assert first.endswith(".")
        assert f"{name} {first.rstrip('.')}" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help_of_its_own(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m mebm {name} ")


@pytest.mark.parametrize(
    ("word", "cure"),
    [
        ("compair", "did you mean `compare`?"),
        ("vrify", "did you mean `verify`?"),
        ("x", "`python -m mebm --help` lists them"),
    ],
)
def test_a_misspelt_command_is_told_the_nearest_one(word, cure, capsys):
    assert main([word]) == 2
    assert capsys.readouterr().err == f"error: '{word}' is not a command; {cure}\n"


@pytest.mark.parametrize("argv", [["mend", "x"], ["unite", "a", "b"], ["cost", "--run", "mjem"], []])
def test_words_that_a_command_does_not_know_end_with_status_2(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["archive", "--outt", "x"], ["croissant", "nope"], ["artifact", "x"], ["cost", "x"]])
def test_words_that_a_command_does_not_know_show_the_usage_of_that_command(argv, capsys):
    with pytest.raises(SystemExit):
        main(argv)
    said = capsys.readouterr().err
    assert said.startswith(f"usage: python -m mebm {argv[0]} ")
    assert said.endswith(f"python -m mebm {argv[0]}: error: unrecognized arguments: {' '.join(argv[1:])}\n")


@pytest.mark.parametrize(("lines", "words"), [(1, []), (100_000, []), (1, ["--help"])])  # of a buffer, or more
def test_output_that_nobody_reads_ends_a_command_in_silence(lines, words):
    script = (
        "import sys; from mebm import __main__ as it; from mebm.commands import unite; "
        f"unite.run = lambda _: print('a line\\n' * {lines}); sys.exit(it.main(['unite', *{words}]))"
    )
    own = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    command = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=own, stdout=PIPE, stderr=PIPE)
    command.stdout.close()
    with command.stderr:
        assert command.stderr.read() == b""
    assert command.wait() == 141


@pytest.mark.parametrize("name", ["archive", "artifact", "cost", "croissant", "mend", "show", "unite"])
def test_outside_a_project_is_said_in_a_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([name]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(("error: params.yaml: ", "error: dvc.yaml: "))
    assert "run from the project's root folder" in line


def test_listing_commands_imports_no_torch():
    script = "import sys; from mebm.commands import COMMANDS; assert COMMANDS; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
