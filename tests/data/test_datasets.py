"""Data sets: ours, files and sets of the hub, their splits and their fields."""

import json
import subprocess
import sys

import datasets
import pytest

from data import datasets as ours
from data.dataset_spec import BUILT_IN, DatasetSpec, parse_spec
from data.datasets import has_train_split, load, load_dev, load_spec, load_train, main
from data.files import UserError, sha256_file
from data.problem import read_problems
from data.splits import normalize_text, split_of

GSM8K = {"question": "How many?", "answer": "Half of 96 is 96/2 = <<96/2=48>>48.\n#### 1,048"}
SVAMP = {"ID": "chal-1", "question_concat": "Dan had 4. He lost 3. How many?", "Answer": "1.0", "Type": "Subtraction"}
BBH = {"input": "not ( True ) is", "target": "False"}


def make_rows(count, **fields):
    return [{"question": f"What is {n} + 1?", "answer": str(n + 1)} | fields for n in range(count)]


def write_file(tmp_path, rows, name="mine.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def mine(tmp_path):
    """A file of 200 problems."""
    return write_file(tmp_path, [{"id": f"m{n}"} | row for n, row in enumerate(make_rows(200))])


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the hub: repository -> its splits; ``calls`` are the questions that it was asked."""
    repositories = {}
    calls = []

    def load_dataset(repository, config, revision):
        calls.append((repository, config, revision))
        if repository not in repositories:
            raise ConnectionError("no route\nto host")
        splits = repositories[repository]
        return {name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    ours._load_hub.cache_clear()
    repositories["calls"] = calls
    yield repositories
    ours._load_hub.cache_clear()


def list_questions(problems):
    return {normalize_text(problem.question) for problem in problems}


def fail(call, *arguments):
    """The one line of the error that a call ends with."""
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# Specs


def test_a_spec_says_what_its_text_says():
    spec = parse_spec("gsm8k?split=train&take=10&question=passage,question")
    assert spec == DatasetSpec("gsm8k", split="train", take=10, question="passage,question")
    assert parse_spec("mine.jsonl") == DatasetSpec("mine.jsonl")
    assert parse_spec("a/b?answer_after=####").answer_after == "####"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gsm8k?answr=a", "'answr' is no key or has no value; did you mean answer?"),
        ("gsm8k?answer", "'answer' is no key or has no value"),
        ("gsm8k?set=x", "'set' is no key or has no value"),
        ("gsm8k?take=many", "take=many: Input should be a valid integer"),
        ("gsm8k?take=0", "take=0: Input should be greater than or equal to 1"),
        ("gsm8k?take=200000", "take=200000: Input should be less than or equal to 100000"),
        ("gsm8k?kind=essay", "kind=essay: Input should be 'number', 'label' or 'text'"),
    ],
)
def test_a_bad_spec_is_one_line(text, message):
    assert message in fail(parse_spec, text)


def test_an_unknown_set_names_the_nearest():
    message = fail(load, "gsm9k")
    assert (
        "'gsm9k' is unknown; did you mean gsm8k? valid: arithmetic_v1, logic_v1, sums_v1, booleans_v1, gsm8k" in message
    )
    assert "OWNER/NAME" in message


# Our own


def test_ours_by_name(committed):
    dataset = load("logic_v1")
    assert dataset.name == "logic_v1"
    assert dataset.problems == committed["logic_v1", "test"]
    assert dataset.places["logic_v1-test2-0002"].endswith("logic_v1.test.jsonl:2")
    assert dataset.sha256 == sha256_file(ours.generated.committed_path("logic_v1", "test"))
    assert load("logic_v1", "dev").problems == committed["logic_v1", "dev"]


def test_a_part_of_ours_is_balanced_and_has_its_own_checksum(committed):
    dataset = load("logic_v1", "dev", 25)
    assert dataset.problems == committed["logic_v1", "dev"][:25]
    assert dataset.sha256 not in ("", load("logic_v1", "dev").sha256, load("logic_v1", "dev", 26).sha256)


def test_more_train_problems_of_ours_are_made_on_the_spot():
    dataset = load("arithmetic_v1", "train", 2005)
    assert len(dataset.problems) == len(dataset.places) == 2005
    assert dataset.problems[-1].id == "arithmetic_v1-train-2005"


def test_training_on_ours(committed):
    spec = DatasetSpec("arithmetic_v1", split="train", take=30)
    assert load_train(spec, 10) == committed["arithmetic_v1", "train"][:10]
    assert len(load_train(spec)) == 30
    assert load_train(spec, 0) == []
    assert load_train(DatasetSpec("arithmetic_v1")) == committed["arithmetic_v1", "train"]
    assert load_dev(spec, 10) == committed["arithmetic_v1", "dev"][:10]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("logic_v1?split=exam", "no split 'exam'; valid: train, dev, test"),
        ("logic_v1?split=dev&take=251", "has only 250 problems; lower take"),
        ("logic_v1?question=q", "is our own; only split=, take=, families= and levels= go with it"),
    ],
)
def test_what_ours_do_not_have(text, message):
    assert message in fail(load_spec, parse_spec(text))


# Files


def test_a_file_is_a_benchmark_as_a_whole(mine):
    dataset = load(mine)
    assert dataset.name == "mine"
    assert len(dataset.problems) == 200
    assert dataset.places["m3"] == f"{mine}:4"
    assert dataset.sha256 == sha256_file(mine) == load(mine, "all").sha256
    assert dataset.spec == DatasetSpec(mine)


def test_a_file_has_shares_by_content(mine):
    shares = {split: load(mine, split) for split in ("train", "dev", "test")}
    for split, share in shares.items():
        assert {split_of(question) for question in list_questions(share.problems)} == {split}

    ids = [problem.id for share in shares.values() for problem in share.problems]
    assert sorted(ids) == sorted(problem.id for problem in load(mine).problems)
    assert len({share.sha256 for share in shares.values()}) == 3


def test_training_on_a_file(mine):
    train, dev, test = (load(mine, split).problems for split in ("train", "dev", "test"))

    for split in (None, "train"):
        spec = DatasetSpec(mine, split=split)
        assert load_train(spec) == train
        assert load_dev(spec) == dev

    # A file that is given as a whole keeps nothing back for a test.
    spec = DatasetSpec(mine, split="all")
    assert list_questions(load_train(spec)) == list_questions(train + test)
    assert load_dev(spec) == dev
    assert load_dev(spec, 5) == dev[:5]
    assert load_train(spec, 7) == load_train(spec)[:7]


def test_fewer_problems_than_take(mine):
    assert "has only 200 problems; lower take" in fail(load_spec, DatasetSpec(mine, take=201))
    spec = DatasetSpec(mine, split="train", take=190)
    assert "lower take" in fail(load_train, spec)


def test_n_may_be_more_than_there_are(mine):
    spec = DatasetSpec(mine, split="train", take=10)
    assert load_train(spec, 10_000) == load(mine, "train").problems
    assert load_train(spec) == load(mine, "train").problems[:10]


def test_an_empty_split(tmp_path):
    question = next(f"q{n}" for n in range(100) if split_of(f"q{n}") == "train")
    path = write_file(tmp_path, [{"id": "a", "question": question, "answer": "1"}])
    assert "its split is empty" in fail(load, path, "test")
    assert "no problem falls into its dev split" in fail(load_dev, DatasetSpec(path, split="train"))


def test_levels_and_families_of_a_file_are_taken_evenly(tmp_path):
    rows = [
        row | {"id": str(n), "hardness": f"Level {1 + n // 50}", "type": "ab"[n % 2]}
        for n, row in enumerate(make_rows(100))
    ]
    path = write_file(tmp_path, rows)
    problems = load(path, n=8, level="hardness", family="type").problems
    assert sorted((problem.level, problem.family) for problem in problems) == [
        (level, family) for level in (1, 2) for family in "ab" for _ in range(2)
    ]
    assert [int(problem.id) for problem in problems] == sorted(int(problem.id) for problem in problems)


def test_fields_go_by_other_names_and_are_joined(tmp_path):
    rows = [{"passage": "A cat. ", "q": "Who?", "a": "cat"}, {"passage": "A dog.", "q": "Who?", "a": "dog"}]
    path = write_file(tmp_path, rows)
    dataset = load_spec(parse_spec(f"{path}?question=passage, q&answer=a&options=cat, dog&kind=label"))
    assert [(p.id, p.question, p.answer) for p in dataset.problems] == [
        ("mine-all-0", "A cat. Who?", "cat"),
        ("mine-all-1", "A dog. Who?", "dog"),
    ]
    assert dataset.problems[0].choices == ("cat", "dog")
    assert dataset.problems[0].kind == "label"

    # Other problems, though of the same file.
    assert load(path, question="q", answer="a").sha256 != dataset.sha256


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?question=body", "mine.jsonl:1: no field 'body'"),
        ("?question=questions", "no field 'questions'; did you mean question?"),
        ("?question=id,passage", "no field 'passage'"),
        ("?answer_after=####", "mine.jsonl:1: the answer has no '####'; fix the line or answer_after="),
        ("?file=x", "file= goes with gsm8k"),
        ("?split=exam", "no split 'exam'; valid: all, train, dev, test"),
        ("?id=question", "mine.jsonl:2: id 'q' is already at"),
    ],
)
def test_a_bad_mapping_is_one_line(tmp_path, query, message):
    row = {"id": "m", "question": "q", "answer": "1"}
    path = write_file(tmp_path, [row, row | {"id": "n"}])
    assert message in fail(load_spec, parse_spec(path + query))


def test_a_level_without_a_number_is_none(tmp_path):
    path = write_file(tmp_path, [{"id": "a", "question": "q", "answer": "1", "hardness": "Level ?"}])
    assert load(path, level="hardness").problems[0].level == 0


def test_a_missing_field_is_named_with_its_remedy(tmp_path):
    path = write_file(tmp_path, [{"id": "a", "input": "q", "answer": "1"}])
    message = fail(load, path)
    assert "mine.jsonl:1: no field 'question'; name it by question=FIELD; valid: id, input, answer" in message


def test_a_file_that_is_not_there():
    assert "nowhere.jsonl: no such file" in fail(load, "nowhere.jsonl")
    assert "cannot be read" in fail(load, "x" * 300 + ".jsonl")


# Sets of the hub


@pytest.mark.parametrize(
    ("name", "row", "answer", "kind"),
    [
        ("gsm8k", GSM8K, "1,048", "number"),
        ("svamp", SVAMP, "1.0", "number"),
        ("bbh_boolean_expressions", BBH, "False", "label"),
    ],
)
def test_a_set_of_the_hub_is_read_from_a_local_copy(tmp_path, name, row, answer, kind):
    path = write_file(tmp_path, [row])
    dataset = load(name, file=path)
    [problem] = dataset.problems
    assert (dataset.name, problem.answer, problem.kind) == (name, answer, kind)
    assert problem.question in row.values()
    assert dataset.source == ""


def test_built_in_sets_bring_their_choices_and_rationales(tmp_path):
    gsm8k = load("gsm8k", file=write_file(tmp_path, [GSM8K])).problems[0]
    assert gsm8k.rationale == "Half of 96 is 96/2 = <<96/2=48>>48."
    bbh = load("bbh_boolean_expressions", file=write_file(tmp_path, [BBH])).problems[0]
    assert bbh.choices == ("True", "False")


def test_a_local_copy_is_one_split(tmp_path):
    rows = [row | {"answer": f"so #### {row['answer']}"} for row in make_rows(100)]
    spec = DatasetSpec("gsm8k", file=write_file(tmp_path, rows), split="train")
    assert len(load_spec(spec).problems) == 100

    train, dev = load_train(spec), load_dev(spec)
    assert len(train) + len(dev) == 100
    assert not list_questions(train) & list_questions(dev)
    assert {split_of(question) for question in list_questions(dev)} == {"dev"}

    test_only = DatasetSpec("gsm8k", file=spec.file)
    assert not has_train_split(test_only)
    assert "no split 'train'; valid: test" in fail(load_train, test_only)


def test_the_hub_is_asked_by_name_config_and_revision(hub):
    hub["openai/gsm8k"] = {"train": [GSM8K], "test": [GSM8K, GSM8K | {"question": "Why?"}]}
    mapped = load_spec(parse_spec("openai/gsm8k?config=main&split=train&answer_after=####&revision=abc"))
    named = load("gsm8k")
    load("gsm8k", "train")

    # One set is asked for once.
    assert hub["calls"] == [("openai/gsm8k", "main", "abc"), ("openai/gsm8k", "main", None)]
    assert (mapped.name, named.name) == ("gsm8k_main", "gsm8k")
    assert [problem.id for problem in named.problems] == ["gsm8k-test-0", "gsm8k-test-1"]
    assert named.places["gsm8k-test-1"] == "openai/gsm8k test, row 1"
    assert named.source.startswith("hub openai/gsm8k at")
    assert len(named.sha256) == 64


def test_a_set_with_a_dev_split_trains_on_all_of_train(hub):
    rows = make_rows(60)
    hub["team/sums"] = {"train": rows[:40], "validation": rows[39:50], "test": rows[50:]}
    spec = DatasetSpec("team/sums", split="train")

    # One question stands in both: it is dev's.
    assert len(load_train(spec)) == 39
    assert len(load_dev(spec)) == 11
    assert not list_questions(load_train(spec)) & list_questions(load_dev(spec))
    assert load("team/sums", "dev").problems == load_dev(spec)
    assert len(load("team/sums", "train").problems) == 40


def test_a_set_without_a_dev_split_gives_up_a_share_of_train(hub):
    hub["team/sums"] = {"train": make_rows(200), "test": make_rows(5)}
    for split in (None, "train", "test"):
        spec = DatasetSpec("team/sums", split=split)
        train, dev = load_train(spec), load_dev(spec)
        assert len(train) + len(dev) == 200
        assert {split_of(question) for question in list_questions(dev)} == {"dev"}
        assert not list_questions(train) & list_questions(dev)
    assert load("team/sums", "dev").problems == dev


def test_a_train_split_of_another_name(hub):
    hub["team/sums"] = {"main": make_rows(100)}
    spec = DatasetSpec("team/sums", split="main")
    assert len(load_train(spec)) + len(load_dev(spec)) == 100
    assert "no split 'train'; did you mean main?" in fail(load_train, DatasetSpec("team/sums"))
    assert "no split 'test'; valid: main" in fail(load, "team/sums")


def test_a_hub_that_cannot_be_reached_is_one_line(hub):
    for name in (*BUILT_IN, "nobody/nothing"):
        assert "the hub does not give it (no route to host); check the name" in fail(load, name)


def test_a_missing_config_is_in_the_message(hub, monkeypatch):
    def load_dataset(*_, **__):
        raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['a', 'b']")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert "available configs: ['a', 'b']" in fail(load, "team/sums")


# Whether a benchmark has examples of its own


def test_which_benchmarks_have_a_train_split_beside_them(mine, hub):
    hub["team/both"] = {"train": make_rows(5), "test": make_rows(5)}
    hub["team/one"] = {"test": make_rows(5)}
    having = ["logic_v1", "logic_v1?split=dev", f"{mine}?split=test", "team/both", "team/both?split=test"]
    lacking = ["logic_v1?split=train", mine, f"{mine}?split=all", "team/one", "team/both?split=train"]
    assert [has_train_split(parse_spec(text)) for text in having] == [True] * 5
    assert [has_train_split(parse_spec(text)) for text in lacking] == [False] * 5


# The command line


def test_a_split_is_written_to_a_file(tmp_path, committed, mine):
    out = tmp_path / "new" / "dev.jsonl"
    assert main(["--set", "logic_v1", "--split", "dev", "--out", str(out)]) == 0
    assert read_problems(out) == committed["logic_v1", "dev"]

    assert main(["--set", f"{mine}?take=3", "--split", "all", "--out", str(out)]) == 0
    assert [problem.id for problem in read_problems(out)] == ["m0", "m1", "m2"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--set", "logic_v1", "--split", "dev"],
        ["--set", "logic_v1", "--split", "exam", "--out", "x"],
        ["--set", "logic_v1?x=1", "--split", "dev", "--out", "x"],
        ["--committed", "folder", "--split", "dev"],
    ],
)
def test_a_bad_command_line_is_one_line_and_status_2(arguments, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_help_is_there_without_loading_what_is_heavy(root):
    script = "import sys, data.datasets; assert not {'torch', 'datasets', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "data.datasets", "--help"], cwd=root, check=True, capture_output=True, text=True
    )
    assert "--committed" in done.stdout


def test_a_spec_leaves_only_its_families_and_levels():
    spec = DatasetSpec("logic_v1", split="train", take=450, families="ordering, rules,", levels="1, 2")
    problems = load_train(spec)

    # More than are committed.
    assert len(problems) == len({problem.id for problem in problems}) == 450
    assert {problem.family for problem in problems} == {"ordering", "rules"}
    assert {problem.level for problem in problems} == {1, 2}
    assert {problem.family for problem in load("logic_v1", "dev", families="rules").problems} == {"rules"}


@pytest.mark.parametrize("wanted", [{"families": "ordering, syllogism"}, {"levels": "5"}])
def test_a_few_problems_may_be_of_any_family_and_level(wanted):
    # None of the first four problems of the set is a syllogism, or of level 5.
    assert len(load_train(DatasetSpec("logic_v1", **wanted), 4)) == 4


def test_a_family_that_a_set_has_not_is_an_error():
    assert "families has 'rulers'; did you mean rules?" in fail(
        load_train, DatasetSpec("logic_v1", take=5, families="ordering, rulers")
    )
    assert "levels has '6'" in fail(load_train, DatasetSpec("logic_v1", take=5, levels="5,6"))
