"""One table names what can be done, and one class answers to each entry."""

from auditor.artifact.intervention_table import TABLE
from auditor.interventions.intervention import Lasting
from auditor.interventions.registry import REGISTRY


def test_every_entry_of_the_table_has_its_class() -> None:
    assert REGISTRY.keys() == TABLE.keys()
    assert {key for key, each in REGISTRY.items() if issubclass(each, Lasting)} == {
        key for key, each in TABLE.items() if each.lasting
    }


def test_every_class_says_what_it_changes_and_where_that_meaning_comes_from() -> None:
    for each in REGISTRY.values():
        assert len(each.__doc__ or "") > 100
