"""Errors in the form that clients of OpenAI's API expect: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

logger = logging.getLogger(__name__)


class ApiError(Exception):
    """What went wrong, for the client; `param` names the part of the request, `code` is for programs."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def content(self) -> dict[str, Any]:
        """Returns the error as the API writes it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Returns the error as an answer to a request."""
        return JSONResponse(self.content(), self.status)


def as_api_error(error: Exception) -> ApiError:
    """Returns the error itself, or what a client may know of one that is the server's own fault."""
    if isinstance(error, ApiError):
        return error
    logger.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed while it answered; its log says why")


def install_handlers(app: FastAPI) -> None:
    """Makes every error that the app meets leave it in the API's form."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return validation_error(error.errors()[0]).response()

    @app.exception_handler(Exception)
    async def failure(_: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        endpoint = f"{request.method} {request.url.path}"
        message = {404: f"Invalid URL ({endpoint})", 405: f"Not allowed to {endpoint}"}.get(
            error.status_code, error.detail
        )
        response = ApiError(error.status_code, message).response()
        response.headers.update(error.headers or {})
        return response


def validation_error(found: dict[str, Any]) -> ApiError:
    """Returns one finding of pydantic as an error of the API."""
    kind, param = found["type"], parameter(found["loc"][1:])
    if kind == "json_invalid":
        return ApiError(400, "the body of the request is not valid JSON")
    if param is None:
        return ApiError(400, "the body of the request must be a JSON object, sent as application/json")
    if kind == "missing":
        return ApiError(400, f"Missing required parameter: {param!r}.", param=param, code="missing_required_parameter")
    message = found["msg"].removeprefix("Value error, ")
    code = "invalid_type" if kind.endswith("_type") else "invalid_value"
    return ApiError(400, f"Invalid value for {param!r}: {message}.", param=param, code=code)


def parameter(path: Sequence[str | int]) -> str | None:
    """Returns a position in the body as the API names it, such as `messages[0].role`; None for the body itself."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return name.removeprefix(".") or None
