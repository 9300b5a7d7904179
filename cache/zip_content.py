"""What is in a zip's member, read by position: any number of threads may read one archive at a time.

``zipfile`` knows the list of members; its own way to their content costs more than the content where that is
small. Formats: PKWARE's APPNOTE 4.3.7 (local headers) and RFC 1951. Checked are what ``zipfile`` checks: the
local header's name, and the CRC.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator

_LOCAL = struct.Struct("<26x2H")  # of all that stands there, the lengths of name and extra field
_MOST_EXTRA = 64  # bytes that are read with the header in the hope that they are enough
_UTF_8 = 0x800
#: Methods and flags of what is read by position; the rest, encrypted or patched, is ``zipfile``'s.
METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
PECULIAR = 0x61


def pieces(archive: zipfile.ZipFile, descriptor: int, info: zipfile.ZipInfo, most: int) -> Iterator[bytes]:
    """A member's bytes, at most so many at once, and at most one more in all than it declares.

    Raises:
        zipfile.BadZipFile, zlib.error, EOFError: it is damaged.
        NotImplementedError, RuntimeError: it is packed in a way that is not known.
    """
    if info.compress_type not in METHODS or info.flag_bits & PECULIAR:
        return _by_zipfile(archive, info, most)
    found = _packed(descriptor, info, most)
    if info.compress_type == zipfile.ZIP_DEFLATED:
        found = _inflated(found, info.file_size + 1, most)
    return _checked(found, info)


def encoded_name(info: zipfile.ZipInfo) -> bytes:
    """A member's name as it stands in the archive."""
    return info.orig_filename.encode("utf-8" if info.flag_bits & _UTF_8 else "cp437")


def _by_zipfile(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> Iterator[bytes]:
    # Python cuts a member at its declared size without a word: asking for one byte more shows more.
    info.file_size += 1
    with archive.open(info) as source:
        while chunk := source.read(most):
            yield chunk


def _packed(descriptor: int, info: zipfile.ZipInfo, most: int) -> Iterator[bytes]:
    """What is stored; a small member takes one call of the kernel, header and all."""
    name = encoded_name(info)
    begin, left = info.header_offset, info.compress_size
    data = os.pread(descriptor, _LOCAL.size + len(name) + _MOST_EXTRA + min(left, most), begin)
    if len(data) < _LOCAL.size or not data.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile(f"no header of {info.orig_filename[:200]!r}")
    name_length, extra_length = _LOCAL.unpack_from(data)
    if data[_LOCAL.size : _LOCAL.size + name_length] != name:
        raise zipfile.BadZipFile(f"{info.orig_filename[:200]!r} and its header differ in name")
    skip = _LOCAL.size + name_length + extra_length
    begin, data = begin + skip, data[skip : skip + left]
    while left:
        data = data or os.pread(descriptor, min(left, most), begin)
        if not data:
            raise EOFError("it ends within a member")
        yield data
        begin, left, data = begin + len(data), left - len(data), b""


def _inflated(packed: Iterator[bytes], end: int, most: int) -> Iterator[bytes]:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    for data in packed:
        while end and not stream.eof:
            chunk = stream.decompress(data, min(most, end))
            data = stream.unconsumed_tail  # noqa: PLW2901 - what is left of it
            end -= len(chunk)
            if chunk:
                yield chunk
            elif not data:
                break
        if stream.eof or not end:
            return


def _checked(found: Iterator[bytes], info: zipfile.ZipInfo) -> Iterator[bytes]:
    crc = 0
    for chunk in found:
        crc = zlib.crc32(chunk, crc)
        yield chunk
    if crc != info.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for {info.orig_filename[:200]!r}")
