"""Random JSON schemas of the kinds that are served, answered over HTTP.

    python -m tools.random_schemas --count 500 --decoders default,credit,threshold,thrift,fixed

Serves a random network with the embedded model's tokenizer, sends a schema with each request of
OpenAI's client and validates every answer with jsonschema. A random network has no habit of writing
JSON, so what is valid is so by construction, in whatever order a decoder writes.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import jsonschema
import openai
import torch
from torch import Tensor

from creditdecoding.config import (
    EngineConfig,
    ServeConfig,
)
from creditdecoding.lm import LM, load
from creditdecoding.server.listener import (
    listen,
    url_of,
)
from creditdecoding.server.options import HttpConfig
from creditdecoding.server.serve import Server

CLIENTS = 16
PATIENCE = 600.0  # seconds after which an answer counts as hanging
LENGTHS = (128, 480)
"""Positions of an answer: the second where the shortest answer of a schema is longer."""

WORDS = (
    "name",
    "age",
    "größe",
    'say "hi"',
    "a\\b",
    "id",
    "x_1",
    "tags",
    "on",
    "unit",
)
PATTERNS = (
    "^[A-Z]{2}-[0-9]{3}$",
    "^(red|green|blue)$",
    "^[a-f]+$",
    "[0-9]{2}",
    r"^\w{1,4}\.$",
)
FORMATS = (
    "date",
    "time",
    "date-time",
    "uuid",
    "ipv4",
    "email",
    "hostname",
)
DEFINITIONS = {"code": "code", "a/b~c d": "a~1b~0c%20d"}
"""Names under `$defs`, and how a pointer writes them."""
HOST_LABEL = re.compile("(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
FORMAT_CHECKER = jsonschema.FormatChecker()


@FORMAT_CHECKER.checks("date-time", ValueError)
def is_date_time(text: object) -> bool:
    """Whether a text is a time that Python reads; raises `ValueError` if it is none. jsonschema has
    no check of this format without another package.
    """
    datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    return True


@FORMAT_CHECKER.checks("time", ValueError)
def is_time(text: object) -> bool:
    """Whether a text is a time with an offset, as RFC 3339 wants it; jsonschema wants none."""
    moment = datetime.fromisoformat(f"2000-01-01T{text}".replace("Z", "+00:00"))
    return moment.tzinfo is not None


@FORMAT_CHECKER.checks("hostname")
def is_hostname(text: object) -> bool:
    """Whether a text is the name of a host after RFC 1123; jsonschema wants another package."""
    labels = str(text).split(".")
    return len(str(text)) <= 253 and all(HOST_LABEL.fullmatch(label) for label in labels)


CONSTANTS = (
    "red",
    'a "quoted" word',
    "line\nbreak",
    3,
    -2.5,
    4.0,
    True,
    None,
    [1, "é"],
    {"k": 0},
)


def random_schema(rng: random.Random) -> dict[str, Any]:
    """An object whose objects and arrays are two levels deep, with definitions to refer to."""
    definitions = {name: rng.choice((_string, _number, _object))(rng, 0) for name in DEFINITIONS}
    return {**_object(rng, 2), "$defs": definitions}


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    """An object with up to four properties, and as many levels below it."""
    names = rng.sample(WORDS, rng.randint(1, 4))
    counts = [{}, {"minProperties": 1}, {"maxProperties": len(names)}]
    return {
        "type": "object",
        "properties": {name: _value(rng, depth) for name in names},
        "required": rng.sample(names, rng.randint(0, len(names))),
        "additionalProperties": rng.random() < 0.5,
        **rng.choice(counts),
    }


def _value(rng: random.Random, depth: int) -> dict[str, Any]:
    makers = [
        _string,
        _string,
        _number,
        _number,
        _constant,
    ]
    if depth:
        makers += [
            _array,
            _tuple,
            _any_of,
            _one_of,
            _all_of,
            _reference,
            _object,
        ]
    return rng.choice(makers)(rng, max(0, depth - 1))


def _string(rng: random.Random, _: int) -> dict[str, Any]:
    kind = rng.randrange(5)
    if kind == 0:
        return {
            "type": "string",
            "pattern": rng.choice(PATTERNS),
        }
    if kind == 1:
        return {
            "type": "string",
            "format": rng.choice(FORMATS),
        }
    if kind == 2:
        least = rng.randint(0, 3)
        return {
            "type": "string",
            "minLength": least,
            "maxLength": least + rng.randint(0, 6),
        }
    if kind == 3:
        return {
            "type": "string",
            "pattern": "^[a-f]*$",
            "minLength": 2,
            "maxLength": 4,
        }
    return {"type": "string"}


def _number(rng: random.Random, _: int) -> dict[str, Any]:
    low = rng.choice(
        [
            rng.randint(-300, 300),
            round(rng.uniform(-5, 5), rng.randint(1, 4)),
        ]
    )
    span = rng.choice([1, 7, 250, 0.5, 10**4])
    bounds = [
        {},
        {"minimum": low},
        {"exclusiveMaximum": low},
        {"minimum": low, "maximum": low + span},
        {
            "exclusiveMinimum": low,
            "exclusiveMaximum": low + 2 * span + 1,
        },
    ]
    bound = rng.choice(bounds)
    kind = "number" if span == 0.5 else rng.choice(["integer", "number"])
    return {"type": kind, **bound}


def _constant(rng: random.Random, _: int) -> dict[str, Any]:
    kinds = [
        {"type": "boolean"},
        {"type": "null"},
        {"const": rng.choice(CONSTANTS)},
    ]
    kinds.append({"enum": rng.sample(CONSTANTS, rng.randint(1, 5))})
    kinds.append({"type": ["integer", "null"], "minimum": 0})
    return rng.choice(kinds)


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    least = rng.randint(0, 2)
    bounds = [
        {"maxItems": least + rng.randint(0, 2)},
        {},
    ]
    return {
        "type": "array",
        "items": _value(rng, depth),
        "minItems": least,
        **rng.choice(bounds),
    }


def _tuple(rng: random.Random, depth: int) -> dict[str, Any]:
    """An array whose first items have schemas of their own, and perhaps up to two more."""
    first = [_value(rng, depth) for _ in range(rng.randint(1, 2))]
    more = [
        {},
        {"items": False},
        {"items": _value(rng, 0), "maxItems": len(first) + rng.randint(0, 2)},
        {"items": _value(rng, 0), "minItems": len(first) + 1, "maxItems": len(first) + 2},
    ]
    return {
        "type": "array",
        "prefixItems": first,
        **rng.choice(more),
    }


def _any_of(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_value(rng, depth) for _ in range(rng.randint(1, 3))]}


def _one_of(rng: random.Random, depth: int) -> dict[str, Any]:
    """Options that differ in type, or in a required constant."""
    by_type = [
        _string(rng, 0),
        _number(rng, 0),
        _array(rng, depth),
        {"type": "boolean"},
    ]
    by_constant = [_tagged(rng, depth, tag) for tag in rng.sample(CONSTANTS, 2)]
    return {"oneOf": rng.choice([rng.sample(by_type, 2), by_constant])}


def _tagged(rng: random.Random, depth: int, tag: object) -> dict[str, Any]:
    """An object with a constant that tells it apart."""
    return {
        "type": "object",
        "properties": {"kind": {"const": tag}, "value": _value(rng, depth)},
        "required": ["kind"],
    }


def _all_of(rng: random.Random, depth: int) -> dict[str, Any]:
    """Parts of which each says a little: of a text, of a number, of an object, of a definition."""
    low = rng.randint(-20, 20)
    texts = [{"type": "string", "maxLength": 5}, {"pattern": "^[é-ü]+$"}]
    numbers = [{"type": "number", "minimum": low}, {"maximum": low + 0.75}]
    integers = [{"type": "integer", "minimum": low}, {"exclusiveMaximum": low + 9}]
    value = _value(rng, depth)
    objects = [
        {"type": "object", "properties": {"id": size, "on": value}}
        for size in ({"type": "number"}, {"type": "integer", "minimum": low})
    ]
    return {"allOf": rng.choice([texts, numbers, integers, objects, [_reference(rng, depth)]])}


def _reference(rng: random.Random, _: int) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{rng.choice(list(DEFINITIONS.values()))}"}


class TinyNet:
    """A fast random network: each position sees the mean of all tokens, the last one and itself."""

    def __init__(
        self,
        vocab: int,
        length: int,
        scale: float = 3.0,
        width: int = 8,
    ) -> None:
        noise = torch.Generator().manual_seed(0)
        self.tokens = torch.randn(vocab, width, generator=noise)
        self.places = torch.randn(length, width, generator=noise)
        self.out = torch.randn(width, vocab, generator=noise) * scale

    def __call__(
        self,
        tokens: Tensor,
        read: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        /,
    ) -> Tensor:
        seen = self.tokens[tokens]
        visible = torch.ones(tokens.shape, dtype=torch.bool) if mask is None else mask[:, 0]
        mean = (seen * visible[..., None]).sum(1, keepdim=True) / visible.sum(1)[:, None, None]
        hidden = seen + seen.roll(1, 1) + mean + self.places[: tokens.shape[1]]
        return torch.tanh(hidden[read]) @ self.out


def tiny_lm(lm: LM, max_length: int = 600) -> LM:
    """A random model with the tokenizer and the defaults of another."""
    net = TinyNet(lm.vocab.size, max_length)
    tiny = LM(net, lm.tokenizer, max_length=max_length, device=torch.device("cpu"))
    tiny.defaults = lm.defaults
    return tiny


def answer_valid(client: openai.OpenAI, model: str, schema: dict[str, Any], decoder: str) -> str:
    """What became of a request under a schema: "valid", or what went wrong."""
    fields = {} if decoder == "default" else {"decoder": decoder}
    wrapped: Any = {"type": "json_schema", "json_schema": {"name": "random", "schema": schema}}
    for length in LENGTHS:
        try:
            done = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": "Answer."}],
                response_format=wrapped,
                max_tokens=length,
                extra_body=fields,
            )
        except openai.BadRequestError as error:
            if "no answer of this length" in error.message and length < LENGTHS[-1]:
                continue
            return error.message
        except openai.APITimeoutError:
            return "hangs"
        return _judged(done.choices[0], schema)
    raise AssertionError("every length ends in an answer or an error")


def _judged(choice: Any, schema: dict[str, Any]) -> str:
    try:
        answer = json.loads(choice.message.content)
        jsonschema.validate(answer, schema, format_checker=FORMAT_CHECKER)
    except (ValueError, jsonschema.ValidationError) as error:
        return f"not valid: {error}"
    return "valid" if choice.finish_reason == "stop" else str(choice.finish_reason)


def answer_all(url: str, count: int, seed: int = 0, decoder: str = "default") -> Counter[str]:
    """How many of `count` random schemas were answered in which way."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)
    (card,) = client.models.list()
    rng = random.Random(seed)
    schemas = [random_schema(rng) for _ in range(count)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        return Counter(
            clients.map(lambda schema: answer_valid(client, card.id, schema, decoder), schemas)
        )


def main() -> None:
    """Serve, answer, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="how many schemas")
    parser.add_argument("--seed", type=int, default=0, help="which schemas")
    parser.add_argument("--decoders", default="default", help="rules, separated by commas")
    options = parser.parse_args()
    torch.set_num_threads(1)
    http = HttpConfig(port=0, access_log=False)
    lm = tiny_lm(load("pocket"))
    server = Server(lm, "random", EngineConfig(), ServeConfig(), http)
    listener = listen(http)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        for decoder in options.decoders.split(","):
            results = answer_all(url_of(listener), options.count, options.seed, decoder)
            print(f"{decoder}: {options.count} random schemas, {dict(results)}", flush=True)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


if __name__ == "__main__":
    main()
