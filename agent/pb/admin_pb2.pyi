from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateRuntimeEnvRequest(_message.Message):
    __slots__ = ("serialized_runtime_env", "python", "setup_timeout_seconds", "hold", "environment")
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SERIALIZED_RUNTIME_ENV_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    SETUP_TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    serialized_runtime_env: str
    python: str
    setup_timeout_seconds: int
    hold: bool
    environment: _containers.ScalarMap[str, str]
    def __init__(self, serialized_runtime_env: _Optional[str] = ..., python: _Optional[str] = ..., setup_timeout_seconds: _Optional[int] = ..., hold: _Optional[bool] = ..., environment: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ProgressEvent(_message.Message):
    __slots__ = ("field", "phase", "detail", "done", "total")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    field: str
    phase: str
    detail: str
    done: int
    total: int
    def __init__(self, field: _Optional[str] = ..., phase: _Optional[str] = ..., detail: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class CreateRuntimeEnvResult(_message.Message):
    __slots__ = ("serialized_runtime_env_context", "cache_hit", "seconds", "objects")
    SERIALIZED_RUNTIME_ENV_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    CACHE_HIT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    serialized_runtime_env_context: str
    cache_hit: bool
    seconds: float
    objects: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, serialized_runtime_env_context: _Optional[str] = ..., cache_hit: _Optional[bool] = ..., seconds: _Optional[float] = ..., objects: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateRuntimeEnvFailure(_message.Message):
    __slots__ = ("code", "message", "transient")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRANSIENT_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    transient: bool
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., transient: _Optional[bool] = ...) -> None: ...

class CreateRuntimeEnvEvent(_message.Message):
    __slots__ = ("progress", "result", "failure")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    progress: ProgressEvent
    result: CreateRuntimeEnvResult
    failure: CreateRuntimeEnvFailure
    def __init__(self, progress: _Optional[_Union[ProgressEvent, _Mapping]] = ..., result: _Optional[_Union[CreateRuntimeEnvResult, _Mapping]] = ..., failure: _Optional[_Union[CreateRuntimeEnvFailure, _Mapping]] = ...) -> None: ...

class PrefetchRequest(_message.Message):
    __slots__ = ("serialized_runtime_envs", "python", "setup_timeout_seconds", "environment", "user", "pin")
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SERIALIZED_RUNTIME_ENVS_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    SETUP_TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    serialized_runtime_envs: _containers.RepeatedScalarFieldContainer[str]
    python: str
    setup_timeout_seconds: int
    environment: _containers.ScalarMap[str, str]
    user: str
    pin: bool
    def __init__(self, serialized_runtime_envs: _Optional[_Iterable[str]] = ..., python: _Optional[str] = ..., setup_timeout_seconds: _Optional[int] = ..., environment: _Optional[_Mapping[str, str]] = ..., user: _Optional[str] = ..., pin: _Optional[bool] = ...) -> None: ...

class PrefetchResult(_message.Message):
    __slots__ = ("cache_hit", "seconds", "objects")
    CACHE_HIT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    cache_hit: bool
    seconds: float
    objects: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, cache_hit: _Optional[bool] = ..., seconds: _Optional[float] = ..., objects: _Optional[_Iterable[str]] = ...) -> None: ...

class PrefetchEvent(_message.Message):
    __slots__ = ("index", "progress", "result", "failure")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    index: int
    progress: ProgressEvent
    result: PrefetchResult
    failure: CreateRuntimeEnvFailure
    def __init__(self, index: _Optional[int] = ..., progress: _Optional[_Union[ProgressEvent, _Mapping]] = ..., result: _Optional[_Union[PrefetchResult, _Mapping]] = ..., failure: _Optional[_Union[CreateRuntimeEnvFailure, _Mapping]] = ...) -> None: ...

