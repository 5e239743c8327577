"""`--model_args` of lm-eval's model class, without lm-eval."""

from __future__ import annotations

from typing import Any

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.integrations.lm_eval_arguments import parse_arguments


@pytest.mark.parametrize(
    ("arguments", "setting", "value"),
    [
        ({"model_path": "DIR", "gen_length": 64}, "gen_length", 64),
        ({"decoder": "fixed", "steps": "16", "gen_length": "64"}, "decoder", "fixed:k=4"),
        ({"threshold": 0.8}, "decoder", "credit:threshold=0.8"),
        (
            {"decoder": "credit:alpha=0.5", "threshold": 0.8},
            "decoder",
            "credit:alpha=0.5,threshold=0.8",
        ),
        ({"decoder": "credit:alpha=0.7;beta=0.8"}, "decoder", "credit:alpha=0.7,beta=0.8"),
        ({"use_cache": True}, "cache", "prefix"),
        ({"use_cache": "False"}, "cache", "none"),
        ({"use_cache": "dual"}, "cache", "dual"),
        ({"cfg": 1}, "cfg_scale", 1.0),
        ({"batch_size": "auto", "device": None, "trust_remote_code": True}, "gen_length", 256),
        ({"batch_size": "auto:4", "max_batch_size": 64}, "gen_length", 256),
        ({"confidence_eos_eot_inf": True}, "confidence_eos_eot_inf", True),
        ({"temperature": 0.2, "top_p": 0.95, "top_k": 4}, "top_p", 0.95),
    ],
)
def test_arguments(arguments: dict[str, Any], setting: str, value: object) -> None:
    assert getattr(parse_arguments(arguments).generation_config({}), setting) == value


def test_the_tasks_settings_hold_where_no_argument_does() -> None:
    task = {"until": "\n", "max_gen_toks": 9, "temperature": 0.7, "top_p": 0.9, "top_k": 5}
    config = parse_arguments({}).generation_config(task)
    assert (config.gen_length, config.stop, config.temperature) == (9, ("\n",), 0.7)
    assert (config.top_p, config.top_k) == (0.9, 5)
    greedy = parse_arguments({}).generation_config({**task, "do_sample": False})
    assert (greedy.temperature, greedy.top_p, greedy.top_k) == (0.0, None, None)
    typed = parse_arguments({"temperature": 0.2, "escape_until": True}).generation_config(task)
    assert (typed.temperature, typed.stop) == (0.2, ())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gen_lenght": 3}, "unknown option.*gen_length"),
        ({"mc_num": 0}, "mc_num is out of range"),
        ({"gen_length": "many"}, "gen_length is not a number"),
        ({"steps": 4}, "steps is an option of the fixed decoder"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_arguments(arguments)


def test_an_until_that_is_no_text_is_refused_unless_it_is_ignored() -> None:
    with pytest.raises(OptionError, match="neither a text nor a list of texts; got 5"):
        parse_arguments({}).generation_config({"until": 5})
    assert not parse_arguments({"escape_until": True}).generation_config({"until": 5}).stop
