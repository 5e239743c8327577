"""Errors as responses in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from creditdecoding.errors import (
    CreditError,
    MissingExtraError,
    OptionError,
    QueueFullError,
    short_repr,
)
from creditdecoding.server import schema
from creditdecoding.server.answer import Failure

try:
    from starlette.responses import JSONResponse
except ImportError as error:
    raise MissingExtraError("fastapi", "server") from error

StatusAndBody = tuple[int, dict[str, Any]]

STATUS_OF_FAILURE = {"memory": 503, "closing": 503}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
MAX_MESSAGE = 2000  # characters
MAX_PARAM = 200
MAX_GIVEN = 80
PROMPT_TYPES = "Input should be a text or a list of token ids, or a list of several of these"
RETRY_LATER = (429, 503)


class ModelNotFoundError(OptionError):
    """A request for a model that this server does not have."""


class ShuttingDownError(CreditError):
    """A request that came during the shutdown."""

    WHAT = "the server is shutting down"

    def __init__(self) -> None:
        super().__init__(self.WHAT, hint="Try another one.")


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """OpenAI's error object; texts are cut to a line of bounded length and valid Unicode."""
    default = "invalid_request_error" if status < 500 else "server_error"
    return {
        "error": {
            "message": _line(message, MAX_MESSAGE),
            "type": ERROR_TYPES.get(status, default),
            "param": None if param is None else _line(param, MAX_PARAM),
            "code": code,
        }
    }


def _line(text: str, longest: int) -> str:
    cut = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return " ".join(cut.encode("utf-8", "replace").decode().splitlines())


def failure_body(failure: Failure) -> StatusAndBody:
    """For an answer that failed."""
    status = STATUS_OF_FAILURE.get(failure.reason, 500)
    code = f"{failure.reason}_failed" if status == 500 else failure.reason
    return status, error_body(status, failure.message, code=code)


def engine_failure_message(error: Exception) -> str:
    """One line for the requests that an engine held when a step raised."""
    if isinstance(error, CreditError):
        return str(error)
    return f"the engine failed in this request's pass ({type(error).__name__})"


def refusal_body(error: CreditError) -> StatusAndBody:
    """For a request that was not admitted."""
    status, code, param = _classify(error)
    return status, error_body(status, str(error), param, code)


def _classify(error: CreditError) -> tuple[int, str | None, str | None]:
    """Status, code and param."""
    if isinstance(error, QueueFullError):
        return 429, "queue_full", None
    if isinstance(error, ModelNotFoundError):
        return 404, "model_not_found", "model"
    if isinstance(error, ShuttingDownError):
        return 503, "closing", None
    if not isinstance(error, OptionError):
        return 503, "unavailable", None
    first_word = error.what.partition(" ")[0]
    return 400, None, error.param or (first_word if first_word in schema.FIELD_NAMES else None)


def validation_body(errors: Sequence[Mapping[str, Any]]) -> StatusAndBody:
    """For a body that pydantic refused with these errors."""
    message, param = validation_message(errors)
    return 400, error_body(400, message, param)


def validation_message(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """Message and field for pydantic's errors. Of a field with several types, the error of the
    type that fits best is shown: not "is no list", but what is wrong within the list.
    """
    error = min(errors, key=lambda error: (_is_type_error(error), -len(error["loc"])))
    location = [
        part for part in error["loc"] if isinstance(part, int) or part in schema.FIELD_NAMES
    ]
    field = ".".join(map(str, location))
    if error["type"] == schema.REFUSAL:
        name = error["ctx"]["field"]
        return error["ctx"]["message"], f"{field}.{name}" if field else name
    if error["type"] == "json_invalid":
        reason = f"{error['ctx']['error']} at character {field}"
        return f"the body is not JSON: {reason}. Send a JSON object.", None
    if not field:
        return "the body is not a JSON object. Send one, with content-type: application/json.", None
    message = error["msg"]
    if location[0] == "prompt" and _is_type_error(error):
        message = PROMPT_TYPES
    return f"{field}: {message}{_got(error)}. Correct it and try again.", field


def _got(error: Mapping[str, Any]) -> str:
    """The value at fault, if it is a single one."""
    value = error["input"]
    return f"; got {short_repr(value, MAX_GIVEN)}" if isinstance(value, str | int | float) else ""


def _is_type_error(error: Mapping[str, Any]) -> bool:
    return str(error["type"]).endswith("_type") or error["type"] == "literal_error"


def json_response(
    status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """A response, with a header to try again later where that helps."""
    retry = {"retry-after": "1"} if status in RETRY_LATER else {}
    return JSONResponse(body, status, {**retry, **(headers or {})})


def closing_error(
    status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """A response without the application; closes the connection, as the request may be unread."""
    close = {"connection": "close", **(headers or {})}
    return json_response(status, error_body(status, message, code=code), close)


def raw_error(status: int, message: str, code: str | None, request_id: str) -> bytes:
    """`closing_error` as bytes of HTTP, for a connection without an application."""
    response = closing_error(status, message, code, {"x-request-id": request_id})
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body)
