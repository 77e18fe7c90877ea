"""Law 7, method by method, on changes that hypothesis makes up; and an independent sum in exact fractions."""

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from beft.errors import InputError
from beft.merging.deltas import content_hash
from beft.merging.methods.dare import dare
from beft.merging.methods.mean import mean
from beft.merging.methods.searched_weights import searched_weights
from beft.merging.methods.task_arithmetic import task_arithmetic
from beft.merging.methods.ties import ties
from beft.merging.registry import MERGE_METHODS, known_methods, merge_deltas, merge_method, options

torch.set_num_threads(1)

WIDTHS = {"a": 3, "b": 1, "c": 4}
Deltas = dict[str, Tensor]

values = st.floats(-1e3, 1e3, width=32).map(lambda value: 0.0 if abs(value) < 1e-20 else value)
dtypes = st.sampled_from([torch.float32, torch.float64])


@st.composite
def deltas(draw: st.DrawFn, dtype: torch.dtype | None = None, whole: bool = False) -> Deltas:
    """Changes at some of the sites, or at all of them."""
    names = list(WIDTHS) if whole else draw(st.lists(st.sampled_from(list(WIDTHS)), min_size=1, unique=True))
    kind = dtype or draw(dtypes)
    return {
        name: torch.tensor(draw(st.lists(values, min_size=WIDTHS[name], max_size=WIDTHS[name])), dtype=kind)
        for name in names
    }


weights = st.floats(0.01, 10)
several = st.lists(st.tuples(deltas(), weights), min_size=1, max_size=4)
METHODS: list[Callable[..., Deltas]] = [mean, task_arithmetic, ties, dare, searched_weights]


def assert_equal(first: Deltas, second: Deltas) -> None:
    assert list(first) == list(second)
    for name in first:
        assert first[name].dtype == second[name].dtype
        assert torch.equal(first[name], second[name]), name


def exact(adapters: list[tuple[Deltas, float]], shares: list[Fraction]) -> dict[str, list[Fraction]]:
    """The weighted sum in fractions, which never round."""
    total: dict[str, list[Fraction]] = {}
    for (changes, _), share in zip(adapters, shares, strict=True):
        for name, tensor in changes.items():
            parts = total.setdefault(name, [Fraction(0)] * len(tensor))
            total[name] = [part + share * Fraction(value) for part, value in zip(parts, tensor.tolist(), strict=True)]
    return total


def assert_close(merged: Deltas, expected: dict[str, list[Fraction]]) -> None:
    assert sorted(merged) == sorted(expected)
    for name, fractions in expected.items():
        reference = torch.tensor([float(fraction) for fraction in fractions], dtype=torch.float64)
        rtol, atol = (1e-6, 1e-3) if merged[name].dtype == torch.float32 else (1e-12, 1e-10)
        torch.testing.assert_close(merged[name].double(), reference, rtol=rtol, atol=atol)


@given(several)
def test_the_mean_is_the_exact_mean(adapters: list[tuple[Deltas, float]]) -> None:
    total = sum(Fraction(weight) for _, weight in adapters)
    assert_close(mean(adapters), exact(adapters, [Fraction(weight) / total for _, weight in adapters]))


@given(several, st.floats(-3, 3))
def test_task_arithmetic_is_the_exact_scaled_sum(adapters: list[tuple[Deltas, float]], scale: float) -> None:
    shares = [Fraction(scale) * Fraction(weight) for _, weight in adapters]
    assert_close(task_arithmetic(adapters, scale=scale), exact(adapters, shares))


@pytest.mark.parametrize("method", METHODS)
@given(adapters=several, data=st.data())
def test_the_order_never_matters(
    method: Callable[..., Deltas], adapters: list[tuple[Deltas, float]], data: st.DataObject
) -> None:
    """Not even in the last bit, nor does the order of the sites within an adapter."""
    shuffled = [(dict(reversed(changes.items())), weight) for changes, weight in data.draw(st.permutations(adapters))]
    assert_equal(method(adapters), method(shuffled))


