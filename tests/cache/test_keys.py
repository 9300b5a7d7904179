from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_envd.cache.keys import JSON, ObjectKey, digest_of, file_digest

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("owner", "kind", "digest"),
    [
        (0, "pip", "../../etc"),
        (0, "pip", ""),
        (0, "pip", "ABCDEF0123"),
        (0, "pip", "0123abcd\n"),
        (0, "..", "0123abcd"),
        (0, "a/b", "0123abcd"),
        (0, "Pip", "0123abcd"),
        (0, "", "0123abcd"),
        (-1, "pip", "0123abcd"),
    ],
)
def test_a_key_that_could_lead_elsewhere_is_refused(owner: int, kind: str, digest: str) -> None:
    """Keys become paths, so nothing but plain kinds and hex digests passes."""
    with pytest.raises(ValueError, match="not a"):
        ObjectKey(owner, kind, digest)


def test_an_id_is_kind_and_digest() -> None:
    """People name objects without the owner."""
    assert ObjectKey(7, "py-modules", "0123abcd").id == "py-modules/0123abcd"


@given(st.lists(_json, max_size=3), st.lists(_json, max_size=3))
def test_different_parts_have_different_digests(one: list[JSON], other: list[JSON]) -> None:
    """Equal sequences of values, and only those, have the same digest; True is not 1, nor 1 1.0."""
    same_text = repr(one) == repr(other)
    if digest_of(*one) == digest_of(*other):
        assert one == other
    elif same_text:
        pytest.fail("equal parts, different digests")


def test_no_border_between_parts_can_be_confused() -> None:
    """Moving text from one part to its neighbour gives another digest."""
    digests = {
        digest_of("ab", "c"),
        digest_of("a", "bc"),
        digest_of("abc"),
        digest_of(["ab", "c"]),
        digest_of(),
    }
    assert len(digests) == 5


def test_the_order_of_keys_does_not_matter() -> None:
    """Two mappings that are equal have one digest."""
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})


def test_what_is_not_json_is_refused() -> None:
    """NaN equals nothing, not even itself, so it names nothing."""
    with pytest.raises(ValueError, match="JSON"):
        digest_of(float("nan"))


def test_a_file_is_digested_by_content(tmp_path: Path) -> None:
    """The digest is plain SHA-256, which other tools compute as well."""
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    assert file_digest(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
