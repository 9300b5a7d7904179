"""What a worker is started with.

Ray starts a worker as ``bash -c "<command_prefix> exec <py_executable> <arguments>"`` after it has set
``env_vars`` (``ray/_private/runtime_env/context.py``). Everything in the prefix and in ``py_executable``
passes through that shell, so nothing of a runtime env stands there unquoted.

Values of ``env_vars`` do not stand in the context at all: Ray hands the context to a process on its
command line, where every user of the machine can read it. They go into a file of mode 0600 that the
prefix sources, written so that ``${X}`` means what it means in stock (``update_envs``).
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ray_envd.cache.keys import ObjectKey

_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_REFERENCE = re.compile(r"\$(?:\{(?P<braced>[^}]*)\}|(?P<plain>\w+))", re.ASCII)
#: bash(1), "Shell Variables": those that it sets or watches itself.
_BASHS_OWN = re.compile(
    r"_|BASH\w*|COLUMNS|COMP_\w+|COPROC|DIRSTACK|EPOCH\w+|EUID|FUNCNAME|GROUPS|HIST\w+|HOST(?:NAME|TYPE)|IFS"
    r"|LINENO|LINES|MACHTYPE|MAILCHECK|MAPFILE|OLDPWD|OPT(?:ARG|ERR|IND)|OSTYPE|PIPESTATUS|POSIXLY_CORRECT|PPID"
    r"|PS[0-4]|PWD|RANDOM|READLINE_\w+|REPLY|SECONDS|SHELL|SHELLOPTS|SHLVL|SRANDOM|TERM|UID",
)
_VANISHES = re.compile(r"\$\{[A-Z0-9_]+\}")


@dataclass(frozen=True, slots=True)
class Command:
    """What runs a worker in place of Ray's interpreter.

    Attributes:
        words: program and arguments.
        expands: ``$NAME`` and ``${NAME}`` in them stand for variables of the worker.
    """

    words: tuple[str, ...]
    expands: bool = False

    @classmethod
    def of(cls, text: str) -> "Command":
        """A user's command: words keep their boundaries, and variables their meaning.

        Raises:
            ValueError: the quotes do not balance.
        """
        return cls(tuple(shlex.split(text)), expands=True)

    def shell(self) -> str:
        """Made safe for Ray's shell: nothing that a shell would act on does, but variables that expand."""
        return " ".join((_command_word if self.expands else shlex.quote)(word) for word in self.words)


@dataclass(frozen=True, slots=True)
class Container:
    """In what a worker starts where its runtime env names an image. No value of ``env_vars`` is in it.

    Attributes:
        podman: the program and its global arguments.
        arguments: those of ``podman run``, but for the name of the container, and for what the worker's own
            start decides.
        environment: podman's own: it decides which images podman sees.
        image: podman's id of the image.
        python: the interpreter in the image.
        worker_path: of Ray's ``default_worker.py`` in the image.
        variables: set for the worker as they are, before all others.
        python_path: what is PYTHONPATH in the image.
    """

    podman: tuple[str, ...]
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    image: str
    python: str
    worker_path: str
    variables: Mapping[str, str] = field(default_factory=dict)
    python_path: str = ""


@dataclass(frozen=True)
class Contribution:
    """What one field adds to a worker's start.

    Attributes:
        python_path: folders that go in front of PYTHONPATH.
        path: folders that go in front of PATH.
        variables: set for the worker; never values of the user's ``env_vars``.
        working_dir: where the worker starts.
        command: what runs the worker.
        container: in what the worker starts; paths of the other contributions are the same inside.
        objects: what must stay in the store while a worker uses the env.
        trees: folders of the session that must stay meanwhile.
        built: whether anything had to be built or fetched.
    """

    python_path: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    working_dir: str | None = None
    command: Command | None = None
    container: Container | None = None
    objects: tuple[ObjectKey, ...] = ()
    trees: tuple[str, ...] = ()
    built: bool = False


@dataclass(frozen=True)
class WorkerContext:
    """The merged contributions, in the order in which stock applies its plug-ins."""

    python: str
    variables: Mapping[str, str]
    working_dir: str | None
    command: Command
    container: Container | None = None

    def serialize(self, environment_file: str | None, inline: Mapping[str, str]) -> str:
        """The JSON that Ray's ``RuntimeEnvContext.deserialize`` reads.

        Args:
            environment_file: path of the file made of :func:`environment_script`, or None.
            inline: variables that a shell cannot set, because their names are no shell names.
        """
        prefix: list[str] = []
        if environment_file is not None:
            prefix += [".", shlex.quote(environment_file), "&&"]
        if self.working_dir is not None:
            prefix += ["cd", shlex.quote(self.working_dir), "&&"]
        return _serialized(prefix, inline, self.command)

    def serialize_launch(self, launcher: str, plan: str) -> str:
        """The JSON for a worker in a container, whose start is all in a plan; Ray starts the launcher."""
        # -S: the raylet's packages may be many, and each start would look at them.
        return _serialized([], {}, Command((self.python, "-I", "-S", launcher, plan)))


