"""run_options: how they are read, and which the policy lets through."""

import dataclasses
from pathlib import Path

import pytest

from ray_envd.agent.containers.gpus import gpu_options
from ray_envd.agent.containers.policy import Asked, Policy, judge
from ray_envd.agent.errors import DeniedError, EnvError, InvalidSpecError
from ray_envd.agent.image_reference import Reference
from ray_envd.agent.image_spec import ImageSpec, Mount
from ray_envd.agent.run_options import Option, hidden_values, parse_options

SPEC = ImageSpec("container", Reference("reg.example", "app", "1", None))


def judged(*words: str, policy: Policy | None = None, **fields: object) -> Asked:
    spec = dataclasses.replace(SPEC, run_options=words, **fields)  # type: ignore[arg-type]  # fields by name
    return judge(spec, policy or Policy(), {"SHARED": "from the raylet"})


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--cpus=2"], [("cpus", "2")]),
        (["--cpus", "2", "--read-only"], [("cpus", "2"), ("read-only", None)]),
        (["--memory-swap", "-1"], [("memory-swap", "-1")]),
        (["-m512m", "-m", "1g", "-c=3"], [("memory", "512m"), ("memory", "1g"), ("cpu-shares", "3")]),
        (["-qtm1g"], [("quiet", None), ("tty", None), ("memory", "1g")]),
        (["--env", "A=b c", "-eB=--x"], [("env", "A=b c"), ("env", "B=--x")]),
        (["--cpus 2 --env 'A=b c'"], [("cpus", "2"), ("env", "A=b c")]),
        (["--label=a b"], [("label", "a b")]),
        (["--net=host", "--dns-opt", "x"], [("network", "host"), ("dns-option", "x")]),
        (["--read-only=false"], [("read-only", "false")]),
    ],
)
def test_options_are_read_as_podman_reads_them(
    words: list[str], options: list[tuple[str, str | None]]
) -> None:
    """Long and short, with and without equals sign, and in stock's way, several in one word."""
    assert parse_options(words, "container") == [Option(*option) for option in options]


@pytest.mark.parametrize(
    "words", [["image:1"], ["--"], ["-"], ["--cpus"], ["-m"], ["-Z"], ["--cpus 'x"], ["--cpus=1", "x"]]
)
def test_what_is_no_option_is_refused(words: list[str]) -> None:
    """Nothing of a runtime env can take the place of the image or its command."""
    with pytest.raises(InvalidSpecError) as caught:
        judged(*words)
    assert caught.value.field == "container"


def test_limits_pass_one_word_each() -> None:
    """No value can be taken for another option."""
    words = ("--cpus", "2", "--pids-limit", "-1", "--ulimit=core=0", "--tmpfs", "/x:size=1m", "--read-only")
    assert judged(*words).arguments == [
        "--cpus=2", "--pids-limit=-1", "--ulimit=core=0", "--tmpfs=/x:size=1m", "--read-only",
    ]  # fmt: skip


def test_what_every_container_has_is_dropped() -> None:
    """Stock's users may have written down what stock does anyway."""
    assert judged("--network=host", "--pid", "host", "--ipc=host", "--rm").arguments == []


@pytest.mark.parametrize(
    "words",
    [
        ["--privileged"],
        ["--privileged=true"],
        ["--cap-add=ALL"],
        ["--device=/dev/kvm"],
        ["--device", "nvidia.com/other=1"],
        ["--security-opt=seccomp=unconfined"],
        ["--security-opt", "no-new-privileges=false"],
        ["--group-add=0"],
        ["--annotation=run.oci.hooks.stdout=/etc/passwd"],
        ["--log-opt=path=/etc/x"],
        ["-u0"],
        ["--cgroup-parent=/"],
        ["--made-up-tomorrow=1"],
        ["--hooks-dir=/x"],
        ["--secret=x"],
        ["--runtime=/bin/sh"],
    ],
)
def test_what_gives_more_of_the_host_needs_the_setting(words: list[str]) -> None:
    """It is refused with field, option and setting, and passes once the setting names it."""
    with pytest.raises(DeniedError) as caught:
        judged(*words)
    option = parse_options(words, "container")[0]
    assert f"'--{option.name}'" in caught.value.cause
    assert f"container_options=--{option.name}" in caught.value.remedy
    assert judged(*words, policy=Policy(options=frozenset({option.name}))).arguments == [option.word]


