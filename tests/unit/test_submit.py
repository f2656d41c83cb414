"""backend.submit can be used in another application."""

import os
import subprocess
import sys

HEAVY = {"backend.settings", "backend.db", "backend.task", "celery", "kombu", "psycopg2", "fastapi"}


def test_its_import_needs_no_setting_and_no_part_of_the_service() -> None:
    code = "import sys, backend.submit; print(*sys.modules, sep='\\n')"
    # Without settings; the path is needed if the project is not installed.
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "DATABASE_URL": "nonsense"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(done.stdout.split())
