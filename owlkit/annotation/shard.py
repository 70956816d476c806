"""Which part of a job a process does."""

from dataclasses import dataclass

from owlkit.errors import ConfigError


@dataclass(frozen=True)
class Shard:
    """The part of a job that one process does.

    Attributes:
        number: Of the process, from 1.
        count: Of processes.

    Raises:
        ConfigError: If these are no such numbers.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"expected a shard from 1/1 to N/N, found {self.number}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads ``2/8``, the second of eight.

        Raises:
            ConfigError: If it is something else.
        """
        number, _, count = text.partition("/")
        if not (number.strip().isdecimal() and count.strip().isdecimal()):
            raise ConfigError(f"expected a shard like 2/8, the second of eight, found {text!r}")
        return cls(int(number), int(count))

    @property
    def file_name(self) -> str:
        """Of its progress."""
        return f"shard-{self.number:02}-of-{self.count:02}.jsonl"
