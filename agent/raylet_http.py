"""The raylet's side: its three calls over HTTP, on the socket that its link handed over.

The raylet retries when a connection fails or is dropped, for thirty seconds; it does not retry an answer
that is not 200. So a runtime env that cannot be prepared is a reply with the status FAILED inside a 200,
and a daemon that is about to end hangs up without an answer: the next daemon gets the same request.
Ray Client's server and the dashboard call the same port.
"""

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie

from google.protobuf.message import DecodeError
from prometheus_client import Histogram

from ray_envd.agent.errors import DrainingError, EnvError, unexpected
from ray_envd.agent.http import HANG_UP, Request, Response
from ray_envd.agent.manager import Ask, Manager
from ray_envd.agent.pb import runtime_env_pb2 as pb
from ray_envd.agent.sessions import Session
from ray_envd.cache.errors import NotReferencedError

_log = logging.getLogger(__name__)
_COOKIE = "ray-authentication-token"
_BEARER = "bearer "
#: Of one session; and the longest request that is remembered.
_MOST_REMEMBERED, _MOST_REMEMBERED_BYTES = 256, 16 * 1024
#: By path, as gRPC calls them.
_METHODS = {
    "/get_or_create_runtime_env": "GetOrCreateRuntimeEnv",
    "/delete_runtime_env_if_possible": "DeleteRuntimeEnvIfPossible",
    "/get_runtime_envs_info": "GetRuntimeEnvsInfo",
}


class RayletFace:
    """Answers one session's raylet. Call an instance with a request."""

    def __init__(self, session: Session, manager: Manager) -> None:
        self._session, self._manager = session, manager
        self._seconds = manager.metrics.requests.rpc_seconds
        #: Bound once each: this is on the path of a hit.
        self._bound: dict[tuple[str, str], Histogram] = {}
        # What came before, byte by byte, is not decoded again, nor is the same answer encoded; raylets repeat
        # themselves. They are this session's, and go with it.
        self._asked = lru_cache(_MOST_REMEMBERED)(_asked)
        self._created = lru_cache(_MOST_REMEMBERED)(_created)
        self._routes: dict[str, Callable[[bytes], Response | Awaitable[Response]]] = {
            "/get_or_create_runtime_env": self._get_or_create,
            "/delete_runtime_env_if_possible": self._delete,
            "/get_runtime_envs_info": self._info,
        }

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        """Routes a request; answers hits without making a task."""
        began = time.perf_counter()
        method = _METHODS.get(request.path, "other")
        answer = self._answer(request)
        if isinstance(answer, Response):
            self._measure(method, str(answer.status), began)
            return answer
        return self._measured(method, answer, began)

    async def _measured(self, method: str, answer: Awaitable[Response], began: float) -> Response:
        code = "cancelled"
        try:
            response = await answer
            code = str(response.status or "dropped")
        finally:
            self._measure(method, code, began)
        return response

    def _measure(self, method: str, code: str, began: float) -> None:
        bound = self._bound.get((method, code))
        if bound is None:
            bound = self._bound[method, code] = self._seconds.labels("raylet", method, code)
        bound.observe(time.perf_counter() - began)

    def _answer(self, request: Request) -> Response | Awaitable[Response]:
        refusal = self._unauthorized(request)
        if refusal is not None:
            return refusal
        route = self._routes.get(request.path)
        if route is None:
            return Response.text("not found\n", HTTPStatus.NOT_FOUND)
        if request.method != "POST":
            refused = Response.text("use POST\n", HTTPStatus.METHOD_NOT_ALLOWED)
            refused.headers["Allow"] = "POST"
            return refused
        try:
            return route(request.body)
        except DecodeError:
            return Response.text(
                "the body is not the protobuf message of this call\n", HTTPStatus.BAD_REQUEST
            )

    def _unauthorized(self, request: Request) -> Response | None:
        """401 without a token, 403 with a wrong one, as stock; compared in constant time."""
        if not self._session.auth:
            return None
        given = _given_token(request)
        if not given:
            return Response.text("Unauthorized: Missing authentication token", HTTPStatus.UNAUTHORIZED)
        expected = self._session.token or ""
        if not expected or not hmac.compare_digest(given.encode(), expected.encode()):
            return Response.text("Forbidden: Invalid authentication token", HTTPStatus.FORBIDDEN)
        return None

    def _get_or_create(self, body: bytes) -> Response | Awaitable[Response]:
        ask = self._asked(body) if len(body) <= _MOST_REMEMBERED_BYTES else _asked(body)
        context = self._manager.hit(self._session, ask)
        if context is not None:
            return self._created(context)
        return self._create(ask)

    async def _create(self, ask: Ask) -> Response:
        try:
            return _created((await self._manager.acquire(self._session, ask)).context)
        except DrainingError:
            return HANG_UP
        except EnvError as error:
            return _proto(failed_reply(self._session, error))
        except Exception as bug:  # noqa: BLE001 - logged; the raylet does not retry what is not 200
            _log.exception("a request for a runtime env failed unexpectedly")
            return _proto(failed_reply(self._session, unexpected(bug)))

    def _delete(self, body: bytes) -> Response:
        message = pb.DeleteRuntimeEnvIfPossibleRequest.FromString(body)
        return _proto(delete_reply(self._manager, self._session, message))

    def _info(self, body: bytes) -> Response:
        message = pb.GetRuntimeEnvsInfoRequest.FromString(body)
        return _proto(info_reply(self._manager, self._session, message))


