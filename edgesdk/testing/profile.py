"""What every profile of a package must keep, as tests: inherit, name the profiles, run pytest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import date

import pytest

from edgesdk.errors import ProfileError
from edgesdk.profile import Figure, Profile, load_profile, profile_from_json, profile_names


class ProfileConformance:
    """Inherit and define the fixture `names`: the profiles that the package registers."""

    @pytest.fixture
    def names(self) -> tuple[str, ...]:
        """Names of the profiles under test."""
        raise NotImplementedError("define the fixture `names` in the class that inherits")

    @pytest.fixture
    def profiles(self, names: tuple[str, ...]) -> tuple[Profile, ...]:
        """The profiles themselves."""
        return tuple(load_profile(name) for name in names)

    def test_they_are_installed_and_load_under_their_names(self, names: tuple[str, ...]) -> None:
        assert names
        assert set(names) <= set(profile_names())
        assert [load_profile(name).name for name in names] == list(names)

    def test_each_says_what_it_was_written_from(self, profiles: tuple[Profile, ...]) -> None:
        for profile in profiles:
            assert profile.title, profile.name
            assert profile.source, profile.name
            assert _is_past(profile.date), f"{profile.name}: {profile.date}"

    def test_each_figure_has_a_source_and_its_date(self, profiles: tuple[Profile, ...]) -> None:
        for profile in profiles:
            for path, figure in _figures(profile, profile.name):
                assert figure.source.strip(), path
                assert _is_past(figure.date), f"{path}: {figure.date}"

    def test_each_default_backend_reaches_a_unit(self, profiles: tuple[Profile, ...]) -> None:
        for profile in profiles:
            units = {unit.name for unit in profile.units}
            runtimes = {runtime.name: runtime for runtime in profile.runtimes}
            assert profile.backends, profile.name
            for backend in profile.backends:
                assert backend in runtimes, f"{profile.name}: no runtime for {backend}"
                assert set(runtimes[backend].units) <= units != set(), profile.name

    def test_each_survives_json(self, profiles: tuple[Profile, ...]) -> None:
        for profile in profiles:
            assert profile_from_json(profile.to_json()) == profile

    def test_a_misspelt_name_is_refused_and_legal_ones_are_listed(
        self, names: tuple[str, ...]
    ) -> None:
        with pytest.raises(ProfileError, match=names[0]):
            load_profile(f"{names[0]}-misspelt")


def _figures(value: object, path: str) -> Iterator[tuple[str, Figure]]:
    """All figures inside a profile, each with where it stands."""
    if isinstance(value, Figure):
        yield path, value
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _figures(item, f"{path}[{number}]")
    elif is_dataclass(value):
        for item in fields(value):
            yield from _figures(getattr(value, item.name), f"{path}.{item.name}")


def _is_past(text: str) -> bool:
    """A day or month that has begun."""
    return date.fromisoformat(text if text.count("-") == 2 else f"{text}-01") <= date.today()
