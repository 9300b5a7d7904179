"""The link: what a raylet runs in place of Ray's runtime-env agent. A script, never imported by the daemon.

``attach`` copies this one file over ``ray/_private/runtime_env/agent/main.py``, where Ray's own interpreter
runs it: standard library only, the syntax of Python 3.9, few imports, and no import of ray. Its settings
stand beside it (``ray_envd_link.json``), and so does Ray's own agent (``_ray_stock_main.py``).

It binds the raylet's port, writes the port file, hands the listening socket to the daemon with a hello
(``hello.py`` is the other side) and then only watches. The raylet ends: the link ends. The daemon ends:
the port stays bound, so that the raylet's requests wait, and a new daemon hears hello again. No daemon can
be had, or anything else goes wrong: Ray's stock agent takes this process's place.
"""

# pathlib and contextlib take longer to import than all the rest of this script:
# ruff: noqa: PTH100, PTH103, PTH105, PTH116, PTH118, PTH120, PTH208, SIM105

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import stat
import struct
import sys
import time

PROTOCOL = 1
HERE = os.path.dirname(os.path.abspath(__file__))
SETTINGS_NAME = "ray_envd_link.json"
STOCK_NAME = "_ray_stock_main.py"
SETTINGS = os.path.join(HERE, SETTINGS_NAME)
STOCK = os.path.join(HERE, STOCK_NAME)
#: A daemon run by root serves every user, so a link without a socket of its own asks there first.
SYSTEM_SOCKET = "/run/ray-envd/ray-envd.sock.link"
BACKLOG = 1024
TICK = 1.0  # seconds between looks at the parent and at a daemon that this link started
EXIT_LOCKED = 5  # a daemon's word for "another one has the store"
STARTS = 3  # a daemon that ends this often at its start is broken
SHORT_LIVES = 20  # a daemon that is lost this often, each time at once, is broken
SHORT_LIFE = 1.0  # seconds
START_LOG_BYTES = 1 << 20
#: Of the raylet's environment a daemon gets only this, and RAY_ENVD_*: it serves other clusters too.
DAEMON_VARIABLES = (
    "HOME", "PATH", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR",
    "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip


class FallbackError(Exception):
    """Ray's stock agent has to take over; the text says why."""


class RefusedError(Exception):
    """The daemon is there and does not want this session now."""


# The raylet's words


def parse_flags(argv: list[str]) -> dict[str, str]:
    """``--a b`` and ``--a=b``; whatever it does not know is kept and does no harm."""
    flags: dict[str, str] = {}
    name = ""
    for word in argv:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            flags[name] = value
        elif name:
            flags[name] = word
            name = ""
    return flags


def with_port(argv: list[str], port: int) -> list[str]:
    """The raylet's words again, with the port that is bound already."""
    name = "--runtime-env-agent-port"
    kept, skip = [], False
    for word in argv:
        if not skip and word.partition("=")[0] != name:
            kept.append(word)
        skip = not skip and word == name
    return [*kept, f"{name}={port}"]


def version_of(text: object) -> tuple[int, int]:
    """Major and minor; what cannot be read counts as newer than all that is known."""
    parts = str(text).split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (ValueError, IndexError):
        return (9999, 0)


def listen(flags: dict[str, str], version: tuple[int, int]) -> socket.socket:
    """Binds and listens where the stock agent of that version does.

    Raises:
        OSError: as it would there.
    """
    host = flags.get("node-ip-address") or "127.0.0.1"
    if version < (2, 50):
        host = "127.0.0.1" if host == "127.0.0.1" else "0.0.0.0"  # noqa: S104 - stock's own rule
    port = int(flags.get("runtime-env-agent-port") or 0)
    # bytes: for text, Python loads its IDNA tables first, which takes longer than all the rest.
    family, kind, protocol, _, address = socket.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(BACKLOG)
    return listener


def write_port_file(flags: dict[str, str], port: int) -> None:
    """Tells the raylet the port; Ray before 2.54 has no such file, and names no node."""
    node, session_dir = flags.get("node-id"), flags.get("session-dir")
    if not node or not session_dir:
        return
    path = os.path.join(session_dir, f"runtime_env_agent_port_{node}")
    aside = f"{path}.{os.getpid()}"
    with open(aside, "w", encoding="ascii") as file:
        file.write(str(port))
    os.replace(aside, path)


def redirect(flags: dict[str, str]) -> None:
    """Sends stdout and stderr to the files that the raylet names."""
    for name, descriptor in (("stdout-filepath", 1), ("stderr-filepath", 2)):
        if flags.get(name):
            file = os.open(flags[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(file, descriptor)
            os.close(file)


class Log:
    """The agent's log file of this session, or stderr where Ray logs there."""

    def __init__(self, flags: dict[str, str]) -> None:
        name = flags.get("logging-filename", "runtime_env_agent.log")
        folder = flags.get("log-dir")
        self._path = os.path.join(folder, name) if folder and name else None

    def line(self, level: str, message: str) -> None:
        """Writes a line; a log that cannot be written is no reason to fail."""
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))},{int(now * 1000) % 1000:03d}"
        text = f"{stamp}\t{level} ray-envd link[{os.getpid()}] -- {message}\n"
        if self._path is None or level == "WARNING":
            self._write(2, text)
        if self._path is None:
            return
        try:
            # Opened for each of the few lines, so that a rotated file is let go.
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError:
            return
        self._write(file, text)
        os.close(file)

    @staticmethod
    def _write(file: int, text: str) -> None:
        try:
            os.write(file, text.encode(errors="replace"))
        except OSError:
            return


