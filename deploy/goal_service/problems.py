"""What goes wrong, as clients of OpenAI's interface expect to be told: one line, in its JSON."""

from __future__ import annotations

import json

from starlette.responses import Response

LONGEST = 500
"""Characters of a message."""
KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ProblemError(Exception):
    """A request that gets no answer: the status, why in one line, and which parameter it is about."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, retry_s: float | None = None
    ) -> None:
        """`retry_s`: seconds after which it is worth another try."""
        super().__init__(message)
        self.status, self.param, self.code, self.retry_s = status, param, code, retry_s
        self.message = " ".join(message.split())[:LONGEST]

    @property
    def tree(self) -> dict[str, dict[str, str | None]]:
        """What the client is told."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """Return the whole answer. A connection whose request was not read to its end is closed."""
        headers = {}
        if self.retry_s is not None:
            headers["retry-after"] = str(max(1, round(self.retry_s)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.status in (408, 413):
            headers["connection"] = "close"
        return Response(json.dumps(self.tree), self.status, headers, "application/json")
