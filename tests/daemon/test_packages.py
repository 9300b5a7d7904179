"""working_dir and py_modules from wherever they lie, to where a worker finds them."""

import hashlib
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from daemons import Daemon
from fetch_servers import S3, Authority, KeyValueStore
from helpers import make_wheel, wait_until
from raylet import MakeRaylet, Raylet
from sources import FileServer, left_over, make_zip

from ray_envd.agent.client import Client

FILES = {"mine.py": "where = 'package'\n", "data/deep/ü.txt": "content", "empty/": ""}
READ = "import mine, os; print(mine.where, os.getcwd(), open('data/deep/ü.txt').read())"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package whose name and content no other test has."""
    return make_zip(tmp_path / f"p{os.urandom(6).hex()}.zip", {**FILES, "unique": os.urandom(9)})


@pytest.fixture
def gcs() -> Iterator[KeyValueStore]:
    """The key-value store of a cluster."""
    store = KeyValueStore()
    yield store
    store.stop()


def tree_of(raylet: Raylet, name: str, field: str = "working_dir") -> Path:
    """Where Ray's users and containers look for a package."""
    return raylet.resources / f"{field}_files" / name


@pytest.mark.parametrize("field", ["working_dir", "py_modules"])
def test_a_package_reaches_the_worker(raylet: Raylet, package: Path, field: str) -> None:
    """It lies where stock puts it, is importable, and a working dir is the worker's folder."""
    uri = package.as_uri()
    created = raylet.prepared({field: uri if field == "working_dir" else [uri]})
    (tree,) = [each for each in (raylet.resources / f"{field}_files").iterdir() if each.name[0] != "."]
    assert raylet.run(created, "import mine; print(mine.__file__)") == str(tree / "mine.py")
    assert (tree / "data/deep/ü.txt").read_text() == "content"
    assert (tree / "empty").is_dir()
    cwd = raylet.run(created, "import os; print(os.getcwd())")
    assert cwd == str(tree if field == "working_dir" else raylet.session)


def test_the_order_of_pythonpath(make_raylet: MakeRaylet, package: Path, tmp_path: Path) -> None:
    """Modules, working dir, the user's own, the cluster's."""
    raylet = make_raylet(PYTHONPATH="/the/clusters")
    other = make_zip(tmp_path / f"m{os.urandom(6).hex()}.zip", {"more.py": ""})
    env = {
        "working_dir": package.as_uri(),
        "py_modules": [other.as_uri()],
        "env_vars": {"PYTHONPATH": "/users/own"},
    }
    created = raylet.prepared(env)
    modules, folder, *rest = raylet.run(created, "import os; print(os.environ['PYTHONPATH'])").split(":")
    assert Path(modules, "more.py").exists()
    assert Path(folder, "mine.py").exists()
    assert rest == ["/users/own", "/the/clusters"]


def test_modes_survive(raylet: Raylet, tmp_path: Path) -> None:
    """A script stays executable, and nothing gets a set-user-id bit."""
    path = tmp_path / f"x{os.urandom(6).hex()}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, mode in (("run.sh", 0o755), ("plain", 0o644), ("root.sh", 0o4755)):
            about = zipfile.ZipInfo(name)
            about.external_attr = (stat.S_IFREG | mode) << 16
            archive.writestr(about, "#!/bin/sh\necho ran\n")
    created = raylet.prepared({"working_dir": path.as_uri()})
    code = "import subprocess; print(subprocess.run(['./run.sh'], capture_output=True, text=True).stdout)"
    assert raylet.run(created, code) == "ran"
    modes = raylet.run(created, "import os; print(*(oct(os.stat(f).st_mode) for f in ('plain', 'root.sh')))")
    plain, root = (int(each, 8) for each in modes.split())
    assert not plain & 0o111
    assert not root & 0o7000


def test_from_the_web_by_a_private_authority(make_raylet: MakeRaylet, tmp_path: Path, package: Path) -> None:
    """The authority that the raylet's environment names is trusted; nobody else's raylet trusts it."""
    authority = Authority.at(tmp_path)
    web = FileServer(authority.certificate)
    try:
        env = {"working_dir": web.add(package)}
        trusting = make_raylet(SSL_CERT_FILE=str(authority.ca))
        assert "package" in trusting.run(trusting.prepared(env), READ)
        other = {"working_dir": f"{env['working_dir']}?again"}
        message = make_raylet(RUNTIME_ENV_RETRY_TIMES="1").refused(other)
        assert "ertificate" in message
    finally:
        web.close()


def test_a_new_package_is_asked_for_once(raylet: Raylet, package: Path) -> None:
    """No question comes before its download, which tells how large it is and what it is like."""
    web = FileServer()
    try:
        raylet.prepared({"working_dir": web.add(package)})
        assert [seen.method for seen in web.server.seen] == ["GET"]
    finally:
        web.close()


