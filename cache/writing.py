"""How large content gets into a file.

The kernel takes a file's pages in blocks of up to the size of one write, and large blocks are memory that
nobody has used for long. On a virtual machine that reports free memory to its host they have to be had from
there first: half a gigabyte in one write took ten times as long as in pieces, for which there are blocks that
were in use a moment ago. Besides, a piece is still in the processor's cache.
"""

import os

#: Bytes of one write.
PIECE = 1 << 18


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Writes all of it at the file's position.

    Raises:
        OSError: the disk.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view[:PIECE]) :]
