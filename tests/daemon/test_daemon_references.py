"""What a raylet is told: hits, references, failures, and the table of its envs."""

import json

from helpers import wait_until
from raylet import MakeRaylet, Raylet
from sources import FileServer, make_zip


def test_an_env_is_counted_once_for_each_success(raylet: Raylet) -> None:
    """Every success adds a reference, every delete takes one, and a delete too many is FAILED."""
    env = {"env_vars": {"A": "1"}}
    for _ in range(3):
        raylet.prepared(env)
    assert raylet.references() == 3
    assert [raylet.delete(env) for _ in range(4)] == [True, True, True, False]
    assert raylet.references() == 0
    raylet.prepared(env)
    assert raylet.references() == 1


def test_a_delete_of_what_was_never_asked_for_fails(raylet: Raylet) -> None:
    """The reply is FAILED, with a reason, at status 200."""
    assert not raylet.delete({"env_vars": {"NEVER": "1"}})


def test_ray_clients_proxy_is_not_counted(raylet: Raylet) -> None:
    """It asks for envs and gives none back, so its requests leave no reference."""
    env = {"env_vars": {"A": "client"}}
    raylet.prepared(env, source="client_server")
    assert raylet.references() == 0
    raylet.prepared(env)
    assert raylet.delete(env, source="client_server")
    assert raylet.references() == 1


def test_the_table_of_envs(raylet: Raylet) -> None:
    """Each env stands there with count, success, creation time; a failed one with its error."""
    raylet.prepared({"env_vars": {"NAME": "a-value"}})
    raylet.refused({"conda": {"dependencies": ["x"]}})
    states = {state.success: state for state in raylet.info().runtime_env_states}
    assert states[True].ref_cnt == 1
    assert states[True].creation_time_ms >= 0
    assert states[True].HasField("creation_time_ms")
    assert not states[True].HasField("error")
    assert json.loads(states[True].runtime_env)["env_vars"] == {"NAME": "***"}
    assert states[False].ref_cnt == 0
    assert "conda" in states[False].error


def test_the_table_of_failed_envs_says_which(raylet: Raylet) -> None:
    """A user finds the env that failed in `ray list runtime-envs`."""
    raylet.refused({"pip": {"packages": 7}})
    (state,) = raylet.info().runtime_env_states
    assert json.loads(state.runtime_env) == {"pip": {"packages": 7}}


def test_the_table_can_be_limited(raylet: Raylet) -> None:
    """``limit`` cuts the rows and not the total."""
    for number in range(5):
        raylet.prepared({"env_vars": {"N": str(number)}})
    for limit, rows in ((2, 2), (0, 0), (50, 5), (None, 5)):
        reply = raylet.info(limit)
        assert (len(reply.runtime_env_states), reply.total) == (rows, 5)


def test_no_session_sees_the_envs_of_another(make_raylet: MakeRaylet) -> None:
    """Two raylets on one daemon have counts of their own for the same env."""
    one, other = make_raylet(), make_raylet()
    env = {"env_vars": {"SHARED": "1"}}
    one.prepared(env)
    assert other.info().total == 0
    assert not other.delete(env)
    other.prepared(env)
    other.prepared(env)
    assert (one.references(), other.references()) == (1, 2)


def test_each_session_remembers_failures_as_its_raylet_says(make_raylet: MakeRaylet) -> None:
    """BAD_RUNTIME_ENV_CACHE_TTL_SECONDS holds for the session of its raylet only."""
    short = make_raylet(BAD_RUNTIME_ENV_CACHE_TTL_SECONDS="0.3")
    long = make_raylet()
    package = short.folder / "late.zip"
    env = {"working_dir": package.as_uri()}
    for each in (short, long):
        assert "late.zip" in each.refused(env)
    make_zip(package, {"late.txt": "here"})
    wait_until(lambda: short.create(env).ok, 5, "the failure is forgotten")
    assert not long.create(env).ok


def test_each_session_retries_as_its_raylet_says(make_raylet: MakeRaylet, web: FileServer) -> None:
    """RUNTIME_ENV_RETRY_TIMES and _INTERVAL_MS hold for the session of its raylet only."""
    web.status = 503
    for times in (1, 4):
        raylet = make_raylet(RUNTIME_ENV_RETRY_TIMES=str(times), RUNTIME_ENV_RETRY_INTERVAL_MS="10")
        raylet.refused({"working_dir": f"{web.url}/{times}.zip"})
        assert web.asked.count(f"/{times}.zip") == times
