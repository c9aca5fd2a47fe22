"""A key is shown nowhere and goes nowhere but into a header."""

from __future__ import annotations

import copy
import pickle

import pytest

from sailctl.core.engines.secret import Secret
from sailctl.core.errors import UsageError

KEY = "sk-0123456789abcdef"


def test_a_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", f" {KEY}\n")
    secret = Secret.from_env("SOME_KEY")
    assert secret is not None and secret.header() == {"Authorization": f"Bearer {KEY}"}
    assert secret.header("name.openai.azure.com") == {"api-key": KEY}
    assert secret.header("azure.com.evil.example") == {"Authorization": f"Bearer {KEY}"}
    monkeypatch.setenv("SOME_KEY", " ")
    assert Secret.from_env("SOME_KEY") is None
    monkeypatch.delenv("SOME_KEY")
    assert Secret.from_env("SOME_KEY") is None


@pytest.mark.parametrize("value", [f"{KEY}\nX-Other: header", f"{KEY}ключ"])
def test_what_no_header_can_hold_is_refused_without_being_quoted(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(UsageError, match="SOME_KEY: holds characters") as refused:
        Secret.from_env("SOME_KEY")
    assert KEY not in str(refused.value)


def test_it_shows_nothing_and_does_not_travel() -> None:
    secret = Secret(KEY)
    assert KEY not in f"{secret} {secret!r} {secret!s} {[secret]} {dir(secret)}"
    assert not hasattr(secret, "__dict__")
    for travel in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a key does not travel"):
            travel(secret)


def test_it_is_taken_out_of_the_texts_of_others() -> None:
    assert Secret(KEY).scrub(f"wrong key {KEY}, I said {KEY}") == "wrong key [key], I said [key]"
