"""How the interface describes itself, and how it tells what is wrong with a request."""

from __future__ import annotations

import difflib
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import Response

from agents.goals import KINDS, json_schema
from deploy.goal_service.problems import ProblemError
from deploy.goal_service.replies import ErrorReply
from deploy.goal_service.wire import ChatForm, CompletionForm, GoalForm, ScoreForm

FORMS = {
    "/v1/chat/completions": ChatForm,
    "/v1/completions": CompletionForm,
    "/v1/goals": GoalForm,
    "/v1/score": ScoreForm,
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": about}
    for status, about in {
        400: "Not understood, or not supported",
        401: "No token, or a wrong one",
        403: "A host or a web page that is not served",
        404: "No such thing",
        408: "The request did not arrive in time",
        413: "Too long",
        429: "Too much for now: come again after Retry-After seconds",
        500: "The service failed",
        503: "No answer in time, or shutting down",
    }.items()
}
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with stream = true as server-sent events, each a chunk as OpenAI has them",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


def conform(app: FastAPI, token: bool) -> None:
    """Make the description say what is so: goals by their own schema, errors in OpenAI's form, a token if one is needed."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            tree = get_openapi(title=app.title, version=app.version, routes=app.routes, description=app.description)
            for operations in tree["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
            schemas = tree["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            _add_goals(schemas)
            if token:
                tree["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                tree["security"] = [{"token": []}]
                tree["paths"]["/health"]["get"]["security"] = []
            app.openapi_schema = tree
        return app.openapi_schema

    app.openapi = described


def _add_goals(schemas: dict[str, Any]) -> None:
    """Put the schema of each robot's goals in the place of "any object"."""
    names = []
    for robot in KINDS:
        name = f"Goal-{robot}"
        tree = json_schema(robot)
        for inner, value in tree.pop("$defs").items():
            schemas[f"{name}-{inner}"] = _moved(value, name)
        schemas[name] = _moved(tree, name)
        names.append(name)
    schemas["Goal"] = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in names]}
    goal = {"$ref": "#/components/schemas/Goal"}
    schemas["GoalReply"]["properties"]["goal"] = goal
    schemas["GoalForm"]["properties"]["current"] = {"anyOf": [goal, {"type": "null"}]}


def _moved(tree: Any, name: str) -> Any:
    """Return a schema whose references lead to where its definitions now are."""
    if isinstance(tree, dict):
        return {
            key: value.replace("#/$defs/", f"#/components/schemas/{name}-") if key == "$ref" else _moved(value, name)
            for key, value in tree.items()
        }
    return [_moved(item, name) for item in tree] if isinstance(tree, list) else tree


def install(app: FastAPI) -> None:
    """Tell every error in OpenAI's form, in one line and without a trace of the code."""

    @app.exception_handler(ProblemError)
    async def _(_: Request, problem: ProblemError) -> Response:
        return problem.response()

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        return misunderstood(request.url.path, error).response()

    @app.exception_handler(HTTPException)
    async def _(_: Request, error: HTTPException) -> Response:
        response = ProblemError(error.status_code, str(error.detail)).response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def _(_: Request, __: Exception) -> Response:
        return ProblemError(500, "the service failed; its log says more").response()


def misunderstood(path: str, error: RequestValidationError) -> ProblemError:
    """Return the first thing that is wrong with a request; an unknown parameter with its near misses."""
    errors = error.errors()
    first = next((one for one in errors if not one["type"].endswith("_type")), errors[0])
    where = ".".join(str(part) for part in first["loc"][1:] if not _is_form(part)) or None
    if first["type"] == "extra_forbidden" and path in FORMS:
        near = difflib.get_close_matches(str(first["loc"][-1]), FORMS[path].model_fields)
        hint = f"; near misses: {', '.join(near)}" if near else ""
        return ProblemError(400, f"Unrecognized request argument supplied: {where}{hint}", where, "unknown_parameter")
    if where is None and first["type"] in ("missing", "model_attributes_type"):
        return ProblemError(400, "the body must be a JSON object, with Content-Type: application/json")
    text = str(first["msg"]).removeprefix("Value error, ")
    return ProblemError(400, f"{where}: {text}" if where else text, where)


def _is_form(part: int | str) -> bool:
    """Return whether a part of a location is no field, but which of several forms was tried."""
    return isinstance(part, str) and (part in ("str", "constrained-str") or "[" in part)
