"""Looking inside objects: whether one holds another."""

from functools import partial
from types import SimpleNamespace

from torch import nn

from auditor.state.held import holds


def test_an_object_is_found_through_attributes_containers_partials_closures_and_modules() -> None:
    thing = SimpleNamespace(stage=1)

    def closure() -> object:
        return thing

    module = nn.Sequential(nn.Identity())
    module[0].policy = thing
    for holder in (thing, [0, {"a": (thing,)}], partial(print, thing), closure, module, SimpleNamespace(a=[module])):
        assert holds(holder, thing)
    for holder in (None, [], SimpleNamespace(stage=1), nn.Identity()):
        assert not holds(holder, thing)


def test_the_search_ends_in_what_holds_itself_and_some_objects_deep() -> None:
    thing = SimpleNamespace()
    circle: list[object] = []
    circle.append(circle)
    assert not holds(circle, thing)
    deep: object = thing
    for _ in range(9):
        deep = SimpleNamespace(inner=deep)
    assert not holds(deep, thing)
