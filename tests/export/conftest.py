from tests.export.common import one_thread, small

__all__ = ["one_thread", "small"]