# The raylet's life


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks after boot (proc(5), field 22); 0 if it cannot be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


class Watch:
    """Waits, and ends this process as soon as the raylet has gone."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._parent = os.getppid()
        self.raylet = int(os.environ.get("RAY_RAYLET_PID") or self._parent)
        self._pidfd = self._open()
        by_pipe = os.environ.get("RAY_enable_pipe_based_agent_to_parent_health_check", "")  # noqa: SIM112 - Ray's name
        self._stdin = 0 if by_pipe.lower() in ("1", "true") else -1

    def _open(self) -> int:
        try:
            return os.pidfd_open(self.raylet)
        except ProcessLookupError:
            self._gone("it was gone before this link began")
        except (AttributeError, OSError):  # a Python or a kernel without it: the parent tells
            pass
        return -1

    def _gone(self, how: str) -> None:
        self._log.line("INFO", f"the raylet (pid {self.raylet}) has ended: {how}")
        sys.exit(0)

    def wait(self, seconds: float, descriptor: int = -1) -> bool:
        """Waits until the descriptor is readable (True) or at most so many seconds, in ticks (False)."""
        poll = select.poll()
        for one in {self._pidfd, self._stdin, descriptor} - {-1}:
            poll.register(one, select.POLLIN)
        ready = {one for one, _ in poll.poll(max(0.0, min(seconds, TICK)) * 1000)}
        if self._pidfd in ready:
            self._gone("its process is no more")
        if self._stdin in ready and not os.read(self._stdin, 4096):
            self._gone("it closed our stdin")
        if os.getppid() != self._parent:
            self._gone("we have another parent")
        return descriptor in ready


# The daemon's life


class Starter:
    """Starts a daemon where nobody supervises one.

    It is a child of the link in a session of its own, on purpose not forked twice: where the raylet is a
    subreaper, an orphan would become its child, and it kills children that it does not know.
    """

    def __init__(self, argv: list[str] | None, socket_path: str, log: Log) -> None:
        self._argv, self._log = argv, log
        self._control = socket_path.removesuffix(".link")
        self._folder = self._control + ".start"
        self._file = os.path.join(self._folder, "daemon.log")
        self._pid = self._failures = 0
        self._offset = -1
        self._not_before = 0.0
        self._end = ""

    def ensure(self) -> None:
        """Called whenever nobody listens.

        Raises:
            FallbackError: the daemon cannot be started, or ends each time it is.
        """
        self.reap()
        if self._argv is None or self._pid or time.monotonic() < self._not_before:
            return
        if self._failures >= STARTS:
            raise FallbackError(f"the daemon was started {STARTS} times and ended each time ({self._end})")
        if not os.access(self._argv[0], os.X_OK):
            raise FallbackError(f"no daemon listens, and {self._argv[0]} cannot be run: attach again")
        try:
            self._pid = self._start(self._argv)
        except OSError as error:
            raise FallbackError(f"a daemon cannot be started: {error}") from error
        self._log.line("INFO", f"started a daemon, pid {self._pid}: its words are in {self._file}")

    def reap(self) -> None:
        """Takes note of the end of a daemon that this link started."""
        if not self._pid:
            return
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            return
        code = os.waitstatus_to_exitcode(status)
        self._end = f"exit code {code}" if code >= 0 else f"signal {-code}"
        self._pid = 0
        # One that somebody killed may be as sound as one that another was ahead of.
        killed = code in (-signal.SIGKILL, -signal.SIGTERM)
        self._not_before = time.monotonic() + (0.1 if killed else 1.0)
        if not killed and code != EXIT_LOCKED:
            self._failures += 1

    def forgive(self) -> None:
        """A daemon has served: what was before does not count."""
        self.reap()
        self._failures, self._not_before, self._offset = 0, 0.0, -1

    def last_words(self) -> str:
        """The last lines that a daemon of ours wrote, indented; empty where there are none."""
        if self._offset < 0:
            return ""
        try:
            with open(self._file, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._offset, size - 8192))
                lines = file.read().decode(errors="replace").splitlines()[-12:]
        except OSError:
            return ""
        return "".join(f"\n    {line}" for line in lines if line.strip())

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in DAEMON_VARIABLES or k.startswith("RAY_ENVD_")}
        return {**kept, "RAY_ENVD_SOCKET": self._control}

    def _open_log(self) -> int:
        os.makedirs(self._folder, 0o700, exist_ok=True)
        about = os.lstat(self._folder)
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o022:
            raise OSError(errno.EPERM, "not a private folder of this user", self._folder)
        try:
            if os.stat(self._file).st_size > START_LOG_BYTES:
                os.replace(self._file, self._file + ".1")
        except OSError:
            pass  # none yet, or another link was faster
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        return os.open(self._file, flags, 0o600)

    def _start(self, argv: list[str]) -> int:
        output = self._open_log()
        if self._offset < 0:
            self._offset = os.lseek(output, 0, os.SEEK_END)
        environment = self._environment()
        pid = os.fork()
        if not pid:
            become_daemon(argv, environment, output)
        os.close(output)
        return pid


def become_daemon(argv: list[str], environment: dict[str, str], output: int) -> None:
    """In the child of a fork: sheds all that it has of the raylet and executes; never returns."""
    try:
        os.setsid()
        os.chdir("/")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # Ray blocks SIGINT in its children
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:  # noqa: PLR2004 - the three standard streams
                try:
                    os.close(int(name))
                except OSError:
                    pass  # the listing's own
        os.execve(argv[0], argv, environment)  # noqa: S606 - argv of the settings, no shell wanted
    except BaseException as error:  # noqa: BLE001 - nothing may return into the link's own code
        os.write(2, f"cannot start {argv[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


# The hello


def cluster_token(version: tuple[int, int]) -> tuple[bool, str | None]:
    """Whether the cluster's calls carry a token, and which: Ray's own rules (read off 2.52 to 2.60).

    Raises:
        FallbackError: Kubernetes checks the tokens, or there is none: stock does the one, and says the other.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if version < (2, 52) or mode not in ("token", "k8s"):
        return False, None
    if os.environ.get("RAY_ENABLE_K8S_TOKEN_AUTH", "").lower() in ("1", "true") or (
        mode == "k8s" and version < (2, 54)
    ):
        raise FallbackError("Kubernetes checks this cluster's tokens, which ray-envd cannot")
    if mode == "k8s":
        return False, None  # no mode that these versions know, so as good as off
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not token:
        path = os.environ.get("RAY_AUTH_TOKEN_PATH")
        path = path or os.path.join(os.environ.get("HOME") or "/nonexistent", ".ray", "auth_token")
        try:
            with open(path, encoding="utf-8") as file:
                token = file.read()
        except (OSError, ValueError) as error:
            raise FallbackError(f"token authentication is on, and {path} cannot be read: {error}") from error
    if not token.strip():
        raise FallbackError("token authentication is on, and the token is empty")
    return True, token.strip()


