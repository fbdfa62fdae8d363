"""Limits on the resources that a file may use. Real checkpoints stay below a tenth of each."""

MAX_PICKLE_BYTES = 64 << 20  # one pickle; tensors are outside it
MAX_OPCODES = 1_000_000  # about a second; the largest training checkpoints take 80,000
MAX_STACK = 500_000
MAX_MEMO = 500_000
MAX_GLOBALS = 10_000  # classes and functions that one pickle names
MAX_INTEGER_BYTES = 256
MAX_DIGITS = 600
MAX_DIMENSIONS = 16
MAX_SIZE = 1 << 48
MAX_ENTRIES = 50_000  # entries of a zip archive
MAX_DEPTH = 100  # nesting of modules in a TorchScript archive
MAX_MODULES = 100_000  # modules of a TorchScript archive, each counted as often as it is reached
MAX_ATTRIBUTES = 1_000_000  # attributes of all these modules together
MAX_SAFETENSORS_HEADER = 25_000_000  # the safetensors library allows 100 MB, which take seconds to parse
MAX_TENSORS = 20_000  # tensors of one state dict; every layout examines every name
MAX_INDEX_BYTES = 8 << 20  # index of a checkpoint in several files
MAX_SHARDS = 256  # files that are open at once; many systems allow 1,024
