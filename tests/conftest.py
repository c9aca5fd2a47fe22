"""Options, skips and the browser of the whole test run: slow tests on demand, accelerators where they are, no other
skip unseen.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from tests.browser import MISSING, Browser, Page, find_chromium

ALLOWED_SKIPS = ("slow:", "gpu:", "npu:")
_skips = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")
    parser.addoption("--strict-skips", action="store_true", help="fail on a skip that is not for slow, gpu or npu")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_skips] = []


@functools.cache
def has_device(name: str) -> bool:
    from sailctl.core.device import pick
    from sailctl.core.errors import UsageError

    try:
        pick(name)
    except UsageError:
        return False
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        if item.get_closest_marker("gpu") and not has_device("cuda"):
            item.add_marker(pytest.mark.skip(reason="gpu: no NVIDIA GPU here"))
        if item.get_closest_marker("npu") and not has_device("npu"):
            item.add_marker(pytest.mark.skip(reason="npu: no Ascend NPU here"))


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless browser for the whole run. Without Chromium the test is skipped, which --strict-skips forbids."""
    binary = find_chromium()
    if binary is None:
        pytest.skip(MISSING)
    browser = Browser(binary, tmp_path_factory.mktemp("chromium") / "profile")
    yield browser
    browser.close()


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Page]:
    """A new tab of 1280 by 900 pixels."""
    page = chromium.page()
    yield page
    page.close()


def _remember(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(ALLOWED_SKIPS):
            config.stash[_skips].append(f"{report.nodeid}: {reason}")


class _Skips:
    """Collects skips with a reason of their own; a plugin object because report hooks do not get the config."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _remember(self.config, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        _remember(self.config, report)


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(_Skips(session.config))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--strict-skips") and session.config.stash[_skips]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--strict-skips") and config.stash[_skips]:
        terminalreporter.section("skips that are not for slow, gpu or npu", red=True)
        for line in config.stash[_skips]:
            terminalreporter.line(line)
