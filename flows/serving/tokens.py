"""Who may ask: everyone on this machine, or whoever knows a token."""

import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request

from beft.errors import InputError
from flows.servers.mlflow_server import is_loopback
from flows.serving.limits import RefusedError

ANSWERS, ADMINISTRATION = "BEFT_SERVE_TOKEN", "BEFT_SERVE_ADMIN_TOKEN"
_MIN_LENGTH = 16


@dataclass(frozen=True)
class Tokens:
    """What requests must show: ``Authorization: Bearer TOKEN``. None: nothing.

    Attributes:
        answers: For answers, and whatever shows no more than they do.
        administration: For what changes the server, its metrics and its list of adapters.
    """

    answers: str | None = None
    administration: str | None = None

    @classmethod
    def for_host(cls, host: str, environment: Mapping[str, str] = os.environ) -> "Tokens":
        """The tokens of the environment.

        Raises:
            InputError: Other machines can reach the host and a token is missing, or one is too short.
        """
        tokens = cls(environment.get(ANSWERS) or None, environment.get(ADMINISTRATION) or None)
        for name, token in ((ANSWERS, tokens.answers), (ADMINISTRATION, tokens.administration)):
            if token is None and not is_loopback(host):
                raise InputError(
                    f"--host {host} can be reached from other machines: name a token in {name} "
                    "(a long random text, such as 'openssl rand -hex 32' prints), or listen on 127.0.0.1"
                )
            if token is not None and len(token) < _MIN_LENGTH:
                raise InputError(f"{name} has {len(token)} characters; it needs {_MIN_LENGTH} or more")
        return tokens

    def require_answers(self, request: Request) -> None:
        """Check that a request may be answered.

        Raises:
            RefusedError: It shows neither token (401).
        """
        self._require(request, [token for token in (self.answers, self.administration) if token], self.answers)

    def require_administration(self, request: Request) -> None:
        """Check that a request may administer the server.

        Raises:
            RefusedError: It does not show the token (401).
        """
        self._require(request, [self.administration] if self.administration else [], self.administration)

    @staticmethod
    def _require(request: Request, known: list[str], needed: str | None) -> None:
        if needed is None:
            return
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not any(hmac.compare_digest(shown.encode(), one.encode()) for one in known):
            raise RefusedError(
                401, "send the server's token as 'Authorization: Bearer TOKEN'", {"WWW-Authenticate": "Bearer"}
            )
