"""The hashes that every choice about data comes from."""

from __future__ import annotations

import warnings

import numpy as np

from retrieva_pretrain.curriculum.hashing import hash64, key_of


def test_the_hash_of_n_is_the_nth_output_of_the_published_generator() -> None:
    # SplitMix64 seeded with 1234567, as other implementations of it print them.
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert hash64(np.arange(1, 6), 1234567).tolist() == published


def test_keys_are_the_same_for_ever() -> None:
    assert key_of(1234, "document order", "ja_cc", 0) == 15220368845825839521
    assert key_of() == 1449310910991872227


def test_every_part_of_a_key_counts_with_its_type_and_its_place() -> None:
    keys = [key_of(1, 2), key_of(2, 1), key_of("1", 2), key_of(12), key_of("1\nint 2"), key_of(1, 2, "")]
    assert key_of(np.int64(1)) == key_of(1)
    assert len(set(keys)) == len(keys)


def test_different_values_never_collide_under_one_key() -> None:
    assert len(np.unique(hash64(np.arange(200_000), key_of("any")))) == 200_000


def test_every_bit_is_set_in_half_of_the_hashes() -> None:
    hashes = hash64(np.arange(20_000), key_of("bits"))
    shares = [float(((hashes >> np.uint64(bit)) & np.uint64(1)).mean()) for bit in range(64)]
    assert min(shares) > 0.48
    assert max(shares) < 0.52


def test_values_and_keys_broadcast() -> None:
    keys = np.array([key_of(0), key_of(1)], dtype=np.uint64)
    table = hash64(np.arange(3)[:, None], keys)
    assert table.shape == (3, 2)
    assert table[2, 1] == hash64(2, key_of(1))


def test_arithmetic_that_wraps_around_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hash64(2**63, 2**64 - 1).shape == ()
        assert hash64(np.int64(-1), np.uint64(2**64 - 1)).shape == ()


def test_the_caller_s_array_is_left_alone() -> None:
    values = np.arange(5, dtype=np.uint64)
    hash64(values, 3)
    assert values.tolist() == [0, 1, 2, 3, 4]
