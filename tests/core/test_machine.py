"""What a measurement says of the machine and the source."""

import subprocess

import pytest

from inscape.core.machine import commit, machine_kind, versions


def test_versions_are_of_installed_packages_only():
    assert versions(("torch", "no-such-package")).keys() == {"torch"}


def test_the_machine_has_cores_and_no_host_name():
    import platform

    assert "core" in machine_kind()
    assert platform.node() not in machine_kind()


def test_a_commit_is_marked_when_the_source_differs_and_not_when_something_else_does(tmp_path):
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments], cwd=tmp_path, check=True)

    assert commit(tmp_path) == ""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a").write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    clean = commit(tmp_path, "src")
    assert len(clean) >= 7
    assert not clean.endswith("+")
    (tmp_path / "b").write_text("2")
    assert commit(tmp_path, "src") == clean
    (tmp_path / "src" / "a").write_text("3")
    assert commit(tmp_path, "src") == f"{clean}+"
    assert commit(tmp_path, "src", ":!src/a") == clean


@pytest.fixture(autouse=True)
def _outside_any_checkout(monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