@given(deltas(), weights)
def test_mean_of_one_alone_is_itself_whatever_its_weight(changes: Deltas, weight: float) -> None:
    assert_equal(mean([(changes, weight)]), dict(sorted(changes.items())))


@given(deltas(), weights)
def test_mean_of_two_alike_is_each_of_them(changes: Deltas, weight: float) -> None:
    assert_equal(mean([(changes, weight), (changes, weight)]), dict(sorted(changes.items())))


@given(deltas(dtype=torch.float32), st.lists(weights, min_size=1, max_size=5))
def test_mean_of_any_number_alike_is_each_of_them_in_fp32(changes: Deltas, shares: list[float]) -> None:
    assert_equal(mean([(changes, share) for share in shares]), dict(sorted(changes.items())))


@pytest.mark.parametrize("method", [mean, ties])
@given(adapters=several, factor=st.sampled_from([2.0**-40, 0.5, 4.0, 2.0**60]))
def test_a_mean_does_not_depend_on_the_size_of_the_weights(
    method: Callable[..., Deltas], adapters: list[tuple[Deltas, float]], factor: float
) -> None:
    assert_equal(method(adapters), method([(changes, factor * weight) for changes, weight in adapters]))


@pytest.mark.parametrize("method", [task_arithmetic, searched_weights])
@given(changes=deltas())
def test_one_with_weight_one_is_itself(method: Callable[..., Deltas], changes: Deltas) -> None:
    assert_equal(method([(changes, 1.0)]), dict(sorted(changes.items())))


@given(several, deltas(whole=True, dtype=torch.float32), weights, st.floats(-2, 2))
def test_a_zero_adds_nothing_to_task_arithmetic(
    adapters: list[tuple[Deltas, float]], changes: Deltas, weight: float, scale: float
) -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in changes.items()}
    alone = task_arithmetic(adapters, scale=scale)
    beside = task_arithmetic([*adapters, (zeros, weight)], scale=scale)
    for name, tensor in beside.items():
        assert torch.equal(tensor, alone.get(name, torch.zeros_like(tensor)))


@given(deltas(torch.float64, True), deltas(torch.float64, True), st.floats(-2, 2), st.floats(-2, 2), st.floats(-2, 2))
def test_task_arithmetic_is_linear(first: Deltas, second: Deltas, x: float, y: float, scale: float) -> None:
    """In the changes, and in the scale."""
    joined = {name: x * first[name] + y * second[name] for name in first}
    apart = task_arithmetic([(first, x), (second, y)], scale=scale)
    together = task_arithmetic([(joined, 1.0)], scale=scale)
    unscaled = task_arithmetic([(first, x), (second, y)])
    for name in apart:
        torch.testing.assert_close(apart[name], together[name], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(apart[name], scale * unscaled[name], rtol=1e-9, atol=1e-9)


@given(st.lists(deltas(whole=True), min_size=2, max_size=4))
def test_mean_is_task_arithmetic_with_one_over_their_number(changes: list[Deltas]) -> None:
    adapters = [(each, 1.0) for each in changes]
    first, second = mean(adapters), task_arithmetic(adapters, scale=1 / len(adapters))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_result_has_one_type_as_wide_as_the_widest_of_all_sites_and_at_least_fp32(
    method: Callable[..., Deltas],
) -> None:
    narrow = {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(2, dtype=torch.float16)}
    wide = {"b": torch.ones(2, dtype=torch.float64), "c": torch.ones(2, dtype=torch.float64)}
    assert {tensor.dtype for tensor in method([(narrow, 1.0)]).values()} == {torch.float32}
    merged = method([(narrow, 1.0), (wide, 1.0)])
    assert list(merged) == ["a", "b", "c"]
    assert {tensor.dtype for tensor in merged.values()} == {torch.float64}


@pytest.mark.parametrize("method", METHODS)
def test_the_inputs_are_left_alone(method: Callable[..., Deltas]) -> None:
    one = {"a": torch.tensor([1.0, 2.0], requires_grad=True)}
    merged = method([(one, 1.0)])
    merged["a"].mul_(2)
    assert one["a"].tolist() == [1.0, 2.0] and not merged["a"].requires_grad


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ([], "no adapter"),
        ([({"a": torch.ones(2)}, float("nan"))], "finite number"),
        ([({"a": torch.ones(2)}, float("inf"))], "finite number"),
        ([({"a": torch.tensor([float("inf")])}, 1.0)], "not finite numbers at a"),
        ([({"a": torch.ones(2)}, 1.0), ({"a": torch.ones(3)}, 1.0)], r"different shapes at a: \(2,\) and \(3,\)"),
        ([({"a": torch.full((1,), 1e38)}, 2.0), ({"a": torch.full((1,), 1e38, dtype=torch.float64)}, 1.0)], None),
    ],
)
def test_what_does_not_fit_is_an_error(
    method: Callable[..., Deltas], adapters: list[tuple[Deltas, float]], message: str | None
) -> None:
    if message is None:
        assert torch.isfinite(method(adapters)["a"]).all()
        return
    with pytest.raises(InputError, match=message):
        method(adapters)


