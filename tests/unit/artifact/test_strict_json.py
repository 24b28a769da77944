import pytest

from auditor.artifact.strict_json import StrictJsonError, parse, parse_canonical

REFUSED = {
    "duplicate_key": b'{"a":1,"a":2}',
    "duplicate_key_by_escape": b'{"a":1,"\\u0061":2}',
    "nan": b"[NaN]",
    "infinity": b"[-Infinity]",
    "beyond_double": b"[1e999]",
    "lone_surrogate": b'["\\ud800"]',
    "lone_surrogate_key": b'{"\\udfff":1}',
    "raw_surrogate": b'["\xed\xa0\x80"]',
    "byte_order_mark": b"\xef\xbb\xbf[]",
    "trailing_garbage": b"[] []",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep_mixed": b'{"a":[' * 60 + b"]}" * 60,
    "long_integer": b"1" * 5000,
    "empty": b"",
    "not_utf8": b'["\xff"]',
    "single_quotes": b"{'a':1}",
    "control_character": b'["\x01"]',
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_readers_disagree_on_is_refused(name: str) -> None:
    with pytest.raises(StrictJsonError) as caught:
        parse(REFUSED[name], "evil.json")
    assert caught.value.where == "evil.json"
    with pytest.raises(StrictJsonError):
        parse_canonical(REFUSED[name] + b"\n", "evil.json")


def test_brackets_in_strings_are_not_nesting() -> None:
    assert parse(b'["' + b"[{" * 500 + b'\\"[["]', "x") == ["[{" * 500 + '"[[']


def test_size_limit() -> None:
    with pytest.raises(StrictJsonError, match="more than the limit"):
        parse(b"[1,2,3]", "x", max_bytes=6)


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert parse(b'["\\ud83d\\ude00"]', "x") == ["\U0001f600"]


@pytest.mark.parametrize(
    "data", [b'{"b":1,"a":2}\n', b'{"a": 1}\n', b'["\\u00e9"]\n', b"[1.0e0]\n", b"[]", b"[]\n\n", b"[-0]\n", b"[1E2]\n"]
)
def test_another_way_to_write_the_same_is_refused(data: bytes) -> None:
    with pytest.raises(StrictJsonError):
        parse_canonical(data, "x")


def test_canonical_bytes_are_read() -> None:
    assert parse_canonical('{"a":[1,-0.0,1e+22,"é"]}\n'.encode(), "x") == {"a": [1, -0.0, 1e22, "é"]}


def test_integers_beyond_doubles_are_refused_where_canonical() -> None:
    assert parse(b"[9223372036854775807]", "x") == [2**63 - 1]
    with pytest.raises(StrictJsonError, match="cannot hold"):
        parse_canonical(b"[9223372036854775807]\n", "x")
