"""What a program is compiled for: a generation of the HTP, in one system on a chip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from edgesdk.errors import ProfileError

ARCHES = ("68", "69", "73", "75", "79", "81")
"""Generations that onnxruntime-qnn 2.7 compiles for."""
_KEYS = ("htp_arch", "soc_model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One kind of HTP.

    Attributes:
        htp_arch: its generation, such as `79` for V79.
        soc_model: Qualcomm's number of the chip (`QNN_SOC_MODEL_...` of its SDK), such as `69` for
            SM8750. Without it the compiler refuses half precision.
    """

    htp_arch: str
    soc_model: str

    @classmethod
    def read(cls, table: Mapping[str, str]) -> Self:
        """The target that a profile states.

        Raises:
            ProfileError: a key is missing or unknown, or its value is not one that can be compiled for.
        """
        keys = " and ".join(_KEYS)
        missing = [key for key in _KEYS if key not in table]
        unknown = sorted(set(table) - set(_KEYS))
        if missing or unknown:
            wrong = f"lacks {missing[0]}" if missing else f"has {unknown[0]!r}"
            raise ProfileError(f"the target of runtime qnn {wrong}; it takes {keys}")
        if table["htp_arch"] not in ARCHES:
            raise ProfileError(
                f"htp_arch = {table['htp_arch']!r}: no generation of the HTP that qnn compiles for; "
                f"legal: {', '.join(ARCHES)}"
            )
        soc = table["soc_model"]
        if not (soc.isascii() and soc.isdigit() and int(soc) > 0):
            raise ProfileError(
                f"soc_model = {soc!r}; legal: Qualcomm's number of the chip, such as 69 for SM8750"
            )
        return cls(htp_arch=table["htp_arch"], soc_model=soc)

    @property
    def has_half(self) -> bool:
        """Whether it computes in half precision; V68 has integers only."""
        return self.htp_arch != "68"

    def __str__(self) -> str:
        return f"V{self.htp_arch} (chip {self.soc_model})"