def test_from_s3(make_raylet: MakeRaylet, s3: S3, package: Path) -> None:
    """Endpoint and credentials are those of the raylet's environment."""
    s3.put(f"folder/{package.name}", package.read_bytes())
    raylet = make_raylet(
        AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", AWS_ENDPOINT_URL=s3.url, AWS_REGION="us-east-1"
    )
    created = raylet.prepared({"working_dir": f"s3://bucket/folder/{package.name}"})
    assert raylet.run(created, READ).startswith("package ")


def test_from_the_clusters_store(make_raylet: MakeRaylet, gcs: KeyValueStore, package: Path) -> None:
    """With the cluster's token; the tree has the package's name, as in stock."""
    uri = f"gcs://_ray_pkg_{os.urandom(8).hex()}.zip"
    gcs.values[uri.encode()] = package.read_bytes()
    gcs.token = "the cluster's"
    raylet = make_raylet(gcs=gcs.address, token=gcs.token, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=gcs.token)
    created = raylet.prepared({"working_dir": uri})
    tree = tree_of(raylet, uri[len("gcs://") : -len(".zip")])
    assert raylet.run(created, READ) == f"package {tree} content"


@pytest.mark.parametrize("source", ["gcs", "web"])
def test_a_large_package_is_whole(
    node: Daemon, make_raylet: MakeRaylet, gcs: KeyValueStore, web: FileServer, tmp_path: Path, source: str
) -> None:
    """Of which the large file is unpacked while it comes; nothing is left beside the tree."""
    content = os.urandom(40 << 20)
    package = make_zip(tmp_path / f"p{os.urandom(6).hex()}.zip", {**FILES, "weights": content})
    uri = f"gcs://_ray_pkg_{os.urandom(8).hex()}.zip" if source == "gcs" else web.add(package)
    gcs.values[uri.encode()] = package.read_bytes()
    raylet = make_raylet(gcs=gcs.address)
    created = raylet.prepared({"working_dir": uri})
    code = "import hashlib; print(hashlib.sha256(open('weights', 'rb').read()).hexdigest())"
    assert raylet.run(created, code) == hashlib.sha256(content).hexdigest()
    (tree,) = (path for path in (raylet.resources / "working_dir_files").iterdir() if path.is_dir())
    assert (tree / "weights").stat().st_nlink == 1
    assert left_over(node.store) == []


def test_a_package_that_the_cluster_has_lost(make_raylet: MakeRaylet, gcs: KeyValueStore) -> None:
    """The message says what Ray's users can do about it."""
    raylet = make_raylet(gcs=gcs.address)
    message = raylet.refused({"working_dir": "gcs://_ray_pkg_0000000000000000.zip"})
    assert "RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S" in message


def test_each_session_has_a_tree_of_its_own(make_raylet: MakeRaylet, web: FileServer, package: Path) -> None:
    """The second unpacks what the first downloaded, and what a job of one writes the other does not see."""
    env = {"working_dir": web.add(package)}
    one, other = make_raylet(), make_raylet()
    first = one.prepared(env)
    one.run(first, "open('written', 'w').write('by a job'); open('mine.py', 'w').write('where = 1')")
    second = other.prepared(env)
    assert len(web.asked) == 1
    assert first.context != second.context
    code = "import mine, os; print(mine.where, os.path.exists('written'))"
    assert other.run(second, code) == "package False"
    assert one.run(one.prepared(env), "import mine; print(mine.where)") == "1"


def test_a_source_out_of_reach_does_not_matter(
    make_raylet: MakeRaylet, web: FileServer, package: Path
) -> None:
    """A package that is here serves a new session though its server is gone."""
    env = {"working_dir": web.add(package)}
    make_raylet().prepared(env)
    web.close()
    raylet = make_raylet()
    assert raylet.run(raylet.prepared(env), READ).startswith("package ")


def test_one_content_is_stored_once(node: Daemon, raylet: Raylet, web: FileServer, package: Path) -> None:
    """The same archive from two places is one object."""
    before = node.stats().objects
    raylet.prepared({"working_dir": package.as_uri()})
    raylet.prepared({"working_dir": web.add(package)})
    assert node.stats().objects == before + 1


def test_a_digest_in_the_uri_is_checked(raylet: Raylet, web: FileServer, package: Path) -> None:
    """The right one is taken, a wrong one is an error that names both."""
    url = web.add(package)
    right = hashlib.sha256(package.read_bytes()).hexdigest()
    wrong = "0" * 64
    message = raylet.refused({"working_dir": f"{url}#sha256={wrong}"})
    assert right in message
    assert wrong in message
    raylet.prepared({"working_dir": f"{url}#sha256={right}"})


def zip_of(*members: tuple[str, bytes, int]) -> bytes:
    """An archive of members: name, content, mode."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in members:
            about = zipfile.ZipInfo(name)
            about.external_attr = mode << 16
            archive.writestr(about, content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def tar_of(*members: tarfile.TarInfo) -> bytes:
    """A .tar.gz of members without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for member in members:
            archive.addfile(member)
    return out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A link in a tar archive."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def device() -> tarfile.TarInfo:
    """A device in a tar archive."""
    member = tarfile.TarInfo("top/null")
    member.type, member.devmajor, member.devminor = tarfile.CHRTYPE, 1, 3
    return member


