"""Kubernetes quantities ("512Mi", "0.5", "2G") as numbers.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal

from argosy_api.errors import InvalidArgumentError

_SUFFIX = {
    "": Decimal(1), "m": Decimal("0.001"),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50),
}  # fmt: skip
PATTERN = r"^[0-9]{1,15}(\.[0-9]{1,9})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"


def parse(quantity: str | int) -> Decimal:
    """The number that a quantity stands for.

    Raises:
        ValueError: not a quantity (negative numbers and exponents are none here).

    """
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(quantity))
    if match is None or re.match(PATTERN, str(quantity)) is None:
        raise ValueError(f"{quantity!r} is not a quantity such as 512Mi, 2Gi or 0.5")
    return Decimal(match[1]) * _SUFFIX[match[2]]


def parse_bytes(quantity: str | int) -> int:
    """A quantity as whole bytes, rounded down."""
    return int(parse(quantity))


def check(quantities: Mapping[str, str | int | None]) -> None:
    """Refuse what is no quantity; keys are paths of fields.

    Raises:
        InvalidArgumentError: with the path of the first that is wrong.

    """
    for wrong in faults(quantities):
        raise wrong


def faults(quantities: Mapping[str, str | int | None]) -> Iterator[InvalidArgumentError]:
    """All that are no quantities."""
    for path, value in quantities.items():
        try:
            if value is not None:
                parse(value)
        except ValueError as error:
            yield InvalidArgumentError(path, str(error))
