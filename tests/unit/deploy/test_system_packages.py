"""scripts/install-system-packages in a made-up system, and what tests do where a package is missing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.server_process import ROOT
from tests.system_packages import require, unavailable

SCRIPT = ROOT / "scripts" / "install-system-packages"
TOOLS = ("bash", "env", "dirname", "tail", "mktemp", "rm", "cat", "tee", "chmod", "true")


class System:
    """The script, a list with one package that is missing, and commands that only write down how they are called."""

    def __init__(self, folder: Path, user_id: int) -> None:
        self.calls_file = folder / "calls"
        self.probe = folder / "installed"
        self.policy = folder / "policy-rc.d"
        self._scripts = folder / "scripts"
        self._commands = folder / "commands"
        self._scripts.mkdir()
        self._commands.mkdir()
        shutil.copy(SCRIPT, self._scripts)
        (self._scripts / "system-packages.txt").write_text(
            f"# a comment\nprometheus  {self.probe}  the tests\n"
        )
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None
            (self._commands / tool).symlink_to(found)
        self.add("id", f"echo {user_id}")

    def add(self, name: str, behaviour: str) -> None:
        """Adds a command that writes down how it was called and then does what the shell lines say."""
        command = self._commands / name
        command.write_text(f'#!/bin/bash\necho "{name} $*" >>{self.calls_file}\n{behaviour}\n')
        command.chmod(0o755)

    def run(self) -> "subprocess.CompletedProcess[str]":
        """Runs the script with these commands alone."""
        # The script appends the administrator's folders to the path; nothing of Debian's packaging lives there.
        return subprocess.run(
            [self._scripts / SCRIPT.name],
            env={"PATH": str(self._commands), "POLICY_RC_D": str(self.policy)},
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self, name: str) -> list[str]:
        """How a command was called."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [line for line in lines if line.startswith(f"{name} ")]


@pytest.fixture
def system(tmp_path: Path) -> System:
    """Debian, as root; installing works."""
    system = System(tmp_path, user_id=0)
    system.add("dpkg-query", "")
    system.add("apt-cache", "")
    system.add("apt-get", f'case "$*" in *install*) echo >{system.probe} ;; esac')
    return system


def test_what_is_missing_is_installed(system: System) -> None:
    done = system.run()

    assert done.returncode == 0
    (update, install) = system.calls("apt-get")
    assert update.endswith(" update")
    assert install.endswith(" install --no-install-recommends prometheus")


def test_the_package_is_kept_from_starting_a_server(system: System) -> None:
    system.add("systemctl", "")
    system.add(
        "apt-get", f'case "$*" in *install*) {system.policy} || echo "refused $?" >{system.probe} ;; esac'
    )

    system.run()

    assert system.probe.read_text() == "refused 101\n"
    assert not system.policy.exists()
    assert system.calls("systemctl") == ["systemctl disable prometheus"]


def test_a_policy_that_is_there_is_left_alone(system: System) -> None:
    system.policy.write_text("the administrator's own")

    system.run()

    assert system.policy.read_text() == "the administrator's own"


def test_where_nothing_is_missing_nothing_is_done(system: System) -> None:
    system.probe.touch()

    done = system.run()

    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert not system.calls("apt-get")


def test_a_failed_installation_is_one_line_and_no_failure(system: System) -> None:
    system.add("apt-get", 'echo "E: no network"; exit 100')

    done = system.run()

    assert done.returncode == 0
    reason = done.stderr.splitlines()[-1]
    assert "E: no network" in reason
    assert "prometheus" in reason


def test_a_package_that_no_source_has_does_not_stop_the_rest(system: System) -> None:
    system.add("apt-cache", "exit 100")

    done = system.run()

    assert done.returncode == 0
    assert "prometheus" in done.stderr
    assert not [call for call in system.calls("apt-get") if "install" in call]


def test_without_rights_nothing_is_tried(tmp_path: Path) -> None:
    system = System(tmp_path, user_id=1000)
    system.add("dpkg-query", "")
    system.add("apt-get", "exit 1")
    system.add("sudo", "exit 1")

    done = system.run()

    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1
    assert "prometheus" in done.stderr
    assert not system.calls("apt-get")


def test_on_another_system_nothing_is_tried(tmp_path: Path) -> None:
    done = System(tmp_path, user_id=0).run()

    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1
    assert "neither Debian nor Ubuntu" in done.stderr


def test_sudo_installs_where_it_asks_for_no_password(tmp_path: Path) -> None:
    system = System(tmp_path, user_id=1000)
    system.add("dpkg-query", "")
    system.add("apt-cache", "")
    system.add("sudo", 'shift; exec "$@"')
    system.add("apt-get", f'case "$*" in *install*) echo >{system.probe} ;; esac')

    done = system.run()

    assert done.returncode == 0
    assert any("apt-get" in call and "prometheus" in call for call in system.calls("sudo"))


def test_a_missing_package_skips_the_test_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tests.system_packages._ADMINISTRATOR_PATH", str(tmp_path))

    with pytest.raises(pytest.skip.Exception, match="prometheus not installed"):
        require("prometheus")


def test_in_ci_nothing_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")

    with pytest.raises(pytest.fail.Exception, match="nothing is skipped in CI: no such thing"):
        unavailable("no such thing")


def test_a_package_that_is_there_skips_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "prometheus").touch(mode=0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), os.environ["PATH"]]))

    require("prometheus")