PLAIN = stat.S_IFREG | 0o644
BAD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "climbing": ("zip", lambda: zip_of(("ok", b"1", PLAIN), ("../../escape", b"x", PLAIN))),
    "absolute": ("zip", lambda: zip_of(("ok", b"1", PLAIN), ("/tmp/re-escape", b"x", PLAIN))),
    "link outside": ("zip", lambda: zip_of(("l", b"../../../../etc/passwd", stat.S_IFLNK | 0o777))),
    "twice": ("zip", lambda: zip_of(("a", b"1", PLAIN), ("./a", b"2", PLAIN))),
    "bomb": ("zip", lambda: zip_of(("zeros", bytes(100 << 20), PLAIN))),
    "truncated": ("zip", lambda: zip_of(("a", os.urandom(5000), PLAIN))[:-1000]),
    "no archive": ("zip", lambda: b"this is no archive"),
    "empty file": ("zip", lambda: b""),
    "tar climbing": ("tar.gz", lambda: tar_of(tarfile.TarInfo("top/../../../escape"))),
    "tar link outside": ("tar.gz", lambda: tar_of(link("top/l", "/etc"), tarfile.TarInfo("top/l/x"))),
    "tar hard link": ("tar.gz", lambda: tar_of(link("top/h", "/etc/passwd", tarfile.LNKTYPE))),
    "tar device": ("tar.gz", lambda: tar_of(device())),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_archive_leaves_nothing(node: Daemon, raylet: Raylet, tmp_path: Path, case: str) -> None:
    """The env fails with a reason, no file is left or written outside, and no reference is held."""
    suffix, make = BAD[case]
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(make())
    message = raylet.refused({"working_dir": path.as_uri()})
    assert "runtime_env['working_dir']" in message
    assert "Traceback" not in message
    assert "nexpected" not in message
    assert [each for each in raylet.resources.rglob("*") if each.is_file() or "bad" in each.name] == []
    assert not Path("/tmp/re-escape").exists()
    assert left_over(node.store) == []
    assert raylet.references() == 0
    assert not raylet.delete({"working_dir": path.as_uri()})


def test_a_download_that_breaks_off(
    make_raylet: MakeRaylet, web: FileServer, package: Path, node: Daemon
) -> None:
    """It is tried again; what came of it is never taken for the package."""
    raylet = make_raylet(RUNTIME_ENV_RETRY_TIMES="2", RUNTIME_ENV_RETRY_INTERVAL_MS="10")
    url = web.add(package)
    web.cut = 100
    message = raylet.refused({"working_dir": url})
    assert package.name in message
    assert len(web.asked) == 2
    assert left_over(node.store) == []


def test_when_one_of_several_fails_the_others_let_go(
    node: Daemon, raylet: Raylet, web: FileServer, package: Path
) -> None:
    """A module that is still under way when another fails is not held for ever."""
    slow = web.add(package)
    web.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(raylet.create, {"py_modules": [slow, "file:///nowhere/x.zip"]})
        assert not pending.result(20).ok
    web.gate.set()
    raylet.prepared({"py_modules": [slow]})
    assert raylet.delete({"py_modules": [slow]})
    with Client(node.socket) as client:
        (entry,) = [each for each in client.list().objects if package.name in each.summary]
        wait_until(lambda: client.remove(entry.id), 5, "nobody holds it")


def test_a_wheel_as_a_module(raylet: Raylet, tmp_path: Path) -> None:
    """It is importable in the worker, which runs in the raylet's own interpreter."""
    wheel = make_wheel(tmp_path, "asmodule", "3.1")
    created = raylet.prepared({"py_modules": [wheel.as_uri()]})
    code = "import asmodule, sys; print(asmodule.__version__, sys.executable)"
    assert raylet.run(created, code) == f"3.1 {raylet.python}"


def test_unused_trees_go_when_the_raylets_limit_is_passed(make_raylet: MakeRaylet, tmp_path: Path) -> None:
    """RAY_RUNTIME_ENV_WORKING_DIR_CACHE_SIZE_GB=0: what nobody uses is removed, what is used stays."""
    raylet = make_raylet(RAY_RUNTIME_ENV_WORKING_DIR_CACHE_SIZE_GB="0")
    envs = []
    for name in ("one", "two"):
        package = make_zip(tmp_path / f"{name}.zip", {f"{name}.txt": name})
        envs.append({"working_dir": package.as_uri()})
        raylet.prepared(envs[-1])
    folder = raylet.resources / "working_dir_files"

    def trees() -> int:
        return len([each for each in folder.iterdir() if each.is_dir()])

    assert trees() == 2
    raylet.delete(envs[0])
    wait_until(lambda: trees() == 1, 5, "the unused tree's end")
    assert list(folder.glob("*/two.txt"))
    raylet.prepared(envs[0])
    assert trees() == 2
