"""@adaptive: an op of one's own with several implementations."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest

from omendb_kernels import InvalidParameter, OutOfDeviceMemory, Plan, WrongDtype, adaptive, dispatch


def total_of(loop_cost=1e-7, product_cost=1e-9):
    @adaptive
    def total(values, *, scale=1):
        """The sum of the values."""
        array = np.asarray(values)
        if array.dtype.kind not in "iuf":
            raise WrongDtype("values", str(array.dtype), "numbers")
        return array, scale

    @total.implementation("loop", cost=lambda values, scale: loop_cost * len(values))
    def loop(values, scale):
        return scale * sum(values.tolist())

    @total.implementation("product", cost=lambda values, scale: 5e-6 + product_cost * len(values))
    def product(values, scale):
        return scale * int(values @ np.ones(len(values), values.dtype))

    return total


def test_the_quickest_implementation_answers_and_the_plan_says_so():
    total = total_of()
    assert total([1, 2, 3]) == 6
    assert total(np.arange(1000), scale=2) == 999_000
    assert total.plan([1, 2, 3]).backend == "loop"
    found = total.plan(np.arange(10_000))
    assert isinstance(found, Plan)
    assert (found.op, found.backend, found.measured) == ("total", "product", None)
    assert [way.backend for way in found.alternatives] == ["loop"]
    answer, plan = total.explain(np.arange(10_000))
    assert answer == 49_995_000
    assert plan.backend == "product"
    assert plan.measured > 0


def test_it_looks_like_the_function_that_judges():
    total = total_of()
    assert total.__doc__ == "The sum of the values."
    assert total.__name__ == "total"
    assert total.implementations == ("loop", "product")


def test_the_judge_refuses_for_all():
    total = total_of()
    for call in (total, total.plan, total.explain, total.each):
        with pytest.raises(WrongDtype, match="values"):
            call(["a"])


def test_implementations_are_compared():
    answers = total_of().each(np.arange(100), scale=3)
    assert set(answers) == {"loop", "product"}
    assert len(set(answers.values())) == 1


def test_experience_turns_the_choice():
    """The loop is said to be quicker than it is; after some calls nobody believes it any more."""
    total = total_of(loop_cost=1e-9, product_cost=2e-9)
    values = np.arange(20_000)
    assert total.plan(values).backend == "loop"
    for _ in range(40):
        total(values)
    found = total.plan(values)
    assert found.backend == "product"
    loop = next(way for way in found.alternatives if way.backend == "loop")
    assert "times what was predicted" in loop.reason


def test_what_is_unable_is_left_for_the_next(caplog):
    dispatch.say_once.cache_clear()

    @adaptive
    def op(x):
        """x."""
        return (x,)

    @op.implementation("device", cost=lambda x: 1e-6)
    def device(x):
        raise OutOfDeviceMemory("op", "full")

    with pytest.raises(OutOfDeviceMemory):
        op(3)

    @op.implementation("host", cost=lambda x: 1e-3)
    def host(x):
        return x

    with caplog.at_level(logging.WARNING, "omendb"):
        assert [op(3) for _ in range(5)] == [3] * 5
    said = [record.message for record in caplog.records]
    assert said == ["op: device is left for host: op: the device is out of memory (full)"]
    answer, plan = op.explain(4)
    assert (answer, plan.backend, plan.alternatives[-1].backend) == (4, "host", "device")
    assert plan.alternatives[-1].reason == "op: the device is out of memory (full)"


def test_other_errors_are_raised_at_once():
    total = total_of()

    @total.implementation("broken", cost=lambda values, scale: 0.0)
    def broken(values, scale):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        total([1])


def test_names_are_taken_once_and_an_op_needs_one():
    total = total_of()
    with pytest.raises(InvalidParameter, match="name: got 'loop'; wanted a name that total does not have yet"):
        total.implementation("loop", cost=len)
    empty = adaptive(lambda x: (x,))
    with pytest.raises(InvalidParameter, match="at least one implementation"):
        empty(1)


def test_a_choice_costs_little():
    """Beside two implementations that do nothing: printed, not judged."""

    @adaptive
    def nothing(x):
        """None."""
        return (x,)

    for name in ("one", "two"):
        nothing.implementation(name, cost=lambda x: 1e-6)(lambda x: None)
    start = time.perf_counter()
    for _ in range(1000):
        nothing(1)
    print(f"{(time.perf_counter() - start) * 1e3:.1f} us a call")
