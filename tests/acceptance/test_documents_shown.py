"""Everything that the documents name exists: links, paths, settings, metrics, bodies."""

from __future__ import annotations

import re
from pathlib import Path

import flower.events
import pytest
from pydantic import TypeAdapter

from backend.api.problems import Problem
from backend.api.routes.control import TaskRetried
from backend.api.routes.task_models import TaskState
from backend.settings import Settings
from backend.states import State
from tests.support import documents, shown_answers
from tests.support.documents import Block, Document, everywhere
from tests.support.stack import ROOT

MADE_BY_READERS = {
    "backend/.env",
    "backend/tasks/word_count.py",
    "backend/tasks/check_link.py",
    "backend/tasks/greet.py",
}


def test_every_code_block_is_of_a_kind_that_is_tested() -> None:
    tried = {"bash", "json", "http", "python", "javascript", "sql", "dotenv", "yaml", "text"}
    tried.add("nginx")  # tests/acceptance/test_behind_nginx.py
    for document in documents.documents():
        assert document.text.count("\n```") == 2 * len(documents.FENCE.findall(document.text))
        assert {block.language for block in document.blocks} <= tried
        for block in document.blocks:
            if block.language == "bash":
                documents.checked(block)


def test_an_unknown_command_in_a_document_is_refused() -> None:
    for text in ("frobnicate\n", "make nothing\n", "docker compose logs nobody\n", "make\nls\n"):
        with pytest.raises(AssertionError):
            documents.checked(Block("X.md", 1, "bash", text))


def test_each_separate_json_body_is_valid_for_the_api() -> None:
    for block in documents.blocks("json"):
        (body,) = shown_answers.values(block.text)
        keys = ["task_id", "status", "result"], [*TaskRetried.model_fields], [*Problem.model_fields]
        assert list(body) in keys
        TypeAdapter(TaskState | TaskRetried | Problem).validate_python(body)


def test_each_setting_of_an_env_file_exists() -> None:
    for block in documents.blocks("dotenv"):
        for line in block.text.splitlines():
            assert line.partition("=")[0] in documents.known_settings(), block.where


def test_the_prometheus_example_uses_flowers_address() -> None:
    (block,) = documents.blocks("yaml")
    assert "metrics_path: /metrics\n" in block.text
    assert f'targets: ["localhost:{Settings.model_fields["flower_port"].default}"]' in block.text


def test_every_metric_of_flower_is_documented() -> None:
    named = re.findall(r"'(flower_\w+)'", Path(flower.events.__file__).read_text())
    table = re.findall(r"^\| `(flower_\w+)`", (ROOT / "FLOWER.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(table)


@everywhere
def test_each_link_and_anchor_resolves(document: Document) -> None:
    assert document.links
    for target in document.links:
        name, _, anchor = target.partition("#")
        path = ROOT / name if name else document.path
        assert path.exists(), target
        if anchor:
            assert anchor in Document(path).anchors, target


@everywhere
def test_each_named_path_test_and_make_target_exists(document: Document) -> None:
    tests = " ".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for code in re.findall(r"`([^`\n]+)`", document.prose):
        if re.fullmatch(r"(?:backend|tests|examples|benchmarks|deploy|\.ci)/[\w/.-]*", code):
            assert code in MADE_BY_READERS or (ROOT / code).exists(), code
        elif re.fullmatch(r"(?:api|broker|db|embedded|relay|tasks|worker)/(?:\w+/)?\w+\.py", code):
            assert (ROOT / "backend" / code).exists(), code
        elif re.fullmatch(r"test_\w+", code):
            assert f"def {code}(" in tests, code
        elif re.match(r"(make|docker|\.venv/bin/tasks-api|tasks-api)( |$)", code):
            text = code.replace(".venv/bin/", "").replace("tasks-api", ".venv/bin/tasks-api")
            if text != ".venv/bin/tasks-api":
                assert documents.checked(Block(document.path.name, 0, "bash", text))


@everywhere
def test_documents_do_not_mention_the_development_environment(document: Document) -> None:
    assert not re.findall(r"/work\b|/root\b|compose.lab|DESIGN|TRAPS|\bseed\b", document.text)


def test_the_state_diagram_appears_once_and_has_every_state() -> None:
    drawings = [block.text for block in documents.blocks("text") if "─" in block.text]
    (drawing,) = [text for text in drawings if "PENDING" in text]
    assert all(state in drawing for state in State)
