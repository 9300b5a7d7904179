"""``ray.rpc.RuntimeEnvService``: the raylet's calls as gRPC, as Ray spoke them up to 2.6."""

from ray_envd.agent.errors import EnvError
from ray_envd.agent.local_sessions import LocalSessions
from ray_envd.agent.manager import Manager
from ray_envd.agent.pb import runtime_env_pb2 as pb
from ray_envd.agent.pb import runtime_env_pb2_grpc as services
from ray_envd.agent.raylet_http import ask_of, delete_reply, failed_reply, info_reply


class RuntimeEnvService(services.RuntimeEnvServiceServicer):
    """Answers for the daemon's own session. A bad runtime env is a reply with FAILED, not a gRPC error."""

    def __init__(self, manager: Manager, sessions: LocalSessions) -> None:
        self._manager, self._sessions = manager, sessions

    async def GetOrCreateRuntimeEnv(  # noqa: N802 - the protocol's name
        self, request: pb.GetOrCreateRuntimeEnvRequest, _context: object
    ) -> pb.GetOrCreateRuntimeEnvReply:
        """Prepares an env and counts a reference."""
        session = await self._sessions.grpc()
        ask = ask_of(request)
        try:
            context = self._manager.hit(session, ask) or (await self._manager.acquire(session, ask)).context
        except EnvError as error:
            return failed_reply(session, error)
        return pb.GetOrCreateRuntimeEnvReply(
            status=pb.AGENT_RPC_STATUS_OK, serialized_runtime_env_context=context
        )

    async def DeleteRuntimeEnvIfPossible(  # noqa: N802 - the protocol's name
        self, request: pb.DeleteRuntimeEnvIfPossibleRequest, _context: object
    ) -> pb.DeleteRuntimeEnvIfPossibleReply:
        """Gives a reference back."""
        return delete_reply(self._manager, await self._sessions.grpc(), request)

    async def GetRuntimeEnvsInfo(  # noqa: N802 - the protocol's name
        self, request: pb.GetRuntimeEnvsInfoRequest, _context: object
    ) -> pb.GetRuntimeEnvsInfoReply:
        """Lists the session's envs."""
        return info_reply(self._manager, await self._sessions.grpc(), request)
