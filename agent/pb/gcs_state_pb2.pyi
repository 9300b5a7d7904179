from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FilterPredicate(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EQUAL: _ClassVar[FilterPredicate]
    NOT_EQUAL: _ClassVar[FilterPredicate]
EQUAL: FilterPredicate
NOT_EQUAL: FilterPredicate

class JobTableData(_message.Message):
    __slots__ = ("job_id", "is_dead")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    IS_DEAD_FIELD_NUMBER: _ClassVar[int]
    job_id: bytes
    is_dead: bool
    def __init__(self, job_id: _Optional[bytes] = ..., is_dead: _Optional[bool] = ...) -> None: ...

class GetAllJobInfoRequest(_message.Message):
    __slots__ = ("job_or_submission_id", "skip_submission_job_info_field", "skip_is_running_tasks_field")
    JOB_OR_SUBMISSION_ID_FIELD_NUMBER: _ClassVar[int]
    SKIP_SUBMISSION_JOB_INFO_FIELD_FIELD_NUMBER: _ClassVar[int]
    SKIP_IS_RUNNING_TASKS_FIELD_FIELD_NUMBER: _ClassVar[int]
    job_or_submission_id: str
    skip_submission_job_info_field: bool
    skip_is_running_tasks_field: bool
    def __init__(self, job_or_submission_id: _Optional[str] = ..., skip_submission_job_info_field: _Optional[bool] = ..., skip_is_running_tasks_field: _Optional[bool] = ...) -> None: ...

class GetAllJobInfoReply(_message.Message):
    __slots__ = ("job_info_list",)
    JOB_INFO_LIST_FIELD_NUMBER: _ClassVar[int]
    job_info_list: _containers.RepeatedCompositeFieldContainer[JobTableData]
    def __init__(self, job_info_list: _Optional[_Iterable[_Union[JobTableData, _Mapping]]] = ...) -> None: ...

class RuntimeEnvInfo(_message.Message):
    __slots__ = ("serialized_runtime_env",)
    SERIALIZED_RUNTIME_ENV_FIELD_NUMBER: _ClassVar[int]
    serialized_runtime_env: str
    def __init__(self, serialized_runtime_env: _Optional[str] = ...) -> None: ...

class TaskInfoEntry(_message.Message):
    __slots__ = ("runtime_env_info",)
    RUNTIME_ENV_INFO_FIELD_NUMBER: _ClassVar[int]
    runtime_env_info: RuntimeEnvInfo
    def __init__(self, runtime_env_info: _Optional[_Union[RuntimeEnvInfo, _Mapping]] = ...) -> None: ...

class RayErrorInfo(_message.Message):
    __slots__ = ("error_type",)
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    error_type: int
    def __init__(self, error_type: _Optional[int] = ...) -> None: ...

class TaskStateUpdate(_message.Message):
    __slots__ = ("error_info", "state_ts_ns")
    class StateTsNsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    ERROR_INFO_FIELD_NUMBER: _ClassVar[int]
    STATE_TS_NS_FIELD_NUMBER: _ClassVar[int]
    error_info: RayErrorInfo
    state_ts_ns: _containers.ScalarMap[int, int]
    def __init__(self, error_info: _Optional[_Union[RayErrorInfo, _Mapping]] = ..., state_ts_ns: _Optional[_Mapping[int, int]] = ...) -> None: ...

class TaskEvents(_message.Message):
    __slots__ = ("task_info", "state_updates")
    TASK_INFO_FIELD_NUMBER: _ClassVar[int]
    STATE_UPDATES_FIELD_NUMBER: _ClassVar[int]
    task_info: TaskInfoEntry
    state_updates: TaskStateUpdate
    def __init__(self, task_info: _Optional[_Union[TaskInfoEntry, _Mapping]] = ..., state_updates: _Optional[_Union[TaskStateUpdate, _Mapping]] = ...) -> None: ...

class GetTaskEventsRequest(_message.Message):
    __slots__ = ("limit", "filters")
    class Filters(_message.Message):
        __slots__ = ("job_filters", "exclude_driver", "state_filters")
        class JobIdFilter(_message.Message):
            __slots__ = ("predicate", "job_id")
            PREDICATE_FIELD_NUMBER: _ClassVar[int]
            JOB_ID_FIELD_NUMBER: _ClassVar[int]
            predicate: FilterPredicate
            job_id: bytes
            def __init__(self, predicate: _Optional[_Union[FilterPredicate, str]] = ..., job_id: _Optional[bytes] = ...) -> None: ...
        class StateFilter(_message.Message):
            __slots__ = ("predicate", "state")
            PREDICATE_FIELD_NUMBER: _ClassVar[int]
            STATE_FIELD_NUMBER: _ClassVar[int]
            predicate: FilterPredicate
            state: str
            def __init__(self, predicate: _Optional[_Union[FilterPredicate, str]] = ..., state: _Optional[str] = ...) -> None: ...
        JOB_FILTERS_FIELD_NUMBER: _ClassVar[int]
        EXCLUDE_DRIVER_FIELD_NUMBER: _ClassVar[int]
        STATE_FILTERS_FIELD_NUMBER: _ClassVar[int]
        job_filters: _containers.RepeatedCompositeFieldContainer[GetTaskEventsRequest.Filters.JobIdFilter]
        exclude_driver: bool
        state_filters: _containers.RepeatedCompositeFieldContainer[GetTaskEventsRequest.Filters.StateFilter]
        def __init__(self, job_filters: _Optional[_Iterable[_Union[GetTaskEventsRequest.Filters.JobIdFilter, _Mapping]]] = ..., exclude_driver: _Optional[bool] = ..., state_filters: _Optional[_Iterable[_Union[GetTaskEventsRequest.Filters.StateFilter, _Mapping]]] = ...) -> None: ...
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    limit: int
    filters: GetTaskEventsRequest.Filters
    def __init__(self, limit: _Optional[int] = ..., filters: _Optional[_Union[GetTaskEventsRequest.Filters, _Mapping]] = ...) -> None: ...

class GetTaskEventsReply(_message.Message):
    __slots__ = ("events_by_task", "num_status_task_events_dropped", "num_truncated")
    EVENTS_BY_TASK_FIELD_NUMBER: _ClassVar[int]
    NUM_STATUS_TASK_EVENTS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    NUM_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    events_by_task: _containers.RepeatedCompositeFieldContainer[TaskEvents]
    num_status_task_events_dropped: int
    num_truncated: int
    def __init__(self, events_by_task: _Optional[_Iterable[_Union[TaskEvents, _Mapping]]] = ..., num_status_task_events_dropped: _Optional[int] = ..., num_truncated: _Optional[int] = ...) -> None: ...

class ActorTableData(_message.Message):
    __slots__ = ("state", "end_time", "serialized_runtime_env")
    class ActorState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DEPENDENCIES_UNREADY: _ClassVar[ActorTableData.ActorState]
        PENDING_CREATION: _ClassVar[ActorTableData.ActorState]
        ALIVE: _ClassVar[ActorTableData.ActorState]
        RESTARTING: _ClassVar[ActorTableData.ActorState]
        DEAD: _ClassVar[ActorTableData.ActorState]
    DEPENDENCIES_UNREADY: ActorTableData.ActorState
    PENDING_CREATION: ActorTableData.ActorState
    ALIVE: ActorTableData.ActorState
    RESTARTING: ActorTableData.ActorState
    DEAD: ActorTableData.ActorState
    STATE_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    SERIALIZED_RUNTIME_ENV_FIELD_NUMBER: _ClassVar[int]
    state: ActorTableData.ActorState
    end_time: int
    serialized_runtime_env: str
    def __init__(self, state: _Optional[_Union[ActorTableData.ActorState, str]] = ..., end_time: _Optional[int] = ..., serialized_runtime_env: _Optional[str] = ...) -> None: ...

class GetAllActorInfoRequest(_message.Message):
    __slots__ = ("limit", "filters")
    class Filters(_message.Message):
        __slots__ = ("job_id",)
        JOB_ID_FIELD_NUMBER: _ClassVar[int]
        job_id: bytes
        def __init__(self, job_id: _Optional[bytes] = ...) -> None: ...
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    limit: int
    filters: GetAllActorInfoRequest.Filters
    def __init__(self, limit: _Optional[int] = ..., filters: _Optional[_Union[GetAllActorInfoRequest.Filters, _Mapping]] = ...) -> None: ...

class GetAllActorInfoReply(_message.Message):
    __slots__ = ("actor_table_data", "total", "num_filtered")
    ACTOR_TABLE_DATA_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    NUM_FILTERED_FIELD_NUMBER: _ClassVar[int]
    actor_table_data: _containers.RepeatedCompositeFieldContainer[ActorTableData]
    total: int
    num_filtered: int
    def __init__(self, actor_table_data: _Optional[_Iterable[_Union[ActorTableData, _Mapping]]] = ..., total: _Optional[int] = ..., num_filtered: _Optional[int] = ...) -> None: ...
