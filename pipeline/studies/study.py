"""What all studies share: a base, its recipe, and how a study is made, judged and written down."""

import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field

from data.files import UserError, sha256_file, suggest
from data.splits import LEVELS
from eval.extract import EXTRACTION_VERSION
from eval.studies import Findings, make_result
from pipeline.config import load_studies
from pipeline.models.load import base_folder_name, fingerprint, load_model, load_tokenizer, resolve, resolve_precision
from pipeline.models.nano import PRETRAINING_FILE
from pipeline.progress import format_duration, log_to, say
from pipeline.prompts import OUR_TEMPLATES
from pipeline.run_dir import FIRST_SEED, find_run_dir
from pipeline.settings import Positive, Seed, Settings, Share
from pipeline.studies import STUDIES

DATA = Path(__file__).resolve().parent.parent.parent / "data" / "studies"

Level = Annotated[int, Field(ge=LEVELS[0], le=LEVELS[-1])]


class StudySettings(Settings):
    """What every study's recipe has."""

    base: str
    seed: Seed
    margin: Share
    minutes: Positive


@dataclass(frozen=True)
class Base:
    """The base that a study is made on."""

    name: str
    folder: Path

    def load(self) -> tuple[Any, Any]:
        """Return (model, tokenizer)."""
        return load_model(self.folder)


def run_studies(names: Sequence[str], base: str | None, runs: Path, overrides: Sequence[str]) -> None:
    """Make studies, all where none is named, and print their verdicts.

    Args:
        names: Of the studies.
        base: In place of what their recipes name.
        runs: Where results go.
        overrides: NAME.key=value.

    Raises:
        UserError: A name or a setting is wrong, or a study has no meaning on its base; nothing is measured by then.
    """
    modules = {name: load_study(name) for name in STUDIES}
    names = names or STUDIES
    for name in names:
        if name not in modules:
            raise UserError(f"study {name!r} is unknown; {suggest(name, modules)}")

    # Of all studies, whichever are made: a mistake in an override is said where its study is not among them too.
    models = {name: module.Settings for name, module in modules.items()}
    recipes = load_studies(models, overrides)

    # Of all bases before the first study, which may take minutes.
    bases = {}
    for name in names:
        chosen = base or recipes[name].base
        bases[name] = Base(chosen, resolve(chosen))
        check_base(name, modules[name].NEEDS, bases[name])

    minutes = sum(recipes[name].minutes for name in names)
    say(f"studies: about {format_duration(60 * minutes)} on two cores")
    for name in names:
        run_study(name, modules[name], recipes[name], bases[name], runs)


def load_study(name: str) -> ModuleType:
    """Return the module of a study."""
    return importlib.import_module(f"pipeline.studies.{name}")


def check_base(study: str, needs: str, base: Base) -> None:
    """Raise UserError where a base lacks what a study needs: ``words`` (it read English), or ``chat``."""
    # Only a nano has its texts beside its weights.
    is_nano = (base.folder / PRETRAINING_FILE).is_file()
    if needs and is_nano:
        raise UserError(f"{study}: has no meaning on {base.name}, which read only sums and booleans; leave BASE out")
    if needs != "chat":
        return

    # What a base without a template of its own is given.
    template = load_tokenizer(base.folder).chat_template
    if template in OUR_TEMPLATES:
        raise UserError(f"{study}: has no meaning on {base.name}, which has no chat template; leave BASE out")


def run_study(name: str, module: ModuleType, settings: StudySettings, base: Base, runs: Path) -> None:
    """Make a study unless that was done from the same inputs, and say its verdict."""
    # Beside the first run: a study reads the base, which no seed of a training changes.
    run_dir = find_run_dir(runs, base_folder_name(base.name), FIRST_SEED)
    study = run_dir.study(name)
    inputs = {
        "settings": settings.model_dump(),
        "fingerprint": fingerprint(base.folder),
        # By the machine.
        "load": resolve_precision("auto"),
        "data": hash_data(name),
        # Some studies grade.
        "extraction_version": EXTRACTION_VERSION,
    }

    with run_dir.lock(), log_to(study.folder):
        reasons = study.find_changes("study", inputs) or study.find_damaged("study")
        if reasons:
            say(f"{name}: about {settings.minutes:g} min on two cores")
            start = time.monotonic()
            findings: Findings = module.measure(settings, base)
            seconds = round(time.monotonic() - start, 1)

            about = {
                "study": name,
                "claim": module.CLAIM,
                "limits": module.LIMITS,
                "base": base.name,
            }
            result = make_result(about, settings.margin, findings)
            run_dir.write_study(result, inputs, {"base": base.name, "seconds": seconds})

        result = run_dir.read_study(name)
        summary = study.folder / "summary.md"
        say(f"{name}: {result['verdict']}: {result['reason']} ({summary})")


def hash_data(name: str) -> str | None:
    """Return the sha256 of a study's data; None where it has none."""
    file = DATA / f"{name}.jsonl"
    return sha256_file(file) if file.is_file() else None