def hello_of(flags: dict[str, str], ray_version: str, raylet: int, port: int) -> dict[str, object]:
    """All that the daemon has to know of this raylet.

    Raises:
        FallbackError: the raylet did not say where runtime envs go, or see :func:`cluster_token`.
    """
    runtime_env_dir = flags.get("runtime-env-dir")
    if not runtime_env_dir:
        raise FallbackError("the raylet gave no --runtime-env-dir")
    session_dir = flags.get("session-dir") or os.path.dirname(runtime_env_dir.rstrip("/"))
    auth, token = cluster_token(version_of(ray_version))
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read(8)
    started = start_ticks(raylet)
    return {
        "protocol": PROTOCOL,
        "session": f"{boot}-{raylet}-{started}",
        "node_id": flags.get("node-id"),
        "node_ip": flags.get("node-ip-address"),
        "session_dir": session_dir,
        "gcs_address": flags.get("gcs-address"),
        "cluster_id": flags.get("cluster-id-hex"),
        "runtime_env_dir": runtime_env_dir,
        "log_dir": flags.get("log-dir") or os.path.join(session_dir, "logs"),
        "temp_dir": flags.get("temp-dir") or os.path.dirname(session_dir),
        "logging": {
            "rotate_bytes": number(flags, "logging-rotate-bytes"),
            "rotate_backup_count": number(flags, "logging-rotate-backup-count"),
            "level": flags.get("logging-level"),
            "format": flags.get("logging-format"),
        },
        "python": sys.executable,
        "ray_version": ray_version,
        "raylet_pid": raylet,
        "raylet_start": started,
        "pid": os.getpid(),
        "port": port,
        "environment": dict(os.environ),
        "auth": auth,
        "token": token,
    }


