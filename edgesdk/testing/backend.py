"""What every backend must keep, as tests: inherit, give the backend, run pytest."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from edgesdk.backend import Backend, OpenOptions, backend_names, load_backend
from edgesdk.errors import BackendUnavailable, EdgeSdkError, InputError
from edgesdk.process import memory_now
from edgesdk.recipe import Recipe
from edgesdk.testing.checks import (
    FLOAT,
    FP32_ERROR,
    LOW_ERROR,
    assert_same,
    check_results,
    converted,
    copied,
    digests,
    make_folders,
    matmul_error,
    opened,
    run_in_child,
    spoiled,
    thread_seconds,
    write_job,
)
from edgesdk.testing.graphs import CASES, Case, build

UNITS = frozenset({"cpu", "gpu", "npu"})

ENGINES = frozenset(
    {"ai_edge_litert", "onnxruntime", "onnxruntime_qnn", "openvino", "tensorflow"}
    | {"tensorrt", "torch"}
    | {"executorch", "MNN", "ncnn", "tvm"}
)


class BackendConformance:
    """Inherit and define the fixture `backend`; the flags say what an engine is unable to do.

    Attributes:
        registered: found under its name through the entry points.
        deterministic: converts to the same bytes twice.
        keeps_threads: `OpenOptions.threads` limits the cores it uses, and idle threads sleep.
        tells_placement: `Session.placement` names the nodes.
        tells_times: `Session.node_times` works with `profiling`.
        engine_modules: top-level modules of the engine itself, which may be loaded.
        unsupported: names of `CASES` that it cannot run; it must refuse them with a typed error.
        static: takes fixed shapes only; the cases then have those of their first feed.
        tolerance: largest error of a float result, relative to the largest value.
    """

    registered: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True
    keeps_threads: ClassVar[bool] = True
    tells_placement: ClassVar[bool] = True
    tells_times: ClassVar[bool] = True
    engine_modules: ClassVar[frozenset[str]] = frozenset()
    unsupported: ClassVar[frozenset[str]] = frozenset()
    static: ClassVar[bool] = False
    tolerance: ClassVar[float] = FP32_ERROR

    def build(self, name: str) -> Case:
        """The case of that name, in a form that the backend can take."""
        return build(name).fixed() if self.static else build(name)

    @pytest.fixture
    def backend(self) -> Backend:
        """The backend under test."""
        raise NotImplementedError("define the fixture `backend` in the class that inherits")

    @pytest.fixture
    def engine(self, backend: Backend) -> Backend:
        """The backend, where its engine is installed."""
        problem = backend.unavailable()
        if problem:
            pytest.skip(problem)
        return backend

    @pytest.fixture(params=sorted(CASES))
    def case(self, request: pytest.FixtureRequest) -> Case:
        """Each graph that the backend supports."""
        if request.param in self.unsupported:
            pytest.skip(f"{request.param} is declared unsupported")
        return self.build(request.param)

    # --- what it is

    def test_its_name_is_that_of_its_entry_point(self, backend: Backend) -> None:
        assert backend.name.isidentifier()
        if self.registered:
            assert backend.name in backend_names()
            assert type(load_backend(backend.name)) is type(backend)

    def test_it_is_usable_or_says_how_to_install_it(self, backend: Backend) -> None:
        assert backend.install
        problem = backend.unavailable()
        assert problem is None or backend.install in problem

    def test_its_version_begins_with_a_number(self, engine: Backend) -> None:
        assert engine.version()[:1].isdigit()

    def test_it_executes_float32_and_rejects_what_it_lacks(self, backend: Backend) -> None:
        assert backend.rejects(FLOAT) is None
        for execution in ("bf16", "fp16"):
            reason = backend.rejects(Recipe.parse(execution))
            assert (reason is None) == (execution in backend.executions)

    # --- converting

    def test_conversion_writes_into_its_folder_and_nowhere_else(
        self, engine: Backend, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source, out, elsewhere = make_folders(tmp_path, "source", "out", "elsewhere")
        model = case.write(source, external=True)
        before = digests(source)
        monkeypatch.chdir(elsewhere)
        artifact = engine.convert(model, FLOAT, out)
        assert artifact.is_file()
        assert artifact.resolve().is_relative_to(out.resolve())
        assert digests(source) == before
        assert not any(elsewhere.iterdir())
        assert {path.name for path in tmp_path.iterdir()} == {"source", "out", "elsewhere"}

    def test_converting_twice_gives_the_same_bytes(self, engine: Backend, tmp_path: Path) -> None:
        if not self.deterministic:
            pytest.skip("declared not deterministic")
        write_job(self.build("attention"), tmp_path)
        for name in make_folders(tmp_path, "once", "twice"):
            run_in_child(engine, tmp_path, "convert", name.name)
        assert digests(tmp_path / "once") == digests(tmp_path / "twice") != {}

    def test_an_artifact_works_where_it_is_moved_to(self, engine: Backend, tmp_path: Path) -> None:
        source, out = make_folders(tmp_path, "source", "out")
        case = self.build("convolution")
        model = case.write(source, external=True)
        artifact = engine.convert(model, FLOAT, out).relative_to(out)
        for file in source.iterdir():
            file.unlink()
        moved = out.rename(tmp_path / "another place")
        with engine.open(moved / artifact, OpenOptions()) as session:
            check_results(session, case, self.tolerance)

    def test_a_graph_it_does_not_support_is_refused(self, engine: Backend, tmp_path: Path) -> None:
        for name in sorted(self.unsupported):
            case, folder = self.build(name), tmp_path / name
            with pytest.raises(EdgeSdkError), opened(engine, case, folder) as session:
                session.run(case.feeds[0])

    def test_what_is_no_model_is_refused(self, engine: Backend, tmp_path: Path) -> None:
        source, out = make_folders(tmp_path, "source", "out")
        bad = source / "model.onnx"
        bad.write_bytes(b"\x08\x07this is no model" * 64)
        with pytest.raises(EdgeSdkError):
            engine.convert(bad, FLOAT, out)

    def test_a_damaged_or_missing_artifact_is_refused(
        self, engine: Backend, tmp_path: Path
    ) -> None:
        artifact = converted(engine, self.build("convolution"), tmp_path)
        artifact.write_bytes(artifact.read_bytes()[: artifact.stat().st_size // 2])
        with pytest.raises(EdgeSdkError):
            engine.open(artifact, OpenOptions())
        artifact.unlink()
        with pytest.raises(EdgeSdkError):
            engine.open(artifact, OpenOptions())

    # --- the interface, and results

    def test_the_interface_is_that_of_the_model(
        self, engine: Backend, case: Case, tmp_path: Path
    ) -> None:
        feed = case.feeds[0]
        graph = case.model.graph
        with opened(engine, case, tmp_path) as session:
            assert [info.name for info in session.inputs] == [value.name for value in graph.input]
            assert [info.name for info in session.outputs] == [o.name for o in graph.output]
            for info in session.inputs:
                assert info.mismatch(feed[info.name].dtype.name, feed[info.name].shape) is None
            results = case.expected(feed)
            for info in session.outputs:
                assert info.dtype == results[info.name].dtype.name
                assert len(info.shape) == results[info.name].ndim

    def test_results_are_those_of_the_standard(
        self, engine: Backend, case: Case, tmp_path: Path
    ) -> None:
        with opened(engine, case, tmp_path) as session:
            check_results(session, case, self.tolerance)

    def test_results_belong_to_the_caller_and_inputs_stay_theirs(
        self, engine: Backend, case: Case, tmp_path: Path
    ) -> None:
        with opened(engine, case, tmp_path) as session:
            feed = copied(case.feeds[0])
            first = session.run(feed)
            assert_same(feed, case.feeds[0])
            kept = copied(first)
            for array in feed.values():
                array[...] = 0
            session.run(case.feeds[1])
            assert_same(first, kept)
            for array in first.values():
                array[...] = 0
            again = session.run(case.feeds[0])
        assert_same(again, kept)

    def test_read_only_and_strided_inputs_are_taken(self, engine: Backend, tmp_path: Path) -> None:
        case = self.build("convolution")
        feed = case.feeds[1]
        frozen = copied(feed)
        for array in frozen.values():
            array.flags.writeable = False
        strided = {name: np.asfortranarray(array) for name, array in feed.items()}
        with opened(engine, case, tmp_path) as session:
            wanted = session.run(feed)
            assert_same(session.run(frozen), wanted)
            assert_same(session.run(strided), wanted)

    def test_two_sessions_do_not_disturb_each_other(self, engine: Backend, tmp_path: Path) -> None:
        one, two = self.build("convolution"), self.build("integers")
        with opened(engine, one, tmp_path / "1") as a, opened(engine, two, tmp_path / "2") as b:
            for _ in range(2):
                check_results(a, one, self.tolerance)
                check_results(b, two, self.tolerance)

    @pytest.mark.parametrize(
        "wrong", ["missing", "unknown", "dtype", "rank", "length", "list", "byte order"]
    )
    def test_a_wrong_feed_is_refused_and_the_next_one_runs(
        self, engine: Backend, tmp_path: Path, wrong: str
    ) -> None:
        case = self.build("convolution")
        with opened(engine, case, tmp_path) as session:
            with pytest.raises(InputError, match="image"):
                session.run(spoiled(case.feeds[0], wrong))
            check_results(session, case, self.tolerance)

    def test_a_scalar_input_takes_a_scalar_only(self, engine: Backend, tmp_path: Path) -> None:
        case = self.build("scalars")
        feed = case.feeds[0]
        with (
            opened(engine, case, tmp_path) as session,
            pytest.raises(InputError, match="gain"),
        ):
            session.run({**feed, "gain": feed["gain"].reshape(1)})

    def test_closing_twice_is_harmless_and_running_after_it_is_refused(
        self, engine: Backend, tmp_path: Path
    ) -> None:
        case = self.build("convolution")
        with opened(engine, case, tmp_path) as session:
            results = session.run(case.feeds[0])
            kept = copied(results)
        session.close()
        assert_same(results, kept)
        with pytest.raises(EdgeSdkError):
            session.run(case.feeds[0])

    @pytest.mark.skipif(sys.platform != "linux", reason="memory in use is read from /proc")
    def test_closing_gives_the_memory_back(self, engine: Backend, tmp_path: Path) -> None:
        case = self.build("wide")  # a mebibyte of weights
        artifact = converted(engine, case, tmp_path)
        used = []
        for _ in range(16):
            with engine.open(artifact, OpenOptions()) as session:
                session.run(case.feeds[0])
            gc.collect()
            used.append(memory_now()["now_mib"])
        grown = [after - before for before, after in pairwise(used[5:])]
        left = sum(grown) - max(grown)  # an allocator may take one large piece at any time
        assert left < 6, f"10 sessions left {left:.1f} MiB behind"

    # --- options

    @pytest.mark.parametrize("options", [{"threads": 0}, {"execution": "fp8"}])
    def test_impossible_options_are_refused(
        self, engine: Backend, tmp_path: Path, options: Mapping[str, object]
    ) -> None:
        artifact = converted(engine, self.build("convolution"), tmp_path)
        with pytest.raises(EdgeSdkError):
            engine.open(artifact, replace(OpenOptions(), **options))  # type: ignore[arg-type]

    def test_each_execution_computes_in_its_type(self, engine: Backend, tmp_path: Path) -> None:
        case = self.build("wide")
        artifact = converted(engine, case, tmp_path)
        for execution in sorted(engine.executions):
            try:
                session = engine.open(artifact, OpenOptions(execution=execution))
            except BackendUnavailable:
                assert execution != "fp32", "every machine has float32"
                continue
            with session:
                error = matmul_error(session, case)
            low, high = (0.0, FP32_ERROR) if execution == "fp32" else (FP32_ERROR, LOW_ERROR)
            assert low <= error <= high, f"{execution}: relative error {error:.1e}"

    @pytest.mark.skipif(sys.platform != "linux", reason="time per thread is read from /proc")
    def test_one_thread_does_the_work_of_one_thread(self, engine: Backend, tmp_path: Path) -> None:
        if not self.keeps_threads:
            pytest.skip("declared to have threads that it does not control")
        case = self.build("wide")
        with opened(engine, case, tmp_path) as session:
            session.run(case.feeds[1])
            before, start = thread_seconds(), time.process_time()
            while time.process_time() - start < 0.5:
                session.run(case.feeds[1])
            after = thread_seconds()
        spent = [seconds - before.get(thread, 0.0) for thread, seconds in after.items()]
        share = max(spent) / sum(spent)
        # Two threads that share the work come to a half each; leftovers of earlier sessions to a little.
        assert share > 0.7, f"with threads=1 the busiest thread did {share:.0%} of the work"

    def test_an_idle_session_leaves_the_cpu_alone(self, engine: Backend, tmp_path: Path) -> None:
        if not self.keeps_threads:
            pytest.skip("declared to have threads that it does not control")
        case = self.build("wide")
        with opened(engine, case, tmp_path, OpenOptions(threads=2)) as session:
            session.run(case.feeds[1])
            time.sleep(0.05)
            cpu, wall = time.process_time(), time.perf_counter()
            time.sleep(0.3)
            busy = (time.process_time() - cpu) / (time.perf_counter() - wall)
        assert busy < 0.1, f"{busy:.2f} cores busy between runs"

    # --- looking inside

    def test_placement_names_the_nodes_and_their_units(
        self, engine: Backend, tmp_path: Path
    ) -> None:
        case = self.build("convolution")
        with opened(engine, case, tmp_path) as session:
            placed = session.placement()
            session.run(case.feeds[0])
            assert {item.unit for item in session.placement()} <= UNITS
        if not self.tells_placement:
            assert placed == ()
            return
        origins = {name for item in placed for name in item.origin}
        assert {"conv_in", "conv_depthwise", "gemm_out"} <= origins

    def test_node_times_are_placed_and_add_up(self, engine: Backend, tmp_path: Path) -> None:
        case = self.build("wide")
        with opened(engine, case, tmp_path, OpenOptions(profiling=True)) as session:
            session.run(case.feeds[1])
            start = time.perf_counter()
            for _ in range(20):
                session.run(case.feeds[1])
            wall_ms = 1e3 * (time.perf_counter() - start) / 20
            times = session.node_times()
            placed = {item.node for item in session.placement()}
            assert session.node_times() == times
        if not self.tells_times:
            assert times == ()
            return
        assert {item.node for item in times} <= placed
        assert all(item.ms >= 0 and item.unit in UNITS for item in times)
        # The first run, which is not in the wall time, may have prepared kernels.
        assert 0.1 * wall_ms < sum(item.ms for item in times) < 3 * wall_ms

    def test_node_times_are_empty_without_profiling(self, engine: Backend, tmp_path: Path) -> None:
        case = self.build("convolution")
        with opened(engine, case, tmp_path) as session:
            session.run(case.feeds[0])
            assert session.node_times() == ()

    # --- keeping to itself

    def test_it_loads_no_other_engine(self, engine: Backend, tmp_path: Path) -> None:
        own = self.engine_modules or {engine.name}
        write_job(self.build("convolution"), tmp_path)
        make_folders(tmp_path, "out")
        run_in_child(engine, tmp_path, "convert", "out")
        loaded = run_in_child(engine, tmp_path, "run", "out")
        assert loaded & ENGINES <= own
        assert "onnx" not in loaded - own, "an artifact runs on a device, which has no onnx"
