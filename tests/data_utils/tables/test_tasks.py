"""Task files: what they may hold, what is refused, and that the published one is the published tasks."""

import json

import pytest

from data_utils.tables.tasks import NUMBER, Target, parse_tasks, published, read_tasks
from utils.files import FileError
from utils.training.objectives.build import PUBLISHED_HEADS
from utils.training.objectives.distillation import PUBLISHED_ROWS

GRADE = {
    "name": "Grade",
    "sentence": "Grade: {grade}",
    "evaluate": [
        {"kind": "classes", "column": "grade", "values": [1, "2", "3"], "names": ["low", "mid", "high"]}
    ],
}
TOKENS = ("General", "Diagnosis", "Survival")
KI67 = {"name": "Ki67", "sentence": "Ki67: {ki67}", "evaluate": [{"kind": "number", "column": "ki67"}]}


def test_the_shipped_file_holds_the_published_tasks():
    tasks = published()
    assert tasks.names == TOKENS and tasks.rows == ("general", "diagnosis", "stage", "survival")
    assert tasks.text_rows == PUBLISHED_ROWS == (0, 1, 3)
    assert {
        "subtype": tasks.token_saying("primary_diagnosis"),
        "survival": tasks.token_saying("fate"),
    } == PUBLISHED_HEADS
    assert tasks.columns == {} and all(
        [t.kind for t in task.targets] == ["class", "survival"] for task in tasks.tokens
    )


def test_the_content_is_the_file(tmp_path):
    file = tmp_path / "tasks.json"
    file.write_text(json.dumps({"tasks": [*published().plain()["tasks"], GRADE, KI67]}))
    tasks = read_tasks(file)
    assert parse_tasks(json.loads(json.dumps(tasks.plain())), "x") == tasks
    assert tasks.names == (*TOKENS, "Grade", "Ki67") and tasks.text_rows == (0, 1, 3, 4, 5)
    assert tasks.columns["ki67"] == Target(NUMBER, "ki67") and tasks.fields == (
        "primary_diagnosis",
        "grade",
        "ki67",
    )
    assert tasks.shortest("grade").name == "Grade" and tasks.shortest("nothing") is None
    fewer = tasks.first(4)
    assert fewer.names == tasks.names[:4] and fewer.rows == tasks.rows and list(fewer.columns) == ["grade"]
    with pytest.raises(ValueError, match=r"num_tasks is 6; the task file has 5 tasks \(General, Diagnosis"):
        tasks.first(6)


def test_cells_become_classes_and_numbers():
    grade, ki67 = (parse_tasks({"tasks": [GRADE, KI67]}, "x").columns[name] for name in ("grade", "ki67"))
    assert [grade.read(cell) for cell in (1, "2", 3.0, " 3 ", "4")] == [0, 1, 2, 2, -1]
    assert ki67.read("3.5") == 3.5
    assert all(value != value for value in (grade.read(None), grade.read(""), ki67.read(float("nan"))))
    with pytest.raises(ValueError, match="ki67 is 'high', which is no number"):
        ki67.read("high")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a/b"}, "a name has no slash or colon"),
        ({"sentense": 1}, r"unknown keys \['sentense'\]"),
        ({"sentence": "Grade {"}, "braces without a field"),
        ({"needs": ["age"]}, "should list fields of the sentence"),
        ({"evaluate": []}, "should list how the token is evaluated"),
        ({"evaluate": ["class", *GRADE["evaluate"]]}, "it is evaluated twice by classes"),
        (
            {"evaluate": [{"kind": "classes", "column": "grade", "values": [1]}]},
            "two or more different classes",
        ),
        (
            {"evaluate": [{"kind": "classes", "column": "g", "values": [1, 2], "names": ["a", "a"]}]},
            "of its own for each",
        ),
        ({"evaluate": [{"kind": "rank", "column": "g"}]}, '"classes" or "number"'),
        (
            {"evaluate": [{"kind": "number", "column": "ki67"}, *KI67["evaluate"]]},
            "evaluated twice by number",
        ),
    ],
)
def test_wrong_files_say_what_to_do(changes, message):
    with pytest.raises(FileError, match=message):
        parse_tasks({"tasks": [{**GRADE, **changes}]}, "tasks.json")


def test_one_to_eight_tasks():
    with pytest.raises(FileError, match="has 9 tasks"):
        parse_tasks({"tasks": [{**KI67, "name": f"T{k}"} for k in range(9)]}, "tasks.json")
    with pytest.raises(FileError, match=r"names tasks twice: \['ki67'\]"):
        parse_tasks({"tasks": [KI67, KI67]}, "tasks.json")