def number(flags: dict[str, str], name: str) -> int | None:
    """A flag as a number; None if there is none, or if it is something else."""
    try:
        return int(flags[name])
    except (KeyError, ValueError):
        return None


def sockets(settings: dict[str, object]) -> list[str]:
    """Where daemons listen for links, best first; the last is where this link would start one."""
    control = os.environ.get("RAY_ENVD_SOCKET")
    if control:
        return [control + ".link"]
    if settings.get("socket"):
        return [str(settings["socket"])]
    if os.geteuid() == 0:
        return [SYSTEM_SOCKET]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return [SYSTEM_SOCKET, os.path.join(runtime, "ray-envd", "ray-envd.sock.link")]
    home = os.environ.get("HOME") or "/nonexistent"
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(home, ".local", "state")
    store = os.environ.get("RAY_ENVD_STORE") or os.path.join(state, "ray-envd")
    return [SYSTEM_SOCKET, os.path.join(store, "run", "ray-envd.sock.link")]


class Link:
    """From the port to the end of the raylet."""

    def __init__(self, flags: dict[str, str], settings: dict[str, object], log: Log) -> None:
        self._log, self._settings = log, settings
        ray_version = str(settings.get("ray_version") or "")
        self._listener = listen(flags, version_of(ray_version))
        self.port: int = self._listener.getsockname()[1]
        write_port_file(flags, self.port)
        self._watch = Watch(log)
        self._hello = json.dumps(hello_of(flags, ray_version, self._watch.raylet, self.port)).encode()
        self._sockets = sockets(settings)
        argv = settings.get("daemon")
        self._starter = Starter(argv if isinstance(argv, list) else None, self._sockets[-1], log)

    def run(self) -> None:
        """Says hello, watches, and says hello again; ends by SystemExit when the raylet ends.

        Raises:
            FallbackError: there is no daemon to be had.
        """
        seconds = float(str(self._settings.get("start_seconds") or 10))
        short_lives = 0
        while True:
            connection = self._attach(seconds)
            begun = time.monotonic()
            while not self._watch.wait(TICK, connection.fileno()):
                self._starter.reap()
            connection.close()
            short_lives = short_lives + 1 if time.monotonic() - begun < SHORT_LIFE else 0
            if short_lives >= SHORT_LIVES:
                raise FallbackError(f"the daemon was lost {SHORT_LIVES} times, each time at once")
            self._log.line("INFO", "the daemon is gone; the port stays bound, looking for the next one")
            self._starter.forgive()
            seconds = float(str(self._settings.get("restart_seconds") or 20))

    def _attach(self, seconds: float) -> socket.socket:
        deadline = time.monotonic() + seconds
        pause = 0.02
        while True:
            connection, why = self._try_all(deadline)
            if connection is not None:
                return connection
            if time.monotonic() >= deadline:
                raise FallbackError(f"no daemon within {seconds:g} s: {why}{self._starter.last_words()}")
            self._watch.wait(pause)
            pause = min(pause * 1.2, 0.05)

    def _try_all(self, deadline: float) -> tuple[socket.socket | None, str]:
        """Says hello on the first socket where somebody listens; otherwise says why nobody does."""
        why = ""
        for path in self._sockets:
            try:
                return self._greet(path, deadline), ""
            except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
                why = f"{path}: {error.strerror}"
            except RefusedError as error:
                self._watch.wait(0.2)
                return None, f"{path}: {error}"
            except OSError as error:
                return None, f"{path}: {error.strerror or error}"
        try:
            self._starter.ensure()
        except FallbackError as error:
            raise FallbackError(f"{error}{self._starter.last_words()}") from error
        return None, why

    def _greet(self, path: str, deadline: float) -> socket.socket:
        """One hello.

        Raises:
            OSError: nobody there, or it went away in between.
            RefusedError: not now.
            FallbackError: not at all.
        """
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(5.0)
            connection.connect(path)
            check_peer(connection, path)
            socket.send_fds(connection, [struct.pack(">I", len(self._hello))], [self._listener.fileno()])
            connection.sendall(self._hello)
            answer = self._answer(connection, deadline)
        except BaseException:
            connection.close()
            raise
        self._log.line("INFO", f"port {self.port} is served by ray-envd {answer.get('version')}, {path}")
        return connection

    def _answer(self, connection: socket.socket, deadline: float) -> dict[str, object]:
        line = b""
        while not line.endswith(b"\n"):
            while not self._watch.wait(deadline - time.monotonic(), connection.fileno()):
                self._starter.reap()
                if time.monotonic() >= deadline:
                    raise RefusedError("the daemon does not answer")
            part = connection.recv(4096)
            if not part:
                raise RefusedError("the daemon hung up")
            line += part
        try:
            answer = dict(json.loads(line))
        except ValueError as error:
            raise RefusedError("the daemon's answer is not JSON") from error
        if not answer.get("ok"):
            kind = FallbackError if answer.get("fallback") else RefusedError
            raise kind(f"the daemon refused this raylet: {answer.get('error')}")
        return answer

    def give_up_port(self) -> None:
        """Stops listening but keeps the port's number for whoever is executed in this process's place.

        A socket that is bound and does not listen is in nobody's way who binds with SO_REUSEADDR too, as
        stock does, but a port that is picked at random is never that one.
        """
        family, address = self._listener.family, self._listener.getsockname()
        # Not close() alone: a daemon that hangs may hold the socket too, and would keep the port.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        placeholder = socket.socket(family, socket.SOCK_STREAM)
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        placeholder.bind(address)
        os.set_inheritable(placeholder.detach(), True)


