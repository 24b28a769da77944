"""How many raw draws lie between two states of one random generator.

Two states are at the same place where everything drawn from them from then on is the same. What was drawn already and
waits to be handed out (a second normal number, the other half of a word) is no part of that.
"""

from __future__ import annotations

import numpy as np

from auditor.compare.generator_state import WORDS, GeneratorState, MersenneTwister, Pcg64, Philox

SEARCHED_DRAWS = 1 << 24
"""How far a Mersenne Twister is searched each way: some tenths of a second."""

MULTIPLIERS = {"PCG64": 0x2360ED051FC65DA44385DF649FCCF645, "PCG64DXSM": 0xDA942042E4DD58B5}
"""Of the congruential generator, by variant (numpy/random/src/pcg64/pcg64.h)."""
MASK_128 = 2**128 - 1

_NEAR = 1 << 12
_CHUNK = 1 << 18


def draws_between(first: GeneratorState, second: GeneratorState, limit: int = SEARCHED_DRAWS) -> int | None:
    """Return how many raw draws ``second`` lies after ``first``; negative if it lies before, 0 at the same place.

    A raw draw is a 32-bit word of a Mersenne Twister, a 64-bit word of a PCG, one unit of a Philox offset. None if the
    two do not lie on one sequence. That is decided for good for PCG (different increments or variants) and Philox
    (different seeds), whose distance is exact however long; a Mersenne Twister is searched for ``limit`` draws each
    way, and None may then also mean further apart.

    PCG's sequence is a circle of 2^128 states, so with equal increments some distance there always is: the shorter
    way, at most 2^127. Where seeds differ, NumPy gives different increments.
    """
    if isinstance(first, MersenneTwister) and isinstance(second, MersenneTwister):
        # Near ones first, both ways: a small shift is the usual answer.
        for reach in sorted({min(limit, _NEAR), limit}):
            forward = _twister_draws(first, second, reach)
            if forward is not None:
                return forward
            backward = _twister_draws(second, first, reach)
            if backward is not None:
                return -backward
        return None
    if isinstance(first, Pcg64) and isinstance(second, Pcg64):
        same = (first.variant, first.increment) == (second.variant, second.increment)
        return _pcg_draws(first, second.state) if same else None
    if isinstance(first, Philox) and isinstance(second, Philox):
        return second.offset - first.offset if first.seed == second.seed else None
    return None


def twister(state: MersenneTwister) -> np.random.MT19937:
    """Return NumPy's generator in this state: its raw draws are those of CPython's and of torch's CPU generator."""
    bits = np.random.MT19937(0)
    words = np.frombuffer(state.words, dtype="<u4").astype(np.uint32)
    bits.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": state.position}}
    return bits


def _twister_draws(first: MersenneTwister, second: MersenneTwister, limit: int) -> int | None:
    """Return after how many draws ``first`` is where ``second`` is.

    624 draws on end fix all that follow, so the first 624 of ``second`` are looked for in what ``first`` draws.
    """
    # As bytes: bytes.find takes linear time whatever the words are, and they may have been made up.
    wanted = _outputs(twister(second), WORDS)
    bits = twister(first)
    begin, seen = 0, b""
    while begin <= limit:
        seen += _outputs(bits, min(_CHUNK, limit - begin + WORDS - len(seen) // 4))
        place = seen.find(wanted)
        while place % 4 and place >= 0:
            place = seen.find(wanted, place + 1)
        if place >= 0:
            return begin + place // 4
        begin += len(seen) // 4 - (WORDS - 1)
        seen = seen[-4 * (WORDS - 1) :]
    return None


def _outputs(bits: np.random.MT19937, count: int) -> bytes:
    return bits.random_raw(count).astype("<u4").tobytes()


def _pcg_draws(first: Pcg64, target: int) -> int:
    """Return the distance to ``target`` on the circle of 2^128 states, the shorter way, one bit a turn.

    O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number Generation"
    (2014), section 4.3.1, after Brown's jump ahead: bit k of both states agrees once the k lower bits of the distance
    are walked, and only a step of 2^k changes it then.
    """
    state, multiplier, increment = first.state, MULTIPLIERS[first.variant], first.increment
    draws = 0
    for bit in (1 << place for place in range(128)):
        if (state ^ target) & bit:
            state = (state * multiplier + increment) & MASK_128
            draws |= bit
        increment = (multiplier + 1) * increment & MASK_128
        multiplier = multiplier * multiplier & MASK_128
    return draws if draws < 2**127 else draws - 2**128
