"""One table over bases: the best variants, tested on the same problems."""

import pytest

from data.records import BadInput, Completion, Problem, write_json, write_records
from eval import bases
from eval.grade import grade_all
from eval.score import score

PROBLEMS = [Problem(f"p{i}", f"{i} + {i}?", str(2 * i), "number", level=1) for i in range(20)]


def stage(folder, name, variants, digest="a", extraction=1):
    """Scores of a stage whose variants are right on so many problems."""
    told = []
    for variant, right in variants.items():
        texts = [
            Completion(p.id, f"\\boxed{{{p.answer if i < right else 99}}}", 5, 0, 6, "stop")
            for i, p in enumerate(PROBLEMS)
        ]
        grades = grade_all(PROBLEMS, texts)
        write_records(folder / name / "grades" / variant / "sums.jsonl", grades)
        about = {"benchmark": "sums", "benchmark_sha256": digest, "grades": f"grades/{variant}/sums.jsonl"}
        told.append(
            {
                "variant": variant,
                "prompt": name,
                "shots": 0,
                "benchmarks": [about | score(PROBLEMS, texts, grades, 1.0)],
            }
        )
    write_json(folder / name / "scores.json", {"stage": name, "extraction": extraction, "variants": told})


def test_the_best_variant_of_each_stage_is_held_to_the_first_base(tmp_path):
    stage(tmp_path / "a", "plain", {"zero-shot": 4, "4-shot": 6})
    stage(tmp_path / "b", "plain", {"zero-shot": 16, "4-shot": 2})
    text = bases.write({"a": tmp_path / "a", "b": tmp_path / "b"}, tmp_path)
    assert "| sums | plain | a | 4-shot | 20 | 30.0 " in text
    assert "| sums | plain | b | zero-shot | 20 | 80.0 " in text
    a, b = bases.rows({"a": tmp_path / "a", "b": tmp_path / "b"})
    assert a["p"] is None and b["p"] == pytest.approx(2 / 2**10) and b["p_holm"] == b["p"]  # ten changed, all one way
    assert "between two bases is found four times in five" in text
    assert (tmp_path / "bases.md").read_text() == text


def test_bases_scored_on_different_problems_share_no_table(tmp_path):
    stage(tmp_path / "a", "plain", {"zero-shot": 4})
    stage(tmp_path / "b", "plain", {"zero-shot": 4}, digest="b")
    with pytest.raises(BadInput, match="different problems"):
        bases.rows({"a": tmp_path / "a", "b": tmp_path / "b"})


def test_bases_scored_by_different_rules_share_no_table(tmp_path):
    stage(tmp_path / "a", "plain", {"zero-shot": 4})
    both = {"a": tmp_path / "a", "b": tmp_path / "b"}
    stage(tmp_path / "b", "plain", {"zero-shot": 4}, extraction=2)
    with pytest.raises(BadInput, match=r"a and b were scored with another version of the extraction \(1 and 2\)"):
        bases.rows(both)
    stage(tmp_path / "b", "plain", {"zero-shot": 4})
    asked = {"scoring": {"inputs": {"settings": {"max_tokens": 80}}}}
    write_json(tmp_path / "b" / "plain" / "manifest.json", asked)
    with pytest.raises(BadInput, match=r"a and b were scored with another eval.max_tokens \(None and 80\)"):
        bases.rows(both)
