"""The link: what a raylet runs in place of Ray's runtime-env agent. This is its start, the rest is beside it.

``attach`` puts this file in the place of Ray's ``main.py``. It has to work when nothing else does: whatever
is wrong with the link, Ray's own agent runs. It is short, because Python compiles it at each start, and does
not give all the memory back that this takes.
"""

import binascii
import os
import sys

SETTINGS_NAME = "ray_envd_link.json"
STOCK_NAME = "_ray_stock_main.py"
#: The folder of the modules, as a package's name; attach completes it with a digest of what they are.
PACKAGE = "ray_envd_link_"


def is_whole(package: str, tag: str) -> bool:
    """Whether a package's bytecode for the Pythons of that tag is all there, as attach wrote it.

    Python itself does not look, and may crash of damaged bytecode.
    """
    cached = os.path.join(package, "__pycache__")
    found = 0
    try:
        for name in sorted(os.listdir(cached)):
            if name.endswith(f".{tag}.pyc"):
                with open(f"{cached}/{name}", "rb") as file:
                    found = binascii.crc32(file.read(), found)
        with open(f"{cached}/{tag}.crc", "rb") as file:
            return file.read() == b"%d" % found
    except OSError:
        return False


def say(message: str) -> None:
    """To stderr, where there is one."""
    try:
        os.write(2, f"{message}\n".encode(errors="replace"))
    except OSError:
        pass


def main(here: str) -> None:
    """Runs the link, and Ray's own agent when the link gives up; ``here`` is the agent's folder."""
    words = sys.argv[1:]
    try:
        sys.path.insert(0, here)
        sys.dont_write_bytecode = True  # what attach did not compile is not ours to leave in Ray's folder
        sound = is_whole(f"{here}/{PACKAGE}", str(sys.implementation.cache_tag))
        sys.pycache_prefix = None if sound else os.devnull  # where there is none
        session = __import__(f"{PACKAGE}.session", fromlist=["run"])
        words = session.run(words, f"{here}/{SETTINGS_NAME}")
    except Exception as error:  # noqa: BLE001 - a node must not be worse off than without us
        say(f"ray-envd's link is broken, attach again: {type(error).__name__}: {error}")
    stock = f"{here}/{STOCK_NAME}"
    try:
        os.execv(sys.executable, [sys.executable, "-u", stock, *words])  # noqa: S606 - the raylet's own words
    except OSError as error:
        say(f"Ray's own agent cannot be run: {stock}: {error}; install Ray again")
        sys.exit(1)


if __name__ == "__main__":
    main(os.path.dirname(os.path.abspath(__file__)))
