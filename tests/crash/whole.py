"""What must be true of a store's files, read from the disk by other code than the daemon's own."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

#: The content of a tree: path in it -> digest of a file, target of a link.
Manifest = Mapping[str, str]


def manifest(tree: Path, store: Path) -> Manifest:
    """All of a tree but folders, bytecode and locks; the store's own place in a file counts as ``@``."""
    place, found = os.fsencode(store), {}
    for folder, _, names in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            if name.endswith((".pyc", ".lock")):
                continue
            if stat.S_ISLNK(path.lstat().st_mode):
                content = os.fsencode(path.readlink())
            else:
                content = path.read_bytes()
            found[str(path.relative_to(tree))] = hashlib.sha256(content.replace(place, b"@")).hexdigest()
    return found


def markers(store: Path) -> dict[str, Path]:
    """The folders of all committed objects by their ids, as the markers say."""
    return {name: folder for name, folder, damage in _markers(store) if not damage}


def damaged(store: Path) -> dict[str, Path]:
    """The folders of objects that are kept but never handed out, by ids with their generation."""
    return {name: folder for name, folder, damage in _markers(store) if damage}


def _markers(store: Path) -> Iterator[tuple[str, Path, bool]]:
    """Id, folder, and whether it is damaged."""
    for path in store.glob("markers-v1/*/*/*.json"):
        uid, kind = path.parts[-3:-1]
        folder = store / "users" / uid / "objects-v1" / kind
        digest, _, rest = path.name.removesuffix(".json").partition(".")
        generation = rest.removesuffix(".damaged") or json.loads(path.read_bytes()).get("generation", 0)
        folder /= f"{digest}.{generation}" if int(generation) else digest
        yield f"{kind}/{digest}" + (f".{generation}" if rest else ""), folder, bool(rest)


def residue(store: Path) -> list[str]:
    """What unfinished work has left: staged files, trash, objects without marker, writes that did not end."""
    committed = {folder for _, folder, _ in _markers(store)}
    found = [path for name in ("staging", "trash") for path in store.glob(f"users/*/{name}/*")]
    found += [path for path in store.glob("users/*/objects-v1/*/*") if path not in committed]
    found += [path for path in committed if not path.is_dir()]
    found += store.glob("markers-v1/**/.*.new")
    found += store.glob("sessions-v1/**/.*.new")
    found += [path for path in store.glob("sessions-v1/*") if not (path / "session.json").exists()]
    return sorted(str(path.relative_to(store)) for path in found)


def differences(store: Path, expected: Mapping[str, Manifest]) -> list[str]:
    """How the committed objects differ from what they should hold, and which nobody has asked for."""
    found = []
    for name, folder in markers(store).items():
        if name not in expected:
            found.append(f"{name}: nobody asked for it")
            continue
        seen, wanted = manifest(folder, store), expected[name]
        found += [f"{name}: {path} is missing" for path in wanted.keys() - seen.keys()]
        found += [f"{name}: {path} is too much" for path in seen.keys() - wanted.keys()]
        found += [
            f"{name}: {path} differs" for path in wanted.keys() & seen.keys() if wanted[path] != seen[path]
        ]
    return sorted(found)