def check_peer(connection: socket.socket, path: str) -> None:
    """The hello holds the cluster's token: only root and this very user may hear it.

    Raises:
        FallbackError: somebody else listens.
    """
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    if uid not in (0, os.geteuid()):
        raise FallbackError(f"{path} belongs to uid {uid}, neither root nor this user")


def run_stock(log: Log, why: str, link: Link | None) -> None:
    """Executes Ray's own agent in this process; returns only if there is none."""
    log.line("WARNING", f"this node runs on Ray's stock runtime-env agent, not on ray-envd: {why}")
    argv = sys.argv[1:]
    if link is not None:
        argv = with_port(argv, link.port)
        try:
            link.give_up_port()
        except OSError as error:
            log.line("INFO", f"port {link.port} is not reserved: {error}")
    try:
        os.execv(sys.executable, [sys.executable, "-u", STOCK, *argv])  # noqa: S606 - the raylet's own words
    except OSError as error:
        log.line("WARNING", f"and that cannot be run: {STOCK}: {error}; install Ray again")
        sys.exit(1)


def main() -> None:
    """Runs in the raylet's child; ends by SystemExit, or as Ray's stock agent."""
    flags = parse_flags(sys.argv[1:])
    for number_ in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number_, lambda *_: sys.exit(0))
    log = Log(flags)
    link = None
    try:
        redirect(flags)
        with open(SETTINGS, encoding="utf-8") as file:
            settings = json.load(file)
        link = Link(flags, settings, log)
        link.run()
    except FallbackError as error:
        run_stock(log, str(error), link)
    except Exception as error:  # noqa: BLE001 - whatever it is, a node must not be worse off than without us
        run_stock(log, f"{type(error).__name__}: {error}", link)


if __name__ == "__main__":
    main()