@pytest.mark.parametrize(
    "words",
    [
        ["--pid=private"],
        ["--network=none"],
        ["--net", "bridge"],
        ["--ipc=private"],
        ["--userns=auto"],
        ["--init"],
        ["--shm-size=1g"],
        ["--entrypoint=sh"],
        ["--name=x"],
        ["--rm=false"],
        ["-d"],
        ["--env-file=/etc/shadow"],
        ["--volumes-from=x"],
        ["--cidfile=/etc/x"],
        ["--preserve-fds=9"],
        ["-v", "name:/x"],
        ["-v/only"],
        ["-v", "/a:/b:z"],
        ["-v", "/a/../b:/c"],
        ["--mount=type=volume,source=x,target=/y"],
        ["--mount", "type=bind,source=/x,target=/y,bind-propagation=shared"],
        ["-e", "=x"],
        ["--gpus=some"],
        ["--gpus=0"],
        ["--label=ray-envd.session=x"],
    ],
)
def test_what_no_worker_can_do_with_is_refused_whatever_is_set(words: list[str]) -> None:
    """Without the host's pids the raylet would kill its cluster; others cannot be allowed either."""
    everything = frozenset(option.name for option in parse_options(words, "container"))
    with pytest.raises(InvalidSpecError):
        judged(*words, policy=Policy(options=everything))


def test_variables_leave_the_arguments() -> None:
    """Their values would be there for everybody to read; a name alone means the raylet's."""
    asked = judged("-e", "A=x=y", "--env=EMPTY=", "-eSHARED", "-e", "MISSING")
    assert asked.arguments == []
    assert asked.variables == {"A": "x=y", "EMPTY": "", "SHARED": "from the raylet"}
    assert hidden_values(["-e", "A=x=y", "--cpus=2", "--env=B=s p"]) == {"x=y", "s p"}
    assert hidden_values(["--env", "A=secret", "oops"]) == {"secret"}


def test_mounts_of_all_forms() -> None:
    """The field's own, -v and --mount mean the same; judged later, by their real paths."""
    own = (Mount("/m", "/m", read_only=True),)
    asked = judged("-v/a:/b", "--volume=/a:/c:ro", "--mount", "type=bind,src=/d,dst=/e,ro", mounts=own)
    assert asked.arguments == []
    assert asked.mounts == [
        *own,
        Mount("/a", "/b", read_only=False),
        Mount("/a", "/c", read_only=True),
        Mount("/d", "/e", read_only=True),
    ]


def test_gpus_are_devices_by_cdi(tmp_path: Path) -> None:
    """--gpus is docker's; without it a container has those of the node, unless they are hidden."""
    assert judged("--gpus=all").arguments == ["--device=nvidia.com/gpu=all"]
    assert judged("--gpus", "2").arguments == ["--device=nvidia.com/gpu=0", "--device=nvidia.com/gpu=1"]
    assert judged('--gpus="device=1,GPU-ab"').arguments == [
        "--device=nvidia.com/gpu=1",
        "--device=nvidia.com/gpu=GPU-ab",
    ]
    asked = judged("--device=nvidia.com/gpu=0", "--security-opt=no-new-privileges")
    assert asked.arguments == ["--device=nvidia.com/gpu=0", "--security-opt=no-new-privileges"]
    assert asked.has_gpus
    folders = (tmp_path / "none", tmp_path)
    assert gpu_options({}, folders) == []
    (tmp_path / "nvidia.yaml").write_text('cdiVersion: "0.5.0"\nkind: nvidia.com/gpu\n')
    assert gpu_options({"CUDA_VISIBLE_DEVICES": "1"}, folders) == ["--device=nvidia.com/gpu=all"]
    assert gpu_options({"CUDA_VISIBLE_DEVICES": ""}, folders) == []


def test_settings_limit_who_says_nothing() -> None:
    """The field's limits come before the settings', an option before both."""
    policy = Policy(memory=2**30, cpus=1.5)
    assert judged(policy=policy).limits == [f"--memory={2**30}b", "--cpus=1.5"]
    assert judged(policy=policy, memory=2**20 * 7, cpus=2.0).limits == [f"--memory={7 * 2**20}b", "--cpus=2"]
    assert judged("-m1g", "--cpu-quota=100", policy=policy).limits == ["--memory=1g", "--cpu-quota=100"]
    assert judged().arguments == []


def test_errors_name_the_field_of_the_runtime_env() -> None:
    """A user sees which of his fields is meant."""
    with pytest.raises(EnvError) as caught:
        judged("--privileged")
    assert "runtime_env['container'] is refused" in str(caught.value)