class Object(_message.Message):
    __slots__ = ("id", "kind", "summary", "bytes", "created_ms", "last_used_ms", "uses", "references", "pinned", "build_seconds", "owner_uid", "exclusive_bytes", "fetched_bytes", "damaged")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_USED_MS_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    BUILD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    OWNER_UID_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FETCHED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    summary: str
    bytes: int
    created_ms: int
    last_used_ms: int
    uses: int
    references: int
    pinned: bool
    build_seconds: float
    owner_uid: int
    exclusive_bytes: int
    fetched_bytes: int
    damaged: str
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., summary: _Optional[str] = ..., bytes: _Optional[int] = ..., created_ms: _Optional[int] = ..., last_used_ms: _Optional[int] = ..., uses: _Optional[int] = ..., references: _Optional[int] = ..., pinned: _Optional[bool] = ..., build_seconds: _Optional[float] = ..., owner_uid: _Optional[int] = ..., exclusive_bytes: _Optional[int] = ..., fetched_bytes: _Optional[int] = ..., damaged: _Optional[str] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("id", "session_dir", "ray_version", "python", "raylet_pid", "started_ms", "envs", "references", "connected", "owner_uid")
    ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_DIR_FIELD_NUMBER: _ClassVar[int]
    RAY_VERSION_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    RAYLET_PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    ENVS_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    OWNER_UID_FIELD_NUMBER: _ClassVar[int]
    id: str
    session_dir: str
    ray_version: str
    python: str
    raylet_pid: int
    started_ms: int
    envs: int
    references: int
    connected: bool
    owner_uid: int
    def __init__(self, id: _Optional[str] = ..., session_dir: _Optional[str] = ..., ray_version: _Optional[str] = ..., python: _Optional[str] = ..., raylet_pid: _Optional[int] = ..., started_ms: _Optional[int] = ..., envs: _Optional[int] = ..., references: _Optional[int] = ..., connected: _Optional[bool] = ..., owner_uid: _Optional[int] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("objects", "sessions", "next_page_token")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[Object]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    next_page_token: str
    def __init__(self, objects: _Optional[_Iterable[_Union[Object, _Mapping]]] = ..., sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatsReply(_message.Message):
    __slots__ = ("version", "pid", "uptime_seconds", "store", "objects", "object_bytes", "uv_cache_bytes", "budget_bytes", "reserved_bytes", "disk_free_bytes", "disk_total_bytes", "sessions", "references", "hits", "misses", "builds", "failures", "building", "resident_bytes", "draining", "apparent_bytes", "exclusive_bytes", "other_bytes", "damaged", "image_bytes", "warm_wanted", "warm_ready", "warm_failed")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    OBJECT_BYTES_FIELD_NUMBER: _ClassVar[int]
    UV_CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BUDGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESERVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    BUILDS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    BUILDING_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    APPARENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OTHER_BYTES_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    WARM_WANTED_FIELD_NUMBER: _ClassVar[int]
    WARM_READY_FIELD_NUMBER: _ClassVar[int]
    WARM_FAILED_FIELD_NUMBER: _ClassVar[int]
    version: str
    pid: int
    uptime_seconds: float
    store: str
    objects: int
    object_bytes: int
    uv_cache_bytes: int
    budget_bytes: int
    reserved_bytes: int
    disk_free_bytes: int
    disk_total_bytes: int
    sessions: int
    references: int
    hits: int
    misses: int
    builds: int
    failures: int
    building: int
    resident_bytes: int
    draining: bool
    apparent_bytes: int
    exclusive_bytes: int
    other_bytes: int
    damaged: int
    image_bytes: int
    warm_wanted: int
    warm_ready: int
    warm_failed: int
    def __init__(self, version: _Optional[str] = ..., pid: _Optional[int] = ..., uptime_seconds: _Optional[float] = ..., store: _Optional[str] = ..., objects: _Optional[int] = ..., object_bytes: _Optional[int] = ..., uv_cache_bytes: _Optional[int] = ..., budget_bytes: _Optional[int] = ..., reserved_bytes: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., disk_total_bytes: _Optional[int] = ..., sessions: _Optional[int] = ..., references: _Optional[int] = ..., hits: _Optional[int] = ..., misses: _Optional[int] = ..., builds: _Optional[int] = ..., failures: _Optional[int] = ..., building: _Optional[int] = ..., resident_bytes: _Optional[int] = ..., draining: _Optional[bool] = ..., apparent_bytes: _Optional[int] = ..., exclusive_bytes: _Optional[int] = ..., other_bytes: _Optional[int] = ..., damaged: _Optional[int] = ..., image_bytes: _Optional[int] = ..., warm_wanted: _Optional[int] = ..., warm_ready: _Optional[int] = ..., warm_failed: _Optional[int] = ...) -> None: ...

class GcRequest(_message.Message):
    __slots__ = ("dry_run", "target_bytes")
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    TARGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    dry_run: bool
    target_bytes: int
    def __init__(self, dry_run: _Optional[bool] = ..., target_bytes: _Optional[int] = ...) -> None: ...

class GcVictim(_message.Message):
    __slots__ = ("object", "reason", "frees_bytes", "worth")
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FREES_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORTH_FIELD_NUMBER: _ClassVar[int]
    object: Object
    reason: str
    frees_bytes: int
    worth: float
    def __init__(self, object: _Optional[_Union[Object, _Mapping]] = ..., reason: _Optional[str] = ..., frees_bytes: _Optional[int] = ..., worth: _Optional[float] = ...) -> None: ...

class GcReply(_message.Message):
    __slots__ = ("victims", "freed_bytes", "remaining_bytes")
    VICTIMS_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    REMAINING_BYTES_FIELD_NUMBER: _ClassVar[int]
    victims: _containers.RepeatedCompositeFieldContainer[GcVictim]
    freed_bytes: int
    remaining_bytes: int
    def __init__(self, victims: _Optional[_Iterable[_Union[GcVictim, _Mapping]]] = ..., freed_bytes: _Optional[int] = ..., remaining_bytes: _Optional[int] = ...) -> None: ...

class RemoveRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RemoveReply(_message.Message):
    __slots__ = ("id", "freed_bytes")
    ID_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    id: str
    freed_bytes: int
    def __init__(self, id: _Optional[str] = ..., freed_bytes: _Optional[int] = ...) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class PinReply(_message.Message):
    __slots__ = ("object",)
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    object: Object
    def __init__(self, object: _Optional[_Union[Object, _Mapping]] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("ids", "repair")
    IDS_FIELD_NUMBER: _ClassVar[int]
    REPAIR_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    repair: bool
    def __init__(self, ids: _Optional[_Iterable[str]] = ..., repair: _Optional[bool] = ...) -> None: ...

class VerifyUser(_message.Message):
    __slots__ = ("session_id", "session_dir", "runtime_env", "references")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_DIR_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_ENV_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    session_dir: str
    runtime_env: str
    references: int
    def __init__(self, session_id: _Optional[str] = ..., session_dir: _Optional[str] = ..., runtime_env: _Optional[str] = ..., references: _Optional[int] = ...) -> None: ...

class VerifyEvent(_message.Message):
    __slots__ = ("done", "total", "object", "damage", "files", "unlike_record", "error", "freed_bytes", "users")
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    DAMAGE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    UNLIKE_RECORD_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    done: int
    total: int
    object: Object
    damage: str
    files: _containers.RepeatedScalarFieldContainer[str]
    unlike_record: _containers.RepeatedScalarFieldContainer[str]
    error: str
    freed_bytes: int
    users: _containers.RepeatedCompositeFieldContainer[VerifyUser]
    def __init__(self, done: _Optional[int] = ..., total: _Optional[int] = ..., object: _Optional[_Union[Object, _Mapping]] = ..., damage: _Optional[str] = ..., files: _Optional[_Iterable[str]] = ..., unlike_record: _Optional[_Iterable[str]] = ..., error: _Optional[str] = ..., freed_bytes: _Optional[int] = ..., users: _Optional[_Iterable[_Union[VerifyUser, _Mapping]]] = ...) -> None: ...

class TraceRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TraceUnit(_message.Message):
    __slots__ = ("id", "bytes")
    ID_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    id: str
    bytes: int
    def __init__(self, id: _Optional[str] = ..., bytes: _Optional[int] = ...) -> None: ...

class TraceEvent(_message.Message):
    __slots__ = ("time", "event", "number", "owner_uid", "kind", "digest", "bytes", "units", "build_seconds", "fetched_bytes")
    TIME_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    OWNER_UID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    BUILD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FETCHED_BYTES_FIELD_NUMBER: _ClassVar[int]
    time: float
    event: str
    number: int
    owner_uid: int
    kind: str
    digest: str
    bytes: int
    units: _containers.RepeatedCompositeFieldContainer[TraceUnit]
    build_seconds: float
    fetched_bytes: int
    def __init__(self, time: _Optional[float] = ..., event: _Optional[str] = ..., number: _Optional[int] = ..., owner_uid: _Optional[int] = ..., kind: _Optional[str] = ..., digest: _Optional[str] = ..., bytes: _Optional[int] = ..., units: _Optional[_Iterable[_Union[TraceUnit, _Mapping]]] = ..., build_seconds: _Optional[float] = ..., fetched_bytes: _Optional[int] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("deadline_seconds",)
    DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    deadline_seconds: float
    def __init__(self, deadline_seconds: _Optional[float] = ...) -> None: ...

class DrainReply(_message.Message):
    __slots__ = ("cancelled",)
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    cancelled: int
    def __init__(self, cancelled: _Optional[int] = ...) -> None: ...
