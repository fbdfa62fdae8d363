from tests.deploy.common import one_thread, small

__all__ = ["one_thread", "small"]