def _serialized(prefix: list[str], inline: Mapping[str, str], command: Command) -> str:
    return json.dumps(
        {
            "command_prefix": prefix,
            "env_vars": dict(inline),
            "py_executable": command.shell(),
            "override_worker_entrypoint": None,
            "java_jars": [],
        },
    )


def merge(
    contributions: Iterable[Contribution],
    *,
    python: str,
    env_vars: Mapping[str, str],
    raylet_environment: Mapping[str, str],
) -> WorkerContext:
    """Merges what the fields add; later ones win, and stand further to the front of a path.

    PYTHONPATH is, as in stock: modules, working_dir, the user's own, the cluster's; or, in a container, the
    image's.
    """
    python_path: list[str] = []
    path: list[str] = []
    variables: dict[str, str] = dict(env_vars)
    working_dir, command, container = None, None, None
    for part in contributions:
        python_path[:0] = part.python_path
        path[:0] = part.path
        variables.update(part.variables)
        working_dir = part.working_dir or working_dir
        command = part.command or command
        container = part.container or container
    below = raylet_environment.get("PYTHONPATH") if container is None else container.python_path
    if python_path:
        own = [env_vars.get("PYTHONPATH"), below]
        variables["PYTHONPATH"] = ":".join([*python_path, *(p for p in own if p)])
    if path:
        variables["PATH"] = ":".join([*path, env_vars.get("PATH", "${PATH}")])
    default = Command((python if container is None else container.python,))
    return WorkerContext(python, variables, working_dir, command or default, container)


def split_names(variables: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Those variables that a shell sets just as Ray would, and those it does not.

    The second are names such as ``A-B``, and whatever touches a variable that bash has of its own (``UID``
    cannot be set there; ``${HOSTNAME}`` has a value there though the environment has none).
    """
    inline: set[str] = set()
    needed: set[str] = set()
    # Backwards: Ray sets its part first, so what that refers to must be in it as well.
    for name, value in reversed(list(variables.items())):
        if name in needed or not _suits_a_shell(name, value):
            inline.add(name)
            needed |= _names_in(value)
    shell = {name: value for name, value in variables.items() if name not in inline}
    return shell, {name: value for name, value in variables.items() if name in inline}


def _suits_a_shell(name: str, value: str) -> bool:
    own = any(_BASHS_OWN.fullmatch(each) for each in {name, *_names_in(value)})
    return bool(_SHELL_NAME.match(name)) and not own


def _names_in(value: str) -> set[str]:
    return {match["braced"] or match["plain"] or "" for match in _REFERENCE.finditer(value)}


def environment_script(variables: Mapping[str, str]) -> str:
    """A shell script that exports the variables with stock's expansion of ``$X`` and ``${X}``."""
    return "".join(f"export {name}={_shell_value(value)}\n" for name, value in variables.items())


def _shell_value(value: str) -> str:
    """A shell word: literal text quoted, references to variables expanded as Ray would.

    ``os.path.expandvars`` leaves a variable that is not set as it stands; Ray then removes ``${NAME}`` if
    the name is all capitals, digits and underscores.
    """
    word, end = "", 0
    for match in _REFERENCE.finditer(value):
        name = match["braced"] if match["braced"] is not None else match["plain"]
        if not _SHELL_NAME.match(name):
            continue
        stays = match["braced"] is None or not _VANISHES.fullmatch(match.group())
        # Not in double quotes, where quotes inside ${x-...} would lose their meaning; the value of an
        # assignment is not split.
        word += _literal(value[end : match.start()])
        word += f"${{{name}-{_quoted(match.group()) if stays else ''}}}"
        end = match.end()
    return word + _literal(value[end:]) or "''"


def _literal(text: str) -> str:
    return _quoted(_VANISHES.sub("", text))


def _quoted(text: str) -> str:
    return shlex.quote(text) if text else ""


def _command_word(word: str) -> str:
    text, end = "", 0
    for match in _REFERENCE.finditer(word):
        name = match["braced"] if match["braced"] is not None else match["plain"]
        if _SHELL_NAME.match(name):
            text += _quoted(word[end : match.start()]) + f'"${{{name}}}"'
            end = match.end()
    return text + _quoted(word[end:]) or "''"
