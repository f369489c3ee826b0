"""Seeds for independent random streams. Standard library only."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Derive the seed of a random stream from the name of the stream.

    Different names give unrelated seeds. Sums such as `seed + epoch` do not: epoch 1 of seed 0 would be epoch 0 of
    seed 1.

    Args:
        *parts: The name of the stream, such as the seed of the run, a purpose and an index.

    Returns:
        A number of 63 bits, the same on every machine.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
