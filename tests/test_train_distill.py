"""Distillation: the student learns from the teacher, stops when it should, and survives being killed."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: pip install 'edgesdk[train]'"
)

from edgesdk.errors import InputError, SamplesError, TrainingDiverged  # noqa: E402
from edgesdk.samples import read_samples  # noqa: E402
from edgesdk.signature import TensorInfo  # noqa: E402
from edgesdk.train.distill import distill  # noqa: E402
from edgesdk.train.losses import OutputLoss, kind_of_output, output_loss  # noqa: E402
from edgesdk.train.masters import float_masters  # noqa: E402
from edgesdk.train.objective import Objective  # noqa: E402
from edgesdk.train.reader import OnnxModule  # noqa: E402
from edgesdk.train.rows import SampleRows, Shapes, split_rows  # noqa: E402
from edgesdk.train.settings import Epoch, Trained, Training  # noqa: E402
from edgesdk.train.taylor import Measure, importance, products  # noqa: E402

Array = np.ndarray[Any, Any]
FAST = Training(epochs=4, batch=8, rate=3e-3, threads=1)


def _rows(count: int, *, width: int = 64, seed: int = 0) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(1, width)).astype(np.float32)} for _ in range(count)]


def _damaged(model: onnx.ModelProto, share: float = 0.3, seed: int = 0) -> onnx.ModelProto:
    """The model with noise on every weight, in parts of its spread."""
    rng = np.random.default_rng(seed)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            noise = rng.normal(size=values.shape) * values.std() * share
            tensor.CopyFrom(
                numpy_helper.from_array((values + noise).astype(np.float32), tensor.name)
            )
    return copy


@pytest.fixture(scope="module")
def teacher(small_mlp: Path) -> onnx.ModelProto:
    return onnx.load(small_mlp)


def _run(
    student: onnx.ModelProto, teacher: onnx.ModelProto, settings: Training, **more: Any
) -> Trained:
    return distill(student, teacher, _rows(60), settings, **more)


def test_a_damaged_student_comes_closer_to_its_teacher(teacher: onnx.ModelProto) -> None:
    student = _damaged(teacher)
    told: list[Epoch] = []
    trained = _run(student, teacher, replace(FAST, epochs=12), listener=told.append)
    assert trained.after < 0.5 * trained.before
    assert trained.after == min(epoch.check for epoch in trained.epochs)
    assert tuple(told) == trained.epochs
    assert [epoch.epoch for epoch in told] == list(range(len(told)))
    assert trained.model.graph.node == student.graph.node
    new = _rows(20, seed=9)
    outputs = [[OnnxModule(m).run(row)["y"] for row in new] for m in (teacher, student)]
    healed = [OnnxModule(trained.model).run(row)["y"] for row in new]
    wanted, before = (np.concatenate(each) for each in outputs)
    assert np.abs(np.concatenate(healed) - wanted).mean() < np.abs(before - wanted).mean()


def test_the_best_epoch_is_kept_and_not_the_last(teacher: onnx.ModelProto) -> None:
    student = _damaged(teacher)
    figures = iter([5.0, 3.0, 4.0, 6.0, 7.0])
    seen: list[list[Any]] = []

    def check(module: OnnxModule) -> float:
        seen.append([weight.detach().clone() for weight in module.weights.values()])
        return next(figures)

    trained = _run(student, teacher, FAST, check=check)
    assert (trained.best_epoch, trained.before, trained.after) == (1, 5.0, 3.0)
    found = OnnxModule(trained.model).weights.values()
    assert all(torch.equal(a, b) for a, b in zip(found, seen[1], strict=True))


def test_a_student_that_only_gets_worse_comes_back_as_it_was(teacher: onnx.ModelProto) -> None:
    student = _damaged(teacher)
    figures = iter(range(100))
    settings = replace(FAST, epochs=50, patience=2)
    trained = _run(student, teacher, settings, check=lambda _: float(next(figures)))
    assert (trained.best_epoch, trained.stopped, len(trained.epochs)) == (0, "patience", 3)
    assert trained.model == student


def test_frozen_weights_stay(teacher: onnx.ModelProto) -> None:
    student = _damaged(teacher)
    first = student.graph.initializer[0].name
    trained = _run(student, teacher, replace(FAST, frozen=frozenset((first,))))
    assert trained.best_epoch > 0
    same = [
        before == after
        for before, after in zip(
            student.graph.initializer, trained.model.graph.initializer, strict=True
        )
    ]
    assert same == [True, False, False, False]


def test_labels_are_learned_where_the_teacher_has_nothing_to_say(teacher: onnx.ModelProto) -> None:
    rows = _rows(80)
    truth = np.random.default_rng(3).normal(size=(64, 8))
    labels = [np.argmax(row["x"] @ truth, axis=1) for row in rows]
    settings = replace(
        FAST, epochs=25, losses={"y": OutputLoss(kind="logits", weight=0.0)}, features=()
    )
    trained = distill(teacher, teacher, rows, settings, labels={"y": labels})
    module = OnnxModule(trained.model)
    right = [module.run(r)["y"].argmax() == k[0] for r, k in zip(rows, labels, strict=True)]
    assert np.mean(right) > 0.7


def test_rows_of_many_shapes_and_a_fixed_batch_axis_train_too(small_lstm: Path) -> None:
    teacher = onnx.load(small_lstm)
    rng = np.random.default_rng(0)
    rows = [
        {"x": rng.normal(size=(length, 1, 8)).astype(np.float32)}
        for length in (3, 5)
        for _ in range(8)
    ]
    trained = distill(_damaged(teacher), teacher, rows, replace(FAST, epochs=6))
    assert trained.after < trained.before
    assert any("one by one" in note for note in trained.notes)  # the first axis is time


def test_gradients_of_stacked_rows_are_those_of_rows_one_by_one(small_cnn: Path) -> None:
    teacher = onnx.load(small_cnn)
    student = _damaged(teacher)
    rng = np.random.default_rng(0)
    rows = [{"image": rng.normal(size=(1, 3, 32, 32)).astype(np.float32)} for _ in range(4)]
    found = []
    for stacked in (True, False):
        module = OnnxModule(student)
        objective = Objective(module, OnnxModule(teacher), student, rows, Training(mixed=False), {})
        assert objective.stacked
        objective.stacked = stacked
        objective.backward((0, 1, 2, 3))
        found.append({key: weight.grad for key, weight in module.weights.items()})
    for key in found[0]:
        torch.testing.assert_close(found[0][key], found[1][key], rtol=1e-3, atol=1e-5)


def test_a_rate_that_only_harms_is_lowered(teacher: onnx.ModelProto) -> None:
    student = _damaged(teacher, 0.01)
    seen: list[Epoch] = []
    settings = replace(FAST, epochs=6, rate=1.0)
    done = _run(student, teacher, settings, listener=seen.append)
    firsts = [epoch for epoch in seen if epoch.epoch == 1]
    assert len(firsts) > 1
    assert firsts[0].check > 1.5 * done.before
    assert firsts[-1].rate < firsts[0].rate / 5
    assert [epoch.epoch for epoch in done.epochs] == list(range(len(done.epochs)))
    assert done.after <= done.before
    assert any("learning rate was lowered" in note for note in done.notes)


def test_matrices_multiplied_in_bfloat16_teach_as_well(small_cnn: Path) -> None:
    teacher = onnx.load(small_cnn)
    rng = np.random.default_rng(0)
    rows = [{"image": rng.normal(size=(1, 3, 32, 32)).astype(np.float32)} for _ in range(24)]
    before, after = [], []
    for mixed in (False, True):
        settings = Training(epochs=6, batch=8, mixed=mixed, threads=1)
        done = distill(_damaged(teacher), teacher, rows, settings)
        before.append(done.before)
        after.append(done.after)
    assert before[0] == pytest.approx(before[1], rel=1e-4), "checks are made in float32"
    assert after[1] < before[1] / 2
    assert after[1] == pytest.approx(after[0], rel=0.5)


def test_quantizers_are_not_trained_through_in_bfloat16(small_cnn: Path) -> None:
    teacher = onnx.load(small_cnn)
    rows = [{"image": np.zeros((1, 3, 32, 32), np.float32)}]
    quantized = onnx.load(small_cnn)
    first = quantized.graph.node[0].input[0]
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "s")
    zero = numpy_helper.from_array(np.array(0, np.int8), "z")
    quantized.graph.initializer.extend([scale, zero])
    rounding = [
        helper.make_node("QuantizeLinear", [first, "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
    ]
    quantized.graph.node[0].input[0] = "d"
    for node in reversed(rounding):
        quantized.graph.node.insert(0, node)
    assert not Objective(
        OnnxModule(quantized), OnnxModule(teacher), quantized, rows, Training(), {}
    ).mixed


def test_a_narrower_student_learns_inner_tensors_through_a_projection(
    teacher: onnx.ModelProto,
) -> None:
    student = onnx.ModelProto()
    student.CopyFrom(teacher)
    arrays = [numpy_helper.to_array(t) for t in student.graph.initializer]
    arrays[0], arrays[1], arrays[2] = arrays[0][:96], arrays[1][:96], arrays[2][:, :96]
    for tensor, array in zip(student.graph.initializer, arrays, strict=True):
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    settings = replace(FAST, epochs=8, features=("b",))
    trained = _run(student, teacher, settings)
    assert trained.after < trained.before
    assert {t.name for t in trained.model.graph.initializer} == {
        t.name for t in student.graph.initializer
    }
    with pytest.raises(InputError, match="no inner tensor 'zz'"):
        _run(student, teacher, replace(FAST, features=("zz",)))


def test_stored_samples_are_rows(teacher: onnx.ModelProto, tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", x=np.concatenate([row["x"] for row in _rows(30)]))
    inputs = (TensorInfo(name="x", dtype="float32", shape=("N", 64)),)
    samples = read_samples(str(tmp_path / "samples.npz"), inputs, store=tmp_path / "stored")
    rows = SampleRows(samples.evaluation)
    assert len(rows) == len(samples.evaluation)
    assert [row["x"].shape for row in rows[:2]] == [(1, 64)] * 2
    student = _damaged(teacher)
    trained = distill(student, teacher, rows, FAST)
    again = distill(student, teacher, list(rows), FAST)
    assert trained.model == again.model


# --- killed, resumed, out of time, diverged

_CHILD = """
import sys
from pathlib import Path
import numpy, onnx
from edgesdk.train.distill import distill
from edgesdk.train.settings import Training
folder = Path(sys.argv[1])
stored = numpy.load(folder / "rows.npz")["x"]
distill(
    onnx.load(folder / "student.onnx"),
    onnx.load(folder / "teacher.onnx"),
    [{"x": stored[i : i + 1]} for i in range(len(stored))],
    Training(epochs=12, batch=8, threads=1, features=("b",), frozen=frozenset(("w1", "w3"))),
    checkpoint=folder / "state",
    listener=lambda epoch: print("epoch", epoch.epoch, flush=True),
)
"""


def test_a_killed_training_goes_on_and_ends_with_the_same_bits(
    teacher: onnx.ModelProto, tmp_path: Path
) -> None:
    student, rows = _damaged(teacher), _rows(60)
    onnx.save(teacher, tmp_path / "teacher.onnx")
    onnx.save(student, tmp_path / "student.onnx")
    np.savez(tmp_path / "rows.npz", x=np.concatenate([row["x"] for row in rows]))
    root = str(Path(__file__).resolve().parent.parent)
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root},
    ) as child:
        assert child.stdout is not None
        while child.stdout.readline().strip() != "epoch 5":
            assert child.poll() is None
        child.send_signal(signal.SIGKILL)
    state = tmp_path / "state"
    assert state.is_file()
    frozen = frozenset(("w1", "w3"))
    settings = Training(epochs=12, batch=8, threads=1, features=("b",), frozen=frozen)
    told: list[int] = []
    resumed = distill(
        student,
        teacher,
        rows,
        settings,
        checkpoint=state,
        listener=lambda epoch: told.append(epoch.epoch),
    )
    assert not state.exists()
    assert told
    assert told[0] in (5, 6, 7)  # told, and perhaps not yet kept, when it was killed
    whole = distill(student, teacher, rows, settings)
    assert resumed.model == whole.model
    assert [e.check for e in resumed.epochs] == [e.check for e in whole.epochs]


def test_the_state_of_another_training_and_a_damaged_one_are_left_alone(
    teacher: onnx.ModelProto, tmp_path: Path
) -> None:
    student, state = _damaged(teacher), tmp_path / "state"
    wanted = _run(student, teacher, FAST).model

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(student, teacher, replace(FAST, seed=7), checkpoint=state, listener=stop)
    assert state.is_file()
    assert _run(student, teacher, FAST, checkpoint=state).model == wanted
    state.write_bytes(b"no state")
    assert _run(student, teacher, FAST, checkpoint=state).model == wanted


def test_the_time_ends_a_training_with_its_best_epoch(teacher: onnx.ModelProto) -> None:
    trained = _run(_damaged(teacher), teacher, replace(FAST, epochs=100_000, seconds=1.5))
    assert trained.stopped in ("time", "patience")
    assert 1 < len(trained.epochs) < 10_000
    assert trained.after <= trained.before


def test_a_time_below_one_pass_ends_within_it(
    teacher: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(list[Any]):
        """Rows that take a second each, by a clock that nothing else moves."""

        asked = 0

        def __getitem__(self, place: Any) -> Any:
            self.asked += 1
            return super().__getitem__(place)

    rows = Slow(_rows(400))
    monkeypatch.setattr("edgesdk.train.distill.time.monotonic", lambda: float(rows.asked))
    settings = replace(FAST, batch=1, seconds=1000.0, held_out=0.2)
    trained = distill(_damaged(teacher), teacher, rows, settings)
    assert trained.stopped == "time"
    assert [epoch.epoch for epoch in trained.epochs] == [0, 1]
    assert trained.epochs[1].seconds < 1000 + 0.3 * len(rows), "what is over is the check"
    assert trained.after <= trained.before


def test_losses_that_are_no_numbers_lower_the_rate_once_and_then_say_so(
    teacher: onnx.ModelProto,
) -> None:
    student = _damaged(teacher)
    figures = iter([5.0, 4.0, math.nan, 3.0, 2.0, 1.0])
    trained = _run(student, teacher, FAST, check=lambda _: next(figures))
    assert (len(trained.epochs), trained.after) == (5, 1.0)
    assert any("lowered" in note for note in trained.notes)
    rates = [epoch.rate for epoch in trained.epochs]
    assert max(rates[2:]) <= 0.1 * FAST.rate < rates[1]
    figures = iter([5.0, 4.0, math.inf, math.nan])
    with pytest.raises(TrainingDiverged, match="epoch 2: the check is nan"):
        _run(student, teacher, FAST, check=lambda _: next(figures))
    rows = _rows(20)
    rows[3]["x"][0, 0] = np.inf
    with pytest.raises(TrainingDiverged, match="nan"):
        distill(student, teacher, rows, FAST)


def test_threads_are_as_before_when_it_ends(teacher: onnx.ModelProto) -> None:
    before = torch.get_num_threads()
    _run(_damaged(teacher), teacher, replace(FAST, epochs=1, threads=before + 1))
    assert torch.get_num_threads() == before


# --- quantization-aware training


def test_integer_weights_are_trained_on_the_graph_that_ships(teacher: onnx.ModelProto) -> None:
    student = _in_four_bits(teacher)
    settings = replace(FAST, epochs=12, batch=16, rate=1e-3, features=())
    start = float_masters(student, teacher)
    trained = distill(student, teacher, _rows(400), settings, start=start)
    assert trained.after < 0.8 * trained.before
    onnx.checker.check_model(trained.model, full_check=True)
    before, after = ({t.name: t for t in m.graph.initializer} for m in (student, trained.model))
    changed = {name for name in before if before[name] != after[name]}
    assert "w0" in changed
    assert {before[name].data_type for name in changed} <= {TensorProto.INT4, TensorProto.FLOAT}
    assert all(before[n].data_type == after[n].data_type for n in before)
    assert not changed & {f"w{n}_scale" for n in range(4)}


def test_the_float_weights_that_integers_came_from_are_found_by_their_values(
    teacher: onnx.ModelProto,
) -> None:
    found = float_masters(_in_four_bits(teacher), teacher)
    assert found.keys() == {"w0", "w2"}
    for tensor in teacher.graph.initializer:
        if tensor.name in found:
            np.testing.assert_array_equal(found[tensor.name], numpy_helper.to_array(tensor))
    assert float_masters(_in_four_bits(teacher), _damaged(teacher)) == {}


def _in_four_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """The matrices of the small MLP as int4 behind DequantizeLinear, a scale a row."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.opset_import[0].version, copy.ir_version = 21, 10
    restoring = []
    for tensor in list(copy.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.ndim != 2:
            continue
        scale = (np.abs(values).max(1) / 7).astype(np.float32)
        integers = np.rint(values / scale[:, None]).astype(np.int8)
        name = tensor.name
        tensor.CopyFrom(
            helper.make_tensor(name, TensorProto.INT4, values.shape, integers.flatten())
        )
        copy.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        restoring.append(
            helper.make_node("DequantizeLinear", [name, f"{name}_scale"], [f"{name}_f"], axis=0)
        )
        for node in copy.graph.node:
            for place, read in enumerate(node.input):
                if read == name:
                    node.input[place] = f"{name}_f"
    nodes = [*restoring, *copy.graph.node]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


# --- losses, rows and importance


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [
        ([helper.make_node("Softmax", ["x"], ["y"])], "probabilities"),
        (
            [
                helper.make_node("Sigmoid", ["x"], ["a"]),
                helper.make_node("Identity", ["a"], ["y"]),
            ],
            "binary",
        ),
        (
            [
                helper.make_node("ReduceL2", ["x"], ["n"]),
                helper.make_node("Div", ["x", "n"], ["y"]),
            ],
            "cosine",
        ),
        ([helper.make_node("Relu", ["x"], ["y"])], "mse"),
    ],
)
def test_an_output_is_compared_as_what_it_looks_like(
    nodes: list[onnx.NodeProto], kind: str
) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [1, 4])], [value("y", TensorProto.FLOAT, [1, 4])]
    )
    assert kind_of_output(helper.make_model(graph), "y") == kind


