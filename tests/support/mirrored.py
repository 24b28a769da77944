"""Two runs walked both ways: whichever is A, the walk is the other's mirror image."""

from pathlib import Path
from typing import Any

from auditor.compare.walk import Parting, Walk
from tests.support.build_pair import Act, walked, write_pair


def both(folder: Path, a: Act, b: Act, **more: Any) -> tuple[Walk, Walk]:
    """The walk and its mirror image."""
    one, two = write_pair(folder, a, b, **more)
    return walked(one, two), walked(two, one)


def mirrored(parting: Parting) -> Parting:
    turned = vars(parting) | {
        "digests": [pair[::-1] for pair in parting.digests],
        "before": [pair[::-1] for pair in parting.before],
    }
    return Parting(**turned)


def assert_mirrored(one: Walk, two: Walk) -> None:
    assert one.partings == {name: mirrored(each) for name, each in two.partings.items()}
    assert (one.equal, one.compared, one.idle) == (two.equal, two.compared, two.idle)
    assert one.one_sided == two.one_sided
    assert (one.same_ids, one.same_batch) == (two.same_ids, two.same_batch)
    assert repr(list(one.losses)) == repr([(step, b, a) for step, a, b in two.losses])
    assert one.cuts == two.cuts[::-1]
    assert one.starts == two.starts[::-1]
