"""Where the API key comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.server.api_key import with_key
from creditdecoding.server.options import HttpConfig
from tests.helpers.cli import run_credit

SERVE = ["serve", "--port", "0", "--model", "/nowhere"]


def key_file(folder: Path, text: str | bytes, mode: int = 0o600) -> str:
    path = folder / "key"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return str(path)


def test_the_key_comes_from_an_option_a_file_or_the_environment(tmp_path: Path) -> None:
    warned: list[str] = []
    path = key_file(tmp_path, "from-file\n")
    environment = {"CREDIT_API_KEY": "from-environment"}
    assert with_key(HttpConfig(), warned.append, {}).api_key is None
    assert with_key(HttpConfig(), warned.append, environment).api_key == "from-environment"
    from_file = HttpConfig(api_key_file=path)
    assert with_key(from_file, warned.append, environment).api_key == "from-file"
    from_option = HttpConfig(api_key="from-option")
    assert with_key(from_option, warned.append, environment).api_key == "from-option"
    assert warned == []
    key_file(tmp_path, "from-file", 0o644)
    assert with_key(from_file, warned.append, {}).api_key == "from-file"
    (warning,) = warned
    assert "chmod 600" in warning
    assert "from-file" not in warning


@pytest.mark.parametrize(
    "content", ["", "\n", "two words", "two\nlines", "s\u00e9same", b"\xff\xfe", "x" * 5000]
)
def test_a_key_that_is_none_is_refused_and_not_repeated(
    content: str | bytes, tmp_path: Path
) -> None:
    path = key_file(tmp_path, content)
    result = run_credit([*SERVE, "--api-key-file", path])
    assert result.status == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not content or str(content).strip() == "" or str(content) not in result.stderr


@pytest.mark.parametrize("value", ["", " ", "two words"])
def test_an_empty_key_in_the_environment_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDIT_API_KEY", value)
    result = run_credit(SERVE)
    assert result.status == 2
    assert "the environment variable CREDIT_API_KEY is not a key" in result.stderr


@pytest.mark.parametrize("path", ["/nowhere/key", "/", "a\0b"])
def test_a_key_file_that_cannot_be_read(path: str) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        with_key(HttpConfig(api_key_file=path), lambda text: None, {})


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [("0.0.0.0", None, True), ("0.0.0.0", "sesame", False), ("127.0.0.1", None, False)],
)
def test_an_open_server_without_a_key_is_warned_about(
    host: str, key: str | None, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDIT_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("CREDIT_API_KEY", key)
    result = run_credit([*SERVE, "--host", host])
    assert ("warning: anyone who can reach this machine" in result.stderr) == warned, result.stderr
