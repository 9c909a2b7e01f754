"""What `check` finds in a base's configuration and tokenizer."""

import copy

import pytest
from transformers import T5Config

from pipeline.config import load_recipe
from pipeline.models import check
from pipeline.models.check import Finding, check_base, find_all, print_findings


@pytest.fixture
def recipe():
    """The recipe of the cpu profile."""
    return load_recipe("cpu")


@pytest.fixture
def save(tmp_path):
    """The function that saves a model and a tokenizer as a base."""

    def write(model, tokenizer):
        model.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        return tmp_path / "base"

    return write


def list_bad(findings):
    """Return the names of the findings that stop a run."""
    return [finding.name for finding in findings if not finding.good]


def test_a_base_that_will_do_has_every_finding_good(tiny, save, recipe):
    findings = {finding.name: finding for finding in check_base(str(save(*tiny)), recipe)}

    assert list_bad(findings.values()) == []
    assert findings["template"].text == "its own"
    assert findings["digits"].text == "1234567 is 7 token(s)"
    assert "q_proj x 2" in findings["LoRA on"].text
    assert findings["licence"].text.startswith("not known of local files")


def test_a_base_without_a_template_gets_ours(tiny, save, recipe):
    tokenizer = copy.deepcopy(tiny[1])
    tokenizer.chat_template = None
    findings = {finding.name: finding for finding in find_all(save(tiny[0], tokenizer), recipe)}

    assert findings["template"].text == "none of its own; ours"


def test_the_whole_prompt_is_shown_as_the_model_sees_it(tiny, save, recipe):
    tokenizer = copy.deepcopy(tiny[1])
    tokenizer.chat_template = (
        "{% for m in messages if m['role'] == 'user' %}\x1b<|user|>{{ m['content'] }}{% endfor %}<|assistant|><think>\n"
    )
    findings = {finding.name: finding for finding in find_all(save(tiny[0], tokenizer), recipe)}

    text = findings["prompt"].text
    assert [line.strip() for line in text.split("\n")[1:]] == [
        "\\x1b<|user|>Think, then answer.",
        "",
        "What is 25 * 4?<|assistant|><think>",
    ]
    assert findings["template"].text == "its own, which opens the thought itself"
    assert all(finding.good for finding in findings.values())


def test_a_short_context_stops_a_run(tiny, save, recipe):
    model = copy.deepcopy(tiny[0])
    model.config.max_position_embeddings = 128
    findings = find_all(save(model, tiny[1]), recipe)

    assert list_bad(findings) == ["context"]
    assert "128 tokens" in next(finding.text for finding in findings if finding.name == "context")


def test_a_model_that_does_not_fit_the_memory_stops_a_run(tiny, save, recipe, monkeypatch):
    monkeypatch.setattr(check, "_measure_memory", lambda: 0.5)
    assert list_bad(find_all(save(*tiny), recipe)) == ["memory"]


def test_a_model_that_writes_no_texts_stops_a_run(tiny, tmp_path, recipe):
    # As the hub shows it before its weights are fetched.
    T5Config().save_pretrained(tmp_path)
    tiny[1].save_pretrained(tmp_path)
    findings = find_all(tmp_path, recipe)

    assert "weights" in list_bad(findings)
    assert "no causal language model" in next(finding.text for finding in findings if finding.name == "weights")


def test_a_tokenizer_without_an_end_of_turn_stops_a_run(tiny, save, recipe):
    tokenizer = copy.deepcopy(tiny[1])
    tokenizer.eos_token = None
    findings = find_all(save(tiny[0], tokenizer), recipe)
    assert list_bad(findings) == ["tokenizer"]
    assert "no end-of-turn token" in next(finding.text for finding in findings if not finding.good)


def test_findings_are_printed_as_a_table(capsys):
    good = print_findings("base", [Finding("a", "fine"), Finding("longer", "not fine", good=False)])

    assert not good
    assert capsys.readouterr().out == "base:\n  ok  a       fine\n  NO  longer  not fine\n"
