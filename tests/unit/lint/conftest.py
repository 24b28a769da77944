from tests.support.fixtures import key, own_home, run, trusted

__all__ = ["key", "own_home", "run", "trusted"]