def test_a_sum_too_large_for_its_type_is_an_error() -> None:
    with pytest.raises(InputError, match="too large"):
        task_arithmetic([({"a": torch.full((1,), 3e38)}, 1.0)], scale=10.0)


@pytest.mark.parametrize("method", [mean, ties])
@pytest.mark.parametrize("shares", [(-1.0, 2.0), (0.0, 0.0)])
def test_a_mean_needs_weights_that_are_not_negative_nor_all_zero(
    method: Callable[..., Deltas], shares: tuple[float, float]
) -> None:
    with pytest.raises(InputError, match=f"{method.__name__} (has no negative weights|must not all be zero)"):
        method([({"a": torch.ones(1)}, share) for share in shares])


def test_the_methods_are_the_files() -> None:
    assert known_methods() == ("dare", "mean", "searched_weights", "task_arithmetic", "ties")


def test_the_signature_is_the_schema() -> None:
    assert options("mean") == {}
    assert options("task_arithmetic") == {"scale": 1.0}
    assert options("ties") == {"density": 0.2, "scale": 1.0}
    assert options("dare") == {"drop_rate": 0.5, "scale": 1.0, "draw": 0}
    assert options("searched_weights") == {}
    with pytest.raises(InputError, match=r"unknown option.*'scala'.*Did you mean 'scale'"):
        merge_deltas("task_arithmetic", [({"a": torch.ones(1)}, 1.0)], scala=2.0)
    with pytest.raises(InputError, match="Did you mean 'task_arithmetic'"):
        merge_deltas("task_aritmetic", [])


def test_a_new_method_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MERGE_METHODS, "functions", dict(MERGE_METHODS.functions))

    @merge_method("first")
    def first(adapters: list[tuple[Deltas, float]], *, at: int = 0) -> Deltas:
        return dict(adapters[at][0])

    assert "first" in known_methods() and options("first") == {"at": 0}
    assert merge_deltas("first", [({"a": torch.ones(1)}, 1.0)])["a"].item() == 1.0
    with pytest.raises(ValueError, match="registered twice"):
        merge_method("first")(first)


@given(deltas(), deltas())
def test_the_hash_names_the_contents(first: Deltas, second: Deltas) -> None:
    copy = {name: tensor.clone() for name, tensor in reversed(first.items())}
    assert content_hash(first) == content_hash(copy)
    same = set(first) == set(second) and all(
        first[name].dtype == second[name].dtype
        and torch.equal(first[name], second[name])
        and torch.equal(first[name].signbit(), second[name].signbit())
        for name in first
    )
    assert (content_hash(first) == content_hash(second)) == same
