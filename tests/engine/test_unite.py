"""Lock files of two branches in one: nothing is lost, and what fits the present parameters wins."""

import pytest

from mebm.__main__ import main
from mebm.engine.unite import unite

RECORD = "results/params/train.a.yaml"


def job(record: str, out: str) -> dict:
    return {
        "cmd": "x",
        "deps": [{"path": RECORD, "md5": record}],
        "outs": [{"path": "results/a/train/checkpoint.pt", "md5": out}],
    }


def test_jobs_of_one_side_are_taken_and_of_two_the_one_that_fits():
    ours, theirs = {"train@a": job("old", "1"), "train@b": job("b", "2")}, {"train@a": job("new", "3"), "train@c": {}}
    united = unite(ours, theirs, {RECORD: "new"})
    assert united == {"train@a": theirs["train@a"], "train@b": ours["train@b"], "train@c": {}}
    for present in ("old", "neither"):
        assert unite(ours, theirs, {RECORD: present})["train@a"] == ours["train@a"]


def test_of_two_that_fit_the_one_counts_that_was_made_from_what_was_taken():
    def made(by: str) -> dict[str, dict]:
        data = {"cmd": "x", "deps": [{"path": "r1", "md5": by}], "outs": [{"path": "train.npz", "md5": by}]}
        train = job("same", by)
        train["deps"].append({"path": "train.npz", "md5": by})
        return {"dataset@a": data, "train@a": train}

    ours, theirs = made("old"), made("new")
    united = unite(ours, theirs, {"r1": "new", RECORD: "same"}, ["dataset@a", "train@a"])
    assert united == theirs
    assert unite(ours, theirs, {"r1": "old", RECORD: "same"}, ["dataset@a", "train@a"]) == ours


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "nowhere: holds no dvc.lock, or is not a revision"),
        ([], "dvc.lock: no merge conflict here"),
    ],
)
def test_what_it_cannot_do_is_said_in_a_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    assert main(["unite", *argv]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
