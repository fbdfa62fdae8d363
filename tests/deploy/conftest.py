from tests.deploy.common import one_thread, small, tiny_translated_once

__all__ = ["one_thread", "small", "tiny_translated_once"]
