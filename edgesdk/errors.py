"""Every error edgesdk raises on purpose.

    EdgeSdkError                     exit code of the command that meets it
    ├── InputError                   2   what the user gave is wrong
    │   ├── ModelError               the file is no model, is hostile, or is beyond what can be read
    │   ├── PipelineError            components that are not wired so that they can run
    │   ├── SamplesError             names, shapes, dtypes, values or count of the samples
    │   ├── ProfileError             unknown profile, key or value
    │   ├── BudgetError              unknown quantity, unit or floor
    │   ├── RecipeError              a recipe name that does not decode
    │   ├── OutputError              the output place is taken, not writable or full
    │   └── BundleError              a bundle that is damaged, incomplete or from a newer version
    ├── BudgetNotMet                 1   everything worked, nothing fits the budget
    ├── TrainingDiverged             3   losses that are no numbers, at a lower learning rate as well
    └── EnvironmentProblem           3   this machine or device cannot do it
        ├── BackendUnavailable       an engine is not installed or does not start
        ├── DeviceError              the device is absent, or is not the one the profile describes
        └── StepFailed               an isolated step crashed, hung, ran out of memory or refused

A message names what is wrong, the value seen, what would be legal and what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class EdgeSdkError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 3


class InputError(EdgeSdkError):
    """Something the user gave cannot be used."""

    exit_code = 2


class ModelError(InputError):
    """The model file is missing, broken, hostile, or beyond what the target can read."""


class PipelineError(InputError):
    """A pipeline whose components, wiring or loops cannot run as written."""


class SamplesError(InputError):
    """The samples do not fit the model, or hold values no model can be judged on."""


class ProfileError(InputError):
    """A profile that does not exist or does not follow the schema."""


class BudgetError(InputError):
    """A budget or floor that does not parse."""


class RecipeError(InputError):
    """A recipe name that does not decode."""


class OutputError(InputError):
    """The place to write to is taken, not writable or too small."""


class BundleError(InputError):
    """A bundle that is damaged, incomplete, or written by a newer format."""


class BudgetNotMet(EdgeSdkError):
    """No candidate meets every limit and floor; the message says by how much and which came close."""

    exit_code = 1

    def __init__(self, message: str, *, report: object = None) -> None:
        super().__init__(message)
        self.report = report
        """The `DeployReport`, or of a pipeline the `PipelineReport`, of everything that was found out."""


class TrainingDiverged(EdgeSdkError):
    """Training met losses or gradients that are no numbers, at a lower learning rate as well."""


class EnvironmentProblem(EdgeSdkError):
    """This machine, or the device, cannot do what was asked."""


class BackendUnavailable(EnvironmentProblem):
    """An engine is not installed, too old, or does not start; the message has the install line."""


class DeviceError(EnvironmentProblem):
    """The device is not there, or is not the one that the profile describes."""


class StepFailed(EnvironmentProblem):
    """An isolated step did not deliver.

    Attributes:
        kind: `error` (it said why), `crash` (a signal), `timeout`, `memory`, `killed` (from outside),
            or `out_of_time`: the deploy's time budget did not allow it.
        log: the end of what the step printed, for the report.
    """

    def __init__(self, message: str, *, kind: str = "error", log: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.log = log
