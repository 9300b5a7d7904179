"""A runtime env as it arrives, parsed and validated once.

The JSON is what ``ray.runtime_env.RuntimeEnv.serialize()`` writes. Fields that Ray's driver consumes
itself (``excludes``, ``_ray_commit`` …) are of no concern to a node; fields nobody knows are reported,
not refused, because Ray passes them through on purpose.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ray_envd.agent.errors import InvalidSpecError, UnsupportedError
from ray_envd.agent.image_spec import IMAGE_FIELDS, ImageSpec, parse_image
from ray_envd.agent.redaction import MASK, Redactor, redact_urls, secrets_in_urls
from ray_envd.agent.run_options import hidden_values

#: Fields for which an installer stands in the registry.
INSTALLED_FIELDS = ("image", "working_dir", "py_modules", "pip", "uv", "py_executable")

#: Ray's name of a field in JSON -> the name its users write. Served by later versions.
_LATER_FIELDS = {
    "conda": "conda",
    "java_jars": "java_jars",
    "_nsight": "nsight",
    "nsight": "nsight",
    "_rocprof_sys": "rocprof-sys",
    "rocprof_sys": "rocprof-sys",
    "rocprof-sys": "rocprof-sys",
}

#: Known, but nothing to prepare on a node.
_PASSIVE_FIELDS = {
    "config",
    "env_vars",
    "excludes",
    "worker_process_setup_hook",
    "_ray_release",
    "_ray_commit",
    "_inject_current_ray",
    *IMAGE_FIELDS,
}

#: Where Ray's driver puts the setup hook; its value is the name of a hook, not a secret.
SETUP_HOOK_VARIABLE = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"


@dataclass(frozen=True)
class RuntimeEnvSpec:
    """One runtime env.

    Attributes:
        serialized: exactly the text that arrived; Ray compares envs by it, and so do references.
        fields: those of :data:`INSTALLED_FIELDS` that are set, by name, as they came; ``image`` is the parsed
            :class:`ImageSpec`, whichever of its fields it came from.
        env_vars: the ``env_vars`` field.
        unknown: fields that nobody knows, in order.
        secrets: of the session, which its tools see besides the runtime env's own.
    """

    serialized: str
    fields: Mapping[str, Any]
    env_vars: Mapping[str, str]
    unknown: tuple[str, ...]
    secrets: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def image(self) -> ImageSpec | None:
        """The container to run in, if any."""
        return self.fields.get("image")

    @cached_property
    def digest(self) -> str:
        """What references are counted by: sha256 of the serialized text, hex."""
        return digest_of_serialized(self.serialized)

    @cached_property
    def redactor(self) -> Redactor:
        """Masks the values of ``env_vars`` and ``--env``, credentials in the text, and the session's."""
        values = {v for k, v in self.env_vars.items() if k != SETUP_HOOK_VARIABLE}
        values |= hidden_values(self.image.run_options) if self.image else set()
        return Redactor(values | secrets_in_urls(self.serialized) | self.secrets)

    @cached_property
    def redacted(self) -> str:
        """The runtime env as JSON for people: values of ``env_vars`` and credentials masked."""
        return shown(self.serialized)


def digest_of_serialized(serialized: str) -> str:
    """The env digest of a serialized runtime env."""
    return hashlib.sha256(serialized.encode()).hexdigest()


def shown(serialized: str) -> str:
    """A runtime env as JSON for people, also one that is not valid; what is no JSON object is shown empty."""
    try:
        whole = json.loads(serialized or "{}")
        if not isinstance(whole, dict):
            return "{}"
        if env_vars := whole.get("env_vars"):
            whole["env_vars"] = dict.fromkeys(env_vars, MASK) if isinstance(env_vars, dict) else MASK
        for name in IMAGE_FIELDS:
            image = whole.get(name)
            if isinstance(image, dict) and image.get("run_options"):
                whole[name] = {**image, "run_options": _masked(image["run_options"])}
        return redact_urls(json.dumps(whole, sort_keys=True))
    except (ValueError, RecursionError):  # the second for what is nested too deeply
        return "{}"


def _masked(options: Any) -> Any:
    """``run_options`` without the values of variables."""
    if not isinstance(options, list):
        return MASK
    hidden = hidden_values(options)
    return [MASK if any(value in str(word) for value in hidden) else word for word in options]


def parse(
    serialized: str, *, plugins_configured: bool = False, secrets: frozenset[str] = frozenset()
) -> RuntimeEnvSpec:
    """Parses a serialized runtime env.

    Args:
        serialized: JSON as Ray's driver writes it; the empty text is an empty env.
        plugins_configured: the session has ``RAY_RUNTIME_ENV_PLUGINS`` set, so that a field nobody
            knows may be a plug-in's, which this version does not run.
        secrets: what else must be masked in all that is told of this env.

    Raises:
        InvalidSpecError: not JSON, or a field has the wrong form.
        UnsupportedError: a field of a later version is set.
    """
    whole = _load(serialized)
    env_vars = _env_vars(whole.get("env_vars"))
    for name, title in _LATER_FIELDS.items():
        if whole.get(name):
            raise UnsupportedError(
                f"ray-envd does not serve the field {title!r} yet",
                field=title,
                remedy="run this job on a node without ray-envd (`ray-envd detach`), or leave the field out",
            )
    _refuse_pairs(whole)
    known = {*INSTALLED_FIELDS, *_PASSIVE_FIELDS, *_LATER_FIELDS}
    unknown = tuple(name for name, value in whole.items() if name not in known and value is not None)
    if unknown and plugins_configured:
        raise UnsupportedError(
            f"the field {unknown[0]!r} may belong to a plug-in of RAY_RUNTIME_ENV_PLUGINS,"
            " and ray-envd runs none yet",
            field=unknown[0],
            remedy="unset RAY_RUNTIME_ENV_PLUGINS for this cluster, or run it without ray-envd",
        )
    fields = {name: whole[name] for name in INSTALLED_FIELDS if whole.get(name)}
    image = parse_image(whole)
    if image is not None:
        fields["image"] = image
    return RuntimeEnvSpec(serialized, fields, env_vars, unknown, secrets)


def _load(serialized: str) -> dict[str, Any]:
    try:
        whole = json.loads(serialized or "{}")
    except (ValueError, RecursionError) as error:
        raise InvalidSpecError(
            f"it is not JSON ({error})",
            remedy="send what RuntimeEnv.serialize() returns",
        ) from error
    if not isinstance(whole, dict):
        raise InvalidSpecError(f"it is a JSON {type(whole).__name__}, not an object")
    return whole


def _env_vars(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidSpecError(
            f"it must be an object of strings, not {type(value).__name__}",
            field="env_vars",
            remedy='write {"NAME": "value"}',
        )
    for name, text in value.items():
        if not isinstance(text, str):
            raise InvalidSpecError(
                f"the value of {name!r} is of type {type(text).__name__}",
                field="env_vars",
                remedy="make every value a string",
            )
        if not name or "=" in name or "\0" in name or "\0" in text:
            raise InvalidSpecError(
                f"{name!r} or its value cannot stand in an environment",
                field="env_vars",
                remedy="a name is not empty and has no '=', and neither has a NUL character",
            )
    return value


def _refuse_pairs(whole: Mapping[str, Any]) -> None:
    if whole.get("pip") and whole.get("uv"):
        raise InvalidSpecError(
            "'pip' and 'uv' cannot both be given",
            field="uv",
            remedy="put all requirements into one of the two fields",
        )