@pytest.mark.parametrize("kind", ["logits", "probabilities", "binary", "cosine", "mse"])
def test_a_loss_is_zero_where_both_agree_and_positive_elsewhere(kind: Any) -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.rand(3, 5) * 0.8 + 0.1 for _ in range(2))
    if kind == "probabilities":
        ours, theirs = (x / x.sum(1, keepdim=True) for x in (ours, theirs))
    how = OutputLoss(kind=kind)
    assert (output_loss(how, ours, theirs, 3) > 1e-5).all()
    torch.testing.assert_close(output_loss(how, theirs, theirs, 3), torch.zeros(3))


def test_probabilities_that_were_rounded_to_zero_do_not_count_as_impossible() -> None:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"]),
        helper.make_node("QuantizeLinear", ["p", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    tensors = [
        numpy_helper.from_array(np.array(1 / 256, np.float32), "s"),
        numpy_helper.from_array(np.array(0, np.uint8), "z"),
    ]
    shapes = [value(name, TensorProto.FLOAT, ["N", 8]) for name in "xy"]
    rounded, exact = (
        helper.make_model(
            helper.make_graph(chosen, "g", shapes[:1], shapes[1:], tensors),
            opset_imports=[helper.make_opsetid("", 17)],
        )
        for chosen in (nodes, [helper.make_node("Softmax", ["x"], ["y"])])
    )
    rows = [{"x": 8 * row["x"]} for row in _rows(20, width=8)]
    objective = Objective(
        OnnxModule(rounded), OnnxModule(exact), rounded, rows, Training(features=()), {}
    )
    assert objective.how["y"].kind == "probabilities"
    assert objective.mean(range(20)) < 0.05


@given(
    lengths=st.lists(st.integers(1, 3), min_size=1, max_size=30),
    size=st.integers(1, 7),
    seed=st.integers(0, 5),
)
def test_batches_hold_every_row_once_and_one_shape_each(
    lengths: list[int], size: int, seed: int
) -> None:
    shapes = Shapes([{"x": np.zeros((1, n), np.float32)} for n in lengths], ("x",))
    batches = shapes.batches(range(len(lengths)), size, (seed,))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(len(batch) <= size for batch in batches)
    assert all(len({lengths[row] for row in batch}) == 1 for batch in batches)


@given(count=st.integers(2, 200), share=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_no_row_is_both_trained_and_checked_on(count: int, share: float, seed: int) -> None:
    train, held = split_rows(count, share, seed)
    assert sorted(train + held) == list(range(count))
    assert train
    assert held


def test_no_rows_and_rows_without_an_input_are_refused(teacher: onnx.ModelProto) -> None:
    with pytest.raises(SamplesError, match="no rows"):
        distill(teacher, teacher, [])
    with pytest.raises(SamplesError, match="row 0 has no 'x'"):
        distill(teacher, teacher, [{"z": np.zeros(1)}])
    with pytest.raises(InputError, match="a loss for 'nothing'"):
        _run(teacher, teacher, replace(FAST, losses={"nothing": OutputLoss()}))
    with pytest.raises(InputError, match="no weight 'w9' to freeze"):
        _run(teacher, teacher, replace(FAST, frozen=frozenset(("w9",))))
    with pytest.raises(InputError, match="labels for 'y', which is mse"):
        _run(teacher, teacher, FAST, labels={"y": [np.zeros(1, int)] * 60})
    with pytest.raises(InputError, match="rate -1"):
        Training(rate=-1)


def test_first_order_importance_is_the_change_that_removing_a_weight_makes(
    teacher: onnx.ModelProto,
) -> None:
    student, rows = _damaged(teacher, 0.05), _rows(6)
    found = importance(student, rows, Measure(teacher=teacher))
    sums = list(products(student, rows, Measure(teacher=teacher)))
    for name, value in found.items():
        wanted = np.mean([np.abs(each[name]) for each in sums], axis=0)
        np.testing.assert_allclose(value, wanted, rtol=1e-5)
    # Shrinking one row of a matrix a little changes the loss by the sum of its products.
    objective = Objective(
        OnnxModule(student), OnnxModule(teacher), student, rows, Training(features=()), {}
    )
    step = 1e-3
    before = objective.mean(range(6))
    with torch.no_grad():
        objective._student.weights["w0"][5].mul_(1 - step)
    change = objective.mean(range(6)) - before
    expected = -step * np.mean([each["w0"][5].sum() for each in sums])
    assert change == pytest.approx(expected, rel=0.05, abs=1e-7)


def test_importance_of_a_model_to_itself_ranks_rows_by_the_damage_of_their_removal(
    teacher: onnx.ModelProto,
) -> None:
    """First-order terms are all zero there; the Fisher information is not."""
    rows = _rows(40)
    model = onnx.ModelProto()
    model.CopyFrom(teacher)
    (tensor,) = (t for t in model.graph.initializer if t.name == "w2")
    factors = np.geomspace(1e-3, 1, 128).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factors, "w2"))
    sums = np.mean([each["w2"].sum(0) ** 2 / 2 for each in products(model, rows)], axis=0)
    assert all((value >= 0).all() for value in importance(model, rows[:4]).values())
    module = OnnxModule(model)
    objective = Objective(module, OnnxModule(model), model, rows, Training(features=()), {})
    damage = []
    for column in range(0, 128, 8):
        with torch.no_grad():
            kept = module.weights["w2"][:, column].clone()
            module.weights["w2"][:, column] = 0.0
            damage.append(objective.mean(range(40)))
            module.weights["w2"][:, column] = kept
    ranks = np.array([np.argsort(np.argsort(v)) for v in (damage, sums[::8])])
    assert np.corrcoef(ranks)[0, 1] > 0.8