def _asked(body: bytes) -> Ask:
    return ask_of(pb.GetOrCreateRuntimeEnvRequest.FromString(body))


def ask_of(message: pb.GetOrCreateRuntimeEnvRequest) -> Ask:
    """What a request asks for, in whichever of Ray's dialects it came."""
    config = message.runtime_env_config
    return Ask(
        serialized=message.serialized_runtime_env,
        timeout=config.setup_timeout_seconds,
        job_id=message.job_id.decode("ascii", errors="replace"),
        log_files=tuple(config.log_files),
        source=message.legacy_source_process or message.source_process,
    )


def failed_reply(session: Session, error: EnvError) -> pb.GetOrCreateRuntimeEnvReply:
    """The reply that Ray turns into RuntimeEnvSetupError."""
    return pb.GetOrCreateRuntimeEnvReply(
        status=pb.AGENT_RPC_STATUS_FAILED, error_message=f"{session.node_prefix}{error}"
    )


def delete_reply(
    manager: Manager, session: Session, message: pb.DeleteRuntimeEnvIfPossibleRequest
) -> pb.DeleteRuntimeEnvIfPossibleReply:
    """Releases a reference; FAILED where there is none, as in stock."""
    try:
        manager.uses.release(session, message.serialized_runtime_env, message.source_process)
    except NotReferencedError:
        return pb.DeleteRuntimeEnvIfPossibleReply(
            status=pb.AGENT_RPC_STATUS_FAILED,
            error_message=f"{session.node_prefix}the runtime env has no reference to give back",
        )
    return pb.DeleteRuntimeEnvIfPossibleReply(status=pb.AGENT_RPC_STATUS_OK)


def info_reply(
    manager: Manager, session: Session, message: pb.GetRuntimeEnvsInfoRequest
) -> pb.GetRuntimeEnvsInfoReply:
    """The session's envs, as ``ray list runtime-envs`` shows them; values of env_vars are masked."""
    states = manager.uses.states(session)
    limit = message.limit if message.HasField("limit") and message.limit >= 0 else len(states)
    reply = pb.GetRuntimeEnvsInfoReply(total=len(states))
    for state in states[:limit]:
        shown = reply.runtime_env_states.add(runtime_env=state.runtime_env, ref_cnt=state.references)
        if state.success is not None:
            shown.success = state.success
        if state.error is not None:
            shown.error = state.error
        if state.creation_ms is not None:
            shown.creation_time_ms = state.creation_ms
    return reply


def _created(context: str) -> Response:
    return _proto(
        pb.GetOrCreateRuntimeEnvReply(status=pb.AGENT_RPC_STATUS_OK, serialized_runtime_env_context=context)
    )


def _proto(
    reply: pb.GetOrCreateRuntimeEnvReply | pb.DeleteRuntimeEnvIfPossibleReply | pb.GetRuntimeEnvsInfoReply,
) -> Response:
    return Response(reply.SerializeToString())


def _given_token(request: Request) -> str:
    """The token where stock looks for it: two headers, then the dashboard's cookie."""
    header = request.headers.get("authorization") or request.headers.get("x-ray-authorization") or ""
    if header.lower().startswith(_BEARER):
        return header[len(_BEARER) :].strip()
    if header:
        return header
    try:
        morsel = SimpleCookie(request.headers.get("cookie", "")).get(_COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""
